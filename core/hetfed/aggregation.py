"""How uploads become one: the weighted mean, and means that a few faulty or hostile uploads cannot move far.

A rule is a function of payloads of the same names and shapes, and of how many of them may be faulty. It returns one tensor per
name, in the dtype of the first payload. A new rule is a function and a row of `MERGERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.payload import Payload
from hetfed.plan_schema import STRICT, Told

Kind = Literal["mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median"]


@dataclass(frozen=True, config=STRICT)
class Aggregation(metaclass=Told):
    """Merges payloads of the same names and shapes.

    "mean" weighs by the payloads' weights. "median" and "trimmed-mean" (Yin et al. 2018) go number by number, "krum" and
    "multi-krum" (Blanchard et al. 2017) choose among whole uploads, "geometric-median" (Pillutla et al. 2022) is the point with
    the least distance to all; these five treat uploads as equals, since a hostile one may claim any weight.

    Args:
        kind: the way of merging.
        share: of the uploads that may be faulty: cut off at both ends by "trimmed-mean", allowed for by the Krum rules. Above
            0, at least one upload of three or more.
        outliers: whether uploads whose change is far larger than the others', or goes far against them, are refused before a
            "mean" is taken (`hetfed.outliers`). "accept" is for servers that cannot look at single uploads.

    >>> uploads = [Payload({"w": torch.tensor([value])}) for value in (1.0, 2.0, 900.0)]
    >>> Aggregation()(uploads)["w"], Aggregation("median")(uploads)["w"]
    (tensor([301.]), tensor([2.]))
    """

    kind: Kind = "mean"
    share: float = Field(default=0.2, ge=0, lt=0.5)
    outliers: Literal["refuse", "accept"] = "refuse"

    def __call__(self, payloads: Sequence[Payload]) -> dict[str, Tensor]:
        """One tensor per name, from one payload or more.

        Of one or two, "trimmed-mean" can leave none out and is their plain mean; the Krum rules give a single one as it is.
        """
        return MERGERS[self.kind](payloads, self.faulty(len(payloads)))

    def faulty(self, uploads: int) -> int:
        """The number of uploads that may be faulty, of `uploads` in all; always fewer than half.

        >>> Aggregation("krum", share=0.2).faulty(10), Aggregation("krum", share=0.4).faulty(2)
        (2, 0)
        """
        # Not 28 of 100 at a share of 0.29, which is a little less as a floating-point number.
        share = math.floor(self.share * uploads + 1e-9)
        return min(max(share, 1), (uploads - 1) // 2) if self.share else 0


def _short_form(value: object) -> object:
    """`aggregation = "median"` is short for `aggregation = { kind = "median" }`."""
    return {"kind": value} if isinstance(value, str) else value


Setting = Annotated[Aggregation, BeforeValidator(_short_form)]
"""The type of an exchange's `aggregation`."""


def add_up(payloads: Sequence[Payload]) -> dict[str, Tensor]:
    """The sum of each tensor, whatever the payloads' weights.

    >>> add_up([Payload({"c": torch.tensor([1.0])}, weight=9), Payload({"c": torch.tensor([2.0])})])
    {'c': tensor([3.])}
    """
    return {name: torch.stack([payload.tensors[name] for payload in payloads]).sum(dim=0) for name in payloads[0].tensors}


def weighted_mean(payloads: Sequence[Payload], faulty: int = 0) -> dict[str, Tensor]:
    """The mean of each tensor, weighted by the payloads' weights (McMahan et al. 2017); equally, where all weights are zero.

    Sums run in double precision and in the order of the payloads. `faulty` is not looked at.

    >>> weighted_mean([Payload({"w": torch.tensor([0.0])}, weight=30), Payload({"w": torch.tensor([4.0])}, weight=10)])
    {'w': tensor([1.])}
    """
    weights = [payload.pull for payload in payloads]
    total = sum(weights)
    shares = [weight / total if total else 1 / len(payloads) for weight in weights]
    # In double precision, so that the mean of equal uploads is that upload.
    return {
        name: sum((share * p.tensors[name].double() for share, p in zip(shares, payloads, strict=True)), start=first * 0.0).to(
            first.dtype
        )
        for name, first in payloads[0].tensors.items()
    }


def median(payloads: Sequence[Payload], faulty: int = 0) -> dict[str, Tensor]:
    """The median of each number (Yin et al. 2018); of an even count, the mean of the middle two.

    >>> median([Payload({"w": torch.tensor([value])}) for value in (1.0, 2.0, 5.0, 900.0)])
    {'w': tensor([3.5000])}
    """
    # Both middle ones of an even count, one of an odd count.
    middle = slice((len(payloads) - 1) // 2, len(payloads) // 2 + 1)
    # Not `quantile`, which takes no more than 16 million numbers.
    return {name: stack.sort(dim=0).values[middle].mean(dim=0) for name, stack in _stacks(payloads).items()}


def trimmed_mean(payloads: Sequence[Payload], faulty: int) -> dict[str, Tensor]:
    """The mean of each number without the `faulty` largest and the `faulty` smallest (Yin et al. 2018).

    >>> trimmed_mean([Payload({"w": torch.tensor([value])}) for value in (-900.0, 1.0, 2.0, 900.0)], faulty=1)
    {'w': tensor([1.5000])}
    """
    kept = slice(faulty, len(payloads) - faulty)
    return {name: stack.sort(dim=0).values[kept].mean(dim=0) for name, stack in _stacks(payloads).items()}


def krum(payloads: Sequence[Payload], faulty: int) -> dict[str, Tensor]:
    """The one upload whose sum of squared distances to its nearest neighbours is least (Blanchard et al. 2017).

    >>> krum([Payload({"w": torch.tensor([value])}) for value in (1.0, 1.5, 1.75, 900.0)], faulty=1)
    {'w': tensor([1.5000])}
    """
    return dict(payloads[int(_krum_scores(payloads, faulty).argmin())].tensors)


def multi_krum(payloads: Sequence[Payload], faulty: int) -> dict[str, Tensor]:
    """The mean of all uploads but the `faulty` farthest from their neighbours (Blanchard et al. 2017).

    >>> multi_krum([Payload({"w": torch.tensor([value])}) for value in (1.0, 1.5, 2.0, 900.0)], faulty=1)
    {'w': tensor([1.5000])}
    """
    # Stable: of uploads with equal scores, those that come first by name.
    best = _krum_scores(payloads, faulty).argsort(stable=True)[: len(payloads) - faulty]
    # Without their weights: who claims many examples must not count for more.
    return weighted_mean([Payload(payloads[i].tensors) for i in best.tolist()])


def _krum_scores(payloads: Sequence[Payload], faulty: int) -> Tensor:
    """For each upload, the sum of squared distances to its nearest n - faulty - 2 others (at least one)."""
    vectors = _vectors(payloads)
    # Not by the matrix product that cdist takes from 26 rows on: it cancels, and drowns the small distances between long
    # vectors that lie close together.
    squared = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    neighbours = max(1, len(payloads) - faulty - 2)
    # The nearest of all is the upload itself.
    return squared.sort(dim=1).values[:, 1 : 1 + neighbours].sum(dim=1)


def geometric_median(payloads: Sequence[Payload], faulty: int = 0, steps: int = 100, tiny: float = 1e-6) -> dict[str, Tensor]:
    """The point with the least sum of distances to the uploads, late ones discounted (Pillutla et al. 2022).

    It is found by Weiszfeld's iteration.

    Args:
        payloads: one or more; their weights are not looked at.
        faulty: not looked at: fewer than half of the uploads move the point by a bounded distance only.
        steps: of the iteration, at most.
        tiny: the iteration ends at a step below this share of the largest distance, which also keeps divisions from zero.

    >>> geometric_median([Payload({"w": torch.tensor([value, 0.0])}) for value in (1.0, 1.0, 900.0)])["w"].round(decimals=2)
    tensor([1., 0.])
    """
    vectors = _vectors(payloads)
    # The mean is where the iteration starts; only how late an upload is counts, not the weight that it claims.
    weights = torch.tensor([payload.discount for payload in payloads], dtype=vectors.dtype)
    point = weights @ vectors / weights.sum()
    # Of how far the uploads lie apart, not of how long they are: a model is long, and what two clients make of it is near.
    smallest = tiny * float((vectors - point).norm(dim=1).max())
    for _ in range(steps if smallest else 0):
        pull = weights / (vectors - point).norm(dim=1).clamp(min=smallest)
        nearer = pull @ vectors / pull.sum()
        moved, point = (nearer - point).norm(), nearer
        if moved <= smallest:
            break
    return _as_tensors(point, payloads[0])


def _stacks(payloads: Sequence[Payload]) -> dict[str, Tensor]:
    """Each tensor of all payloads (payloads, ...)."""
    return {name: torch.stack([payload.tensors[name] for payload in payloads]) for name in payloads[0].tensors}


def _vectors(payloads: Sequence[Payload]) -> Tensor:
    """Each payload as one vector (payloads, numbers)."""
    # In double precision: squares of small differences between long vectors vanish in single precision.
    return torch.stack([torch.cat([tensor.double().flatten() for tensor in payload.tensors.values()]) for payload in payloads])


def _as_tensors(vector: Tensor, like: Payload) -> dict[str, Tensor]:
    parts = vector.split([tensor.numel() for tensor in like.tensors.values()])
    named = zip(like.tensors.items(), parts, strict=True)
    return {name: part.view(tensor.shape).to(tensor.dtype) for (name, tensor), part in named}


MERGERS: dict[Kind, Callable[[Sequence[Payload], int], dict[str, Tensor]]] = {
    "mean": weighted_mean,
    "median": median,
    "trimmed-mean": trimmed_mean,
    "krum": krum,
    "multi-krum": multi_krum,
    "geometric-median": geometric_median,
}
"""Each merges payloads, of which so many may be faulty."""
