"""Checkpoints: the whole state of a federation in one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hetfed.client import ClientState, Tensors
from hetfed.errors import RunFolderError
from hetfed.federation import FederationState, Parcel, Row
from hetfed.run.folder import write_bytes

SEPARATOR = "\x1f"
"""Stands between the parts of a name: a control character, whereas a label may well hold a slash or a bar."""


def save_state(state: FederationState, file: Path, plan_digest: str) -> None:
    """Write `state`; a process that dies meanwhile leaves the checkpoint before.

    Raises:
        RunError: it cannot be written, as on a full disk.
    """
    tensors: Tensors = {}
    for label, server in state.server.items():
        tensors |= _prefixed(server, "server", label)
    for name, client in state.clients.items():
        tensors |= _prefixed(client.model, "client", name, "model")
        # The best model may be the latest one; safetensors refuses two names for the same memory.
        tensors |= _prefixed({key: tensor.clone() for key, tensor in client.best.items()}, "client", name, "best")
        tensors |= _prefixed(client.optimizer, "client", name, "optimizer")
        for label, memory in client.exchanges.items():
            tensors |= _prefixed(memory, "client", name, f"exchange:{label}")
    for number, parcel in enumerate(state.pending):
        # Bytes travel as a tensor of them, so that one file holds the whole state and is replaced as a whole.
        for part, content in (("encoded", parcel.encoded), ("base", parcel.base)):
            if content:
                tensors[SEPARATOR.join(("pending", str(number), part))] = torch.frombuffer(
                    bytearray(content), dtype=torch.uint8
                )
    # Scores may be infinite and losses NaN, which Python's JSON writes and reads; nobody else reads this.
    about = {
        "plan": plan_digest,
        "round": state.round,
        "server": sorted(state.server),
        "clients": {name: {"score": c.score, "best_round": c.best_round} for name, c in state.clients.items()},
        "rows": [asdict(row) for row in state.rows],
        "pending": [{**asdict(parcel), "encoded": None, "base": None} for parcel in state.pending],
    }
    # Not `save_file`: it writes to a file of its own that only the user can read, and leaves it behind when it is killed.
    write_bytes(file, save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(about)}))


def load_state(file: Path, plan_digest: str) -> FederationState | None:
    """The state that `file` holds, None where there is no file.

    Raises:
        RunFolderError: the file is damaged, or of a run of another plan.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()["state"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunFolderError(
            f"not a whole checkpoint: {error}", file=file, remedy="Start the run again in a new folder."
        ) from None
    if about["plan"] != plan_digest:
        raise RunFolderError("a checkpoint of another plan", file=file, remedy="Resume it with its own plan.")
    server: dict[str, Tensors] = {label: {} for label in about["server"]}
    clients = {
        # JSON has no tuples, and a list would not compare with the next score.
        name: ClientState({}, score=known["score"] and tuple(known["score"]), best_round=known["best_round"])
        for name, known in about["clients"].items()
    }
    pending = [{**parcel, "encoded": b"", "base": b""} for parcel in about["pending"]]
    for key, tensor in tensors.items():
        # At most twice: of a client's tensor, the rest holds another separator and is split below.
        owner, name, rest = key.split(SEPARATOR, 2)
        if owner == "server":
            server[name][rest] = tensor
            continue
        if owner == "pending":
            pending[int(name)][rest] = tensor.numpy().tobytes()
            continue
        where, tensor_name = rest.split(SEPARATOR, 1)
        _slot(clients[name], where)[tensor_name] = tensor
    rows = [Row(**row) for row in about["rows"]]
    return FederationState(about["round"], server, clients, rows, [Parcel(**parcel) for parcel in pending])


def _prefixed(tensors: Tensors, *path: str) -> Tensors:
    return {SEPARATOR.join((*path, name)): tensor for name, tensor in tensors.items()}


def _slot(state: ClientState, where: str) -> Tensors:
    """The dictionary of a client's state that `where` names."""
    if where.startswith("exchange:"):
        return state.exchanges.setdefault(where.removeprefix("exchange:"), {})
    slots = {"model": state.model, "best": state.best, "optimizer": state.optimizer}
    return slots[where]
