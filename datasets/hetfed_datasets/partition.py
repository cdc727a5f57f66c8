"""Who holds which sample: the samples of a data set among clients, and one client's patients among train, validation, test.

A partition gives every sample to exactly one client, as sorted positions. It is a pure function of its arguments: the same
seed, the same partition. `by_patient` makes any of them keep the samples of a patient together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hetfed.errors import PlanError

Index = NDArray[np.int64]
TRIES = 1000
"""Draws of a Dirichlet partition until each client has its minimum."""


def split_by_patient(
    patient: NDArray[np.str_], label: NDArray[np.int64], fractions: tuple[float, float], seed: int
) -> tuple[Index, Index, Index]:
    """Train, validation and test samples (sorted positions into the n rows); no patient is in two of them.

    `patient` and `label` are (n,). Patients are dealt stratum by stratum, a stratum being those with the same commonest label.
    `fractions` are the shares of patients for train and validation; the rest is test. In a stratum of k patients the two cuts
    are rounded to whole patients; a part that is asked for and that rounding leaves without any gets one of the largest part's.

    Raises:
        PlanError: fractions below 0, or summing to more than 1.

    >>> patient, label = np.array(["a", "a", "b", "c", "d", "e"]), np.zeros(6, dtype=np.int64)
    >>> train, validation, test = split_by_patient(patient, label, (0.6, 0.2), seed=0)
    >>> [sorted(set(patient[part].tolist())) for part in (train, validation, test)]
    [['c', 'd', 'e'], ['a'], ['b']]
    """
    train, validation = fractions
    # Rounding may put the sum of two shares a little above 1.
    if min(fractions) < 0 or train + validation > 1 + 1e-9:
        remedy = "Give two shares from 0 upwards that sum to at most 1, such as 0.6 and 0.2."
        raise PlanError("not shares of a whole", key="fractions", value=fractions, remedy=remedy)
    rng = np.random.default_rng(seed)
    group, stratum = _patients(patient, label)
    part = np.empty(len(stratum), dtype=np.int64)
    for value in np.unique(stratum):
        members = rng.permutation(np.flatnonzero(stratum == value))
        # Each cut is rounded by itself: a share is off by one patient at most.
        cuts = np.rint(np.array([train, train + validation]) * len(members))
        # side="right": a cut at k puts the members 0 to k - 1 before it.
        part[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    _fill(part, (train, validation, 1 - train - validation))
    sets = _gather(part[group], 3)
    return sets[0], sets[1], sets[2]


def _fill(part: Index, shares: tuple[float, float, float]) -> None:
    """Gives each part that is asked for and empty one of the largest part's members, where that has two or more.

    Ten patients of each of two classes, of whom 0.1 are asked for, must not come to none.
    """
    for number, share in enumerate(shares):
        counts = np.bincount(part, minlength=len(shares))
        # 1 - 0.85 - 0.15 is a little above 0, and asks for nothing.
        if share > 1e-9 and not counts[number] and counts.max() > 1:
            part[np.flatnonzero(part == counts.argmax())[-1]] = number


def by_patient(
    patient: NDArray[np.str_], label: NDArray[np.int64], partition: Callable[[NDArray[np.int64]], Sequence[Index]]
) -> list[Index]:
    """The partition of patients instead of samples, spread to their samples.

    `partition` is given one label per patient, the commonest of its samples:
    `by_patient(patient, label, lambda label: dirichlet(label, clients=4, alpha=0.5, seed=1))`.

    Args:
        patient: (n,) the patient of each sample.
        label: (n,) the class of each sample.
        partition: takes labels (patients,), and returns the positions of each client's patients.

    Returns:
        One array of sorted sample positions for each client.

    >>> patient, label = np.array(["a", "a", "b", "b"]), np.array([0, 0, 1, 1])
    >>> sorted(part.tolist() for part in by_patient(patient, label, lambda label: classes_per_client(label, 2, 1, seed=0)))
    [[0, 1], [2, 3]]
    """
    group, commonest = _patients(patient, label)
    return [np.flatnonzero(np.isin(group, members)) for members in partition(commonest)]


def dirichlet(label: NDArray[np.int64], clients: int, alpha: float, seed: int, minimum: int = 10) -> list[Index]:
    """Clients whose class proportions differ: each class is shared out by a draw from Dir(alpha) (Hsu et al. 2019).

    A small `alpha` makes a class belong to few clients, a large one makes clients alike. The draw is repeated until every
    client has `minimum` samples (Li et al. 2022, NIID-Bench).

    Args:
        label: (n,) classes.
        clients: how many parts.
        alpha: the concentration of the Dirichlet distribution, above 0. 0.1 is a strong skew, 100 is close to none.
        seed: of the draws.
        minimum: samples that each client has at least. 10 is the value of NIID-Bench.

    Returns:
        One array of sorted positions for each client; every sample is in exactly one of them.

    Raises:
        PlanError: too few samples for that many clients, or no such draw in 1000.

    >>> label = np.repeat([0, 1], 100)
    >>> parts = dirichlet(label, clients=3, alpha=0.5, seed=0)
    >>> sum(map(len, parts)), min(map(len, parts)) >= 10
    (200, True)
    """
    _expect_positive(clients=clients, alpha=alpha)
    _expect_enough(len(label), clients, minimum)
    rng = np.random.default_rng(seed)
    for _ in range(TRIES):
        owner = np.empty(len(label), dtype=np.int64)
        for value in np.unique(label):
            # In random order, since owners are dealt to stretches of it.
            members = rng.permutation(np.flatnonzero(label == value))
            owner[members] = _owners(rng.dirichlet(np.full(clients, alpha)), len(members))
        if np.bincount(owner, minlength=clients).min() >= minimum:
            return _gather(owner, clients)
    remedy = "Use a larger alpha, fewer clients or a smaller minimum."
    raise PlanError(f"no draw gives every client {minimum} samples", key="alpha", value=alpha, remedy=remedy)


def classes_per_client(label: NDArray[np.int64], clients: int, classes: int, seed: int) -> list[Index]:
    """Clients that see `classes` classes each (McMahan et al. 2017); a class is shared evenly by those that have it.

    A class with fewer samples than holders leaves some of them without it.

    Args:
        label: (n,) classes.
        clients: how many parts.
        classes: how many classes each part sees; `clients` times `classes` must reach the number of classes.
        seed: of the draws.

    Raises:
        PlanError: more classes per client than there are, or a class that nobody would hold.

    >>> label = np.array([0, 0, 1, 1, 2, 2])
    >>> [np.unique(label[part]).tolist() for part in classes_per_client(label, clients=3, classes=1, seed=0)]
    [[2], [0], [1]]
    """
    _expect_positive(clients=clients, classes=classes)
    rng = np.random.default_rng(seed)
    values = rng.permutation(np.unique(label))
    if classes > len(values) or clients * classes < len(values):
        remedy = (
            f"The labels have {len(values)} classes: at most that many per client, and clients times classes at least that."
        )
        raise PlanError("the classes cannot be dealt", key="classes", value=classes, remedy=remedy)
    owner = np.empty(len(label), dtype=np.int64)
    for place, value in enumerate(values):
        # Classes are dealt like cards, round after round, so that each has as many holders as any other, or one more.
        dealt = np.arange(clients * classes).reshape(clients, classes) % len(values)
        holders = np.flatnonzero((dealt == place).any(axis=1))
        members = rng.permutation(np.flatnonzero(label == value))
        # Modulo, so that counts of the holders of a class differ by one sample at most.
        owner[members] = holders[np.arange(len(members)) % len(holders)]
    return _gather(owner, clients)


def quantity(n: int, clients: int, alpha: float, seed: int, minimum: int = 10) -> list[Index]:
    """Clients of the same kind but different size: `minimum` samples each, the rest by a draw from Dir(alpha).

    Args:
        n: how many samples there are.
        clients: how many parts.
        alpha: the concentration of the Dirichlet distribution, above 0: the smaller, the more the sizes differ.
        seed: of the draw.
        minimum: samples that each client has at least.

    Raises:
        PlanError: too few samples for that many clients.

    >>> parts = quantity(100, clients=4, alpha=0.5, seed=0)
    >>> sum(map(len, parts)), min(map(len, parts)) >= 10
    (100, True)
    """
    _expect_positive(clients=clients, alpha=alpha)
    _expect_enough(n, clients, minimum)
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(clients), minimum)
    # Shuffled at the end, since data sets are often sorted by class and the owners stand in stretches.
    rest = _owners(rng.dirichlet(np.full(clients, alpha)), n - len(owner))
    return _gather(rng.permutation(np.concatenate([owner, rest])), clients)


def _patients(patient: NDArray[np.str_], label: NDArray[np.int64]) -> tuple[Index, NDArray[np.int64]]:
    """The patient of each sample as a number (n,), and the commonest label of each patient (patients,)."""
    names, group = np.unique(patient, return_inverse=True)
    values, code = np.unique(label, return_inverse=True)
    counts = np.zeros((len(names), len(values)), dtype=np.int64)
    # Not counts[group, code] += 1, which counts a pair once however often it occurs.
    np.add.at(counts, (group, code), 1)
    # Of classes that are equally common in a patient, the smallest.
    return group, values[counts.argmax(axis=1)]


def _owners(share: NDArray[np.float64], count: int) -> Index:
    """The client of each of `count` samples in a row, cut in proportion to `share` (clients,)."""
    # Without the last cut: rounding must not leave the last sample without an owner.
    cuts = np.rint(np.cumsum(share)[:-1] * count)
    return np.searchsorted(cuts, np.arange(count), side="right")


def _gather(owner: Index, clients: int) -> list[Index]:
    return [np.flatnonzero(owner == client) for client in range(clients)]


def _expect_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        # Not 0.0 <: NaN is refused, too.
        if not value > 0:
            raise PlanError("must be above 0", key=name, value=value, remedy=f"Use a larger {name}.")


def _expect_enough(samples: int, clients: int, minimum: int) -> None:
    if samples < clients * minimum:
        remedy = f"{samples} samples are at most {samples // max(minimum, 1)} clients of {minimum}."
        raise PlanError("too few samples", key="clients", value=clients, remedy=remedy)
