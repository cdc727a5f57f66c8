"""One traffic camera: vehicles by class per 15 minutes for a month, as a computer-vision counter saw them; city not stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed.errors import DataError
from hetfed_datasets.checks import expect_columns, expect_rows, numbers, read_csv, require_file
from hetfed_datasets.records import SUM, Series

STEPS, INTERVAL = 2976, 15
CHANNELS = ("CarCount", "BikeCount", "BusCount", "TruckCount")
LEVELS = ("low", "normal", "high", "heavy")
START = "2023-10-10"
"""The file gives the day of the month and of the week, no month and no year; this is the latest month that fits both."""


def load(folder: Path) -> Series:
    """Counts of cars, bikes, buses and trucks, and the publisher's congestion level.

    Returns:
        2976 steps of 15 minutes at one sensor, four channels, in vehicles/15 min; `level` (2976,) of low, normal, high, heavy.

    Raises:
        DataError: the file is missing, cut short, out of order, or holds an unknown level.
    """
    file = require_file(folder, "Traffic.csv")
    frame = read_csv(file)
    expect_columns(frame, file, count=9, names=["Time", "Date", "Day of the week", *CHANNELS, "Traffic Situation"])
    expect_rows(frame, file, STEPS)
    # Stamps are made up, since the file has no month and no year, and then held against what it does say.
    time = pd.date_range(START, periods=STEPS, freq=f"{INTERVAL}min")
    _check_calendar(frame, time, file)
    return Series(
        name="camera-counts",
        # A camera is one sensor; the classes of vehicles are its channels.
        values=numbers(frame[list(CHANNELS)], file, complete=True)[:, np.newaxis, :],
        time=time,
        sensors=("camera",),
        channels=tuple(channel.removesuffix("Count").lower() for channel in CHANNELS),
        unit="vehicles/15 min",
        kind="count",
        interval=INTERVAL,
        level=_levels(frame, file),
        levels=LEVELS,
        target=SUM,
    )


def _levels(frame: pd.DataFrame, file: Path) -> NDArray[np.int64]:
    # Words, not numbers, in this file: their order from free to congested is ours.
    words = frame["Traffic Situation"].astype(str)
    unknown = ~words.isin(LEVELS)
    if unknown.any():
        row = int(unknown.to_numpy().argmax())
        key = f"line {frame.index[row]}, column 'Traffic Situation'"
        remedy = f"Known: {', '.join(LEVELS)}. Mend the label."
        raise DataError("label outside the classes", file=file, key=key, value=words.iloc[row], remedy=remedy)
    return np.array([LEVELS.index(word) for word in words], dtype=np.int64)


def _check_calendar(frame: pd.DataFrame, time: pd.DatetimeIndex, file: Path) -> None:
    """Rows must be in order: their clock times and days are those of `time`.

    The weekday is not asked: the file has Saturday 21 and Sunday 22 the wrong way round.
    """
    clock = pd.to_datetime(frame["Time"], format="%I:%M:%S %p", errors="coerce")
    wrong = (clock.dt.hour != time.hour) | (clock.dt.minute != time.minute) | (frame["Date"] != time.day)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        value = f"{frame['Time'].iloc[row]}, {frame['Date'].iloc[row]}"
        remedy = "One row every 15 minutes, in order, none left out."
        raise DataError("time does not go on regularly", file=file, key=f"line {frame.index[row]}", value=value, remedy=remedy)
