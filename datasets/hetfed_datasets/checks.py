"""Checks that name what is wrong in a file: every loader reads through these."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hetfed import npz
from hetfed.errors import DataError
from hetfed_datasets.records import MISSING_LABEL
from hetfed_datasets.registry import SOURCES

FETCH_AGAIN = (
    "Fetch it again, or prepare it again where nobody serves it (`hetfed datasets describe` says which), "
    "or compare it with the publisher's copy."
)


UNREADABLE = (
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
)
"""What pandas and numpy raise on files that are damaged in one way or another."""


def require_file(folder: Path, name: str) -> Path:
    """The path of `name` in the folder of a data set.

    Args:
        folder: of one data set; its name is that of the data set.
        name: of the file in it.

    Returns:
        The path of the file. The message of the error says how to get the file: by `hetfed datasets fetch`, or by hand.

    Raises:
        DataError: it is not there.
    """
    file = folder / name
    if not file.is_file():
        source = SOURCES.get(folder.name)
        way = "Put it there" if source is None else source.way_to(name, folder.parent)
        remedy = f"{way}, or point --data-dir (or HETFED_DATA) at the folder above {folder.name}."
        raise DataError("no such data file", file=file, remedy=remedy)
    return file


def read_csv(file: Path, *, header: Literal[0] | None = 0, **options: Any) -> pd.DataFrame:
    """A CSV file, zipped or not. The rows go by their lines in the file, by which every check names them.

    Args:
        file: comma-separated values.
        header: 0 where the first line names the columns, None where there is no such line.
        options: go on to `pandas.read_csv`.

    Raises:
        DataError: it cannot be read as one, or is empty.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "ward.csv")
    ...     pd.DataFrame({"age": [61, 48], "sex": [1, 0]}).to_csv(file, index=False)
    ...     list(read_csv(file).index)  # line 1 has the names
    [2, 3]
    """
    try:
        frame: pd.DataFrame = pd.read_csv(file, header=header, **options)
    except UNREADABLE as error:
        # From None: the message has all that the user needs, and a traceback of pandas would hide it.
        raise DataError(f"not readable as CSV, perhaps cut short: {error}", file=file, remedy=FETCH_AGAIN) from None
    if frame.empty:
        raise DataError("no rows", file=file, remedy=FETCH_AGAIN)
    first = 1 if header is None else 2
    return frame.set_axis(range(first, first + len(frame)), axis=0)


def read_npz(file: Path, names: Collection[str]) -> Mapping[str, NDArray[Any]]:
    """The named arrays of an .npz file; nothing in it is unpickled.

    Args:
        file: as `numpy.savez` writes it.
        names: of the arrays that must be there; others are left alone.

    Raises:
        DataError: it is damaged, or an array is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "ward.npz")
    ...     np.savez(file, labels=np.array([0, 1]), images=np.zeros((2, 4, 4)))
    ...     read_npz(file, ["labels"])
    {'labels': array([0, 1])}
    """
    return npz.read_npz(file, names, remedy=FETCH_AGAIN)


def expect_columns(frame: pd.DataFrame, file: Path, *, count: int | None = None, names: Sequence[str] = ()) -> None:
    """Raise `DataError` unless `frame` has `count` columns and those called `names`.

    Args:
        frame: a table of `read_csv`.
        file: the file that the message names.
        count: how many columns there must be; None for any number.
        names: the columns that must be among them.

    >>> expect_columns(pd.DataFrame({"age": [61]}), Path("ward.csv"), names=["age", "sex"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.DataError: ward.csv: sex: column is missing. Fetch it again, ...
    """
    if count is not None and frame.shape[1] != count:
        raise DataError(
            f"wrong column count, {count} expected", file=file, key="columns", value=frame.shape[1], remedy=FETCH_AGAIN
        )
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise DataError("column is missing", file=file, key=absent[0], remedy=FETCH_AGAIN)


def expect_rows(frame: pd.DataFrame, file: Path, count: int) -> None:
    """Raise `DataError` unless `frame` has `count` rows.

    A publisher's file has a known number of rows. A download that was cut short is still a CSV file that can be read.
    """
    if len(frame) != count:
        raise DataError(
            f"{count} rows expected; the file is cut short or has grown",
            file=file,
            key="rows",
            value=len(frame),
            remedy=FETCH_AGAIN,
        )


def numbers(frame: pd.DataFrame, file: Path, *, complete: bool = False) -> NDArray[np.float32]:
    """The values of `frame` (rows, columns); an empty cell is NaN. `complete`: the publisher's file has no empty cell.

    Args:
        frame: a table of `read_csv`, whose index holds the lines of the file.
        file: the file that the message names.

    Returns:
        (rows, columns) in single precision, as models compute.

    Raises:
        DataError: a cell that is not a finite number, or empty where none may be, by line and column.

    >>> numbers(pd.DataFrame({"age": ["61", None]}, index=[2, 3]), Path("ward.csv"))
    array([[61.],
           [nan]], dtype=float32)
    >>> numbers(pd.DataFrame({"age": ["61", "old"]}, index=[2, 3]), Path("a.csv"))
    Traceback (most recent call last):
    hetfed.errors.DataError: a.csv: line 3, column 'age': not a number (value: 'old'). Mend the cell, or fetch the file again.
    """
    # With coerce, and not with errors raised: pandas would name the cell's value, but not its place.
    converted = frame.apply(pd.to_numeric, errors="coerce")
    mend = "Mend the cell, or fetch the file again."
    _refuse_cell(converted.isna() & frame.notna(), frame, file, "not a number", mend)
    if complete:
        _refuse_cell(frame.isna(), frame, file, "empty cell; the file may be cut short", FETCH_AGAIN)
    # After the conversion, since pandas reads "inf" and 1e99 as numbers; the second would become infinite in single precision.
    _refuse_cell(converted.abs() > np.finfo(np.float32).max, frame, file, "not a finite number", mend)
    return np.asarray(converted, dtype=np.float32)


def _refuse_cell(wrong: pd.DataFrame, frame: pd.DataFrame, file: Path, problem: str, remedy: str) -> None:
    """Raise `DataError` that names the first cell where `wrong` is true."""
    rows, columns = np.nonzero(wrong.to_numpy())
    if len(rows):
        row, column = int(rows[0]), int(columns[0])
        name = frame.columns[column]
        key = _place(frame.index[row], name)
        cell = frame.iloc[row, column]
        value = cell.item() if isinstance(cell, np.generic) else cell
        raise DataError(problem, file=file, key=key, value=value, remedy=remedy)


def _place(line: object, column: Any) -> str:
    # Without a header pandas counts columns from 0.
    return f"line {line}, column {repr(column) if isinstance(column, str) else column + 1}"


def expect_labels(
    labels: NDArray[np.generic] | pd.Series[Any], classes: Sequence[str], file: Path, key: str
) -> NDArray[np.int64]:
    """The labels (n,) as integers.

    Args:
        labels: (n,) numbers; a column of `read_csv` or an array.
        classes: the names of 0, 1, ...; the message lists them.
        file: the file that the message names.
        key: what the labels are called in it.

    Raises:
        DataError: one is none of 0..classes-1 and not MISSING_LABEL, by its line where `labels` is a column of `read_csv`, else
            by its place in the array.

    >>> expect_labels(np.array([0.0, 1.0, -1.0]), ("benign", "malignant"), Path("ward.npz"), "labels")
    array([ 0,  1, -1])
    """
    try:
        values = np.asarray(labels, dtype=np.float64).reshape(-1)
    except ValueError as error:
        raise DataError(f"labels are not numbers: {error}", file=file, key=key, remedy=FETCH_AGAIN) from None
    # Compared as floating-point numbers, so that a grade of 1.5 or a NaN is refused instead of rounded.
    wrong = ~np.isin(values, [MISSING_LABEL, *range(len(classes))])
    if wrong.any():
        row = int(wrong.argmax())
        known = ", ".join(f"{index} = {name}" for index, name in enumerate(classes))
        value = int(values[row]) if values[row].is_integer() else float(values[row])
        where = _place(labels.index[row], labels.name) if isinstance(labels, pd.Series) else f"{key}[{row}]"
        remedy = f"Known: {known}. Mend the label, or write {MISSING_LABEL} where it is not known."
        raise DataError("label outside the classes", file=file, key=where, value=value, remedy=remedy)
    return values.astype(np.int64)


def expect_length(array: NDArray[Any], count: int, file: Path, key: str) -> None:
    """Raise `DataError` unless `array` has `count` rows.

    Arrays of one file describe the same samples: row i of each is sample i.
    """
    if len(array) != count:
        raise DataError(
            f"{count} rows expected, as in the other arrays", file=file, key=key, value=len(array), remedy=FETCH_AGAIN
        )


def expect_images(images: NDArray[Any], file: Path, key: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The images (n, *shape) as bytes.

    Args:
        images: (n, *shape) of any numeric dtype.
        file: the file that the message names.
        key: the name of the array in it.
        shape: of one image: (height, width), or (height, width, channels).

    Raises:
        DataError: another shape, a NaN pixel, one outside 0..255, or one between two whole numbers.

    >>> expect_images(np.full((1, 2, 2), 255.0), Path("ward.npz"), "images", (2, 2)).dtype
    dtype('uint8')
    """
    if images.shape[1:] != shape:
        raise DataError(f"images of shape {shape} expected", file=file, key=key, value=images.shape[1:], remedy=FETCH_AGAIN)
    # The usual case: bytes have nothing to check, and large arrays are not copied.
    if images.dtype == np.uint8:
        return images
    # The type first: to ask for pixels between two whole numbers makes no sense of text or of complex numbers.
    if images.dtype.kind not in "biuf":
        raise DataError("pixels are not numbers", file=file, key=key, value=str(images.dtype), remedy=FETCH_AGAIN)
    rescale = "Rescale the images to bytes."
    for problem, wrong, remedy in (
        ("NaN or infinite pixel", ~np.isfinite(images), "Mend or leave out that image."),
        ("pixel outside 0..255", (images < 0) | (images > 255), rescale),
        ("pixel that is no whole number", images != np.floor(images), rescale),
    ):
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise DataError(problem, file=file, key=f"{key}{list(where)}", value=images[where].item(), remedy=remedy)
    return images.astype(np.uint8)


def expect_square(adjacency: NDArray[np.float32], sensors: int, file: Path) -> NDArray[np.float32]:
    """Raise `DataError` unless `adjacency` is (sensors, sensors), finite and not negative.

    >>> expect_square(np.eye(2, dtype=np.float32), 2, Path("links.csv")).shape
    (2, 2)
    """
    if adjacency.shape != (sensors, sensors):
        raise DataError(f"adjacency of {sensors} x {sensors} expected", file=file, value=adjacency.shape, remedy=FETCH_AGAIN)
    if not np.isfinite(adjacency).all() or (adjacency < 0).any():
        raise DataError("a weight is negative or missing", file=file, remedy="Weights are numbers from 0 upwards.")
    return adjacency


def expect_times(column: pd.Series[str], file: Path, *, form: str) -> pd.DatetimeIndex:
    """The stamps of `column`, which are written as `form` (strftime) says.

    Args:
        column: stamps as text, a column of `read_csv`.
        file: the file that the message names.
        form: as `datetime.strptime` takes it, so that day and month are never mistaken for each other.

    Raises:
        DataError: one is not, by line.

    >>> expect_times(pd.Series(["1/10/2006"], name="day"), Path("counts.csv"), form="%d/%m/%Y")
    DatetimeIndex(['2006-10-01'], dtype='datetime64[ns]', name='day', freq=None)
    """
    stamps = pd.to_datetime(column, format=form, errors="coerce")
    wrong = stamps.isna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        key = _place(column.index[row], column.name)
        raise DataError("not a time", file=file, key=key, value=str(column.iloc[row]), remedy=f"Times are written {form}.")
    return pd.DatetimeIndex(stamps)


def expect_regular(time: pd.DatetimeIndex, minutes: int, file: Path, lines: Sequence[int] | pd.Index[int]) -> pd.DatetimeIndex:
    """Raise `DataError` unless the stamps, which stand in these lines of the file, follow each other every `minutes`.

    Returns:
        The stamps themselves.

    >>> time = pd.DatetimeIndex(["2024-01-01 08:00", "2024-01-01 08:15", "2024-01-01 08:45"])
    >>> expect_regular(time, 15, Path("counts.csv"), [2, 3, 4])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.DataError: counts.csv: line 4: time does not go on regularly (value: '2024-01-01 08:45:00'). ...
    """
    # Minutes as whole numbers, whatever the resolution of the stamps.
    steps = np.diff(time.to_numpy()).astype("timedelta64[m]").astype(int)
    wrong = steps != minutes
    if wrong.any():
        row = int(wrong.argmax()) + 1
        key = f"line {lines[row]}"
        remedy = f"One row every {minutes} minutes, in order, none twice and none left out."
        raise DataError("time does not go on regularly", file=file, key=key, value=str(time[row]), remedy=remedy)
    return time
