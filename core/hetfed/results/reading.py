"""Reading of a folder that may be damaged, or that somebody else has made: one clear error for whatever is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hetfed.errors import RunFolderError

AGAIN = "Run the plan again in a new folder."


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which anything is a symbolic link: what is read or written through one lies elsewhere.

    Args:
        folder: of a run or a comparison; it may itself be reached through links.

    Raises:
        RunFolderError: it names the first link.
    """
    for home, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if (path := Path(home, name)).is_symlink():
                remedy = "Put what it leads to in its place, if you trust it."
                raise RunFolderError("a symbolic link, which no run leaves", file=path, remedy=remedy)


def text_of(file: Path) -> str:
    """The text of a file.

    Raises:
        RunFolderError: it is missing, no file, or not text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunFolderError("the run is not whole: there is no such file", file=file, remedy=AGAIN) from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"not text in UTF-8: {error}", file=file, remedy=AGAIN) from None
    except OSError as error:
        raise RunFolderError(f"cannot be read: {error.strerror}", file=file, remedy=AGAIN) from None


def table_of(file: Path) -> dict[str, Any]:
    """The table that a JSON file holds.

    Raises:
        RunFolderError: it is missing, or holds anything else.
    """
    try:
        table = json.loads(text_of(file))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"not JSON: {error}", file=file, remedy=AGAIN) from None
    if not isinstance(table, dict):
        raise RunFolderError(f"not a table but a {type(table).__name__}", file=file, remedy=AGAIN)
    return table


@contextmanager
def contents_of(file: Path) -> Iterator[None]:
    """Within, contents of `file` that are not what a run leaves are told as damage to it.

    What a run leaves has a form that the program relies on everywhere; a value of another type, or none, is the file's fault.

    Raises:
        RunFolderError: in place of what a missing key or a value of another type comes to.

    >>> with contents_of(Path("summary.json")):
    ...     {}["clients"]
    Traceback (most recent call last):
    hetfed.errors.RunFolderError: summary.json: not what a run leaves: KeyError: 'clients'. Run the plan again in a new folder.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        problem = f"not what a run leaves: {type(error).__name__}: {error}"
        raise RunFolderError(problem, file=file, remedy=AGAIN) from error
