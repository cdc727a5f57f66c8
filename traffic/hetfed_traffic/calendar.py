"""What a city's model knows of the time: slots of the day and kinds of day, and what stands in for those it never learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.data import Examples

Calendar = Literal["weekend", "weekday"]
MINUTES_PER_DAY, SLOTS_PER_DAY, SATURDAY, DAYS = 24 * 60, 96, 5, 7
KINDS: dict[Calendar, int] = {"weekend": 2, "weekday": DAYS}
"""How many kinds of day each calendar tells apart."""
FAR = 1e4
"""Further than any entry lies from another one."""


def slot_of(clock: Tensor, slots: int = SLOTS_PER_DAY) -> Tensor:
    """Which of the equal slots of a day each time falls into (n,).

    Args:
        clock: (n, 2), the fraction of the day gone by and the day of the week.
        slots: how many a day has.

    >>> slot_of(torch.tensor([[0.25, 0.0], [1.0, 0.0]]))  # rounding gives the last moment of a day no slot of its own
    tensor([24, 95])
    """
    return (clock[:, 0] * slots).long().clamp(max=slots - 1)


def kind_of(clock: Tensor, calendar: Calendar) -> Tensor:
    """The kind of each day (n,): 1 at weekends and 0 else, or the day of the week from Monday = 0.

    >>> kind_of(torch.tensor([[0.5, 4.0], [0.5, 6.0]]), "weekend")
    tensor([0, 1])
    """
    day = clock[:, 1].long()
    return (day >= SATURDAY).long() if calendar == "weekend" else day


def seen_times(train: Examples) -> dict[str, Tensor]:
    """Which times training learns, 1 or 0: those of windows in which something is known.

    Returns:
        `seen_slots` (96,) of the day, and `seen_days` (7,) of the week.
    """
    clock = train.inputs["clock"][~train.target.isnan().flatten(1).all(dim=1)]
    found = {"seen_slots": (slot_of(clock), SLOTS_PER_DAY), "seen_days": (kind_of(clock, "weekday"), DAYS)}
    return {name: (torch.bincount(times, minlength=size) > 0).float() for name, (times, size) in found.items()}


def kinds_seen(days: Tensor, calendar: Calendar) -> Tensor:
    """Which kinds of day are among the days of the week that were seen (7,).

    >>> kinds_seen(torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), "weekend")
    tensor([1., 0.])
    """
    return torch.stack([days[:SATURDAY].amax(dim=0), days[SATURDAY:].amax(dim=0)]) if calendar == "weekend" else days


class Entries(nn.Module):
    """A learnt vector for each of some times; one that training never saw falls back on the nearest one that it saw.

    Without that, the first weekend after a week of training would meet whatever the vector of weekends was initialised to.

    Args:
        apart: (entries, entries), how far entries lie from one another; 0 on the diagonal, below `FAR` elsewhere.
        width: of a vector.

    >>> days = Entries(days_apart("weekend"), 1)
    >>> _ = days.weight.data.copy_(torch.tensor([[10.0], [20.0]]))
    >>> days(torch.tensor([0, 1]), seen=torch.tensor([1.0, 0.0])).tolist()  # no weekend was trained on
    [[10.0], [10.0]]
    """

    apart: Tensor

    def __init__(self, apart: Tensor, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(apart), width))
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, entry: Tensor, seen: Tensor) -> Tensor:
        """Numbers of entries (n,) to vectors (n, width); `seen` (entries,) is 0 where training saw none."""
        # An entry lies nearest to itself: one that was seen, and all where none was, stands for itself.
        nearest = (self.apart + FAR * (seen == 0)).argmin(dim=1)
        return F.embedding(nearest[entry], self.weight)


def slots_apart() -> Tensor:
    """How far the slots of a day lie from one another, around the clock; of two that are equally near the earlier one counts.

    >>> slots_apart()[0, [1, 95]].tolist()
    [1.5, 1.0]
    """
    return _around(SLOTS_PER_DAY)


def days_apart(calendar: Calendar) -> Tensor:
    """How far kinds of day lie from one another: a Saturday is nearer to any Sunday than to a Friday.

    >>> days_apart("weekday")[5].argsort()[:3].tolist()  # Saturday: itself, Sunday, Friday
    [5, 6, 4]
    """
    if calendar == "weekend":
        return 1 - torch.eye(KINDS[calendar])
    weekend = torch.arange(DAYS) >= SATURDAY
    return _around(DAYS) + DAYS * (weekend[:, None] != weekend[None])


def _around(count: int) -> Tensor:
    """Steps around a circle, half a step more to what comes later than to what came before."""
    later = (torch.arange(count)[None] - torch.arange(count)[:, None]) % count
    earlier = (-later) % count
    return torch.where(later < earlier, later + 0.5, earlier.float())
