"""The gate: odd records are refused by name, field, value and remedy; odd ones that are legitimate run; shipped ones pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hetfed.errors import DataError
from hetfed_datasets.clock import without_hours_left_out
from hetfed_datasets.gate import check_cohort, check_record, check_series
from hetfed_datasets.identity import once
from hetfed_datasets.notes import notes_on
from hetfed_datasets.records import MISSING_LABEL, Cohort, Series
from hetfed_datasets.registry import SOURCES, load
from hetfed_datasets.source import Source

N = 8
Changes = Mapping[str, Any]


def cohort(**changes: Any) -> Cohort:
    """Eight samples of four patients with an image, genes, a label and an event."""
    rng = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "name": "ward",
        "patient": np.repeat(["p0", "p1", "p2", "p3"], 2),
        "site": np.repeat(["left", "right"], 4),
        "modalities": {
            "image": rng.integers(0, 256, (N, 6, 5, 1), dtype=np.uint8),
            "genes": rng.normal(size=(N, 3)).astype(np.float32),
        },
        "labels": {"grade": np.arange(N) % 3},
        "classes": {"grade": ("low", "middle", "high")},
        "columns": {"genes": ("a", "b", "c")},
        "present": {"image": np.arange(N) > 1},
        "official_split": np.array(["train"] * 4 + ["validation"] * 2 + ["test"] * 2),
        "survival": {"death": np.stack([np.arange(N) % 2, np.arange(N) * 10.0], axis=1).astype(np.float32)},
    }
    return Cohort(**{**fields, **changes})


def within(values: np.ndarray[Any, Any], place: Any, value: Any) -> np.ndarray[Any, Any]:
    """A copy with another value at a place."""
    values = values.copy()
    values[place] = value
    return values


GENES, IMAGE = cohort().modalities["genes"], cohort().modalities["image"]
DEATH, SPLIT = cohort().survival["death"], cohort().official_split
GRADE = cohort().labels["grade"]
NAMES = cohort().patient.astype("U9")
assert SPLIT is not None

ODD_COHORTS: dict[str, tuple[Changes, str]] = {
    "no name": ({"name": ""}, "cohort '': name: not a name (value: ''). Give it"),
    "a name that is none": ({"name": None}, "cohort None: name: not a name"),
    "patients as a list": ({"patient": list("aabbccdd")}, "patient: not an array of strings (value: 'list'). Make it"),
    "patients as numbers": ({"patient": np.arange(N)}, "patient: not strings (value: 'int64'). Convert it"),
    "patients as objects": ({"patient": NAMES.astype(object)}, "patient: not strings (value: 'object'). Convert"),
    "a patient without a name": ({"patient": within(NAMES, 3, " ")}, "patient[3]: no name (value: ' '). Name the patient"),
    "a patient called nan": ({"patient": within(NAMES, 2, "nan")}, "patient[2]: no name (value: 'nan')"),
    "nobody": ({"patient": NAMES[:0]}, "patient: no samples"),
    "patients of two axes": ({"patient": NAMES[:, None]}, "patient: array of shape (any) expected (value: (8, 1))"),
    "fewer sites": ({"site": np.repeat("left", 7)}, "site: array of shape (8) expected (value: (7,)). Everything"),
    "a site without a name": ({"site": within(cohort().site, 0, "")}, "site[0]: no name (value: ''). Name the site"),
    "no modality": ({"modalities": {}, "columns": {}, "present": {}}, "modalities: no modality. A cohort has one or more"),
    "modalities as a list": ({"modalities": [IMAGE]}, "modalities: not a dictionary (value: 'list')"),
    "a modality without a name": (
        {"modalities": {"": IMAGE}, "columns": {}, "present": {}},
        "modalities['']: not a name (value: '')",
    ),
    "fewer images": (
        {"modalities": {"image": IMAGE[:-1]}, "columns": {}},
        "modalities['image']: array of shape (8, any, any, any) expected (value: (7, 6, 5, 1))",
    ),
    "a table of one axis": (
        {"modalities": {"genes": GENES[:, 0]}, "present": {}},
        "modalities['genes']: array of shape (8, any) expected (value: (8,))",
    ),
    "images of no height": (
        {"modalities": {"image": IMAGE[:, :0]}, "columns": {}},
        "modalities['image']: nothing in it (value: (8, 0, 5, 1)). Leave the modality out",
    ),
    "a table of words": (
        {"modalities": {"genes": GENES.astype(str)}, "present": {}},
        "modalities['genes']: not numbers (value: '<U32'). Convert it to numbers",
    ),
    "a table of complex numbers": (
        {"modalities": {"genes": GENES.astype(complex)}, "present": {}},
        "modalities['genes']: not numbers (value: 'complex128')",
    ),
    "an infinite cell": (
        {"modalities": {"genes": within(GENES, (4, 1), np.inf)}, "present": {}},
        "modalities['genes'][4][1]: not a finite number (value: inf). Mend it",
    ),
    "a cell beyond single precision": (
        {"modalities": {"genes": within(GENES.astype(float), (5, 2), -1e300)}, "present": {}},
        "modalities['genes'][5][2]: not a finite number (value: -1e+300)",
    ),
    "a pixel that is NaN": (
        {"modalities": {"image": within(IMAGE.astype(np.float32), (1, 2, 3, 0), np.nan)}, "columns": {}},
        "modalities['image'][1][2][3][0]: NaN (value: nan). Leave the sample out, or say in `present`",
    ),
    "a table without columns": ({"columns": {}}, "columns['genes']: a table without names of columns. Name its 3 columns"),
    "columns of nothing": (
        {"columns": {"genes": ("a", "b", "c"), "gens": ("d",)}},
        "columns['gens']: columns of no table. Did you mean 'genes'? Tables: genes",
    ),
    "too few columns": ({"columns": {"genes": ("a", "b")}}, "columns['genes']: 3 column names expected (value: 2)"),
    "two columns of one name": (
        {"columns": {"genes": ("a", "b", "a")}},
        "columns['genes'][2]: two of one column name (value: 'a'). Rename one",
    ),
    "columns as one word": ({"columns": {"genes": "abc"}}, "columns['genes']: not a list of column names (value: 'str')"),
    "a column that is a number": ({"columns": {"genes": ("a", "b", 3)}}, "columns['genes'][2]: not a name (value: 3)"),
    "a label outside the classes": (
        {"labels": {"grade": within(GRADE, 6, 3)}},
        "labels['grade'][6]: outside the classes (value: 3). Known: 0 to 2, and -1",
    ),
    "a label below minus one": (
        {"labels": {"grade": within(GRADE, 1, -9)}},
        "labels['grade'][1]: outside the classes (value: -9)",
    ),
    "labels with fractions": ({"labels": {"grade": GRADE / 2}}, "labels['grade']: not whole numbers (value: 'float64')"),
    "labels of 32 bits": ({"labels": {"grade": GRADE.astype(np.int32)}}, "labels['grade']: int64 expected (value: 'int32')"),
    "fewer labels": ({"labels": {"grade": GRADE[1:]}}, "labels['grade']: array of shape (8) expected (value: (7,))"),
    "a label without classes": ({"classes": {}}, "labels['grade']: a label without classes. Name what 0, 1, ... stand for"),
    "classes without a label": (
        {"classes": {"grade": ("a", "b", "c"), "grad": ("d", "e")}},
        "classes['grad']: classes of no label. Did you mean 'grade'?",
    ),
    "a single class": ({"classes": {"grade": ("low",)}}, "classes['grade']: 2 or more class names expected (value: 1)"),
    "two classes of one name": (
        {"classes": {"grade": ("low", "low", "high")}},
        "classes['grade'][1]: two of one class name (value: 'low')",
    ),
    "an empty class": ({"classes": {"grade": ("low", "", "high")}}, "classes['grade'][1]: not a name (value: '')"),
    "an event of two": (
        {"survival": {"death": within(DEATH, (3, 0), 2)}},
        "survival['death'][3]: neither 0 nor 1 (value: 2.0). Column 0",
    ),
    "a negative time": ({"survival": {"death": within(DEATH, (5, 1), -1)}}, "survival['death'][5]: not a time (value: -1.0)"),
    "a time that is not known": ({"survival": {"death": within(DEATH, (5, 1), np.nan)}}, "survival['death'][5]: not a time"),
    "survival of one column": ({"survival": {"death": DEATH[:, :1]}}, "survival['death']: array of shape (8, 2) expected"),
    "survival in double precision": (
        {"survival": {"death": DEATH.astype(float)}},
        "survival['death']: float32 expected (value: 'float64'). Convert it with .astype(numpy.float32)",
    ),
    "an event with the name of a label": ({"survival": {"grade": DEATH}}, "survival['grade']: a label has the same name"),
    "presence as numbers": ({"present": {"image": np.ones(N)}}, "present['image']: not booleans (value: 'float64')"),
    "presence of fewer": ({"present": {"image": np.ones(7, bool)}}, "present['image']: array of shape (8) expected"),
    "presence of nothing": (
        {"present": {"imgae": np.ones(N, bool)}},
        "present['imgae']: no such modality. Did you mean 'image'? Known: image, genes",
    ),
    "another word for a part": (
        {"official_split": within(SPLIT, 4, "val")},
        "official_split[4]: not a part (value: 'val'). Known: train, validation, test",
    ),
    "fewer parts": ({"official_split": SPLIT[:5]}, "official_split: array of shape (8) expected (value: (5,))"),
    "a patient in two parts": (
        {"official_split": within(SPLIT, 7, "train")},
        "official_split[7]: a patient in two parts (value: 'p3'). Put all samples",
    ),
    "synthetic in words": ({"synthetic": "no"}, "synthetic: neither true nor false (value: 'no')"),
}

FINE_COHORTS: dict[str, Changes] = {
    "empty cells": {"modalities": {"image": IMAGE, "genes": within(GENES, (slice(None), 1), np.nan)}},
    "images in floating point": {"modalities": {"image": IMAGE / np.float32(255), "genes": GENES}},
    "a table in double precision": {"modalities": {"image": IMAGE, "genes": GENES.astype(float)}},
    "a table of whole numbers": {"modalities": {"image": IMAGE, "genes": np.arange(N * 3).reshape(N, 3)}},
    "signals, and scans of three axes": {
        "modalities": {"ecg": np.zeros((N, 50, 12), np.float32), "scan": np.zeros((N, 4, 4, 4, 1), np.uint8)},
        "columns": {},
        "present": {},
    },
    "unknown labels": {"labels": {"grade": np.full(N, MISSING_LABEL)}},
    "no question": {"labels": {}, "classes": {}, "survival": {}},
    "no validation part": {"official_split": np.array(["train"] * 6 + ["test"] * 2)},
    "a single sample of everybody": {"patient": np.array([f"p{i}" for i in range(N)]), "official_split": None},
    "nobody has it": {"present": {"image": np.zeros(N, bool)}},
    "a class that nobody has": {"classes": {"grade": ("low", "middle", "high", "highest")}},
}

STEPS, SENSORS = 12, 3


def series(**changes: Any) -> Series:
    """Three sensors, a reading every quarter of an hour, with everything that a series may have."""
    values = np.random.default_rng(0).uniform(20, 60, (STEPS, SENSORS, 1)).astype(np.float32)
    fields: dict[str, Any] = {
        "name": "town",
        "values": within(values, (2, 1, 0), np.nan),
        "time": pd.date_range("2024-03-04", periods=STEPS, freq="15min"),
        "sensors": ("a", "b", "c"),
        "channels": ("speed",),
        "unit": "km/h",
        "kind": "speed",
        "interval": 15,
        "adjacency": np.eye(SENSORS, dtype=np.float32),
        "coordinates": np.array([[48.1, 11.5], [48.2, 11.6], [np.nan, np.nan]]),
        "level": np.arange(STEPS) % 2,
        "levels": ("free", "congested"),
    }
    return Series(**{**fields, **changes})


VALUES, TIME, LINKS = series().values, series().time, series().adjacency
PLACES, LEVEL = series().coordinates, series().level
assert LINKS is not None and PLACES is not None and LEVEL is not None

ODD_SERIES: dict[str, tuple[Changes, str]] = {
    "no name": ({"name": " "}, "series ' ': name: not a name (value: ' ')"),
    "no unit": ({"unit": ""}, "unit: not a name (value: '')"),
    "an unknown kind": (
        {"kind": "speeds"},
        "kind: not a kind of reading (value: 'speeds'). Did you mean 'speed'? Known: speed, count",
    ),
    "no kind": ({"kind": None}, "kind: not a kind of reading. Known: speed, count, occupancy, travel-time"),
    "values as a list": ({"values": VALUES.tolist()}, "values: not an array of numbers (value: 'list')"),
    "values of two axes": ({"values": VALUES[..., 0]}, "values: array of shape (any, any, any) expected (value: (12, 3))"),
    "values in double precision": ({"values": VALUES.astype(float)}, "values: float32 expected (value: 'float64')"),
    "whole numbers": ({"values": np.ones((STEPS, SENSORS, 1), int)}, "values: not numbers (value: 'int64')"),
    "an infinite reading": (
        {"values": within(VALUES, (4, 2, 0), -np.inf)},
        "values[4][2][0]: not a finite number (value: -inf). Mend it, or write NaN",
    ),
    "minus one for missing": (
        {"values": within(VALUES, (3, 0, 0), -1)},
        "values[3][0][0]: a reading below zero (value: -1.0). Write NaN",
    ),
    "no reading": ({"values": np.full_like(VALUES, np.nan)}, "values: every reading is missing"),
    "no steps": ({"values": VALUES[:0]}, "values: no readings (value: (0, 3, 1))"),
    "no sensors": ({"values": VALUES[:, :0]}, "values: no readings (value: (12, 0, 1))"),
    "fewer sensors": ({"sensors": ("a", "b")}, "sensors: 3 sensor names expected (value: 2)"),
    "sensors as one word": ({"sensors": "abc"}, "sensors: not a list of sensor names (value: 'str')"),
    "two sensors of one name": ({"sensors": ("a", "b", "a")}, "sensors[2]: two of one sensor name (value: 'a')"),
    "a sensor without a name": ({"sensors": ("a", "", "c")}, "sensors[1]: not a name (value: '')"),
    "sensors as numbers": ({"sensors": (1, 2, 3)}, "sensors[0]: not a name (value: 1)"),
    "more channels": ({"channels": ("speed", "volume")}, "channels: 1 channel names expected (value: 2)"),
    "two channels of one name": (
        {"values": np.repeat(VALUES, 2, axis=2), "channels": ("car", "car")},
        "channels[1]: two of one channel name (value: 'car')",
    ),
    "interval zero": ({"interval": 0}, "interval: not a number of minutes (value: 0). Give whole minutes, 1 or more"),
    "half an interval": ({"interval": 7.5}, "interval: not a number of minutes (value: 7.5)"),
    "interval in words": ({"interval": "15min"}, "interval: not a number of minutes (value: '15min')"),
    "another interval": ({"interval": 5}, "time[1]: not 5 minutes after the stamp before (value: '2024-03-04 00:15:00')"),
    "times as a list": ({"time": list(TIME)}, "time: not an index of times (value: 'list')"),
    "fewer times": ({"time": TIME[1:]}, "time: 12 stamps expected, one for each row (value: 11)"),
    "a time that is not known": ({"time": TIME.where(np.arange(STEPS) != 5)}, "time[5]: no time (value: 'NaT')"),
    "times in reverse": ({"time": TIME[::-1]}, "time[1]: not 15 minutes after the stamp before (value: '2024-03-04 02:30:00')"),
    "a time twice": ({"time": TIME[[*range(11), 10]]}, "time[11]: not 15 minutes after the stamp before"),
    "a time left out": (
        {"time": pd.date_range("2024-03-04", periods=STEPS + 1, freq="15min").delete(4)},
        "time[4]: not 15 minutes after the stamp before (value: '2024-03-04 01:15:00'). One row every `interval` minutes",
    ),
    "a time off by seconds": ({"time": TIME + pd.to_timedelta(np.eye(STEPS)[6], "s")}, "time[6]: not 15 minutes after"),
    "links of fewer sensors": ({"adjacency": LINKS[:2, :2]}, "adjacency: array of shape (3, 3) expected (value: (2, 2))"),
    "links not square": ({"adjacency": LINKS[:2]}, "adjacency: array of shape (3, 3) expected (value: (2, 3))"),
    "a negative link": ({"adjacency": within(LINKS, (0, 2), -0.5)}, "adjacency[0][2]: not a weight (value: -0.5)"),
    "a link that is NaN": ({"adjacency": within(LINKS, (1, 2), np.nan)}, "adjacency[1][2]: not a weight (value: nan)"),
    "links in double precision": ({"adjacency": LINKS.astype(float)}, "adjacency: float32 expected (value: 'float64')"),
    "links as booleans": ({"adjacency": LINKS > 0}, "adjacency: not numbers (value: 'bool')"),
    "positions of three numbers": ({"coordinates": np.zeros((SENSORS, 3))}, "coordinates: array of shape (3, 2) expected"),
    "longitude before latitude": (
        {"coordinates": within(PLACES, 0, (144.9, -37.8))},
        "coordinates[0][0]: not on this earth (value: 144.9). Degrees: latitude from -90 to 90 first",
    ),
    "half a position": ({"coordinates": within(PLACES, (1, 0), np.nan)}, "coordinates[1][0]: half a position (value: nan)"),
    "an infinite position": ({"coordinates": within(PLACES, (1, 1), np.inf)}, "coordinates[1][1]: not on this earth"),
    "a level outside": ({"level": within(LEVEL, 9, 2)}, "level[9]: outside the classes (value: 2). Known: 0 to 1"),
    "fewer levels": ({"level": LEVEL[1:]}, "level: array of shape (12) expected (value: (11,))"),
    "levels with fractions": ({"level": LEVEL / 2}, "level: not whole numbers (value: 'float64')"),
    "levels without names": ({"levels": ()}, "levels: 2 or more level names expected (value: 0)"),
    "two levels of one name": ({"levels": ("free", "free")}, "levels[1]: two of one level name (value: 'free')"),
    "names of levels alone": ({"level": None}, "levels: names of levels, and no level (value: ('free', 'congested'))"),
    "synthetic in numbers": ({"synthetic": 1}, "synthetic: neither true nor false (value: 1)"),
}

FINE_SERIES: dict[str, Changes] = {
    "gaps": {"values": within(VALUES, slice(3, 6), np.nan)},
    "a silent sensor": {"values": within(VALUES, (slice(None), 2), np.nan)},
    "no graph, no positions, no levels": {"adjacency": None, "coordinates": None, "level": None, "levels": ()},
    "a sensor without any link": {"adjacency": within(LINKS, (2, 2), 0)},
    "links in one direction": {"adjacency": within(LINKS, (0, 2), 0.5)},
    "a time zone in which a clock goes back": {
        "time": pd.date_range("2024-10-27", periods=STEPS, freq="15min", tz="Europe/Berlin")
    },
    "stamps in seconds": {"time": TIME.as_unit("s")},
    "an interval of numpy": {"interval": np.int64(15)},
    "unknown levels": {"level": np.full(STEPS, MISSING_LABEL)},
    "zeros": {"values": np.zeros_like(VALUES)},
}


def refusal(check: Callable[[Any], Any], record: Any) -> str:
    with pytest.raises(DataError) as error:
        check(record)
    return str(error.value)


def test_there_are_enough_odd_ones() -> None:
    assert len(ODD_COHORTS) >= 27 and len(ODD_SERIES) >= 30


@pytest.mark.parametrize(("changes", "message"), ODD_COHORTS.values(), ids=ODD_COHORTS)
def test_an_odd_cohort_is_refused(changes: Changes, message: str) -> None:
    odd = cohort(**changes)
    found = refusal(check_cohort, odd)
    assert message in found and found.startswith(f"cohort {odd.name!r}: ") and found.endswith(".")


@pytest.mark.parametrize(("changes", "message"), ODD_SERIES.values(), ids=ODD_SERIES)
def test_an_odd_series_is_refused(changes: Changes, message: str) -> None:
    odd = series(**changes)
    found = refusal(check_series, odd)
    assert message in found and found.startswith(f"series {odd.name!r}: ") and found.endswith(".")


@pytest.mark.parametrize("changes", [{}, *FINE_COHORTS.values()], ids=["plain", *FINE_COHORTS])
def test_a_cohort_that_is_odd_and_legitimate_passes(changes: Changes) -> None:
    fine = cohort(**changes)
    assert check_cohort(fine) is fine


@pytest.mark.parametrize("changes", [{}, *FINE_SERIES.values()], ids=["plain", *FINE_SERIES])
def test_a_series_that_is_odd_and_legitimate_passes(changes: Changes) -> None:
    fine = series(**changes)
    assert check_series(fine) is fine


@pytest.mark.parametrize(("record", "kind"), [(series(), "cohort"), (cohort(), "series"), (None, "cohort"), ({}, "series")])
def test_a_record_of_another_kind_is_refused(record: object, kind: str) -> None:
    assert f"record: type: not a {kind} (value: {type(record).__name__!r})" in refusal(lambda r: check_record(r, kind), record)


def test_what_a_source_loads_goes_through_the_gate(tmp_path: Path) -> None:
    source = Source("ward", "cohort", "odd", lambda folder: cohort(name=folder.name, columns={}), origin="nowhere")
    assert "cohort 'ward': columns['genes']: a table without" in refusal(source.load, tmp_path)
    fine = Source("ward", "cohort", "fine", lambda folder: cohort(name=folder.name), origin="nowhere").load(tmp_path)
    assert fine.name == "ward"
    twisted = replace(source, kind="series")
    assert "not a series (value: 'Cohort')" in refusal(twisted.load, tmp_path)


def test_shipped_sources_name_loaders_that_are_there() -> None:
    assert all(callable(source._loader()) for source in SOURCES.values())


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.generated])
def test_generated_records_pass(name: str) -> None:
    load(name)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if not source.generated])
def test_real_records_pass_at_little_cost(name: str, real_data: Path) -> None:
    source = SOURCES[name]
    if not source.joins and not (real_data / name).is_dir():
        pytest.skip(f"{name} is not in {real_data}")
    record = source.load(real_data)
    begun = perf_counter()
    check_record(record, source.kind)
    # They take 6 ms at most; a machine that others use may take longer.
    assert perf_counter() - begun < 0.5


def aged(*ages: float) -> Cohort:
    """As many patients as there are ages, the last one of whom has a gap elsewhere."""
    table = np.stack([np.arange(len(ages)), ages], axis=1).astype(np.float32)
    names = np.array([f"p{place}" for place in range(len(ages))])
    return Cohort("ward", names, np.full(len(ages), "left"), {"clinical": table}, {}, {}, {"clinical": ("pulse", "age")}, {})


def test_an_age_below_zero_is_impossible() -> None:
    message = "cohort 'ward': modalities['clinical'][2][1]: an age below zero (value: -63.0). Mend the cell, or write NaN"
    assert message in refusal(check_cohort, aged(61, 48, -63, np.nan))


@pytest.mark.parametrize("ages", [(-1.2, 0.3, 2.5, np.nan), (0, 1, 2, 3), (61, 48, 0, 110), (np.nan, np.nan)])
def test_ages_that_can_be_pass(ages: tuple[float, ...]) -> None:
    """Standardised ages, those of infants, and of nobody known."""
    check_cohort(aged(*ages))


def night(start: str, zone: str = "Europe/Berlin", **changes: Any) -> Series:
    """Six hours of a night, one reading an hour."""
    time = pd.date_range(start, periods=6, freq="60min")
    return series(
        values=np.ones((6, 3, 1), np.float32), time=time, interval=60, zone=zone, **{"level": None, "levels": (), **changes}
    )


def test_a_reading_at_a_time_that_never_was_is_refused() -> None:
    spring = night("2024-03-31")
    message = "time[2]: a reading when clocks in Europe/Berlin went forward (value: '2024-03-31 02:00:00'). Write NaN there"
    assert message in refusal(check_series, spring)
    mended = check_series(without_hours_left_out(spring))
    assert np.isnan(mended.values[:, 0, 0]).tolist() == [False, False, True, False, False, False]
    assert check_series(night("2024-03-31", zone="Asia/Tokyo")) and check_series(night("2024-03-31", zone=""))


def test_a_time_that_came_twice_is_said() -> None:
    (note,) = notes_on(check_series(night("2024-10-27")))
    assert note.endswith(": 1 step is at a local time that came twice, when clocks went back.")
    assert not notes_on(night("2024-10-26"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zone": "Europe/Atlantis"}, "zone: no such time zone (value: 'Europe/Atlantis'). Give its name in the tz database"),
        (
            {"time": pd.date_range("2024-03-04", periods=6, freq="60min", tz="Europe/Berlin")},
            "zone: the stamps have a time zone",
        ),
    ],
)
def test_a_zone_is_one_that_is_known_and_needed(changes: Changes, message: str) -> None:
    assert message in refusal(check_series, replace(night("2024-03-04"), **changes))


def test_what_stands_twice_in_a_cohort_is_said() -> None:
    rng = np.random.default_rng(0)
    ward = cohort(
        modalities={"image": rng.integers(0, 256, (N, 6, 5, 1), dtype=np.uint8)}, columns={}, present={}, official_split=None
    )
    assert notes_on(ward) == ()
    image = ward.modalities["image"]
    image[5] = image[0]
    (note,) = notes_on(ward)
    assert note == "ward: 1 sample is also that of another patient, and left out: runs use each once."
    image[5], image[1] = 0, image[0]
    (note,) = notes_on(ward)
    assert note == "ward: 1 sample is alike to another one in everything."


def test_of_twins_the_one_for_testing_is_left() -> None:
    image = np.random.default_rng(0).integers(0, 256, (N, 6, 5, 1), dtype=np.uint8)
    image[6] = image[0]
    ward = cohort(modalities={"image": image}, columns={}, present={})
    left, out = once(ward)
    assert out == 1 and len(left) == N - 1 and left.official_split is not None
    assert (left.official_split == "test").sum() == 2 and (left.official_split == "train").sum() == 3
