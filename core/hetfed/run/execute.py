"""From a plan to a whole run folder: every arm of the comparison; then the summary and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.client import Client, ClientState
from hetfed.composition import Composition, Enrolment
from hetfed.errors import PlanError
from hetfed.evaluation import Outcome, evaluate, predict, together
from hetfed.federation import Federation, FederationState, Upload, advance, conclude, start
from hetfed.kept.save import save_model
from hetfed.participation import Participation, Presence
from hetfed.plan import Plan
from hetfed.pooled import kinds_of, train_pooled
from hetfed.report import write_report
from hetfed.run.arms import ALONE, FEDERATED, FINETUNED, OWN_ARMS, POOLED, kept_arm
from hetfed.run.checkpoint import load_state, save_state
from hetfed.run.enrolled import enrolled
from hetfed.run.folder import LEDGER, ROUNDS, SUMMARY, RunFolder, write_json
from hetfed.run.ledger import Ledger
from hetfed.run.progress import Listener
from hetfed.run.summary import Results, summarise
from hetfed.vertical import Vertical


@dataclass(frozen=True)
class Prepared:
    """A plan whose clients have their data and whose composition is settled."""

    plan: Plan
    clients: tuple[Client, ...]
    enrolment: Enrolment

    def together(self) -> Federation:
        """The clients under the plan's composition."""
        table = self.plan.federation
        return Federation.of(
            self.enrolment.clients,
            self.enrolment.composition,
            table.rounds,
            table.seed,
            quorum=table.quorum,
            participation=self.plan.participation,
            select=table.select,
        )

    def apart(self) -> Federation:
        """The same clients, sharing nothing."""
        return self._each_by_itself(self.clients, self.plan.federation.rounds)

    def finetuning(self) -> Federation:
        """The clients as the federation has them, sharing nothing any more."""
        return self._each_by_itself(self.enrolment.clients, self.plan.federation.finetune)

    def _each_by_itself(self, clients: Sequence[Client], rounds: int) -> Federation:
        """Nobody is asked or waited for: every client trains in every round."""
        # Who is reliable already stays the same object, with its live module and its probe.
        there = [c if c.presence == Presence() else replace(c, presence=Presence()) for c in clients]
        participation = Participation(tolerate_failures=self.plan.participation.tolerate_failures)
        table = self.plan.federation
        return Federation.of(there, Composition(), rounds, table.seed, participation=participation, select=table.select)


def prepare(plan: Plan, vertical: Vertical, data_dir: Path | None, file: str) -> Prepared:
    """Load the data and settle who takes part in what; everything that can be wrong with plan or data shows here.

    Raises:
        PlanError, DataError: what is wrong, and the remedy.
    """
    try:
        clients = load_clients(plan, vertical, data_dir)
        return Prepared(plan, clients, enrolled(plan, clients))
    except PlanError as error:
        raise error.seen_from(file=file) from error


def load_clients(plan: Plan, vertical: Vertical, data_dir: Path | None) -> tuple[Client, ...]:
    """The plan's clients with their data.

    Raises:
        PlanError, DataError: what is wrong, and the remedy.
    """
    presences = {table.name: table.presence for table in plan.client}
    return tuple(replace(client, presence=presences[client.name]) for client in vertical.clients(plan, data_dir))


def execute(prepared: Prepared, name: str, folder: RunFolder, listener: Listener) -> dict[str, Any]:
    """Run everything that is not done yet, and leave the whole folder; returns the summary."""
    began = time.perf_counter()
    plan = prepared.plan
    federated = _federate(prepared.together(), FEDERATED, plan, folder, listener)
    arms = {FEDERATED: Arm(prepared.enrolment.clients, federated, prepared.enrolment.composition, prepared.clients)}
    # Where nobody shares anything, fine-tuning would only be more rounds of training alone.
    if plan.federation.finetune and prepared.enrolment.composition.steps:
        tuned = _federate(prepared.finetuning(), FINETUNED, plan, folder, listener, begin=_as_found(federated))
        arms[FINETUNED] = replace(arms[FEDERATED], state=tuned)
    if plan.federation.alone:
        arms[ALONE] = Arm(prepared.clients, _federate(prepared.apart(), ALONE, plan, folder, listener))
    outcomes: dict[str, Mapping[str, Outcome]] = {name: arm.outcomes() for name, arm in arms.items()}
    if plan.federation.pooled:
        outcomes[POOLED] = _pool(prepared.apart(), plan, folder, listener)
    by_client = {c.name: {arm: found[c.name] for arm, found in outcomes.items()} for c in prepared.clients}
    kept = {c.name: kept_arm(by_client[c.name], higher_is_better=c.task.higher_is_better) for c in prepared.clients}
    for client, arm in kept.items():
        _leave_model(client, arms[arm or FEDERATED], by_client[client], arm or FEDERATED, folder)
    _write_rounds({name: arm.state for name, arm in arms.items()}, folder)
    summary = summarise(
        name,
        plan,
        clients=prepared.clients,
        enrolment=prepared.enrolment,
        federated=federated,
        results=Results(by_client, kept, {name: arm.overall() for name, arm in arms.items()}),
    )
    summary["seconds"] = round(time.perf_counter() - began, 2)
    write_json(folder.path / SUMMARY, summary)
    write_report(folder)
    return summary


@dataclass(frozen=True)
class Arm:
    """One arm at its end."""

    clients: tuple[Client, ...]
    state: FederationState
    composition: Composition = field(default_factory=Composition)
    before: tuple[Client, ...] = ()
    """The clients as they were before the composition added anything to their models."""

    def outcomes(self) -> dict[str, Outcome]:
        """How each client's selected model does on test data."""
        return {client.name: self._outcome(client) for client in self.clients}

    def _outcome(self, client: Client) -> Outcome:
        state = self.state.clients[client.name]
        if not state.best:
            return Outcome(note="it never completed a round")
        client.module.load_state_dict(state.best)
        selection, test = (evaluate(client.module, client.task, part) for part in (client.data.validation, client.data.test))
        return Outcome.of(test, state.best_round, selection)

    def overall(self) -> float | None:
        """The metric on the test data of all clients together, each judged by its own model; None where that makes no sense."""
        said = []
        for client in self.clients:
            # Who never completed a round is judged by its first model: left out, it would change whom the metric is about.
            client.module.load_state_dict(self.state.clients[client.name].best or self.state.clients[client.name].model)
            said.append(predict(client.module, client.data.test))
        return together(said, self.clients)


def _as_found(federated: FederationState) -> FederationState:
    """The state before fine-tuning: every client has its selected federated model, which stays the best until a better one.

    A client that never completed a round has its first model.
    """
    clients = {
        # Without moments and memories: they belong to the model at the end, and this is the one that was selected.
        name: ClientState(dict(state.best or state.model), best=dict(state.best), score=state.score)
        for name, state in federated.clients.items()
    }
    return FederationState(0, {}, clients)


def _federate(
    federation: Federation,
    arm: str,
    plan: Plan,
    folder: RunFolder,
    listener: Listener,
    *,
    begin: FederationState | None = None,
) -> FederationState:
    """One arm to its end, from its checkpoint if there is one, else from `begin`, else from the very start."""
    file, digest = folder.checkpoints / f"{arm}.safetensors", plan.digest()
    state = load_state(file, digest) or begin or start(federation)
    ledger = Ledger(folder.path / LEDGER)

    def on_upload(upload: Upload) -> None:
        ledger.write(upload)
        if upload.refused:
            listener.say(f"round {upload.round}: {upload.exchange} from {upload.client} refused: {upload.refused}")

    metrics = {(client.task.metric, client.about.get("unit", "")) for client in federation.clients}
    metric = metrics.pop()[0] if len(metrics) == 1 else ""
    listener.begin(arm, federation.rounds, state.round)
    while state.round < federation.rounds:
        state = advance(federation, state, on_upload=on_upload)
        # Before `conclude`, which changes the state: else a run resumed at its end would take the last broadcast in twice.
        if state.round % plan.federation.checkpoint_every == 0 or state.round == federation.rounds:
            save_state(state, file, digest)
        latest = [row for row in state.rows if row.round == state.round]
        for row in latest:
            if row.failed:
                listener.say(f"round {row.round}: the turn of {row.client} failed: {row.failed}")
        values = {row.client: row.validation for row in latest}
        listener.round_done(arm, state.round, values=values, metric=metric)
    conclude(federation, state, on_upload)
    return state


def _leave_model(name: str, arm: Arm, outcomes: Mapping[str, Outcome], kept: str, folder: RunFolder) -> None:
    """The model that a client keeps, what it is, and its predictions on test data."""
    client = next(client for client in arm.clients if client.name == name)
    state = arm.state.clients[name]
    # Who never completed a round has its first model.
    best = state.best or state.model
    # The validation metric of every arm, by which the client could have chosen, and no metric on test data, by which it could
    # not.
    validation = {arm: outcome.validation for arm, outcome in outcomes.items() if arm in OWN_ARMS}
    about = {"arm": kept, "validation": validation}
    save_model(folder.models / name, client, best, composition=arm.composition, before=arm.before, about=about)
    client.module.load_state_dict(best)
    table = client.task.table(predict(client.module, client.data.test), client.data.test)
    table.to_csv(folder.predictions / f"{name}.csv", index=False, float_format="%.6g")


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
