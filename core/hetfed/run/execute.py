"""From clients and a composition to a whole run folder: every arm of the comparison, then the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from hetfed.client import Client
from hetfed.evaluation import Outcome, predict
from hetfed.federation import FederationState
from hetfed.kept.save import save_model
from hetfed.payload import Upload
from hetfed.pooled import kinds_of, train_pooled
from hetfed.results.arms import ALONE, FEDERATED, FINETUNED, OWN_ARMS, POOLED, kept_arm
from hetfed.results.folder import LEDGER, ROUNDS, SUMMARY, RunFolder
from hetfed.results.ledger import Ledger
from hetfed.results.sealed import read_sealed, write_sealed
from hetfed.results.summary import Results, summarise
from hetfed.results.tables import write_csv
from hetfed.results.writing import write_json
from hetfed.rounds import finalize, run_round
from hetfed.run.arm import Arm
from hetfed.run.checkpoint import Checkpoint
from hetfed.run.clock import Clock
from hetfed.run.held import digest_of
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Listener


def execute(prepared: Prepared, name: str, folder: RunFolder, listener: Listener) -> dict[str, Any]:
    """Run everything that is not done yet, and leave the whole folder; returns the summary.

    Args:
        prepared: a plan whose clients have their data.
        name: the plan's own name, for the summary.
        folder: open and held; what it has of an interrupted run is not done again.
        listener: told of each round.

    Raises:
        RunError: a client's turn failed, or the disk is full.
    """
    folder.expect_data({client.name: digest_of(client) for client in prepared.clients})
    clock = Clock.of(folder.checkpoints)
    table = prepared.plan.federation
    federated = _run(prepared.federated(), prepared, folder, listener, clock)
    arms = {FEDERATED: federated}
    # Where nobody shares anything, fine-tuning would only be more rounds of training alone.
    if table.finetune and prepared.enrolment.composition.steps:
        arms[FINETUNED] = _run(prepared.finetuned(federated), prepared, folder, listener, clock)
    if table.alone:
        arms[ALONE] = _run(prepared.local(), prepared, folder, listener, clock)
    outcomes: dict[str, Mapping[str, Outcome]] = {arm: found.outcomes() for arm, found in arms.items()}
    if table.pooled:
        outcomes[POOLED] = _pool(prepared, folder, listener, clock)
    by_client = {c.name: {arm: found[c.name] for arm, found in outcomes.items()} for c in prepared.clients}
    # The pooled model is no candidate: a client could not have it outside of a simulation.
    kept = {c.name: kept_arm(by_client[c.name], higher_is_better=c.task.higher_is_better) for c in prepared.clients}
    for client, arm in kept.items():
        _leave_model(client, arms[arm or FEDERATED], by_client[client], prepared.clients, folder)
    _write_rounds({name: arm.state for name, arm in arms.items()}, folder)
    summary = summarise(
        name,
        prepared.plan,
        clients=prepared.clients,
        enrolment=prepared.enrolment,
        federated=federated.state,
        results=Results(by_client, kept, {name: arm.overall() for name, arm in arms.items()}),
    )
    summary["seconds"] = round(clock.seconds, 2)
    # Last of all: a folder with a summary is one whose run has ended.
    write_json(folder.path / SUMMARY, summary)
    return summary


def _run(arm: Arm, prepared: Prepared, folder: RunFolder, listener: Listener, clock: Clock) -> Arm:
    """One arm to its end, from its checkpoint if there is one, else from where it begins."""
    plan, federation = prepared.plan, arm.federation
    checkpoint = Checkpoint(folder.checkpoints / arm.name, plan.digest())
    ledger = Ledger(folder.path / LEDGER)
    state = checkpoint.load(arm.sites) or arm.state

    def on_upload(upload: Upload) -> None:
        """Record an upload, and tell of it where it was refused."""
        ledger.write(upload)
        if upload.refused:
            listener.say(f"round {upload.round}: {upload.exchange} from {upload.client} refused: {upload.refused}")

    metrics = {(profile.task.metric, profile.unit) for profile in federation.profiles}
    metric = metrics.pop()[0] if len(metrics) == 1 else ""
    listener.begin(arm.name, federation.rounds, state.round)
    while state.round < federation.rounds:
        state = run_round(federation, state, arm.sites, on_upload)
        # Before `finalize`, which moves the clients on: else a run resumed at its end would take the last broadcast in twice.
        if state.round % plan.federation.checkpoint_every == 0 or state.round == federation.rounds:
            checkpoint.save(state, arm.sites)
            clock.save()
        _tell(state, arm.name, metric, listener)
    return arm.ended(finalize(federation, state, arm.sites, on_upload))


def _tell(state: FederationState, arm: str, metric: str, listener: Listener) -> None:
    """What the latest round came to."""
    latest = [row for row in state.rows if row.round == state.round]
    for row in latest:
        if row.failed:
            listener.say(f"round {row.round}: the turn of {row.client} failed: {row.failed}")
    listener.round_done(arm, state.round, values={row.client: row.validation for row in latest}, metric=metric)


def _leave_model(name: str, arm: Arm, outcomes: Mapping[str, Outcome], before: Sequence[Client], folder: RunFolder) -> None:
    """The model that a client keeps, what it is, and its predictions on test data."""
    client, best = arm.sites.clients[name], arm.selected(name)
    # The validation metric of every arm, by which the client could have chosen, and no metric on test data, by which it could
    # not.
    validation = {arm: outcome.validation for arm, outcome in outcomes.items() if arm in OWN_ARMS}
    about = {"arm": arm.name, "validation": validation}
    save_model(folder.models / name, client, best, composition=arm.extended_by, before=before, about=about)
    client.module.load_state_dict(best)
    table = client.task.table(predict(client.module, client.data.test), client.data.test)
    write_csv(folder.predictions / f"{name}.csv", table, float_format="%.6g")


def _pool(prepared: Prepared, folder: RunFolder, listener: Listener, clock: Clock) -> dict[str, Outcome]:
    """Pooled training of every kind of client; a kind that was done before an interruption is not trained again."""
    federation, clients = prepared.local().federation, _ordered(prepared.clients)
    file = folder.checkpoints / f"{POOLED}.json"
    done: dict[str, Any] = read_sealed(file) or {}
    for members in kinds_of(clients):
        if all(member.name in done for member in members):
            continue
        arm = f"{POOLED} for {', '.join(member.name for member in members)}"
        listener.begin(arm, federation.rounds, 0)
        on_round = partial(listener.round_done, arm, values={}, metric="")
        outcomes = train_pooled(federation, clients, members, on_round)
        done |= {name: asdict(outcome) for name, outcome in outcomes.items()}
        # After every kind: pooled training has no checkpoints, and an interruption costs one kind at most.
        write_sealed(file, done)
        clock.save()
    return {name: Outcome(**outcome) for name, outcome in done.items()}


def _ordered(clients: Sequence[Client]) -> list[Client]:
    """In the order of their names: the order of a plan changes nothing."""
    return sorted(clients, key=lambda client: client.name)


def _write_rounds(states: Mapping[str, FederationState], folder: RunFolder) -> None:
    rows = [{"arm": arm, **asdict(row)} for arm, state in states.items() for row in state.rows]
    write_csv(folder.path / ROUNDS, pd.DataFrame(rows), float_format="%.9g")
