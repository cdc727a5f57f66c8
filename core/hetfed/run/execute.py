"""From a plan to a whole run folder: federated, alone and pooled; then the summary and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save

from hetfed.client import Client, ClientState
from hetfed.composition import Composition, Seating, seat
from hetfed.errors import PlanError
from hetfed.evaluation import Outcome, judge, predict
from hetfed.federation import Federation, FederationState, Upload, advance, start
from hetfed.plan import Plan
from hetfed.pooled import kinds_of, train_pooled
from hetfed.report import write_report
from hetfed.run.checkpoint import load_state, save_state
from hetfed.run.folder import LEDGER, ROUNDS, SUMMARY, RunFolder, write_bytes, write_json
from hetfed.run.ledger import Ledger
from hetfed.run.progress import Listener
from hetfed.run.summary import summarise
from hetfed.vertical import Vertical

FEDERATED, ALONE, POOLED = "federated", "alone", "pooled"


@dataclass(frozen=True)
class Prepared:
    """A plan whose clients have their data and whose composition is settled."""

    plan: Plan
    clients: tuple[Client, ...]
    seating: Seating

    def together(self) -> Federation:
        """The clients under the plan's composition."""
        table = self.plan.federation
        return Federation.of(
            self.seating.clients,
            self.seating.composition,
            table.rounds,
            table.seed,
            quorum=table.quorum,
            participation=self.plan.participation,
        )

    def apart(self) -> Federation:
        """The same clients, sharing nothing."""
        return Federation.of(self.clients, Composition(), self.plan.federation.rounds, self.plan.federation.seed)


def prepare(plan: Plan, vertical: Vertical, data_dir: Path | None, file: str) -> Prepared:
    """Load the data and settle who takes part in what; everything that can be wrong with plan or data shows here.

    Raises:
        PlanError, DataError: what is wrong, and the remedy.
    """
    try:
        composition = plan.composition()
        presences = {table.name: table.presence for table in plan.client}
        clients = tuple(replace(client, presence=presences[client.name]) for client in vertical.clients(plan, data_dir))
        return Prepared(plan, clients, seat(composition.over(plan.federation.rounds), clients))
    except PlanError as error:
        raise error.seen_from(file=file) from error


def execute(prepared: Prepared, name: str, folder: RunFolder, listener: Listener) -> dict[str, Any]:
    """Run everything that is not done yet, and leave the whole folder; returns the summary."""
    began = time.perf_counter()
    plan = prepared.plan
    federated = _federate(prepared.together(), FEDERATED, plan, folder, listener)
    outcomes: dict[str, Mapping[str, Outcome]] = {FEDERATED: _leave_models(prepared.seating.clients, federated.clients, folder)}
    states = {FEDERATED: federated}
    if plan.federation.alone:
        states[ALONE] = _federate(prepared.apart(), ALONE, plan, folder, listener)
        outcomes[ALONE] = {c.name: _outcome(c, states[ALONE].clients[c.name]) for c in prepared.clients}
    if plan.federation.pooled:
        outcomes[POOLED] = _pool(prepared.apart(), plan, folder, listener)
    _write_rounds(states, folder)
    summary = summarise(name, plan, clients=prepared.clients, seating=prepared.seating, federated=federated, outcomes=outcomes)
    summary["seconds"] = round(time.perf_counter() - began, 2)
    write_json(folder.path / SUMMARY, summary)
    write_report(folder)
    return summary


def _federate(federation: Federation, arm: str, plan: Plan, folder: RunFolder, listener: Listener) -> FederationState:
    """One arm to its end, from its checkpoint if there is one."""
    file, digest = folder.checkpoints / f"{arm}.safetensors", plan.digest()
    state = load_state(file, digest) or start(federation)
    ledger = Ledger(folder.path / LEDGER)

    def on_upload(upload: Upload) -> None:
        ledger.write(upload)
        if upload.refused:
            listener.say(f"round {upload.round}: {upload.exchange} from {upload.client} refused: {upload.refused}")

    listener.begin(arm, federation.rounds, state.round)
    while state.round < federation.rounds:
        state = advance(federation, state, on_upload=on_upload)
        if state.round % plan.federation.checkpoint_every == 0 or state.round == federation.rounds:
            save_state(state, file, digest)
        latest = {row.client: row.validation for row in state.rows if row.round == state.round}
        listener.round_done(arm, state.round, values=latest, metric=federation.clients[0].task.metric)
    return state


def _outcome(client: Client, state: ClientState) -> Outcome:
    """How the model that was selected on validation data does on test data."""
    client.module.load_state_dict(state.best)
    return Outcome.of(judge(predict(client.module, client.data.test), client.task, client.data.test), state.best_round)


def _leave_models(clients: tuple[Client, ...], states: Mapping[str, ClientState], folder: RunFolder) -> dict[str, Outcome]:
    """Models and test predictions of the federation, and what the predictions are worth."""
    outcomes = {}
    for client in clients:
        home = folder.models / client.name
        home.mkdir(exist_ok=True)
        best = states[client.name].best
        write_bytes(home / "model.safetensors", save({name: tensor.contiguous() for name, tensor in best.items()}))
        write_json(home / "model.json", {"client": client.name, **client.about})
        outcomes[client.name] = _outcome(client, states[client.name])
        table = client.task.table(predict(client.module, client.data.test), client.data.test)
        table.to_csv(folder.predictions / f"{client.name}.csv", index=False, float_format="%.6g")
    return outcomes


def _pool(federation: Federation, plan: Plan, folder: RunFolder, listener: Listener) -> dict[str, Outcome]:
    """Pooled training of every kind of client; a kind that was done before an interruption is not trained again."""
    file = folder.checkpoints / f"{POOLED}.json"
    done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for members in kinds_of(federation.clients):
        if all(member.name in done for member in members):
            continue
        arm = f"{POOLED} for {', '.join(member.name for member in members)}"
        listener.begin(arm, federation.rounds, 0)
        on_round = partial(listener.round_done, arm, values={}, metric="")
        outcomes = train_pooled(federation, members, on_round)
        done |= {name: asdict(outcome) for name, outcome in outcomes.items()}
        write_json(file, done)
    return {name: Outcome(**outcome) for name, outcome in done.items()}


def _write_rounds(states: Mapping[str, FederationState], folder: RunFolder) -> None:
    rows = [{"arm": arm, **asdict(row)} for arm, state in states.items() for row in state.rows]
    pd.DataFrame(rows).to_csv(folder.path / ROUNDS, index=False, float_format="%.9g")
