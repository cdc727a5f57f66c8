"""The ledger: a line for every payload that left a client, written when it arrives, or at the end if it never does."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hetfed.errors import RunError, RunFolderError
from hetfed.payload import Upload
from hetfed.results.reading import AGAIN, text_of

LEDGER_COLUMNS = ("round", "sent", "client", "exchange", "tensors", "weight", "bytes", "sha256", "accepted", "refused")
"""The keys of a line."""


@dataclass(frozen=True)
class Ledger:
    """A JSON-lines file. A round that is run again after an interruption is written again: it left the client again.

    >>> import tempfile
    >>> import torch
    >>> from hetfed.payload import Payload
    >>> payload = Payload({"w": torch.zeros(2, 3)}, weight=10)
    >>> with tempfile.TemporaryDirectory() as home:
    ...     ledger = Ledger(Path(home) / "ledger.jsonl")
    ...     ledger.write(Upload(1, "a", "shared-parameters", payload.encoded, travelled=payload, contents=payload))
    ...     entry, = ledger.entries()
    >>> entry["tensors"], entry["accepted"]
    ({'w': ['float32', [2, 3]]}, True)
    """

    file: Path

    def write(self, upload: Upload) -> None:
        """Append a line for `upload`: what it was, its weight, how large, its digest, whether it was accepted.

        Raises:
            RunError: it cannot be written, as on a full disk.
        """
        # Opened anew for each line: whenever the process is killed, what was recorded is out of its hands.
        try:
            with self.file.open("ab+") as lines:
                if _cut_short(lines):
                    lines.write(b"\n")
                lines.write(json.dumps(_entry(upload)).encode() + b"\n")
        except OSError as error:
            raise RunError(f"{self.file}: cannot be written: {error.strerror}") from error

    def entries(self) -> list[dict[str, Any]]:
        """All lines in their order; one that was cut short by an interruption is left out.

        Raises:
            RunFolderError: the file cannot be read, or a line is whole and no entry of a ledger.
        """
        if not self.file.exists():
            return []
        entries = []
        for number, line in enumerate(text_of(self.file).splitlines(), 1):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            except RecursionError:
                entry = None
            if not (isinstance(entry, dict) and set(LEDGER_COLUMNS) <= set(entry)):
                raise RunFolderError("not an entry of a ledger", file=self.file, key=f"line {number}", remedy=AGAIN)
            entries.append(entry)
        return entries


def _cut_short(lines: BinaryIO) -> bool:
    """Whether an interruption left the last line without its end: what is appended must not become part of it."""
    if not lines.seek(0, os.SEEK_END):
        return False
    lines.seek(-1, os.SEEK_END)
    return lines.read(1) != b"\n"


def _entry(upload: Upload) -> dict[str, Any]:
    # What travelled and not what it was before compression: the ledger is a record of what left the house.
    tensors = upload.travelled.tensors if upload.travelled else {}
    return {
        "round": upload.round,
        "sent": upload.sent,
        "client": upload.client,
        "exchange": upload.exchange,
        "tensors": {name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)] for name, tensor in tensors.items()},
        "weight": _weight(upload),
        "bytes": len(upload.encoded),
        "sha256": hashlib.sha256(upload.encoded).hexdigest(),
        "accepted": upload.refused is None,
        "refused": upload.refused,
    }


def _weight(upload: Upload) -> float | None:
    """The weight that travelled: for most exchanges the client's number of training examples."""
    # A NaN or an infinity is refused, and JSON has neither.
    return upload.travelled.weight if upload.travelled and math.isfinite(upload.travelled.weight) else None
