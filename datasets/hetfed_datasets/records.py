"""The two kinds of record that every loader and generator returns. What they promise is checked in `gate`.

A record is plain arrays with names: no file, no model, no scale. A vertical makes a client's tensors of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MISSING_LABEL = -1
SUM = "sum"
"""The target of a series whose channels are counted apart and forecast together."""
Measure = Literal["speed", "count", "occupancy", "travel-time"]
"""What readings measure, and so which of them are congested: low speeds, high counts and occupancies, long travel times."""
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Cohort:
    """Samples of the patients of one or several institutions; everything has n rows, n at least 1.

    Nothing is looked at here: `gate.check_cohort` says whether a cohort is what this page promises.

    Args:
        name: of the data set; not empty.
        patient: (n,) strings, none of them empty. The samples of a patient stay together when splits are made.
        site: (n,) strings, none of them empty: the institution of each sample.
        modalities: by name, at least one. A table (n, columns) of numbers, as float32, where NaN is an empty cell; or samples
            of two and more axes with the channels last, as an image (n, height, width, channels), uint8 or finite float32.
            A sample that lacks a modality has a row of zeros there.
        labels: by name, (n,) int64: an index into the label's classes, MISSING_LABEL where it is not known.
        classes: for each label the names of its classes, two or more, all different.
        columns: for each table the names of its columns, all different.
        present: by modality, (n,) booleans: who has it. A modality that is not named here is complete.
        official_split: (n,) "train", "validation" or "test" where the publisher fixed them; a patient is in one of them only.
        synthetic: whether the samples are made up.
        survival: by event, (n, 2) float32: 1 where it was seen, else 0; and the days until then or until observation ended,
            from 0 upwards. No event has the name of a label.
        registry: who named the patients: those of one name in one registry are one, whatever data set they are in. Empty where
            that is the data set itself.

    >>> ward = Cohort(
    ...     name="ward",
    ...     patient=np.array(["p1", "p1", "p2"]),
    ...     site=np.array(["north", "north", "south"]),
    ...     modalities={"clinical": np.array([[61.0, 1.0], [62.0, 1.0], [48.0, np.nan]], dtype=np.float32)},
    ...     labels={"relapse": np.array([0, 1, MISSING_LABEL])},
    ...     classes={"relapse": ("no", "yes")},
    ...     columns={"clinical": ("age", "sex")},
    ...     present={},
    ... )
    >>> len(ward), ward.questions
    (3, ('relapse',))
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
    registry: str = ""

    def __len__(self) -> int:
        return len(self.patient)

    @property
    def questions(self) -> tuple[str, ...]:
        """What can be asked of this cohort: its labels and its events.

        A plan names one of them as its `label`.
        """
        return (*self.labels, *self.survival)

    def target(self, question: str) -> NDArray[np.int64] | NDArray[np.float32]:
        """The classes (n,) of a label, or the times (n, 2) of an event.

        Raises:
            KeyError: the cohort has no such question.
        """
        return self.survival[question] if question in self.survival else self.labels[question]

    def strata(self, question: str) -> NDArray[np.int64]:
        """Integers (n,) of which each part of the cohort should have its share: the classes, or whether the event was seen.

        Of a survival question the censored patients are one stratum.
        """
        return self.survival[question][:, 0].astype(np.int64) if question in self.survival else self.labels[question]

    def take(self, index: NDArray[np.generic]) -> Cohort:
        """The samples at `index`, which is (k,) positions or an (n,) mask.

        >>> from hetfed_datasets.sample_hospitals import generate
        >>> cohort = generate()
        >>> len(cohort.take(cohort.site == "north")), len(cohort.take(np.array([0, 5])))
        (150, 2)
        """
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
    """Readings of one city, one row of them every `interval` minutes.

    Nothing is looked at here: `gate.check_series` says whether a series is what this page promises.

    Args:
        name: of the data set; not empty.
        values: (time, sensor, channel) float32 in `unit`, from 0 upwards, NaN where missing; there is a reading somewhere.
        time: one stamp a row, in order, each `interval` minutes after the one before. A gap is filled with rows of NaN.
        sensors: their names, all different.
        channels: their names, all different.
        unit: of what is forecast, in words, as "km/h".
        kind: what that measures, whatever its unit is called.
        interval: whole minutes, 1 or more.
        adjacency: (sensor, sensor) float32: the weights of the links of the road graph, from 0 upwards.
        coordinates: (sensor, 2) float64: latitude and longitude in degrees, both NaN where unknown.
        level: (time,) int64: a congestion level given by the publisher, an index into `levels`, MISSING_LABEL where unknown.
        levels: the names of the levels from free to congested, two or more, all different; none without `level`.
        synthetic: whether the readings are made up.
        target: the channel that is forecast, or "sum" for all of them together, where they are counts; the others are read. A
            series of several channels that names none can be forecast only where a plan does.
        zone: of stamps that are local time and do not say so themselves, as "Australia/Melbourne": nothing is read at a time
            that its clocks left out. Empty where stamps are of one clock throughout.

    >>> street = Series(
    ...     name="street",
    ...     values=np.array([[[48.0]], [[np.nan]], [[31.5]]], dtype=np.float32),
    ...     time=pd.date_range("2024-03-04 08:00", periods=3, freq="15min"),
    ...     sensors=("loop 1",),
    ...     channels=("speed",),
    ...     unit="km/h",
    ...     kind="speed",
    ...     interval=15,
    ... )
    >>> street.values.shape == (len(street.time), len(street.sensors), len(street.channels))
    True
    """

    name: str
    values: NDArray[np.float32]
    time: pd.DatetimeIndex
    sensors: tuple[str, ...]
    channels: tuple[str, ...]
    unit: str
    kind: Measure
    interval: int
    adjacency: NDArray[np.float32] | None = None
    coordinates: NDArray[np.float64] | None = None
    level: NDArray[np.int64] | None = None
    levels: tuple[str, ...] = ()
    synthetic: bool = False
    target: str | None = None
    zone: str = ""
