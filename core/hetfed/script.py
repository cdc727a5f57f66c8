"""Federated learning from a script or a notebook: clients and a composition in, tables and models out."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd
from rich.console import Console

from hetfed.client import Client
from hetfed.composition import Composition, Step, compose
from hetfed.data import Examples
from hetfed.errors import PlanError, RunFolderError
from hetfed.exchanges import Exchange, kind_of
from hetfed.kept.load import load_model
from hetfed.kept.model import KeptModel
from hetfed.participation import Participation
from hetfed.plan import ClientTable, ExchangeTable, FederationTable, Plan, named_algorithm, validate
from hetfed.report import write_report
from hetfed.results.arms import ARMS
from hetfed.results.folder import ROUNDS, RunFolder
from hetfed.results.ledger import LEDGER_COLUMNS, Ledger
from hetfed.run.enrolled import enrolled
from hetfed.run.execute import execute
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Silent, listener_of
from hetfed.training import Select

Arm = Literal["alone", "pooled"]
Shared = Composition | Exchange | Step | str
"""What clients share: a composition, a single exchange, or the name of a published algorithm."""


def federate(
    clients: Sequence[Client],
    composition: Shared,
    *,
    rounds: int = 10,
    arms: Sequence[Arm] = ("alone", "pooled"),
    seed: int = 0,
    finetune: int = 3,
    participation: Participation | None = None,
    quorum: int = 1,
    select: Select = "validation",
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    title: str = "",
) -> Result:
    """Let `clients` learn together, and hold that against other ways of learning.

    Args:
        clients: who takes part.
        composition: what they share: `hf.compose(...)`, one exchange, or the name of an algorithm ("fedavg").
        rounds: of broadcast, local training and merging.
        arms: what to hold the federation against: everybody training alone, and training on everybody's data in one place.
        seed: from which all chance is derived: the same seed gives the same bits.
        finetune: rounds in which each client trains its federated model further by itself; 0 for none.
        participation: who is asked in a round, and how long the server waits.
        quorum: how many uploads of an exchange the server needs before it merges them.
        select: which model of a client counts: the best on its validation data, or the last one.
        folder: where the run is kept while it runs, so that it can be resumed; a temporary one unless it is given.
        resume: go on with the run that was interrupted in `folder`.
        progress: tell of each round.
        title: of the report.

    Raises:
        PlanError: clients and composition do not fit together; the message names the client or the exchange, and the remedy.
        RunFolderError: the folder holds another run. RunError: a client's turn failed.
    """
    chosen = _composition(composition)
    table = {"rounds": rounds, "seed": seed, "quorum": quorum, "select": select, "finetune": finetune}
    table |= {arm: arm in _arms(arms) for arm in ("alone", "pooled")}
    plan = Plan(
        title=title,
        federation=validate(FederationTable, table, key="federate"),
        participation=participation or Participation(),
        exchange=tuple(_told(step) for step in chosen),
        phase=chosen.phases,
        client=tuple(_client_table(client) for client in _checked(clients)),
    )
    prepared = Prepared(plan, tuple(clients), enrolled(plan, clients, chosen))
    temporary = None if folder is not None else TemporaryDirectory(prefix="hetfed-")
    where = Path(temporary.name if temporary else str(folder))
    if resume:
        _check_begun(where)
    run = RunFolder.open(where, plan, resume=resume)
    with run.held(), listener_of(Console()) if progress else nullcontext(Silent()) as listener:
        execute(prepared, title or "script", run, listener)
    return Result(run, {client.name: client for client in clients}, temporary)


@dataclass(frozen=True)
class Result:
    """What came of a federation; show it in a notebook, or `save` it as a run folder with its report.

    Args:
        run: the folder of the run.
        clients: those who took part, by name.
    """

    run: RunFolder
    clients: Mapping[str, Client]
    _temporary: TemporaryDirectory[str] | None = None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Everything that `summary.json` holds."""
        return self.run.summary()

    def table(self) -> pd.DataFrame:
        """The test metric of every client in each arm, and the model that it keeps: one row per client."""
        clients = self.summary["clients"]
        rows = [
            {
                "metric": client["metric"],
                **{arm: client[arm] for arm in ARMS if any(one[arm] is not None for one in clients)},
                "keeps": client["kept"]["arm"] if client["kept"] else None,
                "test examples": client["n_test"],
            }
            for client in clients
        ]
        return pd.DataFrame(rows, index=pd.Index([client["name"] for client in clients], name="client"))

    @property
    def rounds(self) -> pd.DataFrame:
        """One row per arm, round and client: losses, the validation metric, seconds and bytes."""
        return pd.read_csv(self.run.path / ROUNDS, dtype={"client": str}, keep_default_na=True)

    @property
    def ledger(self) -> pd.DataFrame:
        """One row per payload that left a client: what it was, how large, and whether it was accepted."""
        return pd.DataFrame(Ledger(self.run.ledger).entries(), columns=list(LEDGER_COLUMNS))

    @property
    def predictions(self) -> dict[str, pd.DataFrame]:
        """The test predictions of the model that each client keeps, by client."""
        return {name: pd.read_csv(self.run.predictions / f"{name}.csv") for name in self.clients}

    @cached_property
    def models(self) -> dict[str, KeptModel]:
        """The model that each client keeps, by client: `result.models["a"].predict({"x": array})`."""
        return {
            name: load_model(self.run.models / name, model_fn=client.model_fn, task=client.task)
            for name, client in self.clients.items()
        }

    def save(self, folder: str | Path) -> Path:
        """Leave the whole run in a new or empty folder, as the command line does; returns the report's path.

        Raises:
            RunFolderError: something is in that folder already.
        """
        home = Path(folder)
        if home.resolve() != self.run.path.resolve():
            if home.exists() and (not home.is_dir() or any(home.iterdir())):
                raise RunFolderError("the folder is not empty", file=home, remedy="Give a new or an empty folder.")
            shutil.copytree(self.run.path, home, dirs_exist_ok=True)
        return write_report(RunFolder(home))

    def _repr_html_(self) -> str:
        return str(self.table().to_html(float_format="{:.4g}".format))


def _composition(shared: Shared) -> Composition:
    if isinstance(shared, str):
        return named_algorithm(shared, {}, key="composition")
    return shared if isinstance(shared, Composition) else compose(shared)


def _arms(arms: Sequence[str]) -> Sequence[str]:
    for arm in arms:
        if arm not in {"alone", "pooled"}:
            remedy = 'Name "alone", "pooled", both or none; the federation itself always runs.'
            raise PlanError("no such arm", key="arms", value=arm, remedy=remedy)
    return arms


def _checked(clients: Sequence[Client]) -> Sequence[Client]:
    if not clients:
        raise PlanError("there are no clients", key="clients", remedy="Give at least one hetfed.Client.")
    return clients


def _check_begun(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        raise RunFolderError("nothing to resume", file=folder, remedy="Give the folder of the interrupted run.")


def _told(step: Step) -> ExchangeTable:
    """A step as a plan would have it: what the run folder says of it."""
    options: dict[str, Any] = {"every": step.every, "until": step.until, "clients": step.clients, "label": step.label}
    settings = json.loads(json.dumps(asdict(step.exchange), default=str))
    options |= {"compression": step.compression, "aggregation": step.aggregation}
    known: dict[str, Any] = {"kind": kind_of(step.exchange), **options}
    return ExchangeTable.model_construct(**known, **settings)


def _client_table(client: Client) -> ClientTable:
    """A client as the run folder tells of it; by a digest, a resumed run knows its data and its architecture again."""
    parts = {"train": client.data.train, "validation": client.data.validation, "test": client.data.test}
    data = {"examples": {name: len(part) for name, part in parts.items()}, "sha256": _digest(parts)}
    model = {"tensors": {name: list(spec.shape) for name, spec in client.profile.signature.tensors.items()}}
    return ClientTable(name=client.name, data=data, model=model, training=client.training, presence=client.presence)


def _digest(parts: Mapping[str, Examples]) -> str:
    found = hashlib.sha256()
    for name, part in parts.items():
        for key, tensor in (*sorted(part.inputs.items()), ("target", part.target)):
            found.update(f"{name} {key}".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
