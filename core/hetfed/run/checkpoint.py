"""Checkpoints: what the server needs to go on in one file, what the sites of this process need in another.

Both are safetensors files that are replaced as a whole. The sites' file carries the round in its name and is written first; the
server's file, written after it, says which round counts. A process that dies in between leaves the checkpoint before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hetfed.client import ClientState, Tensors
from hetfed.engines.local import Sites
from hetfed.errors import RunFolderError
from hetfed.federation import FederationState, Row
from hetfed.payload import InFlight
from hetfed.results.folder import write_bytes

SEPARATOR = "\x1f"
"""Stands between the parts of a name: a control character, whereas a label may well hold a slash or a bar."""
SERVER = "server.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one arm in a folder of its own; `digest` is that of the plan that it belongs to.

    Args:
        folder: of this arm alone.
        digest: as `Plan.digest` gives it. A checkpoint of another plan is not taken up; None takes any.
    """

    folder: Path
    digest: str | None

    def save(self, state: FederationState, sites: Sites) -> None:
        """Write the state after a round.

        Checkpoints of earlier rounds are removed once the new one is whole.

        Raises:
            RunError: it cannot be written, as on a full disk.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._sites(state.round), *states_to_tensors(sites.states), self.digest)
        write_tensors(self.folder / SERVER, *_server_to_tensors(state), self.digest)
        # Only now, with the server's file written: until then the earlier sites' file is the one that counts.
        for file in self.folder.glob("sites-*.safetensors"):
            if file != self._sites(state.round):
                file.unlink()

    def load(self, sites: Sites) -> FederationState | None:
        """The server's state, the sites having been put back to where they were then; None where there is no checkpoint.

        Raises:
            RunFolderError: a file is damaged or missing, or of a run of another plan.
        """
        if not (self.folder / SERVER).exists():
            return None
        state = _server_from_tensors(*read_tensors(self.folder / SERVER, self.digest))
        sites.states.update(states_from_tensors(*read_tensors(self._sites(state.round), self.digest)))
        return state

    def _sites(self, round_number: int) -> Path:
        return self.folder / f"sites-{round_number}.safetensors"


def write_tensors(file: Path, tensors: Tensors, about: Mapping[str, Any], digest: str | None) -> None:
    """Write tensors, and `about` as JSON in the same file.

    Args:
        file: replaced as a whole.
        tensors: by name.
        about: whatever JSON can hold.
        digest: of the plan.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "state.safetensors")
    ...     write_tensors(file, {"weight": torch.ones(2)}, {"round": 3}, digest="abc")
    ...     tensors, about = read_tensors(file, digest="abc")
    >>> tensors["weight"], about["round"]
    (tensor([1., 1.]), 3)
    """
    # Not `save_file`: it writes to a file of its own that only the user can read, and leaves it behind when it is killed.
    # Scores may be infinite and losses NaN, which Python's JSON writes and reads; nobody else reads this.
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(file, save(held, {"state": json.dumps({"plan": digest, **about})}))


def read_tensors(file: Path, digest: str | None) -> tuple[Tensors, dict[str, Any]]:
    """What `write_tensors` wrote.

    Args:
        file: one that `write_tensors` wrote.
        digest: of the plan that it must belong to; None takes that of any.

    Raises:
        RunFolderError: the file is damaged or missing, or of a run of another plan.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        remedy = "Start the run again in a new folder."
        raise RunFolderError(f"not a whole checkpoint: {error}", file=file, remedy=remedy) from None
    if digest is not None and about["plan"] != digest:
        raise RunFolderError("a checkpoint of another plan", file=file, remedy="Resume it with its own plan.")
    return tensors, about


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
        # Bytes travel as a tensor of them, so that one file holds the whole state and is replaced as a whole.
        for part, content in (("encoded", upload.encoded), ("base", upload.base)):
            if content:
                name = SEPARATOR.join(("pending", str(number), part))
                tensors[name] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    about = {
        "round": state.round,
        "server": sorted(state.server),
        "rows": [asdict(row) for row in state.rows],
        "pending": [{**asdict(upload), "encoded": None, "base": None} for upload in state.pending],
    }
    return tensors, about


def _server_from_tensors(tensors: Tensors, about: Mapping[str, Any]) -> FederationState:
    server: dict[str, Tensors] = {label: {} for label in about["server"]}
    pending = [{**upload, "encoded": b"", "base": b""} for upload in about["pending"]]
    for key, tensor in tensors.items():
        owner, name, rest = key.split(SEPARATOR, 2)
        if owner == "server":
            server[name][rest] = tensor
        else:
            pending[int(name)][rest] = tensor.numpy().tobytes()
    rows = [Row(**row) for row in about["rows"]]
    return FederationState(about["round"], server, rows, [InFlight(**upload) for upload in pending])


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
