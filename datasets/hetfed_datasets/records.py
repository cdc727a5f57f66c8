"""The two kinds of record that every loader and generator returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MISSING_LABEL = -1


@dataclass(frozen=True)
class Cohort:
    """Samples of the patients of one or several institutions; everything has n rows.

    That this is so is the business of the loader, which reads through `checks`: nothing is looked at here.

    `patient` and `site` (n,) name the patient and the institution of each sample, so that splits can be made by patient.
    `modalities` maps a name to an array: an image (n, height, width, channels) uint8, a table (n, columns) float32. A sample
    without a modality has a row of zeros there and False in `present[name]` (n,); a modality not in `present` is complete.
    `labels` maps a name to (n,) integers, MISSING_LABEL where unknown; `classes` names the classes of each label in order.
    `survival` maps the name of an event to (n, 2) float32: 1 where it was seen, else 0, and the days until then or until
    observation ended.
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
    survival: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def questions(self) -> tuple[str, ...]:
        """What can be asked of this cohort: its labels and its events."""
        return (*self.labels, *self.survival)

    def target(self, question: str) -> NDArray[np.int64] | NDArray[np.float32]:
        """The classes (n,) of a label, or the times (n, 2) of an event."""
        return self.survival[question] if question in self.survival else self.labels[question]

    def strata(self, question: str) -> NDArray[np.int64]:
        """Integers (n,) of which each part of the cohort should have its share: the classes, or whether the event was seen."""
        return self.survival[question][:, 0].astype(np.int64) if question in self.survival else self.labels[question]

    def take(self, index: NDArray[np.generic]) -> Cohort:
        """The samples at `index`, which is (k,) positions or an (n,) mask."""
        return replace(
            self,
            patient=self.patient[index],
            site=self.site[index],
            modalities={name: array[index] for name, array in self.modalities.items()},
            labels={name: array[index] for name, array in self.labels.items()},
            survival={name: array[index] for name, array in self.survival.items()},
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
