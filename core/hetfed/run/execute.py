"""From clients and a composition to a whole run folder: every arm of the comparison, then the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.evaluation import Outcome
from hetfed.federation import FederationState
from hetfed.results.arms import FEDERATED, POOLED
from hetfed.results.folder import ROUNDS, SUMMARY, RunFolder
from hetfed.results.summary import Results, summarise
from hetfed.results.tables import write_csv
from hetfed.results.writing import write_json
from hetfed.run.clock import Clock
from hetfed.run.held import digest_of
from hetfed.run.keep import keep
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Listener
from hetfed.run.training import ArmTraining


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
    folder.expect_data({client.name: digest_of(client) for client in prepared.clients})
    clock = Clock.of(folder.checkpoints)
    training = ArmTraining(prepared, folder, listener, clock, lent)
    arms = training.arms()
    outcomes: dict[str, Mapping[str, Outcome]] = {arm: found.outcomes() for arm, found in arms.items()}
    if prepared.plan.federation.pooled:
        outcomes[POOLED] = training.pooled()
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
    summary["seconds"] = round(clock.seconds, 2)
    # Last of all: a folder with a summary is one whose run has ended.
    write_json(folder.path / SUMMARY, summary)
    return summary


def _write_rounds(states: Mapping[str, FederationState], folder: RunFolder) -> None:
    rows = [{"arm": arm, **asdict(row)} for arm, state in states.items() for row in state.rows]
    write_csv(folder.path / ROUNDS, pd.DataFrame(rows), float_format="%.9g")
