"""What chance does to a metric: resamples by owner, intervals, and differences between two models."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from sklearn.metrics import roc_auc_score

from hetfed.chance import FEWEST, Interval, Resamples, auroc, concordance, interval, paired_interval, standard_error

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.5, 3.0]), st.booleans()), min_size=2, max_size=20)


@given(SCORES)
def test_auroc_is_that_of_scikit_learn_ties_included(pairs: list[tuple[float, bool]]) -> None:
    score, positive = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    found = auroc(score, positive, Resamples.whole(len(pairs)))
    if positive.all() or not positive.any():
        assert np.isnan(found[0])
    else:
        assert found[0] == pytest.approx(roc_auc_score(positive, score))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 5)), min_size=2, max_size=20))
def test_the_c_index_is_that_of_lifelines_ties_included(patients: list[tuple[int, bool, int]]) -> None:
    risk, event, times = (np.array(column) for column in zip(*patients, strict=True))
    found = concordance(risk, event, times, Resamples.whole(len(patients)))
    try:
        assert found[0] == pytest.approx(concordance_index(times, -risk, event))
    except ZeroDivisionError:
        assert np.isnan(found[0])


def test_a_resample_counts_all_of_an_owner_as_often_as_it_is_drawn() -> None:
    rng = np.random.default_rng(0)
    owner, positive, score = rng.integers(0, 12, 60), rng.random(60) < 0.4, rng.integers(0, 9, 60)
    event, times = rng.random(60) < 0.5, rng.integers(1, 9, 60)
    drawn = Resamples.of(owner.tolist())
    areas, indices = auroc(score, positive, drawn), concordance(score, event, times, drawn)
    for resample in range(20):
        rows = np.repeat(np.arange(60), drawn.counts[resample][drawn.owner].astype(int))
        assert areas[resample] == pytest.approx(roc_auc_score(positive[rows], score[rows]))
        assert indices[resample] == pytest.approx(concordance_index(times[rows], -score[rows], event[rows]))


def test_slices_of_one_patient_make_no_interval_narrower() -> None:
    right = np.random.default_rng(1).random(30) < 0.8

    def accuracy(values: np.ndarray) -> object:
        return lambda drawn: drawn.sums(values[:, None])[:, 0] / drawn.sums(np.ones((len(values), 1)))[:, 0]

    once = interval(accuracy(right), range(30))
    tenfold = interval(accuracy(np.repeat(right, 10)), np.repeat(np.arange(30), 10).tolist())
    single = interval(accuracy(np.repeat(right, 10)), range(300))
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.1)
    assert single.high - single.low < 0.5 * (tenfold.high - tenfold.low)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(150):
        positive = np.arange(40) < 15
        # Normal scores one and a half deviations apart have an area of 0.8556.
        found = interval(partial(auroc, rng.normal(size=40) + 1.5 * positive, positive), range(40))
        covered += found.low <= 0.8556 <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_two_models_are_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(40)  # what makes a patient hard is the same to both models

    def mean(values: np.ndarray) -> object:
        return lambda drawn: drawn.sums(values[:, None])[:, 0] / 40

    better, worse = hard + 0.02, hard
    paired = paired_interval(mean(better), mean(worse), range(40))
    assert paired.clear is False  # a difference that is the same for all has no interval by a bootstrap
    noisy = better + 0.01 * rng.normal(size=40)
    paired = paired_interval(mean(noisy), mean(worse), range(40))
    apart = interval(mean(noisy), range(40))
    assert paired.clear
    assert paired.low < 0.02 < paired.high + 0.005
    assert paired.high - paired.low < 0.1 * (apart.high - apart.low)
    error = standard_error(mean(noisy), mean(worse), range(40))
    assert error == pytest.approx((paired.high - paired.low) / 3.92, rel=0.15)
    assert standard_error(mean(noisy), mean(noisy), range(40)) is None


def test_the_same_seed_gives_the_same_resamples_whatever_else_is_drawn() -> None:
    first, again, other = Resamples.of("abcabd"), Resamples.of("abcabd"), Resamples.of("abcabd", seed=1)
    assert (first.counts == again.counts).all()
    assert not (first.counts == other.counts).all()


@pytest.mark.parametrize(
    ("values", "owners", "reason"),
    [
        (np.linspace(0, 1, 1000), FEWEST - 1, "fewer than 5"),
        (np.where(np.arange(1000) < 60, np.nan, np.linspace(0, 1, 1000)), 20, "too rare"),
        (np.ones(1000), 20, "the same in every resample"),
    ],
)
def test_where_there_is_no_interval_a_reason_says_why(values: np.ndarray, owners: int, reason: str) -> None:
    found = Interval.of(lambda: values, range(owners))
    assert found.low is found.high is None
    assert reason in found.reason
    assert not found.clear


def test_a_class_of_two_patients_has_no_interval_and_one_of_five_has() -> None:
    rng = np.random.default_rng(4)
    for cases, known in ((2, False), (5, True)):
        positive = np.arange(40) < cases
        found = interval(partial(auroc, rng.normal(size=40) + positive, positive), range(40))
        assert (found.low is not None) is known


@pytest.mark.parametrize("n", [7_180, 50_000])
def test_an_interval_takes_no_longer_than_a_second_or_two(n: int) -> None:
    rng = np.random.default_rng(5)
    score, positive = rng.normal(size=n), rng.random(n) < 0.3
    began = time.process_time()
    found = interval(partial(auroc, score, positive), range(n))
    assert time.process_time() - began < 10
    assert found.low < 0.5 + 0.01 and found.high > 0.5 - 0.01
