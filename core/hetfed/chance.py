"""What chance alone does to a metric: intervals by a bootstrap over patients or days, and of differences between two models.

The owners of examples (patients, days) are drawn, and not single examples: slices of one patient and forecasts of one day are
alike. The same draws judge every model of a client, so that two models can be compared pair by pair (Efron and Tibshirani
1993, chapters 8 and 13; intervals are percentiles).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetfed.seeding import derive

Values = NDArray[np.float64]
RESAMPLES = 1000
BLOCKS = 500
FEWEST = 5
"""With fewer owners there is no interval: four days have 35 different resamples, and what they say is too narrow."""
UNDEFINED = 0.05
"""The share of resamples without a metric up to which there is an interval: it is reached where a class has three owners."""
WORK = 5e7
"""A product of examples and owners that is computed in about a second."""


@dataclass(frozen=True)
class Resamples:
    """How often each owner is drawn in each resample.

    Args:
        owner: of each example, from 0 (n,).
        counts: (resamples, owners), how often each owner's examples count.
    """

    owner: NDArray[np.int64]
    counts: Values

    @staticmethod
    def of(owners: Sequence[object], seed: int = 0) -> Resamples:
        """As many draws with replacement as there are owners, `RESAMPLES` times; the same for the same owners and seed.

        More than `BLOCKS` owners are put into so many blocks at random, which are drawn in their place: widths differ by a few
        per cent.

        >>> resamples = Resamples.of(["ann", "bob", "ann"])
        >>> resamples.counts.shape, resamples.counts.sum(axis=1)[:3]
        ((1000, 2), array([2., 2., 2.]))
        """
        names, owner = np.unique(np.array([str(owner) for owner in owners]), return_inverse=True)
        rng = np.random.default_rng(derive("chance", seed))
        blocks = int(np.clip(WORK / max(len(owner), 1), 50, BLOCKS))
        if len(names) > blocks:
            owner, count = rng.permutation(len(names))[owner] % blocks, blocks
        else:
            count = len(names)
        drawn = rng.multinomial(count, np.full(count, 1 / max(count, 1)), size=RESAMPLES)
        return Resamples(owner.astype(np.int64), drawn.astype(np.float64))

    @staticmethod
    def whole(n: int) -> Resamples:
        """One resample in which each of n examples counts once: with it, a metric is that of the examples themselves."""
        return Resamples(np.zeros(n, dtype=np.int64), np.ones((1, 1)))

    def at(self, rows: NDArray[np.int64]) -> Resamples:
        """The same for the examples at `rows` (k,); owners without any are drawn as well, and count nothing."""
        return Resamples(self.owner[rows], self.counts)

    def by_owner(self, values: NDArray[Any]) -> Values:
        """The sums over each owner's examples (owners, columns) of `values` (n, columns)."""
        owners, columns = self.counts.shape[1], np.asarray(values, dtype=np.float64).T
        return np.stack([np.bincount(self.owner, weights=column, minlength=owners) for column in columns], axis=1)

    def sums(self, values: NDArray[Any]) -> Values:
        """The sum over the examples of each resample (resamples, columns) of `values` (n, columns)."""
        return np.asarray(self.counts @ self.by_owner(values))

    def tally(self, kind: NDArray[np.int64], kinds: int) -> Values:
        """How many examples of each kind a resample has (resamples, kinds); `kind` (n,) is that of each, from 0."""
        owners = self.counts.shape[1]
        by_owner = np.bincount(self.owner * kinds + kind, minlength=owners * kinds).reshape(owners, kinds)
        return np.asarray(self.counts @ by_owner)

    def pairs(self, among: Values) -> Values:
        """The sum over all pairs of owners of each resample (resamples,) of `among` (owners, owners)."""
        return np.asarray(np.einsum("ro,ro->r", self.counts @ among, self.counts))


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; without one, `low` and `high` are None and `reason` says why.

    >>> Interval(0.81, 0.95).clear, Interval(-0.01, 0.2).clear, Interval(0.02, 0.2).clear
    (True, False, True)
    """

    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def clear(self) -> bool:
        """Of a difference: whether it is one beyond chance."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @staticmethod
    def of(resampled: Callable[[], Values], owners: Sequence[object]) -> Interval:
        """The middle 95 % of what a metric is in the resamples.

        Args:
            resampled: its value by resample, NaN where it is undefined; asked for only where there are enough owners.
            owners: of each example.
        """
        if len(set(owners)) < FEWEST:
            return Interval(reason=f"fewer than {FEWEST} to draw from")
        values = resampled()
        known = values[np.isfinite(values)]
        if len(known) < (1 - UNDEFINED) * len(values):
            return Interval(reason="undefined in too many resamples, as where a class is too rare")
        low, high = np.quantile(known, [0.025, 0.975]).tolist()
        # A perfect score on a few examples is no certainty, and a bootstrap cannot know what it has not seen.
        if np.isclose(low, high, rtol=1e-6, atol=1e-9):
            return Interval(reason="the same in every resample")
        return Interval(low, high)


Metric = Callable[[Resamples], Values]
"""A metric of one model: its value in each resample (resamples,), NaN where it is undefined."""


def interval(metric: Metric, owners: Sequence[object], seed: int = 0) -> Interval:
    """The 95 % interval of a metric, by a bootstrap over owners.

    Args:
        metric: of one model on n examples.
        owners: of each example (n,): its patient, its day.
        seed: of the draws.

    >>> right = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1])
    >>> found = interval(lambda drawn: drawn.sums(right[:, None])[:, 0] / 10, range(10))
    >>> found.low, found.high
    (0.5, 1.0)
    """
    return Interval.of(lambda: metric(Resamples.of(owners, seed)), owners)


def paired_interval(one: Metric, other: Metric, owners: Sequence[object], seed: int = 0) -> Interval:
    """The 95 % interval of the metric of one model less that of another on the same examples, by the same resamples.

    Args:
        one: metric of the model that is held against another.
        other: metric of that other model.
        owners: of each example (n,).
        seed: of the draws.

    >>> right, worse = np.ones(10), np.array([1, 1, 0, 0, 1, 0, 0, 1, 1, 0])
    >>> share = lambda values: lambda drawn: drawn.sums(values[:, None])[:, 0] / 10
    >>> paired_interval(share(right), share(worse), range(10)).clear
    True
    """
    return Interval.of(lambda: _difference(one, other, owners, seed), owners)


def standard_error(one: Metric, other: Metric, owners: Sequence[object], seed: int = 0) -> float | None:
    """The standard error of such a difference; None where there would be no interval."""
    if paired_interval(one, other, owners, seed).low is None:
        return None
    return float(np.nanstd(_difference(one, other, owners, seed), ddof=1))


def _difference(one: Metric, other: Metric, owners: Sequence[object], seed: int) -> Values:
    resamples = Resamples.of(owners, seed)
    return np.asarray(one(resamples) - other(resamples))


def auroc(score: NDArray[Any], positive: NDArray[np.bool_], drawn: Resamples) -> Values:
    """The area under the ROC curve in each resample (resamples,): how often a positive example has the higher score, a tie
    counting half (Mann and Whitney 1947); NaN where one of the classes is absent.

    Args:
        score: of each example (n,); its order is all that counts.
        positive: which examples are (n,).
        drawn: of the n examples.

    >>> margins = np.array([20.0, 25.0, 30.0, 35.0])
    >>> auroc(margins, np.array([False, False, True, True]), Resamples.whole(4))
    array([1.])
    """
    rank = np.unique(score, return_inverse=True)[1]
    owners = drawn.counts.shape[1]
    ranks, owner = rank[positive], drawn.owner[positive]
    # The negatives of one owner stand together, in the order of their scores.
    order = np.flatnonzero(~positive)[np.lexsort((rank[~positive], drawn.owner[~positive]))]
    ends = np.searchsorted(drawn.owner[order], np.arange(owners + 1))
    below = np.zeros((owners, owners))
    for other in np.flatnonzero(np.diff(ends)):
        negatives = rank[order[ends[other] : ends[other + 1]]]
        ahead = np.searchsorted(negatives, ranks, "left") + np.searchsorted(negatives, ranks, "right")
        below[:, other] = np.bincount(owner, weights=ahead / 2, minlength=owners)
    numbers = drawn.sums(np.stack([positive, ~positive], axis=1))
    return ratio(drawn.pairs(below), numbers[:, 0] * numbers[:, 1])


def concordance(risk: NDArray[Any], event: NDArray[np.bool_], time: NDArray[Any], drawn: Resamples) -> Values:
    """Harrell's C-index in each resample (resamples,); NaN where of no two patients it is known who had the event first.

    Args:
        risk: of each patient (n,).
        event: whether it was seen (n,).
        time: of the event, or of the end of observation (n,).
        drawn: of the n patients.

    >>> event, time = np.array([True, True, False]), np.array([100.0, 300.0, 400.0])
    >>> concordance(np.array([2.0, 1.0, 0.0]), event, time, Resamples.whole(3))
    array([1.])
    """
    owners = drawn.counts.shape[1]
    right, usable = np.zeros((owners, owners)), np.zeros((owners, owners))
    # By the one who had the event first, so that memory grows with the patients and not with their pairs.
    for first in np.flatnonzero(event):
        later = (time > time[first]) | ((time == time[first]) & ~event)
        ahead = (risk[first] > risk) + 0.5 * (risk[first] == risk)
        mine = drawn.owner[first]
        usable[mine] += np.bincount(drawn.owner, weights=later, minlength=owners)
        right[mine] += np.bincount(drawn.owner, weights=later * ahead, minlength=owners)
    return ratio(drawn.pairs(right), drawn.pairs(usable))


def ratio(part: Values, whole: Values) -> Values:
    """`part` by `whole` (resamples,), NaN where that is zero.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))
