"""Federated learning from a script or a notebook: clients and a composition in, tables and models out."""

from __future__ import annotations

import json
import math
import shutil
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, get_args

import pandas as pd
from rich.console import Console

from hetfed.client import Client
from hetfed.composition import Composition, Step, compose
from hetfed.errors import PlanError, RunFolderError
from hetfed.exchanges import Exchange, kind_of
from hetfed.holding import check_apart
from hetfed.keeping import Keep
from hetfed.kept.load import load_model
from hetfed.kept.model import KeptModel
from hetfed.participation import Participation
from hetfed.plan import ClientTable, ExchangeTable, FederationTable, Plan, client_table, named_algorithm, validate
from hetfed.report import write_report
from hetfed.report.figures import counted_owners, verdict
from hetfed.results.arms import ARMS
from hetfed.results.folder import ROUNDS, RunFolder
from hetfed.results.ledger import LEDGER_COLUMNS, Ledger
from hetfed.results.tables import read_csv
from hetfed.run.enrolled import enrolled
from hetfed.run.execute import execute
from hetfed.run.held import digest_of
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Silent, listener_of
from hetfed.selection import Select

Arm = Literal["alone", "pooled"]
Shared = Composition | Exchange | Step | str
"""What clients share: a composition, a single exchange, or the name of a published algorithm."""


def federate(
    clients: Iterable[Client],
    composition: Shared,
    *,
    rounds: int = 10,
    arms: Sequence[Arm] = ("alone", "pooled"),
    seed: int = 0,
    finetune: int = 3,
    participation: Participation | None = None,
    quorum: int = 1,
    select: Select = "validation",
    keep: Keep = "mean",
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
        finetune: the last rounds, half of all at most, in which each client trains its federated model by itself; 0 for none.
        participation: who is asked in a round, and how long the server waits.
        quorum: how many uploads of an exchange the server needs before it merges them.
        select: which model of a client counts, as a plan's `federation.select` has it.
        keep: what a client keeps of its models alone, federated and fine-tuned, as `federation.keep` has it.
        folder: where the run is kept while it runs, so that it can be resumed; a temporary one unless it is given.
        resume: go on with the run that was interrupted in `folder`.
        progress: tell of each round.
        title: of the report.

    Raises:
        PlanError: clients and composition do not fit together; the message names the client or the exchange, and the remedy.
        RunFolderError: the folder holds another run. RunError: a client's turn failed.
    """
    chosen, members = _composition(composition), _checked(clients)
    table: dict[str, Any] = {
        "rounds": rounds,
        "seed": seed,
        "quorum": quorum,
        "select": select if isinstance(select, str) else select.model_dump(),
        "keep": keep,
        "finetune": finetune,
        **_arms(arms),
    }
    if isinstance(composition, str):
        table["algorithm"] = composition
    plan = Plan(
        title=title,
        federation=validate(FederationTable, table, key="federate"),
        participation=participation or Participation(),
        # A plan has a named algorithm or tables, not both.
        exchange=() if isinstance(composition, str) else tuple(_told(step) for step in chosen),
        phase=() if isinstance(composition, str) else chosen.phases,
        client=tuple(_client_table(client) for client in members),
    )
    prepared = Prepared(plan, members, enrolled(plan, members, chosen))
    with ExitStack() as undo:
        run = RunFolder(_temporary(undo)) if folder is None else RunFolder(Path(folder))
        _open(run.path, plan, resume=resume, given=folder is not None)
        with run.held(), listener_of(Console()) if progress else nullcontext(Silent()) as listener:
            execute(prepared, title or "script", run, listener)
        result = Result(run, {client.name: client for client in members})
        # What is temporary lasts as long as the result.
        weakref.finalize(result, undo.pop_all().close)
    return result


# eq=False and repr=False: a result is the same as itself alone, and shows its table, not everybody's data.
@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What came of a federation; show it in a notebook, `print` it, or `save` it as a run folder with its report.

    Args:
        run: the folder of the run.
        clients: those who took part, by name.
    """

    run: RunFolder
    clients: Mapping[str, Client]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Everything that `summary.json` holds."""
        return self.run.summary()

    def table(self) -> pd.DataFrame:
        """One row per client: its metric, the value on its test data in each arm, and of what it keeps.

        `metric` has the unit in brackets, as in "MAE (km/h)". `kept` is that of the model in `models`. Arms that did not
        run have no column; a value that is undefined is NaN, and `summary` has the reason. `n_test` counts test examples;
        `chance` says how sure the figures are.
        """
        clients = self.summary["clients"]
        arms = [arm for arm in ARMS if any(client[arm] is not None for client in clients)]
        columns: dict[str, list[Any]] = {
            "metric": [client["metric"] + (f" ({client['unit']})" if client["unit"] else "") for client in clients],
            **{arm: [_known(client[arm]) for client in clients] for arm in arms},
            "kept": [client["kept"]["value"] if client["kept"] else None for client in clients],
            "n_test": [client["n_test"] for client in clients],
        }
        return pd.DataFrame(columns, index=pd.Index([client["name"] for client in clients], name="client"))

    def chance(self) -> pd.DataFrame:
        """One row per client: the federated test metric and its gain over training alone, each with its 95 % interval.

        A gain is positive where federated is better, whichever way the metric goes. `federated_is` says "better" or "worse"
        only where the interval of the gain holds no zero; an interval that there is not is NaN. `test` counts patients, not
        their examples.
        """
        rows = []
        for client in self.summary["clients"]:
            found, gain = client["intervals"]["federated"], client["gains"].get("federated")
            rows.append(
                {
                    "test": counted_owners(client["test_counts"], client["owned_by"]),
                    "federated": _known(client["federated"]),
                    **{end: _known(found[end]) for end in ("low", "high")},
                    "gain": _known(gain and gain["value"]),
                    **{f"gain_{end}": _known(gain and gain[end]) for end in ("low", "high")},
                    "federated_is": verdict(gain),
                }
            )
        return pd.DataFrame(rows, index=pd.Index([client["name"] for client in self.summary["clients"]], name="client"))

    @property
    def rounds(self) -> pd.DataFrame:
        """One row per arm, round and client: losses, the validation metric, seconds and bytes."""
        return _read(self.run.path / ROUNDS)

    @property
    def ledger(self) -> pd.DataFrame:
        """One row per payload that left a client: what it was, how large, and whether it was accepted."""
        return pd.DataFrame(Ledger(self.run.ledger).entries(), columns=list(LEDGER_COLUMNS))

    @property
    def predictions(self) -> dict[str, pd.DataFrame]:
        """The test predictions of the model that each client keeps, by client."""
        return {name: _read(self.run.predictions / f"{name}.csv") for name in self._keeping}

    @cached_property
    def models(self) -> dict[str, KeptModel]:
        """The model that each client keeps, by client: `result.models["a"].predict({"x": array})`."""
        return {
            name: load_model(self.run.models / name, model_fn=one.model_fn, common_fn=one.common_fn, task=one.task)
            for name, one in self._keeping.items()
        }

    @property
    def _keeping(self) -> dict[str, Client]:
        """Those of whose models somebody has trained one."""
        return {client["name"]: self.clients[client["name"]] for client in self.summary["clients"] if client["kept"]}

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

    def __repr__(self) -> str:
        return self.table().to_string(float_format="{:.4g}".format)

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.4g}".format)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _read(file: Path) -> pd.DataFrame:
    # Only an empty cell is missing: a client or a class may well be called "NA".
    return read_csv(file, dtype={"client": str, "id": str}, keep_default_na=False, na_values=[""])


def _composition(shared: Shared) -> Composition:
    if isinstance(shared, str):
        return named_algorithm(shared, {}, key="composition")
    return shared if isinstance(shared, Composition) else compose(shared)


def _arms(arms: Sequence[str]) -> dict[str, bool]:
    """Which of the arms that may be left out are to run."""
    asked = [arms] if isinstance(arms, str) else arms
    for arm in asked:
        if arm not in get_args(Arm):
            remedy = 'Name "alone", "pooled", both or none; the federation itself always runs.'
            raise PlanError("no such arm", key="arms", value=arm, remedy=remedy)
    return {arm: arm in asked for arm in get_args(Arm)}


def _checked(clients: Iterable[Client]) -> tuple[Client, ...]:
    members = tuple(clients)
    if not members:
        raise PlanError("there are no clients", key="clients", remedy="Give at least one hetfed.Client.")
    for one in members:
        if not isinstance(one, Client):
            problem, remedy = "not a client", "Give a list of hetfed.Client."
            raise PlanError(problem, key="clients", value=type(one).__name__, remedy=remedy)
    check_apart(members)
    return members


def _temporary(undo: ExitStack) -> Path:
    folder = mkdtemp(prefix="hetfed-")
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _open(folder: Path, plan: Plan, *, resume: bool, given: bool) -> None:
    """Lay out the folder of a run, or find the one that was interrupted in it."""
    if resume and not (given and folder.exists()):
        where = {"file": folder} if given else {"key": "resume"}
        raise RunFolderError("nothing to resume", **where, remedy="Give the folder of the interrupted run.")
    try:
        RunFolder.open(folder, plan, resume=resume)
    except RunFolderError as error:
        remedy = "Give a new or an empty folder; or go on with resume=True, and with clients and settings as they were."
        raise RunFolderError(error.problem, file=error.file, remedy=remedy) from error


def _told(step: Step) -> ExchangeTable:
    """A step as a plan would have it: what the run folder says of it."""
    options: dict[str, Any] = {"every": step.every, "until": step.until, "clients": step.clients, "label": step.label}
    try:
        settings = json.loads(json.dumps(asdict(step.exchange)))
    except TypeError as error:
        remedy = "Let the settings of an exchange be numbers, text, and lists and dictionaries of them."
        raise PlanError(f"its settings are not what JSON can hold: {error}", key=step.label, remedy=remedy) from error
    options |= {"compression": step.compression, "aggregation": step.aggregation}
    known: dict[str, Any] = {"kind": kind_of(step.exchange), **options}
    return ExchangeTable.model_construct(**known, **settings)


def _client_table(client: Client) -> ClientTable:
    """A client as the run folder tells of it: with its sizes, and a digest by which a resumed run knows its data again."""
    parts = {"train": client.data.train, "validation": client.data.validation, "test": client.data.test}
    data = {
        "examples": {name: len(part) for name, part in parts.items()},
        "metric": client.task.metric,
        "sha256": digest_of(client)[:16],
    }
    model = {"tensors": {name: list(spec.shape) for name, spec in client.profile.signature.tensors.items()}}
    return client_table(client.name, data=data, model=model, training=client.training, presence=client.presence)
