"""Checkpoints: the server's tensors, those of the sites of this process, the rows, and a seal that says which of them count.

Tensors are safetensors files that carry the round in their names. Rows are lines that are appended to one file. The seal,
`checkpoint.json`, is written last and holds the digests of all: a process that dies in between leaves the checkpoint before.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from hetfed.client import ClientState, Tensors
from hetfed.engines.local import Sites
from hetfed.errors import RunError, RunFolderError
from hetfed.federation import FederationState, Row
from hetfed.payload import InFlight
from hetfed.results.sealed import DELETE, read_sealed, write_sealed
from hetfed.results.writing import write_bytes

SEPARATOR = "\x1f"
"""Stands between the parts of a name: a control character, whereas a label may well hold a slash or a bar."""
SEAL, ROWS = "checkpoint.json", "rows.jsonl"
TENSORS_IN_A_FILE = 100_000
"""The header of a safetensors file, which names every tensor, may have 100 MB at most."""


@dataclass
class Checkpoint:
    """The checkpoint of one arm in a folder of its own, which bears the arm's name.

    An object of it goes with the arm from `load` to the last `save`: it knows which rows are in the file.

    Args:
        folder: of this arm alone.
        digest: as `Plan.digest` gives it. A checkpoint of another plan is not taken up; None takes any.
    """

    folder: Path
    digest: str | None
    _lines: _Lines = field(init=False)

    def __post_init__(self) -> None:
        self._lines = _Lines(self.folder / ROWS)

    def save(self, state: FederationState, sites: Sites) -> None:
        """Write the state after a round.

        Files of earlier rounds are removed once the new seal is there.

        Raises:
            RunError: it cannot be written, as on a full disk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._lines.rows:
            # A checkpoint that was not taken up, for a part of it was missing, does not outlive its rows.
            (self.folder / SEAL).unlink(missing_ok=True)
        files = self._write("sites", state.round, *states_to_tensors(sites.states))
        files |= self._write("server", state.round, *_server_to_tensors(state))
        rows = self._lines.extend(state.rows)
        about = {"plan": self.digest, "arm": self.folder.name, "round": state.round, "rows": rows, "files": files}
        write_sealed(self.folder / SEAL, about)
        # Only now, with the seal written: until then the earlier files are those that count.
        for file in self.folder.iterdir():
            if file.name not in {SEAL, ROWS, *files}:
                file.unlink()

    def load(self, sites: Sites) -> FederationState | None:
        """The server's state, the sites having been put back to where they were then.

        None where there is no checkpoint, or where a file of it has been deleted: then the arm begins again.

        Raises:
            RunFolderError: a file is damaged, or of another arm or of a run of another plan.
        """
        about = read_sealed(self.folder / SEAL)
        if about is None or not all((self.folder / name).exists() for name in (ROWS, *about["files"])):
            return None
        if self.digest is not None and about["plan"] != self.digest:
            raise RunFolderError("a checkpoint of another plan", file=self.folder / SEAL, remedy=DELETE)
        if about["arm"] != self.folder.name:
            problem = f"the checkpoint of another arm, {about['arm']!r}"
            raise RunFolderError(problem, file=self.folder / SEAL, remedy=DELETE)
        rows = self._lines.read(**about["rows"])
        server, at_sites = (self._read(stem, about["files"]) for stem in ("server", "sites"))
        sites.states.update(states_from_tensors(*at_sites))
        return _server_from_tensors(*server, rows)

    def _write(self, stem: str, number: int, tensors: Tensors, about: Mapping[str, Any]) -> dict[str, str]:
        """Write tensors, `about` beside the first of them; returns the SHA-256 of the files by their names."""
        digests, names = {}, list(tensors)
        # At least one file, which says what is no tensor.
        for part, first in enumerate(range(0, max(len(names), 1), TENSORS_IN_A_FILE)):
            held = {key: tensors[key].contiguous() for key in names[first : first + TENSORS_IN_A_FILE]}
            name = f"{stem}-{number}{f'-{part}' if part else ''}.safetensors"
            # Not `save_file`: it writes to a file of its own that only the user can read, and leaves it behind when it is
            # killed. Scores may be infinite and losses NaN, which Python's JSON writes and reads; nobody else reads this.
            metadata = None if part else {"state": json.dumps(about)}
            content = save(held, metadata)
            digests[name] = hashlib.sha256(content).hexdigest()
            write_bytes(self.folder / name, content)
        return digests

    def _read(self, stem: str, digests: Mapping[str, str]) -> tuple[Tensors, dict[str, Any]]:
        """What `_write` wrote."""
        tensors, about = Tensors(), dict[str, Any]()
        for name, digest in digests.items():
            if name.startswith(f"{stem}-"):
                _check_digest(self.folder / name, digest)
                with safe_open(self.folder / name, framework="pt") as opened:
                    tensors |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
                    about |= json.loads((opened.metadata() or {}).get("state", "{}"))
        return tensors, about


@dataclass
class _Lines:
    """The rows of all rounds in a file of their own, a line of JSON each, to which those of a round are appended.

    A row that has changed, since an upload of an earlier round was refused, is appended again: the last one counts.

    Args:
        file: what stands in it beyond the lines known here was written by a process that died, and is cut off.
        rows: that are in it.
        size: of the lines, in bytes.
        digest: of the lines.
    """

    file: Path
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def extend(self, rows: list[Row]) -> dict[str, Any]:
        """Append what is new of `rows`; returns size and digest of the whole.

        Raises:
            RunError: it cannot be written.
        """
        # By identity: a round takes over the rows before it as they are.
        new = [row for row, before in zip_longest(rows, self.rows) if row is not before]
        content = b"".join(json.dumps(asdict(row)).encode() + b"\n" for row in new)
        try:
            with self.file.open("r+b" if self.file.exists() else "wb") as opened:
                opened.truncate(self.size)
                opened.seek(self.size)
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as error:
            raise RunError(f"{self.file}: cannot be written: {error.strerror}") from error
        self.digest.update(content)
        self.rows, self.size = rows, self.size + len(content)
        return {"size": self.size, "digest": self.digest.hexdigest()}

    def read(self, size: int, digest: str) -> list[Row]:
        """The rows of the first `size` bytes, in the order of rounds and clients.

        Raises:
            RunFolderError: these are not what was written.
        """
        try:
            with self.file.open("rb") as opened:
                content = opened.read(size)
        except OSError as error:
            raise _damaged(self.file, str(error.strerror)) from None
        self.digest = hashlib.sha256(content)
        if self.digest.hexdigest() != digest:
            raise _damaged(self.file)
        rows = (Row(**json.loads(line)) for line in content.splitlines())
        self.rows, self.size = list({(row.round, row.client): row for row in rows}.values()), size
        return self.rows


def _check_digest(file: Path, digest: str) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(file, str(error.strerror)) from None
    if found != digest:
        raise _damaged(file)


def _damaged(file: Path, why: str = f"its SHA-256 differs from that in {SEAL}") -> RunFolderError:
    return RunFolderError(f"damaged: {why}", file=file, remedy=DELETE)


def states_to_tensors(states: Mapping[str, ClientState]) -> tuple[Tensors, dict[str, Any]]:
    """The states of clients as tensors with names of their own, and what is no tensor.

    Returns:
        Tensors under the names `<client> <where> <name>`, joined by a control character; scores and rounds as JSON holds them.

    >>> states = {"north": ClientState({"weight": torch.ones(2)}, score=(0.8, -0.5), best_round=2)}
    >>> back = states_from_tensors(*states_to_tensors(states))
    >>> back["north"].model["weight"], back["north"].score
    (tensor([1., 1.]), (0.8, -0.5))
    """
    tensors: Tensors = {}
    for name, client in states.items():
        tensors |= _prefixed(client.model, name, "model")
        # The best model may be the latest one; safetensors refuses two names for the same memory.
        tensors |= _prefixed({key: tensor.clone() for key, tensor in client.best.items()}, name, "best")
        for number, model in client.recent.items():
            tensors |= _prefixed({key: tensor.clone() for key, tensor in model.items()}, name, f"recent:{number}")
        tensors |= _prefixed(client.optimizer, name, "optimizer")
        for label, memory in client.exchanges.items():
            tensors |= _prefixed(memory, name, f"exchange:{label}")
    return tensors, {"clients": {name: {"score": c.score, "best_round": c.best_round} for name, c in states.items()}}


def states_from_tensors(tensors: Tensors, about: Mapping[str, Any]) -> dict[str, ClientState]:
    """What `states_to_tensors` took."""
    states = {
        # JSON has no tuples, and a list would not compare with the next score.
        name: ClientState({}, score=known["score"] and tuple(known["score"]), best_round=known["best_round"])
        for name, known in about["clients"].items()
    }
    for key, tensor in tensors.items():
        name, where, tensor_name = key.split(SEPARATOR, 2)
        _slot(states[name], where)[tensor_name] = tensor
    return states


def _server_to_tensors(state: FederationState) -> tuple[Tensors, dict[str, Any]]:
    tensors: Tensors = {}
    for label, server in state.server.items():
        tensors |= _prefixed(server, "server", label)
    for number, upload in enumerate(state.pending):
        # Bytes travel as a tensor of them, so that files of tensors hold the whole state.
        for part, content in (("encoded", upload.encoded), ("base", upload.base)):
            if content:
                name = SEPARATOR.join(("pending", str(number), part))
                tensors[name] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    pending = [{**asdict(upload), "encoded": None, "base": None} for upload in state.pending]
    return tensors, {"round": state.round, "server": sorted(state.server), "pending": pending}


def _server_from_tensors(tensors: Tensors, about: Mapping[str, Any], rows: Sequence[Row]) -> FederationState:
    server: dict[str, Tensors] = {label: {} for label in about["server"]}
    pending = [{**upload, "encoded": b"", "base": b""} for upload in about["pending"]]
    for key, tensor in tensors.items():
        owner, name, rest = key.split(SEPARATOR, 2)
        if owner == "server":
            server[name][rest] = tensor
        else:
            pending[int(name)][rest] = tensor.numpy().tobytes()
    return FederationState(about["round"], server, list(rows), [InFlight(**upload) for upload in pending])


def _prefixed(tensors: Tensors, *path: str) -> Tensors:
    return {SEPARATOR.join((*path, name)): tensor for name, tensor in tensors.items()}


def _slot(state: ClientState, where: str) -> Tensors:
    """The dictionary of a client's state that `where` names."""
    if where.startswith("exchange:"):
        # A memory without tensors has left nothing behind, and needs no entry.
        return state.exchanges.setdefault(where.removeprefix("exchange:"), {})
    if where.startswith("recent:"):
        return state.recent.setdefault(int(where.removeprefix("recent:")), {})
    slots = {"model": state.model, "best": state.best, "optimizer": state.optimizer}
    return slots[where]
