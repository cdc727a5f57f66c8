"""Outliers: uploads of a round whose change is far larger than the others' changes, or goes far against them.

A mean follows whoever shouts loudest. So the server looks at the uploads of a round side by side before it takes their mean,
and refuses those that no client which trains as the others do would send. It looks at the lengths of changes and at their
directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hetfed.payload import Declaration, Merged, Payload

LONGEST = 8.0
"""Times the median length of the changes in a round; honest clients of the plans that were measured stay below 5."""
AGAINST = 0.5
"""How far a change may go against the way of the others, in median lengths; honest ones that were measured stay below 0.2."""
FEWEST = 3
"""Of two uploads that differ, nobody can say which is the outlier."""
FEWEST_AGAINST, SIZE_AGAINST = 4, 1000
"""Uploads, and numbers in each, from which on directions are looked at: fewer honest ones point anywhere."""
TOGETHER = 32
"""So many uploads at most are held and looked at side by side, in the order of their clients' names."""
STRIDE = 2**20
"""Numbers of each upload that are looked at at once, in double precision."""


def outliers(
    changes: Mapping[str, Mapping[str, Tensor]], bases: Mapping[str, Mapping[str, Tensor]], *, directions: bool = True
) -> dict[str, str]:
    """The names of the clients whose change is an outlier, and the reason.

    Args:
        changes: the tensors of each upload by the client's name, of the same names and shapes.
        bases: what each is a change of, by the client's name; what is missing there counts as zeros.
        directions: whether they are looked at too, and not lengths alone.

    >>> honest = {name: {"w": torch.tensor([1.0, value])} for name, value in (("a", 0.1), ("b", 0.3), ("c", -0.2))}
    >>> outliers({**honest, "d": {"w": torch.tensor([-10.0, 0.0])}}, {})
    {'d': "its change is 9.8 times as long as the median of the round's"}
    """
    names, found = sorted(changes), dict[str, str]()
    if len(names) < FEWEST:
        return found
    products = _products([changes[name] for name in names], [bases.get(name, {}) for name in names])
    # The worst goes first, and the rest is looked at anew: an outlier is no measure for the others.
    directions &= sum(tensor.numel() for tensor in changes[names[0]].values()) >= SIZE_AGAINST
    while len(names) >= FEWEST and (worst := _longest(products) or (_against(products) if directions else None)):
        at, reason = worst
        found[names.pop(at)] = reason
        kept = [i for i in range(len(products)) if i != at]
        products = products[kept][:, kept]
    return found


def _products(changed: list[Mapping[str, Tensor]], bases: list[Mapping[str, Tensor]]) -> Tensor:
    """The inner products of all pairs of changes (uploads, uploads), in double precision."""
    products = torch.zeros(len(changed), len(changed), dtype=torch.float64)
    for name in changed[0]:
        parts = [tensors[name].flatten().split(STRIDE) for tensors in changed]
        before = [base[name].flatten().split(STRIDE) if name in base else () for base in bases]
        for i in range(len(parts[0])):
            rows = [part[i].double() - (start[i].double() if start else 0.0) for part, start in zip(parts, before, strict=True)]
            stacked = torch.stack(rows)
            products += stacked @ stacked.T
    return products


def _longest(products: Tensor) -> tuple[int, str] | None:
    """The longest change, by its place, where it is too long, and the reason."""
    lengths, usual = _lengths(products)
    at = int(lengths.argmax())
    # Where most send no change, any change would be too long.
    if not usual or float(lengths[at]) <= LONGEST * usual:
        return None
    return at, f"its change is {float(lengths[at]) / usual:.2g} times as long as the median of the round's"


def _against(products: Tensor) -> tuple[int, str] | None:
    """The change that goes most against the way of the others, by its place, where it goes too far, and the reason."""
    lengths, usual = _lengths(products)
    if not usual or len(lengths) < FEWEST_AGAINST:
        return None
    # Cut to the usual length, so that a long one does not decide where the others go.
    shares = (usual / lengths.clamp(min=usual)) * (1 - torch.eye(len(lengths), dtype=torch.float64))
    others = ((shares @ products) * shares).sum(dim=1).clamp(min=0).sqrt()
    # Along the way that the others go together; where they go nowhere, no way is wrong.
    along = torch.where(others > 0, (shares * products).sum(dim=1) / others.clamp(min=math.ulp(0.0)), 0.0) / usual
    at = int(along.argmin())
    if float(along[at]) >= -AGAINST:
        return None
    return at, f"its change goes {-float(along[at]):.2g} times the median length of the round's against the way of the others"


def _lengths(products: Tensor) -> tuple[Tensor, float]:
    """The length of each change, and their median."""
    lengths = products.diagonal().sqrt()
    # Of an even count the lower one: half of the uploads may then be outliers.
    return lengths, float(lengths.sort().values[(len(lengths) - 1) // 2])


def _per_number(values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Values that stand by themselves, so that their length is the size of a number that is not 0.

    A client that has few classes sends zeros for the others, and is neither shorter for it, nor a measure where it has none.
    """
    counts = {name: sum(int(tensor.count_nonzero()) for tensor in tensors.values()) for name, tensors in values.items()}
    return {
        name: {key: tensor / math.sqrt(counts[name]) for key, tensor in tensors.items()}
        for name, tensors in values.items()
        if counts[name]
    }


class Merger(Protocol):
    """Takes the uploads of one group in one round: each asked client is either added or skipped, once."""

    def add(self, name: str, payload: Payload) -> None:
        """Take in an upload that was accepted."""
        ...

    def skip(self, name: str) -> None:
        """Note that nothing will come of this client in this round."""
        ...

    def merged(self) -> Merged:
        """The result of the uploads so far; called once, at the end of the round."""
        ...


Verdict = Callable[[str, str | None], None]
"""Is told of each upload, by its client's name, whether it was accepted: None, or the reason why not."""


@dataclass(frozen=True)
class Limits:
    """What the server needs to look at changes.

    Args:
        declared: the declarations by client name.
        base: what a client's upload is a change of, by its name; no tensors where it stands by itself.
        directions: false where an upload may be late: it lacks what the others have gone since, and seems to go back.
    """

    declared: Mapping[str, Declaration]
    base: Callable[[str], Mapping[str, Tensor]]
    directions: bool = True

    def outliers(self, uploads: Mapping[str, Payload]) -> dict[str, str]:
        """The names of the clients whose upload is an outlier among those that hold the same tensors, and the reason."""
        alike: dict[str, list[str]] = {}
        for name in uploads:
            alike.setdefault(self.declared[name].group, []).append(name)
        found: dict[str, str] = {}
        for names in alike.values():
            if len(names) >= FEWEST:
                # Counts and positions are no changes: what a client has more of is no attack.
                rules = self.declared[names[0]].tensors.items()
                looked = [key for key, rule in rules if rule.dtype.is_floating_point and not rule.whole]
                changes = {name: {key: uploads[name].tensors[key] for key in looked} for name in names}
                if self.declared[names[0]].relative in ("broadcast", "change"):
                    bases = {name: self.base(name) for name in names}
                    found |= outliers(changes, bases, directions=self.directions)
                else:
                    # What stands by itself goes no way: honest predictions and class means may well be opposite.
                    found |= outliers(_per_number(changes), {}, directions=False)
        return found


@dataclass
class Judged:
    """A merger that gets only uploads that are no outliers among those of the round.

    Up to TOGETHER uploads are held until all of them have arrived, or will not arrive any more. Who is judged with whom
    follows from the names of those that were asked, and not from who was fastest.

    Args:
        merger: gets what was accepted.
        asked: the names of the clients of the group that may send.
        limits: what outliers are found by.
        verdict: is told of each upload.
    """

    merger: Merger
    asked: Sequence[str]
    limits: Limits
    verdict: Verdict
    held: dict[str, Payload | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = sorted(self.asked)
        # As even as can be: a last one by itself would be judged by nobody.
        parts = math.ceil(len(names) / TOGETHER)
        self._parts = [names[i * len(names) // parts : (i + 1) * len(names) // parts] for i in range(parts)]

    def add(self, name: str, payload: Payload) -> None:
        """Hold the upload until it can be judged."""
        self._settle(name, payload)

    def skip(self, name: str) -> None:
        """Wait for this client no longer."""
        self._settle(name, None)

    def merged(self) -> Merged:
        """The result of what was accepted."""
        for part in list(self._parts):
            self._judge(part)
        return self.merger.merged()

    def _settle(self, name: str, payload: Payload | None) -> None:
        self.held.setdefault(name, payload)
        for part in list(self._parts):
            if all(one in self.held for one in part):
                self._judge(part)

    def _judge(self, part: list[str]) -> None:
        self._parts.remove(part)
        uploads = {name: payload for name in part if (payload := self.held.get(name)) is not None}
        found = self.limits.outliers(uploads)
        for name in part:
            # Its place is kept, so that a client that is heard of again is not waited for.
            self.held[name] = None
            if name in uploads:
                self.verdict(name, found.get(name))
            if name in uploads and name not in found:
                self.merger.add(name, uploads[name])
            else:
                self.merger.skip(name)
