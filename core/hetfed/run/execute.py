"""From clients and a composition to a whole run folder: every arm of the comparison, then the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.client import Client
from hetfed.evaluation import Outcome
from hetfed.federation import FederationState
from hetfed.payload import Upload
from hetfed.pooled import kinds_of, train_pooled
from hetfed.results.arms import ALONE, FEDERATED, FINETUNED, POOLED
from hetfed.results.folder import LEDGER, ROUNDS, SUMMARY, RunFolder, write_json
from hetfed.results.ledger import Ledger
from hetfed.results.summary import Results, summarise
from hetfed.rounds import OnUpload, ask, finalize, run_round
from hetfed.run.arm import Arm
from hetfed.run.checkpoint import Checkpoint
from hetfed.run.keep import keep
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Listener


def execute(prepared: Prepared, name: str, folder: RunFolder, listener: Listener, lent: Path | None = None) -> dict[str, Any]:
    """Run everything that is not done yet, and leave the whole folder; returns the summary.

    Args:
        prepared: a plan whose clients have their data.
        name: the plan's own name, for the summary.
        folder: open and held; what it has of an interrupted run is not done again.
        listener: told of each round.
        lent: the checkpoint of an arm in which the same clients have trained alone, so that they need not again.

    Raises:
        RunError: a client's turn failed, or the disk is full.
    """
    began = time.perf_counter()
    table, arms = prepared.plan.federation, train_arms(prepared, folder, listener, lent)
    outcomes: dict[str, Mapping[str, Outcome]] = {arm: found.outcomes() for arm, found in arms.items()}
    if table.pooled:
        outcomes[POOLED] = _pool(prepared, folder, listener)
    by_client = {c.name: {arm: found[c.name] for arm, found in outcomes.items()} for c in prepared.clients}
    # The pooled model is no candidate: a client could not have it outside of a simulation.
    ended = {client.name: keep(client, arms, prepared, folder) for client in prepared.clients}
    _write_rounds({name: arm.state for name, arm in arms.items()}, folder)
    summary = summarise(
        name,
        prepared.plan,
        clients=prepared.clients,
        enrolment=prepared.enrolment,
        federated=arms[FEDERATED].state,
        results=Results(
            by_client,
            {name: found.kept if found else None for name, found in ended.items()},
            {name: arm.overall() for name, arm in arms.items()},
            {name: found.compared for name, found in ended.items() if found},
        ),
    )
    summary["seconds"] = round(time.perf_counter() - began, 2)
    # Last of all: a folder with a summary is one whose run has ended.
    write_json(folder.path / SUMMARY, summary)
    return summary


def train_arms(prepared: Prepared, folder: RunFolder, listener: Listener, lent: Path | None = None) -> dict[str, Arm]:
    """Every arm but pooled training, at its end; arguments as in `execute`."""
    federated, arms = prepared.federated(), dict[str, Arm]()
    if prepared.branching_round:
        federated = _run(federated, prepared, folder, listener, until=prepared.branching_round)
        arms[FINETUNED] = _branch(federated, prepared, folder)
    arms = {FEDERATED: _conclude(_run(federated, prepared, folder, listener), folder, listener), **arms}
    if FINETUNED in arms:
        arms[FINETUNED] = _run(arms[FINETUNED], prepared, folder, listener)
    if prepared.plan.federation.alone:
        arms[ALONE] = _run(prepared.local(), prepared, folder, listener, lent=lent)
    return arms


def _run(
    arm: Arm,
    prepared: Prepared,
    folder: RunFolder,
    listener: Listener,
    *,
    until: int | None = None,
    lent: Path | None = None,
) -> Arm:
    """An arm up to a round, or to the last one; from its checkpoint or one that is lent if there is one, else from where it
    begins."""
    plan, federation = prepared.plan, arm.federation
    checkpoint, last = _checkpoint(arm, prepared, folder), federation.rounds if until is None else until
    state = checkpoint.load(arm.sites) or (lent and Checkpoint(lent, None).load(arm.sites)) or arm.state
    metrics = {(profile.task.metric, profile.unit) for profile in federation.profiles}
    metric = metrics.pop()[0] if len(metrics) == 1 else ""
    listener.begin(arm.name, federation.rounds, state.round)
    while state.round < last:
        state = run_round(federation, state, arm.sites, _on_upload(folder, listener))
        # Before `finalize`, which moves the clients on: else a run resumed at its end would take the last broadcast in twice.
        if state.round % plan.federation.checkpoint_every == 0 or state.round == last:
            checkpoint.save(state, arm.sites)
        _tell(state, arm.name, metric, listener)
    return replace(arm, state=state)


def _branch(federated: Arm, prepared: Prepared, folder: RunFolder) -> Arm:
    """Where fine-tuning begins: with the federation's models, what the last uploads have made of them included."""
    arm = prepared.finetuned(federated)
    checkpoint = _checkpoint(arm, prepared, folder)
    # Once the federation has gone on, its models of the branching round stand in that checkpoint alone.
    if checkpoint.load(arm.sites) is None:
        finalize(replace(federated.federation, rounds=arm.state.round), federated.state, arm.sites)
        ask(arm.federation, arm.sites, "adopt")
        checkpoint.save(arm.state, arm.sites)
    return arm


def _conclude(arm: Arm, folder: RunFolder, listener: Listener) -> Arm:
    """The arm once what came of the last uploads has reached its clients."""
    return replace(arm, state=finalize(arm.federation, arm.state, arm.sites, _on_upload(folder, listener)))


def _checkpoint(arm: Arm, prepared: Prepared, folder: RunFolder) -> Checkpoint:
    return Checkpoint(folder.checkpoints / arm.name, prepared.plan.digest())


def _on_upload(folder: RunFolder, listener: Listener) -> OnUpload:
    ledger = Ledger(folder.path / LEDGER)

    def on_upload(upload: Upload) -> None:
        """Record an upload, and tell of it where it was refused."""
        ledger.write(upload)
        if upload.refused:
            listener.say(f"round {upload.round}: {upload.exchange} from {upload.client} refused: {upload.refused}")

    return on_upload


def _tell(state: FederationState, arm: str, metric: str, listener: Listener) -> None:
    """What the latest round came to."""
    latest = [row for row in state.rows if row.round == state.round]
    for row in latest:
        if row.failed:
            listener.say(f"round {row.round}: the turn of {row.client} failed: {row.failed}")
    listener.round_done(arm, state.round, values={row.client: row.validation for row in latest}, metric=metric)


def _pool(prepared: Prepared, folder: RunFolder, listener: Listener) -> dict[str, Outcome]:
    """Pooled training of every kind of client; a kind that was done before an interruption is not trained again."""
    federation, clients = prepared.local().federation, _ordered(prepared.clients)
    file = folder.checkpoints / f"{POOLED}.json"
    done: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for members in kinds_of(clients):
        if all(member.name in done for member in members):
            continue
        arm = f"{POOLED} for {', '.join(member.name for member in members)}"
        listener.begin(arm, federation.rounds, 0)
        on_round = partial(listener.round_done, arm, values={}, metric="")
        outcomes = train_pooled(federation, clients, members, on_round)
        done |= {name: asdict(outcome) for name, outcome in outcomes.items()}
        # After every kind: pooled training has no checkpoints, and an interruption costs one kind at most.
        write_json(file, done)
    return {name: Outcome(**outcome) for name, outcome in done.items()}


def _ordered(clients: Sequence[Client]) -> list[Client]:
    """In the order of their names: the order of a plan changes nothing."""
    return sorted(clients, key=lambda client: client.name)


def _write_rounds(states: Mapping[str, FederationState], folder: RunFolder) -> None:
    rows = [{"arm": arm, **asdict(row)} for arm, state in states.items() for row in state.rows]
    pd.DataFrame(rows).to_csv(folder.path / ROUNDS, index=False, float_format="%.9g")
