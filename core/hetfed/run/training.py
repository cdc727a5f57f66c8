"""The training of every arm of a run, each from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hetfed.client import Client
from hetfed.evaluation import Outcome
from hetfed.federation import FederationState
from hetfed.payload import Upload
from hetfed.pooled import kinds_of, train_pooled
from hetfed.results.arms import ALONE, FEDERATED, FINETUNED, POOLED
from hetfed.results.folder import LEDGER, RunFolder
from hetfed.results.ledger import Ledger
from hetfed.results.sealed import read_sealed, write_sealed
from hetfed.rounds import ask, finalize, run_round
from hetfed.run.arm import Arm
from hetfed.run.checkpoint import Checkpoint
from hetfed.run.clock import Clock
from hetfed.run.prepare import Prepared
from hetfed.run.progress import Listener


@dataclass(frozen=True)
class ArmTraining:
    """Trains the arms of one run.

    Args:
        prepared: a plan whose clients have their data.
        folder: open and held; what it has of an interrupted run is not done again.
        listener: told of each round.
        clock: of the run.
        lent: the checkpoint of an arm in which the same clients have trained alone for as many steps.
    """

    prepared: Prepared
    folder: RunFolder
    listener: Listener
    clock: Clock
    lent: Path | None = None

    def arms(self) -> dict[str, Arm]:
        """Every arm at its end but pooled training, which leaves no client a model of its own.

        Raises:
            RunError: a client's turn failed, or the disk is full.
        """
        prepared, branching = self.prepared, self.prepared.branching_round
        federated, arms = prepared.federated(), dict[str, Arm]()
        if branching:
            federated = self._run(federated, until=branching)
            arms[FINETUNED] = self._branch(federated)
        federated = self._run(federated)
        ended = finalize(federated.federation, federated.state, federated.sites, self._on_upload)
        arms = {FEDERATED: replace(federated, state=ended), **arms}
        if FINETUNED in arms:
            arms[FINETUNED] = self._run(arms[FINETUNED])
        if prepared.plan.federation.alone:
            arms[ALONE] = self._run(prepared.local(), lent=self.lent)
        return arms

    def pooled(self) -> dict[str, Outcome]:
        """The outcomes of pooled training by client; a kind that was done before an interruption is not trained again."""
        # In the order of their names: the order of a plan changes nothing.
        clients: Sequence[Client] = sorted(self.prepared.clients, key=lambda client: client.name)
        federation, file = self.prepared.local().federation, self.folder.checkpoints / f"{POOLED}.json"
        done: dict[str, Any] = read_sealed(file) or {}
        for members in kinds_of(clients):
            if all(member.name in done for member in members):
                continue
            arm = f"{POOLED} for {', '.join(member.name for member in members)}"
            self.listener.begin(arm, federation.rounds, 0)
            on_round = partial(self.listener.round_done, arm, values={}, metric="")
            outcomes = train_pooled(federation, clients, members, on_round)
            done |= {name: asdict(outcome) for name, outcome in outcomes.items()}
            # After every kind: pooled training has no checkpoints, and an interruption costs one kind at most.
            write_sealed(file, done)
            self.clock.save()
        return {name: Outcome(**outcome) for name, outcome in done.items()}

    def _run(self, arm: Arm, *, until: int | None = None, lent: Path | None = None) -> Arm:
        """An arm up to a round, or to the last one; from its checkpoint or one that is lent, else from where it begins."""
        federation, checkpoint = arm.federation, self._checkpoint(arm)
        last, every = federation.rounds if until is None else until, self.prepared.plan.federation.checkpoint_every
        state = checkpoint.load(arm.sites) or (lent and Checkpoint(lent, None).load(arm.sites)) or arm.state
        metrics = {(profile.task.metric, profile.unit) for profile in federation.profiles}
        metric = metrics.pop()[0] if len(metrics) == 1 else ""
        self.listener.begin(arm.name, federation.rounds, state.round)
        while state.round < last:
            state = run_round(federation, state, arm.sites, self._on_upload)
            # Before `finalize`, which moves the clients on: else a run resumed at its end would take the last broadcast in
            # twice.
            if state.round % every == 0 or state.round == last:
                checkpoint.save(state, arm.sites)
                self.clock.save()
            self._tell(state, arm.name, metric)
        return replace(arm, state=state)

    def _branch(self, federated: Arm) -> Arm:
        """Where fine-tuning begins: with the federation's models, what the last uploads have made of them included."""
        arm = self.prepared.finetuned(federated)
        checkpoint = self._checkpoint(arm)
        if checkpoint.load(arm.sites) is not None:
            return arm
        if federated.state.round != arm.state.round:
            # The federation has gone on, and the checkpoint, the only one of that round, has been deleted since.
            federated = self._again(arm.state.round)
            arm = self.prepared.finetuned(federated)
        finalize(replace(federated.federation, rounds=arm.state.round), federated.state, arm.sites)
        ask(arm.federation, arm.sites, "adopt")
        checkpoint.save(arm.state, arm.sites)
        return arm

    def _again(self, rounds: int) -> Arm:
        """The federation after so many rounds, which it has been through before: the ledger has them."""
        arm = self.prepared.federated()
        state = arm.state
        while state.round < rounds:
            state = run_round(arm.federation, state, arm.sites)
        return replace(arm, state=state)

    def _checkpoint(self, arm: Arm) -> Checkpoint:
        return Checkpoint(self.folder.checkpoints / arm.name, self.prepared.plan.digest())

    def _on_upload(self, upload: Upload) -> None:
        """Record an upload, and tell of it where it was refused."""
        Ledger(self.folder.path / LEDGER).write(upload)
        if upload.refused:
            self.listener.say(f"round {upload.round}: {upload.exchange} from {upload.client} refused: {upload.refused}")

    def _tell(self, state: FederationState, arm: str, metric: str) -> None:
        """What the latest round came to."""
        latest = [row for row in state.rows if row.round == state.round]
        for row in latest:
            if row.failed:
                self.listener.say(f"round {row.round}: the turn of {row.client} failed: {row.failed}")
        self.listener.round_done(arm, state.round, values={row.client: row.validation for row in latest}, metric=metric)
