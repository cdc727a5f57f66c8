"""Laws of partitions: disjoint, complete, reproducible, patients intact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetfed.errors import PlanError
from hetfed_datasets.partition import by_patient, classes_per_client, dirichlet, quantity, split_by_patient

SEEDS = st.integers(0, 2**31)


def whole(parts, n):
    """Every one of the n samples is in exactly one part."""
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))


def labels_of(n, classes, seed):
    return np.random.default_rng(seed).integers(0, classes, n)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 300), people=st.integers(1, 60), train=st.floats(0, 1), rest=st.floats(0, 1), seed=SEEDS)
def test_split_is_whole_and_keeps_patients_together(n, people, train, rest, seed):
    rng = np.random.default_rng(seed)
    patient = np.array([f"p{i}" for i in rng.integers(0, people, n)])
    label = rng.integers(-1, 3, n)
    parts = split_by_patient(patient, label, (train, (1 - train) * rest), seed)
    assert whole(parts, n)
    assert sum(len(set(patient[part])) for part in parts) == len(set(patient))
    again = split_by_patient(patient, label, (train, (1 - train) * rest), seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_split_holds_shares_in_every_stratum():
    patient = np.repeat([f"p{i:03d}" for i in range(100)], 3)
    label = np.repeat([0] * 70 + [1] * 30, 3)
    parts = split_by_patient(patient, label, (0.6, 0.2), seed=3)
    assert [len(part) for part in parts] == [180, 60, 60]
    assert [int(label[part].sum()) for part in parts] == [54, 18, 18]
    other = split_by_patient(patient, label, (0.6, 0.2), seed=4)
    assert not np.array_equal(parts[0], other[0])


def test_a_part_that_is_asked_for_is_not_rounded_away():
    """0.1 of ten patients of each class: both cuts round to six of them."""
    patient, label = np.array([f"p{i:02d}" for i in range(20)]), np.repeat([0, 1], 10)
    assert [len(part) for part in split_by_patient(patient, label, (0.55, 0.1), seed=0)] == [11, 1, 8]
    assert [len(part) for part in split_by_patient(patient, label, (0.5, 0.0), seed=0)] == [10, 0, 10]
    assert [len(part) for part in split_by_patient(patient[:1], label[:1], (0.5, 0.2), seed=0)].count(1) == 1


@pytest.mark.parametrize("fractions", [(-0.1, 0.5), (0.8, 0.3)])
def test_split_refuses_shares_that_are_none(fractions):
    with pytest.raises(PlanError, match="fractions"):
        split_by_patient(np.array(["a", "b"]), np.array([0, 1]), fractions, seed=0)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(40, 400), clients=st.integers(1, 4), alpha=st.floats(0.5, 100), seed=SEEDS)
def test_dirichlet_is_whole_with_the_minimum(n, clients, alpha, seed):
    label = labels_of(n, 3, seed)
    parts = dirichlet(label, clients, alpha, seed, minimum=5)
    assert len(parts) == clients and whole(parts, n)
    assert min(len(part) for part in parts) >= 5
    assert all(map(np.array_equal, parts, dirichlet(label, clients, alpha, seed, minimum=5)))


def test_small_alpha_separates_classes():
    label = labels_of(2000, 4, seed=0)

    def spread(alpha):
        shares = [np.bincount(label[part], minlength=4) / len(part) for part in dirichlet(label, 4, alpha, seed=1)]
        return float(np.std(shares, axis=0).mean())

    assert spread(0.1) > 5 * spread(1000.0)


def test_dirichlet_says_when_no_draw_will_do():
    with pytest.raises(PlanError, match="too few samples"):
        dirichlet(np.zeros(30, dtype=int), 4, 1.0, seed=0)
    with pytest.raises(PlanError, match="no draw gives every client 10 samples"):
        dirichlet(np.zeros(40, dtype=int), 4, 0.01, seed=0)
    with pytest.raises(PlanError, match="alpha: must be above 0"):
        dirichlet(np.zeros(40, dtype=int), 4, 0.0, seed=0)


@settings(deadline=None, max_examples=40)
@given(clients=st.integers(1, 8), classes=st.integers(1, 6), seed=SEEDS)
def test_classes_per_client_deals_so_many_classes(clients, classes, seed):
    label = np.arange(600) % 6
    if clients * classes < 6:
        with pytest.raises(PlanError, match="cannot be dealt"):
            classes_per_client(label, clients, classes, seed)
        return
    parts = classes_per_client(label, clients, classes, seed)
    assert whole(parts, 600)
    assert [len(np.unique(label[part])) for part in parts] == [classes] * clients


def test_classes_per_client_refuses_more_than_there_are():
    with pytest.raises(PlanError, match="classes"):
        classes_per_client(np.array([0, 1]), clients=2, classes=3, seed=0)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(50, 500), clients=st.integers(1, 5), alpha=st.floats(0.05, 50), seed=SEEDS)
def test_quantity_is_whole_with_the_minimum(n, clients, alpha, seed):
    parts = quantity(n, clients, alpha, seed)
    assert len(parts) == clients and whole(parts, n)
    assert min(len(part) for part in parts) >= 10
    assert all(map(np.array_equal, parts, quantity(n, clients, alpha, seed)))


def test_quantity_refuses_too_many_clients():
    with pytest.raises(PlanError, match="at most 4 clients of 10"):
        quantity(49, 5, 1.0, seed=0)


@settings(deadline=None, max_examples=30)
@given(people=st.integers(30, 80), seed=SEEDS)
def test_patients_stay_with_one_client(people, seed):
    rng = np.random.default_rng(seed)
    patient = np.array([f"p{i}" for i in rng.integers(0, people, 400)])
    label = rng.integers(0, 2, 400)
    parts = by_patient(patient, label, lambda label: dirichlet(label, 3, 1.0, seed, minimum=2))
    assert whole(parts, 400)
    assert sum(len(set(patient[part])) for part in parts) == len(set(patient))
