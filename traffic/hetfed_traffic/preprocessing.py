"""From a city's series to windows: splits by time, scales from the training part alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.scale import scale_of
from hetfed_datasets.field import Field
from hetfed_datasets.gate import check_series, check_target
from hetfed_datasets.records import MISSING_LABEL, SUM, Measure, Series
from hetfed_traffic.plan_schema import CityData

CONGESTION = ("free", "congested")


@dataclass(frozen=True)
class Parts:
    """Where the training part and the validation part end (time steps); what comes after is for testing.

    >>> Parts(train=70, validation=80, end=100).spans()
    (slice(0, 70, None), slice(70, 80, None), slice(80, 100, None))
    """

    train: int
    validation: int
    end: int

    @staticmethod
    def of(steps: int, data: CityData) -> Parts:
        """The parts of a series of `steps`.

        Splits follow time: a random split would train on steps that lie between those it is tested on.

        >>> Parts.of(1000, CityData(dataset="sample-cities"))
        Parts(train=700, validation=800, end=1000)
        """
        # Whole steps, rounded down; 0.7 + 0.1 is a little less than 0.8 in binary.
        return Parts(int(steps * data.train + 1e-9), int(steps * (data.train + data.validation) + 1e-9), steps)

    def spans(self) -> tuple[slice, slice, slice]:
        """Train, validation, test."""
        return slice(0, self.train), slice(self.train, self.validation), slice(self.validation, self.end)


def steps_ahead(series: Series, data: CityData) -> int:
    """The number of steps up to the farthest horizon.

    Raises:
        PlanError: a horizon that is not a whole number of the city's steps.

    >>> from hetfed_datasets.random_input import readings
    >>> steps_ahead(readings(), CityData(dataset="random-readings", horizons=(15, 60)))  # one every 15 min
    4
    """
    for minutes in data.horizons:
        if minutes % series.interval:
            remedy = f"{series.name} has a reading every {series.interval} min: use multiples of that."
            raise PlanError("not a whole number of steps", key="data.horizons", value=minutes, remedy=remedy)
    return max(data.horizons) // series.interval


def target_channels(series: Series, data: CityData) -> tuple[int, ...]:
    """The numbers of the channels that are forecast, together where there are several of them.

    Raises:
        DataError: there are several channels, and neither the data set nor the plan says which of them is forecast.

    >>> from hetfed_datasets.sample_cities import generate
    >>> camera, data = generate("camera"), CityData(dataset="sample-cities")
    >>> target_channels(camera, data), target_channels(camera, data.model_copy(update={"target": "bus"}))
    ((0, 1, 2, 3), (2,))
    """
    field = Field(f"series {series.name!r}", "target")
    target = series.target if data.target is None else data.target
    check_target(field, series, target)
    if target is None and len(series.channels) > 1:
        sums = f', or "{SUM}" for all together' if series.kind == "count" else ""
        remedy = f"Set data.target, or the target of the series, to one of {', '.join(series.channels)}{sums}."
        raise field.fault("several channels, and none is named as the one to forecast", value=series.channels, remedy=remedy)
    return tuple(range(len(series.channels))) if target in (None, SUM) else (series.channels.index(target),)


def target_of(series: Series, data: CityData) -> NDArray[np.float32]:
    """What is forecast (time, sensor): the reading, or where vehicles are counted by class, all of them together.

    >>> from hetfed_datasets.sample_cities import generate
    >>> target_of(generate("camera"), CityData(dataset="sample-cities")).shape  # four classes of vehicles, one sensor
    (1344, 1)
    """
    return np.asarray(series.values[..., list(target_channels(series, data))].sum(axis=2))


def levels_of(series: Series, data: CityData, train: slice) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The congestion level (time, sensor) and the names of the levels: the publisher's, or one taken from the readings.

    Args:
        series: the city's readings.
        data: the `data` table, which says from where on a road counts as congested.
        train: the training part, by which what is usual is measured.

    >>> from hetfed_datasets.sample_cities import generate
    >>> level, names = levels_of(generate("loops"), CityData(dataset="sample-cities"), slice(0, 2016))
    >>> level.shape, names
    ((2880, 12), ('free', 'congested'))
    """
    if series.level is not None:
        return np.repeat(series.level[:, np.newaxis], len(series.sensors), axis=1), series.levels
    readings = target_of(series, data)
    # What is usual at a sensor that was silent throughout the training part, nobody knows.
    silent = np.isnan(readings[train]).all(axis=0)
    # With zeros for it instead of NaN, of which numpy would warn; its levels are unknown in any case (see below).
    usual = np.where(silent, 0, readings[train])
    congested = _beyond(series.kind, readings, usual, data)
    return np.where(np.isnan(readings) | silent, MISSING_LABEL, congested).astype(np.int64), CONGESTION


def _beyond(kind: Measure, readings: NDArray[np.float32], usual: NDArray[np.float32], data: CityData) -> NDArray[np.bool_]:
    """Which readings (time, sensor) are those of a congested road, `usual` being those of the training part."""
    if kind == "speed":
        return np.asarray(readings < data.congested_speed * np.nanquantile(usual, 0.95, axis=0))
    if kind == "travel-time":
        # The same share of the free speed, since a road takes as much longer as one drives slower.
        return np.asarray(readings > np.nanquantile(usual, 0.05, axis=0) / data.congested_speed)
    return np.asarray(readings > np.nanquantile(usual, data.congested_volume, axis=0))


def forecasting_data(series: Series, data: CityData) -> ClientData:
    """Windows of `history` steps in, all steps up to the farthest horizon out; a window lies in one part as a whole.

    Inputs: `readings` (n, history, sensors, channels) and `clock` (n, 2); target (n, steps, sensors) in the city's unit;
    `further["level"]` (n, sensors): the congestion level at the nearest horizon.

    Args:
        series: the city's readings.
        data: the `data` table of the plan.

    Raises:
        PlanError: a horizon does not fit the interval, or a part is too short for a window.
        DataError: the series is not what `Series` promises.

    >>> from hetfed_datasets.sample_cities import generate
    >>> found = forecasting_data(generate("loops"), CityData(dataset="sample-cities"))
    >>> found.train.inputs["readings"].shape, found.train.target.shape
    (torch.Size([1993, 12, 12, 1]), torch.Size([1993, 12, 12]))
    """
    steps = steps_ahead(check_series(series), data)
    spans = Parts.of(len(series.values), data).spans()
    levels, names = levels_of(series, data, spans[0])
    target, nearest = target_of(series, data), min(data.horizons) // series.interval
    # Each part by itself: a window over two of them would show a model what it is tested on.
    parts = [_windows(series, target, levels, span, (data.history, steps, nearest)) for span in spans]
    train, validation, test = parts
    return ClientData(train, validation, test, _spec(series, data, steps, names), "days")


def _windows(
    series: Series, readings: NDArray[np.float32], levels: NDArray[np.int64], span: slice, sizes: tuple[int, int, int]
) -> Examples:
    history, steps, nearest = sizes
    values, target = torch.from_numpy(series.values[span]), torch.from_numpy(readings[span])
    level, time = torch.from_numpy(levels[span]), series.time[span]
    count = len(values) - history - steps + 1
    if count < 1:
        raise _no_window(series, len(values), history)
    # Views, not copies: a batch copies only its own windows.
    past = values.unfold(0, history, 1)[:count].permute(0, 3, 1, 2)
    future = target[history:].unfold(0, steps, 1)[:count].permute(0, 2, 1)
    # A window is named by the time of its last past reading: the moment at which its forecast is made.
    origins = time[history - 1 : history - 1 + count]
    inputs = {"readings": past, "clock": clock_of(origins)}
    at = history - 1 + nearest
    # Of one day: forecasts a few minutes apart are nearly the same.
    days = origins.strftime("%Y-%m-%d").tolist()
    return Examples(inputs, future, [str(stamp) for stamp in origins], {"level": level[at : at + count]}, days)


def _no_window(series: Series, steps: int, history: int) -> PlanError:
    problem = f"{series.name}: a part of {steps} steps holds no window"
    remedy = "Use a longer series, a shorter history or nearer horizons, or another share for training and validation."
    return PlanError(problem, key="data.history", value=history, remedy=remedy)


def clock_of(time: pd.DatetimeIndex) -> Tensor:
    """The fraction of the day gone by, and the day of the week from Monday = 0 (n, 2).

    >>> clock_of(pd.DatetimeIndex(["2024-03-04 06:00"]))  # a Monday
    tensor([[0.2500, 0.0000]])
    """
    fraction = (time.hour * 60 + time.minute) / (24 * 60)
    return torch.tensor(np.stack([fraction, time.dayofweek], axis=1), dtype=torch.float32)


def _spec(series: Series, data: CityData, steps: int, levels: tuple[str, ...]) -> dict[str, object]:
    """The sizes that the city model is built from."""
    sizes = {"sensors": len(series.sensors), "channels": len(series.channels)}
    return {
        "history": data.history,
        "steps": steps,
        **sizes,
        "target": list(target_channels(series, data)),
        "levels": list(levels),
    }


def statistics_of(series: Series, data: CityData) -> dict[str, Tensor]:
    """What only the city knows of itself: means and scales of its training part, and the links of its road graph.

    Returns:
        `mean` and `scale` (channels,) of the readings, `target_mean` and `target_scale` (1,) of what is forecast, and
        `adjacency` (sensors, sensors).

    >>> from hetfed_datasets.random_input import readings
    >>> found = statistics_of(readings(sensors=3), CityData(dataset="random-readings"))
    >>> {name: tuple(tensor.shape) for name, tensor in found.items()}
    {'mean': (1,), 'scale': (1,), 'target_mean': (1,), 'target_scale': (1,), 'adjacency': (3, 3)}
    """
    train = Parts.of(len(series.values), data).spans()[0]
    values, target = series.values[train], target_of(series, data)[train]
    sensors = len(series.sensors)
    links = np.eye(sensors, dtype=np.float32) if series.adjacency is None else series.adjacency
    rows = links.sum(axis=1, keepdims=True)
    return {
        "mean": torch.tensor(np.nanmean(values, axis=(0, 1)), dtype=torch.float32),
        "scale": torch.from_numpy(scale_of(values, (0, 1))),
        "target_mean": torch.tensor([np.nanmean(target)], dtype=torch.float32),
        "target_scale": torch.tensor([float(scale_of(target, (0, 1)))]),
        # Rows sum to one, so that a graph layer takes the mean of the neighbours. A sensor without any link keeps zeros.
        "adjacency": torch.from_numpy(np.divide(links, rows, out=np.zeros_like(links), where=rows > 0)),
    }


def congestion_data(series: Series, data: CityData, seed: int) -> ClientData:
    """One example per time and sensor: `history` (n, steps) scaled readings in, congested at the next step or not out.

    With `examples`, at most so many are drawn at random from each part.

    Args:
        series: the city's readings.
        data: the `data` table of the plan.
        seed: of the draw.

    Raises:
        PlanError: a part is too short for a window.
        DataError: the series is not what `Series` promises.

    >>> from hetfed_datasets.random_input import readings
    >>> found = congestion_data(readings(), CityData(dataset="random-readings", predict="congestion", examples=100), seed=0)
    >>> found.train.inputs["history"].shape, found.spec
    (torch.Size([100, 12]), {'history': 12, 'classes': 2})
    """
    spans = Parts.of(len(check_series(series).values), data).spans()
    congested = _congested(series, data, spans[0])
    readings = target_of(series, data)
    # Scales of the training part, for all three parts.
    scaled = scaled_readings(readings, *reading_scale(series, data))
    # One generator for the three draws, in this order: the same seed, the same examples.
    rng = np.random.default_rng(seed)
    parts = [_thinned(_pairs(series, scaled, congested, span, data.history), data.examples, rng) for span in spans]
    train, validation, test = parts
    return ClientData(train, validation, test, {"history": data.history, "classes": len(CONGESTION)}, "days")


def reading_scale(series: Series, data: CityData) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean and the deviation of the training part's readings, over all sensors.

    Returns:
        Two arrays without axes.
    """
    readings = target_of(series, data)[Parts.of(len(series.values), data).spans()[0]]
    return np.asarray(np.nanmean(readings)), scale_of(readings, (0, 1))


def scaled_readings(
    readings: NDArray[np.float32], mean: NDArray[np.float32], deviation: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Readings less the mean, in deviations; a missing one becomes 0, which is the mean.

    >>> scaled_readings(np.array([50.0, np.nan]), np.array(40.0), np.array(10.0))
    array([1., 0.], dtype=float32)
    """
    return np.asarray(np.nan_to_num((readings - mean) / deviation).astype(np.float32))


def _congested(series: Series, data: CityData, train: slice) -> NDArray[np.int64]:
    """Congested or not (time, sensor): the upper half of the publisher's levels, or the level taken from the readings."""
    levels, names = levels_of(series, data, train)
    return np.where(levels == MISSING_LABEL, MISSING_LABEL, levels >= len(names) / 2).astype(np.int64)


def _pairs(series: Series, scaled: NDArray[np.float32], congested: NDArray[np.int64], span: slice, history: int) -> Examples:
    """Every (time, sensor) of a part whose level is known."""
    steps = len(series.values[span])
    if steps <= history:
        raise _no_window(series, steps, history)
    # Without the last window, which no step follows.
    past = np.lib.stride_tricks.sliding_window_view(scaled[span], history, axis=0)[:-1]
    target, times = congested[span][history:], series.time[span][history:]
    stamps, days = [str(stamp) for stamp in times], times.strftime("%Y-%m-%d").tolist()
    rows, sensors = np.nonzero(target != MISSING_LABEL)
    ids = [f"{stamps[row]} {series.sensors[sensor]}" for row, sensor in zip(rows.tolist(), sensors.tolist(), strict=True)]
    inputs = {"history": torch.from_numpy(past[rows, sensors])}
    return Examples(inputs, torch.from_numpy(target[rows, sensors]), ids, owners=[days[row] for row in rows.tolist()])


def _thinned(examples: Examples, most: int | None, rng: np.random.Generator) -> Examples:
    """At most so many of the examples, drawn at random."""
    if most is None or len(examples) <= most:
        return examples
    # Sorted, so that what is left stands in the order of time.
    return examples.take(torch.from_numpy(np.sort(rng.choice(len(examples), most, replace=False))))
