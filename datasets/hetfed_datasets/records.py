"""The two kinds of record that every loader and generator returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MISSING_LABEL = -1


@dataclass(frozen=True)
class Cohort:
    """Samples of the patients of one or several institutions; everything has n rows.

    `patient` and `site` (n,) name the patient and the institution of each sample, so that splits can be made by patient.
    `modalities` maps a name to an array: an image (n, height, width, channels) uint8, a table (n, columns) float32. A sample
    without a modality has a row of zeros there and False in `present[name]` (n,); a modality not in `present` is complete.
    `labels` maps a name to (n,) integers, MISSING_LABEL where unknown; `classes` names the classes of each label in order.
    `columns` names the columns of each table; `official_split` (n,) holds "train", "validation", "test" where the publisher
    fixed them.
    """

    name: str
    patient: NDArray[np.str_]
    site: NDArray[np.str_]
    modalities: Mapping[str, NDArray[np.generic]]
    labels: Mapping[str, NDArray[np.int64]]
    classes: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, tuple[str, ...]]
    present: Mapping[str, NDArray[np.bool_]]
    official_split: NDArray[np.str_] | None = None
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.patient)

    def take(self, index: NDArray[np.generic]) -> Cohort:
        """The samples at `index`, which is (k,) positions or an (n,) mask."""
        return replace(
            self,
            patient=self.patient[index],
            site=self.site[index],
            modalities={name: array[index] for name, array in self.modalities.items()},
            labels={name: array[index] for name, array in self.labels.items()},
            present={name: array[index] for name, array in self.present.items()},
            official_split=None if self.official_split is None else self.official_split[index],
        )


@dataclass(frozen=True)
class Series:
    """Readings of one city: `values` (time, sensor, channel) float32 in `unit`, NaN where missing, every `interval` minutes.

    `time` has one stamp a row. `adjacency` (sensor, sensor) weighs the links of the road graph; `coordinates` (sensor, 2) is
    latitude and longitude, NaN where unknown. `level` (time,) is a congestion level given by the publisher, an index into
    `levels`, MISSING_LABEL where unknown.
    """

    name: str
    values: NDArray[np.float32]
    time: pd.DatetimeIndex
    sensors: tuple[str, ...]
    channels: tuple[str, ...]
    unit: str
    interval: int
    adjacency: NDArray[np.float32] | None = None
    coordinates: NDArray[np.float64] | None = None
    level: NDArray[np.int64] | None = None
    levels: tuple[str, ...] = ()
    synthetic: bool = False
