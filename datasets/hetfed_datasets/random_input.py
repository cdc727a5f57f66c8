"""Random input, as the article's case studies use: nothing in it can be learned, so a correct run ends at chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed.errors import PlanError
from hetfed_datasets.records import Cohort, Series

SITES = ("one", "two", "three", "four")
CITIES = ("one", "two", "three")
INTERVAL = 15


def table(columns: int = 10, patients: int = 1600, seed: int = 0) -> Cohort:
    """Standard normal columns, modality `clinical` (patients, columns) float32; label `coin` is a coin toss.

    >>> cohort = table(columns=3, patients=8)
    >>> cohort.modalities["clinical"].shape, cohort.columns["clinical"]
    ((8, 3), ('x0', 'x1', 'x2'))
    """
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((patients, columns), dtype=np.float32)
    names = {"clinical": tuple(f"x{column}" for column in range(columns))}
    return _cohort("random-table", {"clinical": values}, names, rng)


def images(side: int = 28, patients: int = 1600, seed: int = 0) -> Cohort:
    """Uniform noise, modality `image` (patients, side, side, 1) uint8; label `coin` is a coin toss.

    >>> images(side=8, patients=4).modalities["image"].shape
    (4, 8, 8, 1)
    """
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (patients, side, side, 1), dtype=np.uint8)
    return _cohort("random-images", {"image": values}, {}, rng)


def readings(city: Literal["one", "two", "three"] = "one", sensors: int = 5, steps: int = 600, seed: int = 0) -> Series:
    """White noise around 50 km/h every 15 minutes; the sensors have no link but to themselves.

    Args:
        city: draws other numbers for each city of one seed.
        sensors: how many.
        steps: how many rows, one every 15 minutes.
        seed: of all cities together.

    Raises:
        PlanError: there is no such city.

    >>> series = readings("two", sensors=3, steps=96)
    >>> series.values.shape, series.unit
    ((96, 3, 1), 'km/h')
    """
    if city not in CITIES:
        raise PlanError("no such random city", key="city", value=city, remedy=f"Known: {', '.join(CITIES)}.")
    # A seed of two numbers: cities of one seed share no stretch of the stream.
    rng = np.random.default_rng([seed, CITIES.index(city)])
    return Series(
        name="random-readings",
        # Clipped, since no road has a speed below zero, and the gate would refuse it.
        values=np.clip(rng.normal(50, 10, (steps, sensors, 1)), 1, 100).astype(np.float32),
        time=pd.date_range("2024-01-01", periods=steps, freq=f"{INTERVAL}min"),
        sensors=tuple(f"sensor{number}" for number in range(sensors)),
        channels=("speed",),
        unit="km/h",
        kind="speed",
        interval=INTERVAL,
        adjacency=np.eye(sensors, dtype=np.float32),
        synthetic=True,
    )


def _cohort(
    name: str, modalities: Mapping[str, NDArray[np.generic]], columns: Mapping[str, tuple[str, ...]], rng: np.random.Generator
) -> Cohort:
    """Patients of four sites in turn, each with a tossed coin."""
    n = len(next(iter(modalities.values())))
    return Cohort(
        name=name,
        patient=np.array([f"{name}-{row:04d}" for row in range(n)]),
        # In turn, and not drawn: each site has the same share of whatever number of patients.
        site=np.resize(SITES, n),
        modalities=modalities,
        labels={"coin": rng.integers(0, 2, n)},
        classes={"coin": ("tails", "heads")},
        columns=columns,
        present={},
        synthetic=True,
    )
