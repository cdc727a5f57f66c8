"""Sealed files: JSON that holds the SHA-256 of its own contents, so that what has changed since is not taken for what was
written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hetfed.errors import RunFolderError
from hetfed.results.writing import write_bytes

DELETE = "Delete that file and resume with --resume: what it stands for is run again."
"""The remedy of a damaged file that a run needs only to go on from."""


def write_sealed(file: Path, content: Any) -> None:
    """Write JSON with its own digest, as a whole or not at all.

    Args:
        file: replaced as a whole.
        content: whatever JSON can hold; NaN and infinities too, which Python's JSON writes and reads.

    Raises:
        RunError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     write_sealed(Path(home) / "a.json", {"round": 3})
    ...     read_sealed(Path(home) / "a.json")
    {'round': 3}
    """
    write_bytes(file, json.dumps({"sha256": _digest(content), "content": content}).encode())


def read_sealed(file: Path) -> Any:
    """What `write_sealed` wrote; None where there is no such file.

    Raises:
        RunFolderError: it is damaged: not a single digit may differ.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        whole = held["sha256"] == _digest(held["content"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RunFolderError(f"damaged: it cannot be read: {error}", file=file, remedy=DELETE) from None
    if not whole:
        problem = "damaged: its contents are not those that were written, by their SHA-256"
        raise RunFolderError(problem, file=file, remedy=DELETE)
    return held["content"]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
