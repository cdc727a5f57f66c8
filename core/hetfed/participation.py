"""Who takes part in a round: which clients the server asks, which of them are there, and how long they take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from hetfed.plan_schema import Table
from hetfed.seeding import generator

if TYPE_CHECKING:
    from hetfed.profile import Profile


class Presence(Table):
    """How reliable and how fast a client is: the `presence` table of a client.

    `availability` is the probability that it answers in a round. `speed` is in thousands of training examples per unit of time;
    it matters where the federation has a `time_limit`.
    """

    availability: float = Field(default=1.0, ge=0, le=1)
    speed: PositiveFloat = 1.0


class Participation(Table):
    """How the server chooses clients and waits for them: the `[participation]` table.

    Each round it asks `fraction` of all clients, at least `minimum`, drawn at random among those that are there. With a
    `time_limit`, a client that would take longer is not waited for, and its upload is refused as late; or, where rounds are
    `asynchronous`, a round lasts as long as that limit, and a late upload is merged in the round in which it arrives with its
    weight divided by (1 + rounds of delay) to the power of `staleness` (FedAsync, Xie et al. 2019).
    With `tolerate_failures` a client whose turn fails counts as absent for that round.
    """

    fraction: float = Field(default=1.0, gt=0, le=1)
    minimum: PositiveInt = 1
    time_limit: PositiveFloat | None = None
    asynchronous: bool = False
    staleness: NonNegativeFloat = 0.5
    tolerate_failures: bool = False

    @model_validator(mode="after")
    def _rounds_have_a_length(self) -> Participation:
        if self.asynchronous and self.time_limit is None:
            raise ValueError("asynchronous rounds last as long as time_limit: it must be set")
        return self

    def choose(self, idle: Sequence[Profile], seed: int, round_number: int, *, of: int) -> list[Profile]:
        """The clients that the server asks in this round and that are there, in the order of `idle`: those of the `of` clients
        of the federation who are not still at work on an earlier round."""
        there = [client for client in idle if self._is_there(client, seed, round_number)]
        wanted = self.wanted(of)
        if wanted >= len(there):
            return there
        drawn = torch.randperm(len(there), generator=generator(seed, "server", round_number, "choice"))[:wanted]
        return [there[i] for i in sorted(drawn.tolist())]

    def wanted(self, clients: int) -> int:
        """How many of so many clients the server asks in a round."""
        return max(self.minimum, math.ceil(self.fraction * clients - 1e-9))

    def _is_there(self, client: Profile, seed: int, round_number: int) -> bool:
        chance = torch.rand((), generator=generator(seed, client.name, round_number, "availability"))
        return float(chance) < client.presence.availability

    def rounds_of_delay(self, duration: float) -> int:
        """In which later round a turn of this duration ends; 0 for the round in which it began."""
        if not self.asynchronous or self.time_limit is None:
            return 0
        # A turn of exactly one limit still ends in the round in which it began.
        return max(math.ceil(duration / self.time_limit) - 1, 0)

    def lateness(self, duration: float) -> str | None:
        """Why an upload that took so long is refused; None if it is not."""
        if self.asynchronous or self.time_limit is None or duration <= self.time_limit:
            return None
        return f"late: it took {duration:.3g}, the time limit is {self.time_limit:.3g}"

    def discount(self, delay: int) -> float:
        """What a delay of so many rounds leaves of an upload's weight."""
        return float((1 + delay) ** -self.staleness)


def duration(client: Profile, examples: int) -> float:
    """How long training on so many examples takes, in the unit of time of `Presence.speed`."""
    return examples / (1000 * client.presence.speed)
