"""Small cities made by hand, and short ways to what the cities' tests ask of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hetfed.data import ClientData, Examples
from hetfed.parts import write_tensors
from hetfed.seeding import isolated
from hetfed_datasets.records import SUM, Measure, Series
from hetfed_traffic.model import CityModel
from hetfed_traffic.plan_schema import CityData, CityModelTable
from hetfed_traffic.preprocessing import forecasting_data, statistics_of

MONDAY = "2024-03-04"
STEPS = 240


def town(
    values: NDArray[np.generic],
    interval: int = 15,
    unit: str = "km/h",
    start: str = MONDAY,
    kind: Measure | None = None,
    **keys: Any,
) -> Series:
    """A city of `values` (time, sensor) or (time, sensor, channel): speeds, or counts where there are several to add up."""
    values = np.asarray(values, dtype=np.float32)
    values = values[..., np.newaxis] if values.ndim == 2 else values
    steps, sensors, channels = values.shape
    return Series(
        name="town",
        values=values,
        time=pd.date_range(start, periods=steps, freq=f"{interval}min"),
        sensors=tuple(f"s{i}" for i in range(sensors)),
        channels=tuple(f"c{i}" for i in range(channels)),
        unit=unit,
        kind=kind or ("speed" if channels == 1 else "count"),
        interval=interval,
        **{"target": SUM if channels > 1 else None, **keys},
    )


def counting(steps: int = STEPS, sensors: int = 2, **keys: Any) -> Series:
    """A city whose reading says when and where it was taken: 1000 * sensor + time step."""
    return town(np.arange(steps)[:, None] + 1000 * np.arange(sensors)[None], **keys)


def noisy(steps: int = STEPS, sensors: int = 3, channels: int = 1, seed: int = 0, gaps: float = 0.0, **keys: Any) -> Series:
    """A city of random readings around 50, some missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(50, 10, (steps, sensors, channels))
    values[rng.random((steps, sensors)) < gaps] = np.nan
    return town(values, **keys)


def asking(**keys: Any) -> CityData:
    """The data table of a town: four steps in, 15 and 30 minutes out."""
    return CityData(**{"dataset": "town", "history": 4, "horizons": (15, 30), **keys})


def parts(data: ClientData) -> tuple[Examples, Examples, Examples]:
    """Train, validation, test."""
    return data.train, data.validation, data.test


def model_of(series: Series, data: CityData | None = None, **keys: Any) -> CityModel:
    """A city's model in evaluation mode, the same each time; small unless `keys` say otherwise."""
    table = CityModelTable(**{"features": 24, "layers": 2, "sensor_embedding": 4, "time_embedding": 3, **keys})
    asked = data or asking()
    with isolated("city"):
        model = CityModel(forecasting_data(series, asked).spec, table).eval()
    # As a client does it where its model is built at home.
    write_tensors(model, {f"city.{name}": tensor for name, tensor in statistics_of(series, asked).items()})
    return model


def some(series: Series, count: int = 5, data: CityData | None = None) -> dict[str, torch.Tensor]:
    """The inputs of the first training windows."""
    return dict(forecasting_data(series, data or asking()).train.batch(torch.arange(count)).inputs)


def ring(sensors: int) -> NDArray[np.float32]:
    """Links from each sensor to itself and to the next one."""
    return (np.eye(sensors) + np.roll(np.eye(sensors), 1, axis=1)).astype(np.float32)
