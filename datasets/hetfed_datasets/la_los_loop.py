"""Los Angeles loop detectors: 207 sensors, one week of March 2012, speed every 5 minutes (Zhao et al. 2019, T-GCN)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hetfed_datasets.checks import expect_columns, expect_rows, expect_square, numbers, read_csv, require_file
from hetfed_datasets.records import Series

SENSORS, STEPS = 207, 2016


def load(folder: Path) -> Series:
    """Speeds in mph, with the weighted adjacency; nothing is missing.

    Returns:
        2016 steps of 5 minutes at 207 sensors, one channel; `adjacency` (207, 207) with weights from 0 to 1.

    Raises:
        DataError: a file is missing, cut short, or holds a cell that is no number.
    """
    file = require_file(folder, "los_speed.csv")
    frame = read_csv(file)
    expect_columns(frame, file, count=SENSORS)
    expect_rows(frame, file, STEPS)
    links = require_file(folder, "los_adj.csv")
    adjacency = expect_square(numbers(read_csv(links, header=None), links), SENSORS, links)
    return Series(
        name="la-los-loop",
        values=numbers(frame, file, complete=True)[:, :, np.newaxis],
        # The file gives no times; the publisher says when it begins.
        time=pd.date_range("2012-03-01", periods=STEPS, freq="5min"),
        sensors=tuple(str(column) for column in frame.columns),
        channels=("speed",),
        # Not converted: every city scales its readings by itself, and figures stay in the publisher's unit.
        unit="mph",
        kind="speed",
        interval=5,
        adjacency=adjacency,
        zone="America/Los_Angeles",
    )
