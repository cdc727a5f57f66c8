"""Writing of files: each is there as a whole or not at all, and a disk that is full is one clear error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hetfed.errors import RunError


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as a whole or not at all: a process that dies meanwhile leaves what was there before.

    Raises:
        RunError: it cannot be written, as on a full disk.
    """
    # In the same folder, since a rename is atomic within one file system only.
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as opened:
            opened.write(content)
            # Without this, a crash of the machine may leave the new name with nothing in it.
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError as error:
        # What is left of it would take room on a full disk, and be nobody's.
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Write pages and pictures, each as a whole or not at all.

    Args:
        folder: of a run or a comparison.
        pages: texts by their paths in it.

    Raises:
        RunError: one cannot be written.
    """
    for name, text in pages.items():
        file = folder / name
        try:
            file.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"{file.parent}: cannot be made: {error.strerror}") from error
        write_bytes(file, text.encode())


def write_json(file: Path, value: Any) -> None:
    """Write JSON as a whole or not at all.

    Raises:
        ValueError: it holds a NaN or an infinity, on which other readers choke.
        RunError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     write_json(Path(home) / "a.json", {"rounds": 3})
    ...     (Path(home) / "a.json").read_text()
    '{\\n  "rounds": 3\\n}\\n'
    """
    write_bytes(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
