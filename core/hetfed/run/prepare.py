"""What a run needs before it starts: clients with their data, and a settled composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hetfed.client import Client
from hetfed.composition import Enrolment
from hetfed.engines.local import Sites
from hetfed.errors import PlanError
from hetfed.federation import Federation, FederationState
from hetfed.holding import check_apart
from hetfed.participation import Participation, Presence
from hetfed.plan import Plan
from hetfed.profile import Profile
from hetfed.results.arms import ALONE, FEDERATED, FINETUNED
from hetfed.rounds import init
from hetfed.run.arm import Arm
from hetfed.run.enrolled import enrolled
from hetfed.vertical import Vertical


@dataclass(frozen=True)
class Prepared:
    """A plan whose clients have their data and whose composition is settled.

    Args:
        plan: as it was read.
        clients: in the order of the plan.
        enrolment: who takes part in which exchange.
    """

    plan: Plan
    clients: tuple[Client, ...]
    enrolment: Enrolment

    def federated(self) -> Arm:
        """The clients under the plan's composition, before the first round."""
        table = self.plan.federation
        sites = Sites.of(self.clients, self.enrolment, table.seed)
        federation = Federation.of(
            self.enrolment,
            table.rounds,
            table.seed,
            quorum=table.quorum,
            participation=self.plan.participation,
            select=table.select,
            # Asked of the sites, since the server holds no data.
            public=sites.public(self.enrolment.composition),
        )
        return Arm(FEDERATED, federation, sites, init(federation), self.enrolment.composition)

    def local(self) -> Arm:
        """The same clients, sharing nothing."""
        enrolment = self._sharing_nothing([client.profile for client in self.clients])
        # With the same seed: an architecture starts from the same weights alone and federated.
        sites = Sites.of(self.clients, enrolment, self.plan.federation.seed)
        return Arm(ALONE, self._each_by_itself(enrolment), sites, FederationState(0, {}))

    @property
    def branching_round(self) -> int:
        """The round after which fine-tuning leaves the federation; 0 where nobody fine-tunes."""
        table = self.plan.federation
        # Of a short run at most half: a federation of no round at all would be training alone.
        last = min(table.finetune, table.rounds // 2)
        return table.rounds - last if last and self.enrolment.composition.steps else 0

    def finetuned(self, federated: Arm) -> Arm:
        """The clients with their models of the branching round, who train by themselves for the rest of the rounds.

        Fine-tuning shows what a client makes of the federation's model when it may adapt it. All arms take equally many steps.

        Args:
            federated: the arm after that round.
        """
        enrolment = self._sharing_nothing(self.enrolment.profiles)
        # States of their own: those of the federation stay as they are.
        sites = Sites(federated.sites.clients, dict(federated.sites.states))
        state = FederationState(self.branching_round, {})
        return Arm(FINETUNED, self._each_by_itself(enrolment), sites, state, self.enrolment.composition)

    def _sharing_nothing(self, profiles: Sequence[Profile]) -> Enrolment:
        """Nobody is asked or waited for: every client trains in every round."""
        # Who is reliable already stays the same object, with what is known of its model.
        there = [p if p.presence == Presence() else replace(p, presence=Presence()) for p in profiles]
        return Enrolment(self.enrolment.composition.sharing_nothing(), tuple(there))

    def _each_by_itself(self, enrolment: Enrolment) -> Federation:
        table = self.plan.federation
        participation = Participation(tolerate_failures=self.plan.participation.tolerate_failures)
        # Everybody's figures are something that is shared.
        select = "validation" if table.select == "everybody" else table.select
        return Federation.of(enrolment, table.rounds, table.seed, participation=participation, select=select)


def prepare(plan: Plan, vertical: Vertical, data_dir: Path | None, file: str) -> Prepared:
    """Load the data and settle who takes part in what; everything that can be wrong with plan or data shows here.

    Args:
        plan: as `read_plan` gives it.
        vertical: makes clients of the plan.
        data_dir: the folder of data sets.
        file: what messages call the plan.

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
    clients = tuple(replace(client, presence=presences[client.name]) for client in vertical.clients(plan, data_dir))
    check_apart(clients)
    return clients
