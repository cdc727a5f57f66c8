"""A city's kept model: how it is built again, and how raw readings become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hetfed.errors import DataError
from hetfed.kept.description import Architecture, Description
from hetfed.kept.inputs import AS_NPZ, TENSOR_FORM, check_modalities, columns_in_order, numbers, read_csv
from hetfed.kept.registry import Blank, Prepared
from hetfed.npz import read_npz
from hetfed_datasets.records import Series
from hetfed_traffic.model import CityModel, CongestionModel
from hetfed_traffic.plan_schema import CityModelTable
from hetfed_traffic.preprocessing import clock_of, scaled_readings

CITY, CONGESTION = "traffic", "traffic-congestion"
READINGS, TIME = "readings", "time"
Windows = tuple[NDArray[np.float32], pd.DatetimeIndex]
"""Past readings (n, history, sensors, channels), NaN where missing, and when the last of each was taken (n,)."""


def described_city(series: Series, table: CityModelTable, history: int) -> Description:
    """What a kept model of a city's readings needs: sensors and channels by name, and how they are spaced in time.

    Args:
        series: the city's readings, of which only names, interval and unit are described.
        table: the model table of the plan.
        history: past steps that the model reads.
    """
    return Description(
        Architecture(CITY, table.model_dump(mode="json")), None, {}, CITY, _about(series, history), {}, series.sensors
    )


def described_congestion(
    series: Series, table: CityModelTable, history: int, target: Sequence[int], scale: Mapping[str, Tensor]
) -> Description:
    """What a kept model of congestion needs: the same, and the `mean` and `deviation` by which readings are scaled.

    Args:
        series: the city's readings, of which only names, interval and unit are described.
        table: the model table of the plan.
        history: past steps that the model reads.
        target: the numbers of the channels that are forecast.
        scale: `mean` and `deviation` of the training part, as `reading_scale` gives them.
    """
    architecture = Architecture(CONGESTION, table.model_dump(mode="json"))
    about = {**_about(series, history), "target": list(target)}
    return Description(architecture, form=CONGESTION, preprocessing=about, statistics=scale)


def _about(series: Series, history: int) -> dict[str, Any]:
    names = {"sensors": list(series.sensors), "channels": list(series.channels)}
    return {**names, "interval": series.interval, "history": history, "unit": series.unit}


def build_city(settings: Mapping[str, Any], spec: Mapping[str, Any]) -> nn.Module:
    """The model of a city for its data spec; what is the city's own (scales, road graph) comes with the weights.

    >>> spec = {"sensors": 5, "channels": 1, "target": [0], "history": 12, "steps": 4, "levels": ["free", "congested"]}
    >>> build_city({"encoder": "graph", "layers": 1}, spec).head.out_features
    4
    """
    return CityModel(spec, CityModelTable(**settings))


def build_congestion(settings: Mapping[str, Any], spec: Mapping[str, Any]) -> nn.Module:
    """The model of congestion at one sensor for its data spec.

    >>> build_congestion({"features": 8}, {"history": 12, "classes": 2})
    CongestionModel(
      (encoder): Linear(in_features=12, out_features=8, bias=True)
      (head): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    return CongestionModel(spec, CityModelTable(**settings))


class CityForm:
    """Raw inputs are readings in the city's unit, NaN where missing, and the time of each.

    `readings` is a series, of which the last `history` steps give one forecast: a DataFrame with a column per sensor
    (`<sensor>:<channel>` where there are several channels), or an array (time, sensors) or (time, sensors, channels). Or it is
    an array of windows (n, history, sensors, channels), each of which gives one. `time` has the stamp of each step, or of the
    last step of each window; a DataFrame may have it as its index or as a column.

    >>> about = {"sensors": ["a", "b"], "channels": ["speed"], "interval": 15, "history": 2}
    >>> time = pd.date_range("2024-03-04 08:00", periods=3, freq="15min")
    >>> table = pd.DataFrame({"b": [30.0, 31.0, 32.0], "a": [48.0, np.nan, 50.0]}, index=time)  # columns go by their names
    >>> found = CityForm().prepare(about, {}, {"readings": table})
    >>> found.inputs["readings"].shape, found.ids
    (torch.Size([1, 2, 2, 1]), ['2024-03-04 08:30:00'])
    """

    def prepare(self, settings: Mapping[str, Any], statistics: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Prepared:
        """Windows of readings (n, history, sensors, channels) and the clock (n, 2).

        Args:
            settings: `sensors` and `channels` by name, `interval` in minutes, `history` in steps.
            statistics: none; a city's scales are among the weights of its model.
            inputs: `readings` and `time`.

        Raises:
            DataError: a sensor, a step or a stamp is missing or not as the model reads it.
        """
        windows, stamps = _windows(settings, inputs)
        tensors = {READINGS: torch.from_numpy(windows), "clock": clock_of(stamps)}
        return Prepared(tensors, [str(stamp) for stamp in stamps])

    def trial(self, inputs: Mapping[str, Blank], count: int, chance: torch.Generator) -> dict[str, Tensor]:
        """Readings up to 60, one of them missing, at any time of the week.

        Exporters compare a model with its exported form on these inputs.
        """
        readings = torch.rand(count, *inputs[READINGS].shape, generator=chance) * 60
        # One of them missing, so that the exported model is tried on NaN, too.
        readings[-1, -1, 0] = torch.nan
        day = torch.randint(7, (count,), generator=chance)
        return {READINGS: readings, "clock": torch.stack([torch.rand(count, generator=chance), day.float()], dim=1)}

    def read(self, settings: Mapping[str, Any], files: Sequence[Path]) -> Mapping[str, Any]:
        """A CSV file with a column `time` and one per sensor, or an .npz file with `readings` and `time`.

        Raises:
            DataError: there is more than one file, or it cannot be read.
        """
        if len(files) != 1:
            raise DataError("a city's readings are one file", value=[str(file) for file in files], remedy="Give one.")
        (file,) = files
        if file.suffix.lower() == ".npz":
            return read_npz(file, remedy=AS_NPZ)
        return {READINGS: read_csv(file)}


class CongestionForm:
    """As `CityForm`, but each sensor is an example of its own.

    >>> about = {"sensors": ["a", "b"], "channels": ["speed"], "target": [0], "interval": 15, "history": 2}
    >>> scale = {"mean": torch.tensor(40.0), "deviation": torch.tensor(10.0)}
    >>> time = pd.date_range("2024-03-04 08:00", periods=2, freq="15min")
    >>> found = CongestionForm().prepare(about, scale, {"readings": np.array([[50.0, 30.0], [40.0, 20.0]]), "time": time})
    >>> found.inputs["history"], found.ids
    (tensor([[ 1.,  0.],
            [-1., -2.]]), ['2024-03-04 08:30:00 a', '2024-03-04 08:30:00 b'])
    """

    read = CityForm.read
    trial = TENSOR_FORM.trial

    def prepare(self, settings: Mapping[str, Any], statistics: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Prepared:
        """Scaled past readings (n * sensors, history), named by the step that is predicted and the sensor."""
        windows, stamps = _windows(settings, inputs)
        mean, deviation = (statistics[name].numpy() for name in ("mean", "deviation"))
        scaled = scaled_readings(windows[..., settings["target"]].sum(axis=3), mean, deviation).swapaxes(1, 2)
        # A stamp names the step that is predicted, one after the last that was read.
        upcoming = stamps + pd.Timedelta(minutes=settings["interval"])
        ids = [f"{stamp} {sensor}" for stamp in upcoming for sensor in settings["sensors"]]
        return Prepared({"history": torch.from_numpy(scaled.reshape(len(ids), -1))}, ids)


def _windows(settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> Windows:
    """The windows that inputs hold.

    Raises:
        DataError: a sensor, a step or a stamp is missing or not as the model reads it.
    """
    history, sensors, channels = settings["history"], len(settings["sensors"]), len(settings["channels"])
    given = inputs.get(READINGS)
    if isinstance(given, pd.DataFrame):
        # A table may carry the stamps in its index or in a column; a `time` that is given besides comes first.
        inputs = {**_times(given), **inputs, READINGS: _ordered(settings, given)}
    check_modalities(inputs, (READINGS, TIME), ())
    # Windows already: each gives a forecast of its own.
    if np.ndim(inputs[READINGS]) == 4:
        windows = numbers(READINGS, inputs[READINGS], (history, sensors, channels))
        return windows, _stamps(inputs[TIME], len(windows))
    series = np.asarray(inputs[READINGS])
    series = numbers(READINGS, series[..., np.newaxis] if series.ndim == 2 else series, (sensors, channels))
    return _last_window(series, _stamps(inputs[TIME], len(series)), settings)


def _times(frame: pd.DataFrame) -> dict[str, Any]:
    """The time of each step, where a table has it."""
    if TIME in frame:
        return {TIME: frame[TIME]}
    return {TIME: frame.index} if isinstance(frame.index, pd.DatetimeIndex) else {}


def _ordered(settings: Mapping[str, Any], frame: pd.DataFrame) -> NDArray[np.float32]:
    """The readings of a table (time, sensors, channels), its columns put in order."""
    sensors, channels = settings["sensors"], settings["channels"]
    # Sensors by name, never by place: a table with its columns in another order gives the same forecast.
    names = [sensor if len(channels) == 1 else f"{sensor}:{channel}" for sensor in sensors for channel in channels]
    table = columns_in_order(READINGS, frame.drop(columns=[TIME], errors="ignore"), names)
    return table.reshape(len(table), len(sensors), len(channels))


def _stamps(time: Any, count: int) -> pd.DatetimeIndex:
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(np.asarray(time)))
    except (TypeError, ValueError) as error:
        raise DataError(f"not times: {error}", key=TIME, remedy="Write them as 2024-03-04 08:15.") from None
    if len(stamps) != count or stamps.hasnans:
        raise DataError(f"{len(stamps)} times of {count} steps", key=TIME, remedy="Give each step its time.")
    return stamps


def _last_window(series: NDArray[np.float32], stamps: pd.DatetimeIndex, settings: Mapping[str, Any]) -> Windows:
    """The last steps of a series, which must follow one another."""
    history, interval = settings["history"], settings["interval"]
    if len(series) < history:
        problem = f"{len(series)} steps, and the model reads {history}"
        raise DataError(problem, key=READINGS, remedy=f"Give at least {history} steps, one every {interval} min.")
    last = stamps[-history:]
    # A gap would be read as if no time had passed in it.
    gaps = np.diff(last) != np.timedelta64(interval, "m")
    if gaps.any():
        at = last[int(np.argmax(gaps)) + 1]
        remedy = "Put them in order of time, and give a step without readings a row of empty cells."
        raise DataError(f"the steps are not {interval} min apart", key=TIME, value=str(at), remedy=remedy)
    return series[np.newaxis, -history:], last[-1:]


city_form, congestion_form = CityForm(), CongestionForm()
