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

    Args:
        availability: the probability, from 0 to 1, that it answers in a round; drawn anew for each round and client.
        speed: in thousands of training examples per unit of time; it matters where the federation has a `time_limit`.

    >>> Presence(availability=0.9, speed=2.0)
    Presence(availability=0.9, speed=2.0)
    """

    availability: float = Field(default=1.0, ge=0, le=1)
    speed: PositiveFloat = 1.0


class Participation(Table):
    """How the server chooses clients and waits for them: the `[participation]` table.

    With a `time_limit`, a client that would take longer is not waited for, and its upload is refused as late; or, where rounds
    are `asynchronous`, a round lasts as long as that limit, and a late upload is merged in the round in which it arrives with
    its weight divided by (1 + rounds of delay) to the power of `staleness_exponent` (FedAsync, Xie et al. 2019).

    Args:
        fraction: of all clients, above 0 and up to 1, that the server asks in a round, drawn at random among those that are
            there.
        minimum: how many clients it asks at least.
        time_limit: of a turn, in the unit of time of `Presence.speed`; None for no limit.
        asynchronous: whether rounds go on without those that are late; it needs a `time_limit`.
        staleness_exponent: the power by which a delay discounts; 0 counts late uploads in full.
        tolerate_failures: whether a client whose turn fails counts as absent for that round; else it ends the run.

    >>> Participation(fraction=0.5, minimum=2).wanted(10), Participation(fraction=0.1, minimum=2).wanted(10)
    (5, 2)
    """

    fraction: float = Field(default=1.0, gt=0, le=1)
    minimum: PositiveInt = 1
    time_limit: PositiveFloat | None = None
    asynchronous: bool = False
    staleness_exponent: NonNegativeFloat = 0.5
    tolerate_failures: bool = False

    @model_validator(mode="after")
    def _rounds_have_a_length(self) -> Participation:
        if self.asynchronous and self.time_limit is None:
            raise ValueError("asynchronous rounds last as long as time_limit: it must be set")
        return self

    def choose(self, idle: Sequence[Profile], seed: int, round_number: int, *, of: int) -> list[Profile]:
        """The clients that the server asks in a round and that are there, in the order of `idle`.

        Args:
            idle: the clients that are not still at work on an earlier round.
            seed: of the federation; with the round it decides the draw.
            round_number: from 1.
            of: how many clients the federation has in all, of which `fraction` counts.
        """
        there = [client for client in idle if self._is_there(client, seed, round_number)]
        # A fraction of all, not of those that are there: absences must not lower the number that is asked.
        wanted = self.wanted(of)
        if wanted >= len(there):
            return there
        # Sorted afterwards: the order of turns must not depend on the draw.
        drawn = torch.randperm(len(there), generator=generator(seed, "server", round_number, "choice"))[:wanted]
        return [there[i] for i in sorted(drawn.tolist())]

    def wanted(self, clients: int) -> int:
        """The number of clients that the server asks in a round, of `clients` in all."""
        # 0.07 * 100 is a little above 7 as a floating-point number, and would ask eight.
        return max(self.minimum, math.ceil(self.fraction * clients - 1e-9))

    def _is_there(self, client: Profile, seed: int, round_number: int) -> bool:
        chance = torch.rand((), generator=generator(seed, client.name, round_number, "availability"))
        # Drawn for each client by its own name: one client more or less changes nobody else's luck.
        return float(chance) < client.presence.availability

    def rounds_of_delay(self, duration: float) -> int:
        """The number of rounds by which a turn of this duration is late; 0 for one that ends in the round in which it began.

        >>> Participation(time_limit=10, asynchronous=True).rounds_of_delay(25.0)
        2
        """
        if not self.asynchronous or self.time_limit is None:
            return 0
        # A turn of exactly one limit still ends in the round in which it began.
        return max(math.ceil(duration / self.time_limit) - 1, 0)

    def straggler(self, duration: float) -> str | None:
        """The reason why an upload that took so long is refused; None where it is not.

        >>> Participation(time_limit=10).straggler(25.0)
        'late: it took 25, the time limit is 10'
        """
        # In asynchronous rounds nothing is refused as late: it is merged later, with less weight.
        if self.asynchronous or self.time_limit is None or duration <= self.time_limit:
            return None
        return f"late: it took {duration:.3g}, the time limit is {self.time_limit:.3g}"

    def discount(self, delay: int) -> float:
        """The share of an upload's weight that a delay of so many rounds leaves.

        >>> Participation().discount(0), Participation().discount(3)
        (1.0, 0.5)
        """
        return float((1 + delay) ** -self.staleness_exponent)


def duration(client: Profile, examples: int) -> float:
    """How long training on so many examples takes, in the unit of time of `Presence.speed`."""
    return examples / (1000 * client.presence.speed)
