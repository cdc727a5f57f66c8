"""Melbourne signal loops: 105 approaches of Boroondara, October 2006, vehicles per 15 minutes (VicRoads SCATS)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed_datasets.checks import expect_columns, expect_rows, expect_times, numbers, read_csv, require_file
from hetfed_datasets.clock import without_hours_left_out
from hetfed_datasets.records import Series

ROWS, DAYS, PER_DAY, INTERVAL = 4192, 31, 96, 15
FILE = "scats_october_2006.csv"
POSITION = ["NB_LATITUDE", "NB_LONGITUDE"]
COLUMNS = ["SCATS Number", "Location", *POSITION, "Start Time"]
NEAR_KM = 1.0
"""Scale of the Gaussian kernel: approaches a kilometre apart weigh exp(-1)."""
WEAKEST_LINK = 0.1
"""A link below this weight, of approaches 1.5 km apart and more, is cut."""


def load(folder: Path) -> Series:
    """Counts of the approaches that have all 31 days; the graph is built from their positions, which one of them lacks.

    Returns:
        2976 steps of 15 minutes at 105 approaches, one channel, in vehicles/15 min; `adjacency` (105, 105); `coordinates`
        (105, 2) in degrees, NaN where unknown. Nothing is read in the hour of 29 October that clocks left out.

    Raises:
        DataError: the file is missing, cut short, or holds a cell that is no number or no date.
    """
    file = require_file(folder, FILE)
    frame = read_csv(file)
    expect_columns(frame, file, names=[*COLUMNS, "0:00", "23:45"])
    expect_rows(frame, file, ROWS)
    counts = frame.loc[:, "0:00":"23:45"]
    expect_columns(counts, file, count=PER_DAY)
    volumes = pd.DataFrame(numbers(counts, file, complete=True), index=frame.index)
    day = pd.Series(expect_times(frame["Start Time"], file, form="%d/%m/%Y"), index=frame.index)
    site = frame["SCATS Number"].astype(str) + " " + frame["Location"].astype(str)
    # One approach stands in the file twice; its first series counts.
    once = ~pd.DataFrame({"site": site, "day": day}).duplicated()
    # An approach that lacks a day would put a gap of a day into the series.
    kept = {name: rows for name, rows in frame[once].groupby(site[once]).groups.items() if len(rows) == DAYS}
    series = [volumes.loc[day[rows].sort_values().index].to_numpy().reshape(-1) for rows in kept.values()]
    first = [rows[0] for rows in kept.values()]
    # For the checks alone: degrees need double precision, and `numbers` gives single.
    numbers(frame[POSITION], file, complete=True)
    position = frame.loc[first, POSITION].to_numpy(dtype=np.float64)
    # In the file 0, 0 stands for a position that is not known.
    coordinates = np.where((position == 0).all(axis=1, keepdims=True), np.nan, position)
    found = Series(
        name="melbourne-scats",
        values=np.stack(series, axis=1)[:, :, np.newaxis].astype(np.float32),
        time=pd.date_range(day.min().normalize(), periods=DAYS * PER_DAY, freq=f"{INTERVAL}min"),
        sensors=tuple(str(name) for name in kept),
        channels=("vehicles",),
        unit="vehicles/15 min",
        kind="count",
        interval=INTERVAL,
        adjacency=graph_from(coordinates),
        coordinates=coordinates,
        zone="Australia/Melbourne",
    )
    # The file has 96 columns for every day; on 29 October clocks went from 02:00 to 03:00.
    return without_hours_left_out(found)


def graph_from(coordinates: NDArray[np.float64]) -> NDArray[np.float32]:
    """A graph (sensor, sensor) of positions (sensor, 2) in degrees: exp(-(distance / 1 km)^2), weak links cut.

    A sensor without a position (NaN) has no link but to itself.

    Args:
        coordinates: (sensor, 2) float64, latitude and longitude in degrees, NaN where unknown.

    Returns:
        (sensor, sensor) float32, symmetric, weights from 0 to 1: a Gaussian kernel as in Li et al. 2018, its scale fixed.

    >>> three = np.array([[-37.8, 145.0], [-37.8, 145.01], [-37.8, 145.1]])  # 0.9 km and 8.8 km to the east
    >>> graph_from(three).round(2)
    array([[1.  , 0.46, 0.  ],
           [0.46, 1.  , 0.  ],
           [0.  , 0.  , 1.  ]], dtype=float32)
    """
    kilometres = np.deg2rad(coordinates) * 6371.0
    # A degree of longitude shrinks with the cosine of the latitude; a city is small enough for one cosine.
    kilometres[:, 1] *= np.cos(np.deg2rad(np.nanmean(coordinates[:, 0])))
    distance = np.linalg.norm(kilometres[:, None] - kilometres[None], axis=2)
    weight = np.nan_to_num(np.exp(-((distance / NEAR_KM) ** 2)), nan=0.0)
    weight[weight < WEAKEST_LINK] = 0.0
    np.fill_diagonal(weight, 1.0)
    return np.asarray(weight, dtype=np.float32)
