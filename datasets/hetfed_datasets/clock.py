"""Local time: hours that clocks leave out when they go forward, and pass twice when they go back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hetfed_datasets.records import Series


def left_out(time: pd.DatetimeIndex, zone: str) -> NDArray[np.bool_]:
    """Which of these local stamps (n,) did not exist.

    >>> left_out(pd.DatetimeIndex(["2006-10-29 01:45", "2006-10-29 02:00", "2006-10-29 03:00"]), "Australia/Melbourne")
    array([False,  True, False])
    """
    return np.asarray(time.tz_localize(zone, nonexistent="NaT", ambiguous=np.zeros(len(time), dtype=bool)).isna())


def twice(time: pd.DatetimeIndex, zone: str) -> NDArray[np.bool_]:
    """Which of these local stamps (n,) were passed twice, so that nobody knows which hour they name.

    >>> twice(pd.DatetimeIndex(["2006-04-02 01:45", "2006-04-02 02:00"]), "Australia/Melbourne")
    array([False,  True])
    """
    return np.asarray(time.tz_localize(zone, nonexistent="shift_forward", ambiguous="NaT").isna())


def without_hours_left_out(series: Series) -> Series:
    """The series, nothing being read at a time that the clocks of its zone left out."""
    gone = left_out(series.time, series.zone)[:, np.newaxis, np.newaxis]
    return replace(series, values=np.where(gone, np.float32(np.nan), series.values))
