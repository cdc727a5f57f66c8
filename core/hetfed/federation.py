"""The federation, as its server knows it: profiles and a composition; and its state.

Both are plain values: a process without any data can hold them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from hetfed.client import Tensors
from hetfed.composition import Composition, Enrolment, Step
from hetfed.context import ServerContext
from hetfed.data import Examples
from hetfed.participation import Participation, duration
from hetfed.payload import Declaration, InFlight
from hetfed.profile import Profile
from hetfed.selection import Select
from hetfed.turn import Round, Stage


@dataclass(frozen=True)
class Federation:
    """The participants and the way they learn together; build one by `Federation.of`.

    Args:
        profiles: those of the clients, in the order of their names: the order of a plan changes nothing.
        composition: one over these `rounds`, in which no step's end counts from the last round any more.
        rounds: how many there are.
        seed: from which all chance is derived.
        quorum: how many uploads of an exchange the server needs before it merges them; below it, its state stays as it was.
        participation: who is asked in a round, and how long the server waits.
        select: which model of a client counts.
        public: the public inputs as clients read them, for exchanges that work on them at the server.
    """

    profiles: tuple[Profile, ...]
    composition: Composition
    rounds: int
    seed: int
    quorum: int = 1
    participation: Participation = field(default_factory=Participation)
    select: Select = "validation"
    public: Mapping[str, Examples] = field(default_factory=dict)

    @staticmethod
    def of(
        enrolment: Enrolment,
        rounds: int,
        seed: int,
        *,
        quorum: int = 1,
        participation: Participation | None = None,
        select: Select = "validation",
        public: Mapping[str, Examples] | None = None,
    ) -> Federation:
        """A federation of the clients that are enrolled, in the order of their names; arguments as in the class."""
        # By name: sums run in this order, and the order of a plan must not change a bit.
        ordered = tuple(sorted(enrolment.profiles, key=lambda profile: profile.name))
        composition, chosen = enrolment.composition.over(rounds), participation or Participation()
        return Federation(ordered, composition, rounds, seed, quorum, chosen, select, public or {})

    @cached_property
    def peers(self) -> Mapping[str, Profile]:
        """The profiles by the clients' names."""
        return {profile.name: profile for profile in self.profiles}

    @cached_property
    def members(self) -> Mapping[str, Mapping[str, Profile]]:
        """The profiles of the clients that take part in each step, by the step's label and the clients' names."""
        return {step.label: {p.name: p for p in self.profiles if step.includes(p.name)} for step in self.composition}

    @cached_property
    def declared(self) -> Mapping[str, Mapping[str, Declaration]]:
        """The declaration of each upload, by the step's label and its members' names."""
        return {
            # Once for the whole run: a declaration follows from a profile, and profiles do not change.
            step.label: {name: step.exchange.declare(profile) for name, profile in self.members[step.label].items()}
            for step in self.composition
        }

    @cached_property
    def groups(self) -> Mapping[str, Mapping[str, str]]:
        """The group in which each upload is merged, by the step's label and its members' names."""
        return {
            step.label: {name: step.exchange.group(profile) for name, profile in self.members[step.label].items()}
            for step in self.composition
        }

    def duration(self, name: str, round_number: int) -> float:
        """How long a client's local training takes in a round, in units of its `presence.speed`."""
        profile = self.peers[name]
        # Phases differ from round to round, and with them how long a turn takes.
        phases = self.composition.phases_of(profile, round_number, self.rounds)
        return duration(profile, sum(phase.examples(profile.training, profile.examples) for phase in phases))

    def round(self, number: int, rows: Sequence[Row] = ()) -> Round:
        """The settings that every turn of a round needs; the round after the last one is final.

        Args:
            number: from 1.
            rows: of the rounds so far, by which everybody's figures choose one.
        """
        stage: Stage = "final" if number > self.rounds else "train"
        chosen = self.best_round(rows, before=number - 1) if self.select == "everybody" else 0
        return Round(number, self.rounds, self.seed, self.composition, self.peers, self.select, chosen, stage)

    def best_round(self, rows: Sequence[Row], before: int) -> int:
        """The round, below `before`, whose models do best on the validation data of all clients; 0 where there is none.

        A client's figure weighs as many examples as it stands for. Of rounds that do equally well, and where no figure is
        defined, it is the last one.
        """
        found = {(row.round, row.client): row for row in rows if not row.failed}
        latest: dict[str, float] = {}
        best, score = 0, -math.inf
        for number in range(1, min(before, self.rounds + 1)):
            for profile in self.profiles:
                after, row = found.get((number + 1, profile.name)), found.get((number, profile.name))
                # What the others' uploads have made of the model shows when it arrives.
                value = after.received if after and after.received is not None else row.validation if row else None
                if value is not None:
                    # Who was absent counts with the figure before.
                    latest[profile.name] = value if profile.task.higher_is_better else -value
            weights = {p.name: p.validation_examples for p in self.profiles if p.name in latest}
            mean = sum(latest[name] * weight for name, weight in weights.items()) / max(sum(weights.values()), 1)
            if mean >= score:
                best, score = number, mean
        return best

    def server_context(self, step: Step, round_number: int, reached: int = 0) -> ServerContext:
        """The server as the exchange of `step` sees it in a round.

        Args:
            step: of the composition.
            round_number: 0 before the first round.
            reached: while the server broadcasts, the last round up to which that client has been sent what was to be sent.
        """
        return ServerContext(
            self.members[step.label],
            self.seed,
            round_number,
            asynchronous=self.participation.asynchronous,
            reached=reached,
            groups=self.groups[step.label],
            public=self.public,
            aggregation=step.aggregation,
        )


@dataclass(frozen=True)
class Row:
    """One client in one round, as it stands in rounds.csv.

    Args:
        round: from 1; the round after the last one has no training.
        client: its name.
        train_loss: the mean over the steps of local training; NaN without any.
        received: the metric on its validation data of the model as it arrived; None where nothing arrived that was trained.
        validation: the metric there after training; None where it is not defined.
        validation_loss: the loss there.
        seconds: of the turn, where it ran.
        bytes_up: of all payloads that it sent.
        bytes_down: of all payloads that it was sent.
        refused: how many of its uploads of this round the server refused, however late.
        failed: why its turn came to nothing; empty where it did not.
    """

    round: int
    client: str
    train_loss: float
    received: float | None
    validation: float | None
    validation_loss: float
    seconds: float
    bytes_up: int
    bytes_down: int
    refused: int
    failed: str = ""


@dataclass
class FederationState:
    """Everything that the server of a run needs in order to go on; the clients' states are with the clients.

    Args:
        round: how many rounds are done.
        server: the server's state of each step, by its label.
        rows: of all rounds so far.
        pending: the uploads that are still on their way.
    """

    round: int
    server: dict[str, Tensors]
    rows: list[Row] = field(default_factory=list)
    pending: list[InFlight] = field(default_factory=list)
