"""Checks: what is right passes unchanged, what is wrong is named by file, key and value, with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetfed.errors import DataError
from hetfed_datasets import checks
from hetfed_datasets.records import MISSING_LABEL

FILE = Path("data/set/file.csv")
CLASSES = ("no", "yes")


def refused(
    call: Callable[[], object], *, problem: str, key: str | None = None, value: object = None, file: Path = FILE
) -> str:
    """What is said; each part of it is also there by name."""
    with pytest.raises(DataError) as raised:
        call()
    error = raised.value
    assert problem in error.problem
    assert (error.key, error.value, error.file) == (key, value, file)
    assert error.remedy.endswith(".")
    assert str(error).startswith(f"{file}: ")
    return str(error)


def frame(text: str, **options: Any) -> pd.DataFrame:
    return checks.read_csv(StringIO(text), **options)


def test_a_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    assert checks.require_file(tmp_path, "x.csv") == tmp_path / "x.csv"


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_a_file_that_is_not_there(make: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "la-los-loop"
    folder.mkdir()
    file = folder / "los_adj.csv"
    make(file)
    said = refused(lambda: checks.require_file(folder, file.name), problem="no such data file", file=file)
    assert f"Get it with `hetfed datasets fetch la-los-loop --data-dir {tmp_path}`, or point --data-dir" in said


def test_where_data_lie_need_not_be_said_where_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETFED_DATA", str(tmp_path))
    file = tmp_path / "la-los-loop/los_adj.csv"
    said = refused(lambda: checks.require_file(file.parent, file.name), problem="no such data file", file=file)
    assert "Get it with `hetfed datasets fetch la-los-loop`, or" in said


def test_a_file_that_nobody_serves_is_not_to_be_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "pneumoniamnist"
    file = folder / "pneumoniamnist_28_reconstructed.npz"
    said = refused(lambda: checks.require_file(folder, file.name), problem="no such data file", file=file)
    assert "No publisher serves it: prepare it from its source (MedMNIST v2;" in said
    assert "as docs/datasets.md says, or point --data-dir" in said
    assert "hetfed datasets fetch" not in said


def test_csv_is_read_zipped_or_not(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    for name in ("x.csv", "x.csv.zip"):
        table.to_csv(tmp_path / name, index=False)
        pd.testing.assert_frame_equal(checks.read_csv(tmp_path / name), table.set_axis([2, 3], axis=0), check_index_type=False)
    assert checks.read_csv(tmp_path / "x.csv", header=None).shape == (3, 2)


@pytest.mark.parametrize("content", [b"", b'a,b\n1,"2\n', b"a\n1,2,3\n4\n5,6,7,8\n", b"\xff\xfe\x00"])
def test_csv_that_is_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(content)
    refused(lambda: checks.read_csv(file), problem="not readable as CSV, perhaps cut short", file=file)


def test_csv_without_rows(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n", encoding="utf-8")
    refused(lambda: checks.read_csv(tmp_path / "x.csv"), problem="no rows", file=tmp_path / "x.csv")


def test_a_zip_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.zip"
    pd.DataFrame({"a": range(999)}).to_csv(file)
    file.write_bytes(file.read_bytes()[:-50])
    refused(lambda: checks.read_csv(file), problem="not readable as CSV, perhaps cut short", file=file)


def test_npz_gives_the_named_arrays(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.arange(3), b=np.ones((2, 2)), other=np.zeros(1))
    arrays = checks.read_npz(file, ["b", "a"])
    assert set(arrays) == {"a", "b"}
    assert arrays["a"].tolist() == [0, 1, 2]
    refused(lambda: checks.read_npz(file, ["a", "y", "c"]), problem="array is missing", key="c", file=file)


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_npz_cut_short(kept: int, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.random.default_rng(0).random(100))
    file.write_bytes(file.read_bytes()[:kept])
    refused(lambda: checks.read_npz(file, ["a"]), problem="not readable as .npz, perhaps cut short", file=file)


def test_npz_with_a_broken_middle(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez_compressed(file, a=np.random.default_rng(0).random(1000))
    whole = bytearray(file.read_bytes())
    whole[3000:3100] = bytes(100)
    file.write_bytes(whole)
    refused(lambda: checks.read_npz(file, ["a"]), problem="not readable as .npz, perhaps cut short", file=file)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, a=np.array([{"code": "runs"}], dtype=object))
    refused(lambda: checks.read_npz(file, ["a"]), problem="not readable", file=file)


def test_one_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    file = (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    refused(lambda: checks.read_npz(file, ["a"]), problem="not readable", file=file)


def test_columns() -> None:
    table = frame("a,b,c\n1,2,3\n")
    checks.expect_columns(table, FILE, count=3, names=["c", "a"])
    refused(
        lambda: checks.expect_columns(table, FILE, count=4), problem="wrong column count, 4 expected", key="columns", value=3
    )
    refused(lambda: checks.expect_columns(table, FILE, names=["a", "d", "e"]), problem="column is missing", key="d")


def test_rows() -> None:
    table = frame("a\n1\n2\n")
    checks.expect_rows(table, FILE, 2)
    for count in (1, 3):
        refused(lambda n=count: checks.expect_rows(table, FILE, n), problem=f"{count} rows expected", key="rows", value=2)


@given(st.lists(st.floats(width=32, allow_infinity=False) | st.none(), min_size=1, max_size=9))
def test_numbers_are_what_was_written(values: list[float | None]) -> None:
    found = checks.numbers(pd.DataFrame({"a": pd.Series(values, dtype=float)}), FILE)
    assert found.dtype == np.float32
    expected = np.array([[np.nan if value is None else value] for value in values], dtype=np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("text", "problem", "key", "value"),
    [
        ("a,b\n1,2\n3,x\ny,4\n", "not a number", "line 3, column 'b'", "x"),
        ("a,b\n1,2\n3,inf\n", "not a finite number", "line 3, column 'b'", float("inf")),
        ("a,b\n1e300,2\n", "not a finite number", "line 2, column 'a'", 1e300),
        ("a,b\n1,2\n-inf,4\n", "not a finite number", "line 3, column 'a'", float("-inf")),
    ],
)
def test_a_cell_that_is_no_number(text: str, problem: str, key: str, value: object) -> None:
    said = refused(lambda: checks.numbers(frame(text), FILE), problem=problem, key=key, value=value)
    assert f"(value: {value!r})" in said


def test_an_empty_cell_is_refused_only_where_the_file_has_none() -> None:
    table = frame("a,b\n1,2\n3,\n")
    assert np.isnan(checks.numbers(table, FILE)[1, 1])
    with pytest.raises(DataError, match="line 3, column 'b': empty cell"):
        checks.numbers(table, FILE, complete=True)


def test_columns_without_names_count_from_one() -> None:
    table = frame("1,2\n3,x\n", header=None)
    refused(lambda: checks.numbers(table, FILE), problem="not a number", key="line 2, column 2", value="x")


def test_labels() -> None:
    found = checks.expect_labels(np.array([[0], [1], [MISSING_LABEL]], dtype=np.int8), CLASSES, FILE, "y")
    assert found.dtype == np.int64
    assert found.tolist() == [0, 1, MISSING_LABEL]
    assert checks.expect_labels(np.array([0.0, 1.0]), CLASSES, FILE, "y").tolist() == [0, 1]


@pytest.mark.parametrize(("wrong", "shown"), [(2, 2), (-2, -2), (0.5, 0.5), (255, 255), (np.inf, np.inf)])
def test_a_label_outside_the_classes(wrong: float, shown: float) -> None:
    said = refused(
        lambda: checks.expect_labels(np.array([0, 1, wrong, 9]), CLASSES, FILE, "y"),
        problem="label outside the classes",
        key="y[2]",
        value=shown,
    )
    assert "Known: 0 = no, 1 = yes." in said


def test_a_label_of_a_table_goes_by_its_line() -> None:
    table = frame("x,y\n1,0\n2,1\n3,7\n")
    said = refused(
        lambda: checks.expect_labels(table["y"], CLASSES, FILE, "y"), problem="label outside", key="line 4, column 'y'", value=7
    )
    assert "Mend the label, or write -1 where it is not known." in said
    assert checks.expect_labels(table["y"][:2], CLASSES, FILE, "y").tolist() == [0, 1]


def test_a_label_that_is_missing_without_being_marked() -> None:
    with pytest.raises(DataError, match=r"y\[1\]: label outside the classes \(value: nan\)"):
        checks.expect_labels(np.array([0, np.nan]), CLASSES, FILE, "y")


@pytest.mark.parametrize("labels", [np.array(["yes", "no"]), np.array(["yes", 1], dtype=object)])
def test_labels_that_are_words(labels: np.ndarray[Any, Any]) -> None:
    refused(lambda: checks.expect_labels(labels, CLASSES, FILE, "y"), problem="labels are not numbers", key="y")


def test_length() -> None:
    checks.expect_length(np.zeros(3), 3, FILE, "y")
    refused(lambda: checks.expect_length(np.zeros(2), 3, FILE, "y"), problem="3 rows expected", key="y", value=2)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float16, np.float64, bool])
def test_whole_numbers_are_images(dtype: type) -> None:
    images = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    found = checks.expect_images(images, FILE, "images", (3, 4))
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)


def image(value: float, dtype: type = np.float64) -> np.ndarray[Any, Any]:
    images = np.full((2, 3, 4), 7, dtype=dtype)
    images[1, 0, 2] = value
    return images


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "NaN or infinite pixel"),
        (np.inf, "NaN or infinite pixel"),
        (256, "pixel outside 0..255"),
        (-1, "pixel outside 0..255"),
        (0.25, "pixel that is no whole number"),
    ],
)
def test_a_pixel_that_is_none(value: float, problem: str) -> None:
    with pytest.raises(DataError) as error:
        checks.expect_images(image(value), FILE, "images", (3, 4))
    assert (error.value.key, error.value.problem) == ("images[1, 0, 2]", problem)
    assert repr(error.value.value) == repr(float(value))


def test_integers_beyond_a_byte_are_not_wrapped() -> None:
    refused(
        lambda: checks.expect_images(image(300, np.int32), FILE, "images", (3, 4)),
        problem="pixel outside 0..255",
        key="images[1, 0, 2]",
        value=300,
    )


def test_images_of_another_shape_or_kind() -> None:
    refused(
        lambda: checks.expect_images(image(1), FILE, "images", (4, 4)),
        problem="images of shape (4, 4) expected",
        key="images",
        value=(3, 4),
    )
    words = np.full((2, 3, 4), "black")
    refused(
        lambda: checks.expect_images(words, FILE, "images", (3, 4)), problem="not numbers", key="images", value=str(words.dtype)
    )


def test_a_graph() -> None:
    links = np.eye(3, dtype=np.float32)
    assert checks.expect_square(links, 3, FILE) is links
    refused(lambda: checks.expect_square(links[:2], 3, FILE), problem="adjacency of 3 x 3 expected", value=(2, 3))
    for wrong in (-1, np.nan, np.inf):
        bad = links.copy()
        bad[0, 1] = wrong
        refused(lambda graph=bad: checks.expect_square(graph, 3, FILE), problem="negative or missing")


def test_times() -> None:
    column = pd.Series(["31/10/2006 00:15", "01/11/2006 00:30"], name="when")
    found = checks.expect_times(column, FILE, form="%d/%m/%Y %H:%M")
    assert found.tolist() == [pd.Timestamp(2006, 10, 31, 0, 15), pd.Timestamp(2006, 11, 1, 0, 30)]


@pytest.mark.parametrize("wrong", ["13/13/2006", "noon", None, 7])
def test_a_time_that_is_none(wrong: object) -> None:
    column = pd.Series(["01/10/2006", wrong], index=[2, 3], name="when", dtype=object)
    said = refused(
        lambda: checks.expect_times(column, FILE, form="%d/%m/%Y"),
        problem="not a time",
        key="line 3, column 'when'",
        value=str(wrong),
    )
    assert "Times are written %d/%m/%Y." in said


def test_time_goes_on() -> None:
    time = pd.date_range("2024-01-01", periods=5, freq="15min")
    assert checks.expect_regular(time, 15, FILE, range(2, 9)) is time


@pytest.mark.parametrize(
    ("minutes", "row"), [([0, 15, 45], 3), ([0, 15, 15], 3), ([0, 15, 0], 3), ([15, 0, 15], 2), ([0, 15, 31, 45], 3)]
)
def test_time_that_does_not_go_on(minutes: list[int], row: int) -> None:
    time = pd.DatetimeIndex([pd.Timestamp(2024, 1, 1) + pd.Timedelta(minutes=m) for m in minutes])
    refused(
        lambda: checks.expect_regular(time, 15, FILE, range(2, 9)),
        problem="time does not go on regularly",
        key=f"line {row + 1}",
        value=str(time[row - 1]),
    )
