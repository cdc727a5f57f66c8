"""The gate through which records enter: what `Cohort` and `Series` promise is checked here, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args
from zoneinfo import available_timezones

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed.errors import among
from hetfed_datasets.clock import left_out
from hetfed_datasets.field import Field
from hetfed_datasets.records import MISSING_LABEL, SUM, Cohort, Measure, Series, Split

NOBODY = ("", "nan", "None", "<NA>", "NaT")
"""What libraries write for a name that is missing."""
LATITUDE, LONGITUDE = 90.0, 180.0
STANDARDISED = 20.0
"""No standardised age lies so far from 0."""


def check_record(record: object, kind: str) -> Cohort | Series:
    """A record that somebody's loader has returned, which is to be a "cohort" or a "series".

    Args:
        record: whatever the loader gave.
        kind: "cohort" or "series", as its source says.

    Returns:
        The record itself, unchanged.

    Raises:
        DataError: it is not, or not all that its kind promises.
    """
    return check_cohort(record) if kind == "cohort" else check_series(record)


def check_cohort(cohort: object) -> Cohort:
    """The cohort itself.

    Every loader's record passes here, and a script's too where it becomes a client: a NaN in an image or a label out of range
    would otherwise show as a loss that makes no sense.

    Raises:
        DataError: it is not what `Cohort` promises: the record, the field, the value and the remedy.

    >>> from dataclasses import replace
    >>> from hetfed_datasets.random_input import table
    >>> check_cohort(replace(table(patients=2), site=np.array(["one", ""])))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.DataError: cohort 'random-table': site[1]: no name (value: ''). ...
    """
    if not isinstance(cohort, Cohort):
        remedy = "Return a hetfed_datasets.records.Cohort."
        raise Field("record", "type").fault("not a cohort", value=type(cohort).__name__, remedy=remedy)
    record = f"cohort {cohort.name!r}"
    _text(Field(record, "name"), cohort.name)
    _flag(Field(record, "synthetic"), cohort.synthetic)
    if cohort.registry:
        _text(Field(record, "registry"), cohort.registry)
    # In this order, since each check leans on those above it: lengths on patients, tables on modalities.
    rows = _people(Field(record, "patient"), cohort.patient, None)
    _people(Field(record, "site"), cohort.site, rows)
    _modalities(Field(record, "modalities"), cohort.modalities, rows)
    _columns(Field(record, "columns"), cohort)
    _ages(Field(record, "modalities"), cohort)
    _labels(record, cohort, rows)
    _survival(Field(record, "survival"), cohort, rows)
    _present(Field(record, "present"), cohort, rows)
    if cohort.official_split is not None:
        _split(Field(record, "official_split"), cohort, rows)
    return cohort


def check_series(series: object) -> Series:
    """The series itself.

    Raises:
        DataError: it is not what `Series` promises: the record, the field, the value and the remedy.

    >>> from dataclasses import replace
    >>> from hetfed_datasets.random_input import readings
    >>> check_series(replace(readings(steps=4), interval=5))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.DataError: series 'random-readings': time[1]: not 5 minutes after the stamp before ...
    """
    if not isinstance(series, Series):
        remedy = "Return a hetfed_datasets.records.Series."
        raise Field("record", "type").fault("not a series", value=type(series).__name__, remedy=remedy)
    record = f"series {series.name!r}"
    _text(Field(record, "name"), series.name)
    _text(Field(record, "unit"), series.unit)
    _flag(Field(record, "synthetic"), series.synthetic)
    if series.kind not in get_args(Measure):
        remedy = among(series.kind, get_args(Measure))
        raise Field(record, "kind").fault("not a kind of reading", value=series.kind, remedy=remedy)
    # Before what follows, which unpacks three axes.
    _readings(Field(record, "values"), series.values)
    steps, sensors, channels = series.values.shape
    _unique(Field(record, "sensors"), series.sensors, sensors, "sensor")
    _unique(Field(record, "channels"), series.channels, channels, "channel")
    check_target(Field(record, "target"), series, series.target)
    _times(record, series, steps)
    _zone(record, series)
    if series.adjacency is not None:
        _adjacency(Field(record, "adjacency"), series.adjacency, sensors)
    if series.coordinates is not None:
        _coordinates(Field(record, "coordinates"), series.coordinates, sensors)
    _levels(record, series, steps)
    return series


def check_target(field: Field, series: Series, target: str | None) -> None:
    """Raise `DataError` unless `target` is none, a channel of the series, or "sum" where channels are counts."""
    if target == SUM and len(series.channels) > 1 and series.kind != "count":
        remedy = f"Only counts add up. Name one channel: {', '.join(series.channels)}."
        raise field.fault(f"the sum of several channels of {series.kind} means nothing", value=target, remedy=remedy)
    if target not in (None, SUM, *series.channels):
        raise field.fault("no such channel", value=target, remedy=among(target, (*series.channels, SUM)))


def _text(field: Field, value: object) -> None:
    if not isinstance(value, str) or value.strip() in NOBODY:
        raise field.fault("not a name", value=value, remedy="Give it some words.")


def _flag(field: Field, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise field.fault("neither true nor false", value=value, remedy="Say True or False.")


def _table(field: Field, value: object) -> Mapping[str, Any]:
    """A dictionary by names."""
    if not isinstance(value, Mapping):
        raise field.fault(
            "not a dictionary", value=type(value).__name__, remedy="Give a dictionary by name, perhaps an empty one."
        )
    for name in value:
        _text(field.at(name), name)
    return value


def _array(field: Field, value: object, shape: tuple[int | None, ...], kinds: str, means: str) -> NDArray[Any]:
    """An array of that shape, None standing for any size, and of one of the dtypes whose `kind` is in `kinds`."""
    if not isinstance(value, np.ndarray):
        raise field.fault(f"not an array of {means}", value=type(value).__name__, remedy=f"Make it a numpy array of {means}.")
    # zip ends with the shorter one; ndim has been compared by then.
    fits = value.ndim == len(shape) and all(wanted in {None, size} for wanted, size in zip(shape, value.shape, strict=False))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise field.fault(
            f"array of shape ({wanted}) expected", value=value.shape, remedy="Everything in a record has equal lengths."
        )
    if value.dtype.kind not in kinds:
        raise field.fault(f"not {means}", value=str(value.dtype), remedy=f"Convert it to {means}.")
    return value


def _exactly(field: Field, value: NDArray[Any], dtype: type[np.generic]) -> None:
    if value.dtype != dtype:
        remedy = f"Convert it with .astype(numpy.{dtype.__name__})."
        raise field.fault(f"{dtype.__name__} expected", value=str(value.dtype), remedy=remedy)


def _refuse(field: Field, values: NDArray[Any], wrong: NDArray[np.bool_], problem: str, remedy: str) -> None:
    """Raise `DataError` that names the first of `values` where `wrong` is true."""
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise field.at(*(int(i) for i in place)).fault(problem, value=values[place].item(), remedy=remedy)


def _finite(field: Field, values: NDArray[Any], *, gaps: bool) -> None:
    """All numbers are finite in single precision; with `gaps`, NaN stands for what is missing."""
    if values.dtype.kind != "f":
        return
    # A number beyond single precision becomes infinite, about which numpy would warn.
    with np.errstate(over="ignore"):
        single = values.astype(np.float32, copy=False)
    if not gaps:
        _refuse(field, values, np.isnan(single), "NaN", "Leave the sample out, or say in `present` that it lacks this.")
    _refuse(field, values, np.isinf(single), "not a finite number", "Mend it, or write NaN where a gap is allowed.")


def _unique(field: Field, names: object, count: int | None, what: str, least: int = 1) -> None:
    """A tuple of different words, so many of them where a count is given."""
    # A string is a sequence of letters, and would pass for a list of names.
    if isinstance(names, str) or not isinstance(names, Sequence):
        remedy = f"Give a tuple with the name of every {what}."
        raise field.fault(f"not a list of {what} names", value=type(names).__name__, remedy=remedy)
    if count is not None and len(names) != count:
        raise field.fault(f"{count} {what} names expected", value=len(names), remedy=f"Name every {what} of the values once.")
    if len(names) < least:
        raise field.fault(f"{least} or more {what} names expected", value=len(names), remedy=f"Name every {what}.")
    seen = set()
    for place, name in enumerate(names):
        _text(field.at(place), name)
        if name in seen:
            raise field.at(place).fault(f"two of one {what} name", value=name, remedy="Rename one, or leave one out.")
        seen.add(name)


def _people(field: Field, names: object, rows: int | None) -> int:
    """Names, one for each sample; returns how many."""
    # numpy's text arrays alone: an array of objects may hold anything, NaN included.
    known = _array(field, names, (rows,), "U", "strings")
    if not len(known):
        raise field.fault("no samples", remedy="A record has one or more; look at how they were selected.")
    remedy = f"Name the {field.name} of every sample, or leave the sample out."
    _refuse(field, known, np.isin(np.char.strip(known), NOBODY), "no name", remedy)
    return len(known)


def _modalities(field: Field, modalities: object, rows: int) -> None:
    if not _table(field, modalities):
        raise field.fault("no modality", remedy="A cohort has one or more: images, tables.")
    for name, values in _table(field, modalities).items():
        own = field.at(name)
        dimensions = max(getattr(values, "ndim", 2), 2)
        found = _array(own, values, (rows, *[None] * (dimensions - 1)), "uif", "numbers")
        if not found.size:
            raise own.fault("nothing in it", value=found.shape, remedy="Leave the modality out.")
        # An empty cell of a table can be filled in; an image with a hole in it cannot.
        _finite(own, found, gaps=found.ndim == 2)


def _columns(field: Field, cohort: Cohort) -> None:
    columns = _table(field, cohort.columns)
    tables = [name for name, values in cohort.modalities.items() if values.ndim == 2]
    for name in columns:
        if name not in tables:
            raise field.at(name).fault("columns of no table", remedy=among(name, tables, "Tables"))
    for name in tables:
        if name not in columns:
            remedy = f"Name its {cohort.modalities[name].shape[1]} columns: parameters are shared only where names agree."
            raise field.at(name).fault("a table without names of columns", remedy=remedy)
        _unique(field.at(name), columns[name], cohort.modalities[name].shape[1], "column")


def _ages(field: Field, cohort: Cohort) -> None:
    """Nobody is less than nothing old: an age below zero is a slip, unless ages are standardised."""
    for name, columns in cohort.columns.items():
        for place in (place for place, column in enumerate(columns) if column.casefold().split("_")[0] == "age"):
            ages = np.asarray(cohort.modalities[name][:, place], dtype=np.float64)
            wrong = (ages < 0) & (np.nan_to_num(np.abs(ages)).max() >= STANDARDISED)
            if wrong.any():
                row = int(wrong.argmax())
                remedy = "Mend the cell, or write NaN where the age is not known."
                raise field.at(name, row, place).fault("an age below zero", value=ages[row].item(), remedy=remedy)


def _labels(record: str, cohort: Cohort, rows: int) -> None:
    labels, classes = Field(record, "labels"), Field(record, "classes")
    known = _table(labels, cohort.labels)
    for name in _table(classes, cohort.classes):
        if name not in known:
            raise classes.at(name).fault("classes of no label", remedy=among(name, known, "Labels"))
    for name, values in known.items():
        if name not in cohort.classes:
            raise labels.at(name).fault("a label without classes", remedy="Name what 0, 1, ... stand for in `classes`.")
        _unique(classes.at(name), cohort.classes[name], None, "class", least=2)
        _indices(labels.at(name), values, rows, len(cohort.classes[name]))


def _indices(field: Field, values: object, rows: int, count: int) -> None:
    """One of 0..count-1, or MISSING_LABEL, for each row."""
    found = _array(field, values, (rows,), "i", "whole numbers")
    _exactly(field, found, np.int64)
    wrong = (found < MISSING_LABEL) | (found >= count)
    remedy = f"Known: 0 to {count - 1}, and {MISSING_LABEL} where it is not known."
    _refuse(field, found, wrong, "outside the classes", remedy)


def _survival(field: Field, cohort: Cohort, rows: int) -> None:
    for name, values in _table(field, cohort.survival).items():
        own = field.at(name)
        # A plan asks by name: of an event and a label of one name it could mean either.
        if name in cohort.labels:
            raise own.fault("a label has the same name", remedy="Rename the one or the other.")
        found = _array(own, values, (rows, 2), "f", "numbers")
        _exactly(own, found, np.float32)
        event, days = found[:, 0], found[:, 1]
        remedy = "Column 0 is 1 where the event was seen, and 0 where observation ended before."
        _refuse(own, event, ~np.isin(event, (0, 1)), "neither 0 nor 1", remedy)
        _refuse(own, days, ~np.isfinite(days) | (days < 0), "not a time", "Column 1 is a number of days from 0 upwards.")


def _present(field: Field, cohort: Cohort, rows: int) -> None:
    for name, values in _table(field, cohort.present).items():
        if name not in cohort.modalities:
            raise field.at(name).fault("no such modality", remedy=among(name, cohort.modalities))
        _array(field.at(name), values, (rows,), "b", "booleans")


def _split(field: Field, cohort: Cohort, rows: int) -> None:
    words = _array(field, cohort.official_split, (rows,), "U", "strings")
    _refuse(field, words, ~np.isin(words, get_args(Split)), "not a part", f"Known: {', '.join(get_args(Split))}.")
    parts = pd.DataFrame({"patient": cohort.patient, "part": words}).drop_duplicates()
    twice = parts["patient"][parts["patient"].duplicated()]
    if len(twice):
        remedy = "Put all samples of a patient into one part, or leave official_split out: splits are then made by patient."
        raise field.at(int(twice.index[0])).fault("a patient in two parts", value=str(twice.iloc[0]), remedy=remedy)


def _readings(field: Field, values: object) -> None:
    found = _array(field, values, (None, None, None), "f", "numbers")
    _exactly(field, found, np.float32)
    if not found.size:
        raise field.fault("no readings", value=found.shape, remedy="A series has one or more steps, sensors and channels.")
    _finite(field, found, gaps=True)
    remedy = "Write NaN where a reading is missing; nothing that is measured here is below zero."
    _refuse(field, found, found < 0, "a reading below zero", remedy)
    if np.isnan(found).all():
        raise field.fault("every reading is missing", remedy="Look at how they were read.")


def _times(record: str, series: Series, steps: int) -> None:
    interval, time = Field(record, "interval"), Field(record, "time")
    # A truth value is a whole number to Python.
    if isinstance(series.interval, bool) or not isinstance(series.interval, int | np.integer) or series.interval < 1:
        raise interval.fault("not a number of minutes", value=series.interval, remedy="Give whole minutes, 1 or more.")
    if not isinstance(series.time, pd.DatetimeIndex):
        remedy = "Make it a pandas.DatetimeIndex."
        raise time.fault("not an index of times", value=type(series.time).__name__, remedy=remedy)
    if len(series.time) != steps:
        raise time.fault(f"{steps} stamps expected, one for each row", value=len(series.time), remedy="Give one stamp a row.")
    if series.time.hasnans:
        place = int(np.asarray(series.time.isna()).argmax())
        raise time.at(place).fault("no time", value="NaT", remedy="Give every row its stamp.")
    # Whatever the resolution and the time zone of the stamps; in a time zone, two o'clock may come twice.
    step = np.diff(series.time.as_unit("ns").asi8)
    wrong = step != series.interval * 60 * 10**9
    if wrong.any():
        place = int(wrong.argmax()) + 1
        raise time.at(place).fault(
            f"not {series.interval} minutes after the stamp before",
            value=str(series.time[place]),
            remedy="One row every `interval` minutes, in order, none twice: fill a gap with rows of NaN.",
        )


def _zone(record: str, series: Series) -> None:
    """The time zone is known, and nothing was read at a time that its clocks left out."""
    zone, time = Field(record, "zone"), Field(record, "time")
    if not series.zone:
        return
    if series.zone not in available_timezones():
        raise zone.fault("no such time zone", value=series.zone, remedy="Give its name in the tz database: Europe/Berlin.")
    if series.time.tz is not None:
        remedy = "Leave zone out, or take it from the stamps: time.tz_localize(None)."
        raise zone.fault("the stamps have a time zone already", value=series.zone, remedy=remedy)
    wrong = left_out(series.time, series.zone) & ~np.isnan(series.values).all(axis=(1, 2))
    if wrong.any():
        place = int(wrong.argmax())
        remedy = "Write NaN there, as hetfed_datasets.clock.without_hours_left_out does."
        raise time.at(place).fault(
            f"a reading when clocks in {series.zone} went forward", value=str(series.time[place]), remedy=remedy
        )


def _adjacency(field: Field, values: object, sensors: int) -> None:
    found = _array(field, values, (sensors, sensors), "f", "numbers")
    _exactly(field, found, np.float32)
    wrong = ~np.isfinite(found) | (found < 0)
    _refuse(field, found, wrong, "not a weight", "Weights are numbers from 0 upwards; 0 is no link.")


def _coordinates(field: Field, values: object, sensors: int) -> None:
    found = _array(field, values, (sensors, 2), "f", "numbers")
    _exactly(field, found, np.float64)
    unknown = np.isnan(found)
    half = unknown != unknown.all(axis=1, keepdims=True)
    _refuse(field, found, half, "half a position", "Latitude and longitude are both NaN where a position is not known.")
    outside = np.abs(found) > (LATITUDE, LONGITUDE)
    remedy = "Degrees: latitude from -90 to 90 first, then longitude from -180 to 180."
    _refuse(field, found, outside, "not on this earth", remedy)


def _levels(record: str, series: Series, steps: int) -> None:
    level, levels = Field(record, "level"), Field(record, "levels")
    if series.level is None:
        if len(series.levels):
            raise levels.fault("names of levels, and no level", value=series.levels, remedy="Give `level`, or no names.")
        return
    _unique(levels, series.levels, None, "level", least=2)
    _indices(level, series.level, steps, len(series.levels))
