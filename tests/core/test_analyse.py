"""What a comparison comes to: means, intervals, gains and chance, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rows import Value, row
from scipy import stats

from hetfed.cli.tables import comparison_table
from hetfed.results.analyse import AlgorithmResult, Estimate, analyse, comparable

T_2, T_3 = 12.706205, 4.302653
"""97.5 % quantiles of Student's t with one and two degrees of freedom, from a printed table."""
NAN = float("nan")


def only(*rows: dict[str, Any]) -> AlgorithmResult:
    (result,) = analyse(pd.DataFrame(rows))
    return result


def about(estimate: Estimate, mean: float, half_width: float = NAN) -> bool:
    expected = pytest.approx((mean, half_width), rel=1e-5, abs=1e-9, nan_ok=True)
    return (estimate.mean, estimate.half_width) == expected


def test_an_interval_by_hand() -> None:
    assert about(Estimate.of([1.0, 3.0]), 2.0, T_2)
    assert about(Estimate.of(np.array([0.1, 0.3, 0.2])), 0.2, T_3 * 0.1 / 3**0.5)
    assert about(Estimate.of([2.0, 2.0, 2.0]), 2.0, 0.0)
    assert about(Estimate.of([2.0]), 2.0)
    assert about(Estimate.of([]), NAN)
    assert about(Estimate.of([1.0, NAN, 3.0, float("inf")]), 2.0, T_2)


def test_means_over_seeds_and_clients_by_hand() -> None:
    values = {("a", 0): (0.5, 0.6), ("a", 1): (0.6, 0.9), ("a", 2): (0.7, 0.9)}
    values |= {("b", 0): (0.7, 0.5), ("b", 1): (0.7, 0.7), ("b", 2): (0.7, 0.8)}
    result = only(*(row(seed, client, *pair, bytes=seed) for (client, seed), pair in values.items()))
    a, b = result.clients
    assert (a.client, b.client) == ("a", "b")
    # Gains 0.1, 0.3, 0.2: mean 0.2, deviation 0.1.
    assert about(a.gain, 0.2, T_3 * 0.1 / 3**0.5)
    assert (a.alone.mean, a.federated.mean, a.wins, a.seeds) == (pytest.approx(0.6), pytest.approx(0.8), 3, 3)
    # Gains -0.2, 0, 0.1; a tie is no win.
    assert about(b.gain, -0.1 / 3, T_3 * np.std([-0.2, 0.0, 0.1], ddof=1) / 3**0.5)
    assert (b.wins, b.seeds) == (1, 3)
    # Means over clients, seed by seed: alone 0.6, 0.65, 0.7; federated 0.55, 0.8, 0.85.
    assert about(result.alone, 0.65, T_3 * 0.05 / 3**0.5)
    assert about(result.score, 2.2 / 3, T_3 * np.std([0.55, 0.8, 0.85], ddof=1) / 3**0.5)
    assert about(result.gain, 0.25 / 3, T_3 * np.std([-0.05, 0.15, 0.15], ddof=1) / 3**0.5)
    assert (result.gained, result.judged) == (1, 2)
    assert result.worst == ("b", pytest.approx(2 / 3))
    assert np.isnan(result.pooled.mean)
    # Bytes are those of a run, not of a client.
    assert (result.bytes, result.seconds) == (1.0, 1.0)


def test_where_lower_is_better_less_is_a_gain() -> None:
    rows = [row(0, name, 5.0, value, higher_is_better=False) for name, value in (("a", 4.0), ("b", 7.0))]
    result = only(*rows)
    assert [client.gain.mean for client in result.clients] == [1.0, -2.0]
    assert result.gain.mean == -0.5
    assert (result.worst, result.gained) == (("b", 7.0), 1)


def test_what_is_kept_is_not_what_is_federated() -> None:
    result = only(row(0, "a", 0.5, 0.4, kept=0.5, kept_arm="alone"), row(0, "b", 0.5, 0.8, kept=0.9, kept_arm="finetuned"))
    assert (result.score.mean, result.kept.mean) == (pytest.approx(0.6), pytest.approx(0.7))


def test_a_seed_without_a_value_is_left_out() -> None:
    result = only(row(0, "a", 0.5, 0.6), row(1, "a", None, 0.8), row(2, "a", 0.5, 0.8))
    (client,) = result.clients
    assert about(client.gain, 0.2, T_2 * 0.1)
    assert (client.alone.mean, client.federated.mean) == (pytest.approx(0.5), pytest.approx(2.2 / 3))
    assert (client.wins, client.seeds) == (2, 2)
    assert result.score.mean == pytest.approx(0.7)


def test_a_mean_is_over_those_who_can_be_compared() -> None:
    result = only(row(0, "a", 0.5, 0.7), row(0, "b", None, 0.1), row(0, "c", 0.5, None))
    assert (result.alone.mean, result.score.mean) == (0.5, 0.7)
    assert (result.judged, result.gained, result.worst) == (1, 1, ("a", 0.7))


def test_a_pooled_mean_needs_a_pooled_value_of_everyone() -> None:
    rows = [row(0, "a", 0.5, 0.7, pooled=0.9), row(0, "b", 0.1, 0.1)]
    assert np.isnan(only(*rows).pooled.mean)
    assert only(*rows, row(1, "a", 0.5, 0.7, pooled=0.9), row(1, "b", 0.1, 0.1, pooled=0.3)).pooled.mean == pytest.approx(0.6)


def test_without_any_value_nothing_is_claimed() -> None:
    result = only(row(0, "a", None, 0.6), row(1, "a", None, 0.7))
    assert (result.judged, result.gained) == (0, 0)
    assert result.worst[0] == ""
    assert all(np.isnan(value) for value in (result.score.mean, result.gain.mean, result.p, result.worst[1]))


def test_the_best_comes_first_and_what_has_no_mean_last() -> None:
    def rows(**federated: Value) -> pd.DataFrame:
        return pd.DataFrame([row(0, "a", 0.5, value, algorithm=name) for name, value in federated.items()])

    frame = rows(none=None, low=0.2, high=0.9, middle=0.5)
    assert [result.algorithm for result in analyse(frame)] == ["high", "middle", "low", "none"]
    frame["higher_is_better"] = False
    assert [result.algorithm for result in analyse(frame)] == ["low", "middle", "high", "none"]


def test_clients_of_differing_units_are_compared_by_their_gain_in_per_cent() -> None:
    both = {"metric": "MAE", "higher_is_better": False}
    rows = [
        row(0, "a", 10.0, 9.0, unit="km/h", pooled=8.0, kept=10.0, **both),
        row(0, "b", 2.0, 3.0, unit="mph", pooled=1.0, kept=2.0, **both),
    ]
    frame = pd.DataFrame(rows)
    assert not comparable(frame)
    (result,) = analyse(frame)
    assert [client.gain.mean for client in result.clients] == pytest.approx([10.0, -50.0])
    assert (result.alone.mean, result.score.mean, result.gain.mean) == (0.0, pytest.approx(-20.0), pytest.approx(-20.0))
    assert (result.pooled.mean, result.kept.mean) == (pytest.approx(35.0), 0.0)
    assert result.worst == ("b", pytest.approx(-50.0))
    better = pd.DataFrame([{**each, "algorithm": "y", "federated": each["alone"] / 2} for each in rows])
    assert [result.algorithm for result in analyse(pd.concat([frame, better]))] == ["y", "x"]


def test_of_nothing_there_is_no_per_cent() -> None:
    result = only(row(0, "a", 0.0, 0.5), row(0, "b", 0.5, 0.6, metric="F1"))
    assert (result.judged, result.gain.mean) == (1, pytest.approx(20.0))


def test_chance_is_that_of_a_t_test_over_seeds() -> None:
    def gains(*values: float) -> float:
        return only(*(row(seed, "a", 0.5, 0.5 + value) for seed, value in enumerate(values))).p

    # With one degree of freedom Student's distribution is Cauchy's: t = mean / (half the difference) = 3.
    assert gains(0.1, 0.2) == pytest.approx(1 - 2 * math.atan(3) / math.pi)
    assert gains(-0.1, 0.1) == pytest.approx(1)
    assert np.isnan(gains(0.1))
    assert np.isnan(gains(0.0, 0.0, 0.0))


def test_p_and_interval_agree_and_clients_of_one_seed_are_not_independent() -> None:
    gains = {0: 0.02, 1: 0.05, 2: 0.01}
    one, many = (only(*(row(s, name, 0.5, 0.5 + g) for s, g in gains.items() for name in names)) for names in ("a", "abcdef"))
    assert many.p == pytest.approx(one.p)
    assert (one.p < 0.05) == (one.gain.mean - one.gain.half_width > 0)


def test_seeds_that_split_the_same_patients_again_are_not_independent() -> None:
    gains = (0.02, 0.05, 0.01, 0.04)
    found = only(*(row(seed, "a", 0.5, 0.5 + gain, n_train=50, n_test=25) for seed, gain in enumerate(gains)))
    # Nadeau and Bengio (2003): the variance of the mean is (1/J + n_test/n_train) times that of the gains.
    t = np.mean(gains) / np.sqrt((1 / 4 + 25 / 50) * np.var(gains, ddof=1))
    assert found.p_corrected == pytest.approx(2 * stats.t.sf(t, 3))
    assert found.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert found.p < 0.05 < found.p_corrected
    assert found.clients[0].p_corrected == pytest.approx(found.p_corrected)
    # The more there is to train on, beside what is tested on, the less the seeds overlap.
    larger = only(*(row(seed, "a", 0.5, 0.5 + gain, n_train=500, n_test=25) for seed, gain in enumerate(gains)))
    assert found.p < larger.p_corrected < found.p_corrected


def test_each_client_gains_as_its_own_metric_goes() -> None:
    error = {"metric": "MAE", "unit": "mph", "higher_is_better": False}
    rows = [row(0, "a", 0.8, 0.9), row(0, "b", 10.0, 9.0, **error), row(0, "c", 10.0, 12.0, **error)]
    for frame in (rows, rows[::-1]):
        found = {client.client: client.gain.mean for client in only(*frame).clients}
        assert found == {"a": pytest.approx(12.5), "b": pytest.approx(10), "c": pytest.approx(-20)}
        assert only(*frame).gained == 2 and only(*frame).worst == ("c", pytest.approx(-20))


def test_what_rounding_leaves_is_no_gain() -> None:
    """Thirds in six figures: by seed a gain and a loss, and nothing over both."""
    found = only(row(0, "a", 0.333333, 0.666667), row(1, "a", 0.666666, 0.333333), row(0, "b", 0.5, 0.6), row(1, "b", 0.5, 0.6))
    assert (found.gained, found.judged) == (1, 2)


def test_all_test_data_together_are_a_median_over_seeds() -> None:
    rows = [row(seed, name, 0.5, 0.6, overall=value) for seed, value in enumerate((0.1, 0.9, 0.8)) for name in "ab"]
    assert only(*rows).overall == 0.8
    assert np.isnan(only(row(0, "a", 0.5, 0.6)).overall)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_rows_decides_nothing(values: list[tuple[float, float]], chance: Any) -> None:
    rows = [row(seed, name, *pair) for seed, pair in enumerate(values) for name in "ab"]
    one = only(*rows)
    chance.shuffle(rows)
    other = only(*rows)
    assert about(other.score, one.score.mean, one.score.half_width)
    assert about(other.gain, one.gain.mean, one.gain.half_width)
    assert (other.gained, other.judged) == (one.gained, one.judged)
    assert other.p == pytest.approx(one.p, nan_ok=True)


def table(*rows: dict[str, Any], relative: bool = False) -> list[tuple[str, ...]]:
    shown = comparison_table(analyse(pd.DataFrame(rows)), Console(width=200), relative=relative)
    return list(zip(*(list(map(str, column.cells)) for column in shown.columns), strict=True))


def test_the_table_on_the_terminal_has_a_row_per_algorithm() -> None:
    rows = [row(0, "a", 0.5, 0.6, overall=0.7), row(1, "a", 0.5, 0.8, overall=0.7)]
    cells = ("x", "0.700 ± 1.271", "+0.200", "0.700", "0.700 a", "1/1", "0.295", "0.365", "0.700", "1.00")
    assert table(*rows) == [cells]
    assert table(row(0, "a", 0.5, None)) == [("x", "–", "–", "–", "– ", "0/0", "–", "–", "–", "1.00")]


def test_on_a_narrow_terminal_the_least_needed_columns_are_left_to_the_file() -> None:
    rows = [row(seed, "a-hospital-of-some-name", 0.5, 0.6, algorithm="scaffold", overall=0.7) for seed in (0, 1)]
    for width in (40, 60, 80, 200):
        console = Console(width=width, record=True, quiet=True)
        shown = comparison_table(analyse(pd.DataFrame(rows)), console, relative=False)
        heads = [str(column.header) for column in shown.columns]
        assert heads[:2] == ["algorithm", "mean"]
        assert ("gain over alone" in heads) == (width > 40)
        assert ("together" in heads) == (width == 200)
        if width == 200:
            assert shown.caption is None
        else:
            left = str(shown.caption).removeprefix("also in comparison.md: ").split(", ")
            assert sorted([*heads, *left]) == sorted(
                ["algorithm", "mean", "gain over alone", "kept", "worst client", "above", "p", "p corrected", "together", "MiB"]
            )
        lines = console.render_lines(shown)
        # A row, its head, and what was left out in two lines.
        assert width == 40 or len([line for line in lines if "".join(part.text for part in line).strip()]) <= 4


def test_in_per_cent_the_table_says_the_gain_once() -> None:
    rows = [row(0, "a", 0.5, 0.6), row(0, "b", 4.0, 4.0, metric="F1")]
    assert table(*rows, relative=True) == [("x", "10.000", "10.000", "0.000 b", "1/2", "–", "–", "–", "1.00")]
