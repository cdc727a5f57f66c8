"""By what a record is known again: the name that its registry gave the patient, and the digest of what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hetfed_datasets.records import Cohort, Series

TELLING = 16
"""A sample with fewer different values (a black slice, a dozen clinical columns) may be alike in two patients by chance."""
LATEST = ("train", "validation", "test")


def identities(cohort: Cohort, rows: NDArray[np.int64]) -> dict[str, frozenset[str]]:
    """What identifies each patient of the samples at `rows`, whatever the data set is called, by the patient's name.

    >>> from hetfed_datasets.random_input import table
    >>> identities(table(patients=1), np.arange(1))
    {'random-table-0000': frozenset({'random-table: random-table-0000'})}
    """
    registry = cohort.registry or cohort.name
    found: dict[str, set[str]] = {name: {f"{registry}: {name}"} for name in cohort.patient[rows].tolist()}
    for row, digest in _digests(cohort, rows):
        found[str(cohort.patient[row])].add(digest)
    return {name: frozenset(own) for name, own in found.items()}


def once(cohort: Cohort) -> tuple[Cohort, int]:
    """The cohort without samples that another patient of it has, too, and how many samples that leaves out.

    An image under two names could be trained on under the one and tested on under the other. Where the publisher fixed the
    parts, the sample that is left is one for testing if there is one, since fewer test samples would be another test.

    >>> from hetfed_datasets.random_input import images
    >>> cohort = images(side=8, patients=3)
    >>> cohort.modalities["image"][2] = cohort.modalities["image"][0]
    >>> once(cohort)[0].patient.tolist(), once(cohort)[1]
    (['random-images-0000', 'random-images-0001'], 1)
    """
    holders: dict[str, list[int]] = {}
    for row, digest in _digests(cohort, np.arange(len(cohort))):
        holders.setdefault(digest, []).append(row)
    left = np.ones(len(cohort), dtype=bool)
    for rows in holders.values():
        if len(rows) > 1:
            own = cohort.patient[max(rows, key=lambda row: (_part(cohort, row), -row))]
            left[[row for row in rows if cohort.patient[row] != own]] = False
    out = int((~left).sum())
    return (cohort.take(left) if out else cohort), out


def repeated(cohort: Cohort) -> int:
    """How many samples are alike in every modality to one before them, of whatever patient; black images are not counted."""
    flat = [values.reshape(len(cohort), -1) for values in cohort.modalities.values()]
    rows = np.flatnonzero(np.any([(values != values[:, :1]).any(axis=1) for values in flat], axis=0)).tolist()
    return len(rows) - len({b"".join(values[row].tobytes() for values in flat) for row in rows})


def sensors(series: Series) -> dict[str, frozenset[str]]:
    """What identifies each sensor of a city, by its name: all that it read, and when.

    >>> from hetfed_datasets.random_input import readings
    >>> len(sensors(readings(sensors=3)))
    3
    """
    time = series.time.as_unit("ns").asi8.tobytes()
    each = zip(series.sensors, np.moveaxis(series.values, 1, 0), strict=True)
    # A sensor that is silent or stands still is like any other that is.
    return {name: frozenset({_digest(time + own.tobytes())} if _tells(own) else ()) for name, own in each}


def _digests(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    """The digest of each sample's content in each modality that it has, where it tells samples apart."""
    for name, values in cohort.modalities.items():
        there = cohort.present.get(name, np.ones(len(cohort), dtype=bool))
        for row in rows[there[rows]].tolist():
            if _tells(values[row]):
                # As floating-point numbers: bytes and the same numbers in another form are one image.
                yield row, _digest(values[row].astype(np.float32).tobytes())


def _tells(values: NDArray[np.generic]) -> bool:
    # A thousand of the values will do: all of a large image take as long to sort as to read.
    return len(np.unique(values.reshape(-1)[:: max(1, values.size // 1024)])) >= TELLING


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _part(cohort: Cohort, row: int) -> int:
    return 0 if cohort.official_split is None else LATEST.index(cohort.official_split[row])
