"""Shenzhen taxi probes: 40 roads of Luohu district, January 2015, speed every 15 minutes (Zhao et al. 2019, T-GCN)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed_datasets.checks import (
    expect_columns,
    expect_regular,
    expect_rows,
    expect_square,
    expect_times,
    numbers,
    read_csv,
    require_file,
)
from hetfed_datasets.records import Series

SENSORS, STEPS = 40, 2976


def load(folder: Path) -> Series:
    """Speeds in km/h, a zero being a missing reading (6 %: no taxi passed); four roads have no neighbour.

    Returns:
        2976 steps of 15 minutes at 40 sensors, one channel; `adjacency` (40, 40).

    Raises:
        DataError: a file is missing or cut short, holds a cell that is no number, or leaves out a time.
    """
    file = require_file(folder, "sz_speed_40roads.csv")
    frame = read_csv(file)
    expect_columns(frame, file, count=1 + SENSORS, names=["date"])
    expect_rows(frame, file, STEPS)
    speed = numbers(frame.drop(columns="date"), file)
    links = require_file(folder, "sz_adj_40.csv")
    return Series(
        name="shenzhen-sz-taxi",
        values=np.where(speed == 0, np.nan, speed).astype(np.float32)[:, :, np.newaxis],
        time=expect_regular(expect_times(frame["date"], file, form="%m/%d/%Y %H:%M"), 15, file, frame.index),
        sensors=tuple(str(column) for column in frame.columns[1:]),
        channels=("speed",),
        unit="km/h",
        kind="speed",
        interval=15,
        adjacency=expect_square(numbers(read_csv(links, header=None), links), SENSORS, links),
        zone="Asia/Shanghai",
    )
