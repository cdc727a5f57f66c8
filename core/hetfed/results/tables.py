"""CSV files: every one that is written here, and those that are read back.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and runs it. Such text (a patient, a class, a
column) is written behind an apostrophe, by which a spreadsheet shows it as text; numbers stay numbers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.errors import RunFolderError
from hetfed.results.writing import write_bytes

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet would take for a formula, or that would be read back as one that was disarmed."""
DISARMED = re.compile(r"'+[=+\-@\t\r]")


def write_csv(file: Path, frame: pd.DataFrame, *, float_format: str | None = None) -> None:
    """Write a table without its index, as a whole or not at all; no cell of it is a formula to a spreadsheet.

    Args:
        file: replaced as a whole.
        frame: any table.
        float_format: as of `pandas.DataFrame.to_csv`; None writes every digit.

    Raises:
        RunError: it cannot be written, as on a full disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     write_csv(Path(home) / "a.csv", pd.DataFrame({"id": ["=1+1", "north"], "x": [-1.5, 2.0]}))
    ...     (Path(home) / "a.csv").read_text(encoding="utf-8").split(), read_csv(Path(home) / "a.csv")["id"][0]
    (['id,x', "'=1+1,-1.5", 'north,2.0'], '=1+1')
    """
    texts = frame.select_dtypes(["object", "string", "category"]).columns
    safe = frame.assign(**{name: frame[name].astype(object).map(_disarmed) for name in texts}).rename(columns=_disarmed)
    write_bytes(file, safe.to_csv(index=False, float_format=float_format).encode())


def read_csv(file: Path, **options: Any) -> pd.DataFrame:
    """What `write_csv` wrote.

    Args:
        file: of a run or a comparison.
        options: go on to `pandas.read_csv`.

    Raises:
        RunFolderError: it is missing, or no such table.
    """
    try:
        frame: pd.DataFrame = pd.read_csv(file, **options)
    except (OSError, ValueError, RecursionError) as error:
        remedy = "Run the plan again in a new folder."
        raise RunFolderError(f"not a table that a run leaves: {error}", file=file, remedy=remedy) from None
    texts = frame.select_dtypes(["object", "string"]).columns
    return frame.assign(**{name: frame[name].map(_armed) for name in texts}).rename(columns=_armed)


def _disarmed(cell: Any) -> Any:
    if not isinstance(cell, str) or not FORMULA.match(cell):
        return cell
    # A number is none, also where it stands as text.
    with suppress(ValueError):
        float(cell)
        return cell
    return f"'{cell}"


def _armed(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and DISARMED.match(cell) else cell
