"""The outcome of a comparison: means with intervals, the worst client, who gains, and whether chance explains it.

Seeds are the samples: the clients of one seed share their rounds, and are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
ROUNDING = 1e-6
"""Metrics have six figures: a mean difference below it is none."""
REFERENCE = "reference: "
"""Begins the name of a column of comparison.csv that holds a simple method's test metric."""
GAINS = {"federated": "gain", "kept": "kept_gain", "pooled": "pooled_gain"}
"""The name of what an arm gains over training alone."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with its interval.

    Args:
        mean: NaN where there is no value.
        half_width: half the width of the 95 % interval (Student's t); NaN where there is none or only one value.
        values: those it is the mean of, one per seed.
    """

    mean: float
    half_width: float
    values: tuple[float, ...] = ()

    @staticmethod
    def of(values: Sequence[float] | Values) -> Estimate:
        """The estimate from one value per seed; missing ones are left out.

        >>> found = Estimate.of([0.7, 0.8, 0.9, None])
        >>> f"{found.mean:.2f} +- {found.half_width:.2f} of {len(found.values)}"
        '0.80 +- 0.25 of 3'
        """
        known = np.asarray([value for value in values if value is not None and np.isfinite(value)], dtype=float)
        if not len(known):
            return Estimate(float("nan"), float("nan"))
        if len(known) == 1:
            # One value says nothing of how far others would lie from it.
            return Estimate(float(known[0]), float("nan"), (float(known[0]),))
        half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
        return Estimate(float(known.mean()), float(half), tuple(known.tolist()))


def beyond_chance(p: float) -> bool:
    """Whether a difference is one beyond chance, by the corrected test."""
    return p < 0.05


@dataclass(frozen=True)
class ClientResult:
    """One client under one algorithm: its metric in each arm over the seeds, and what it gains over training alone.

    Args:
        client: its name.
        alone: its test metric where it trains alone.
        federated: the same under the algorithm.
        kept: the same of the model that it keeps.
        pooled: the same where everybody's data are in one place.
        gain: of federated over alone, positive where it gains: a difference of metrics, or per cent where clients differ in
            metric or unit.
        wins: in how many seeds it gains.
        seeds: in how many both are defined.
        p_corrected: of the corrected test of that gain, see `corrected_p`.
    """

    client: str
    alone: Estimate
    federated: Estimate
    kept: Estimate
    pooled: Estimate
    gain: Estimate
    wins: int
    seeds: int
    p_corrected: float


@dataclass(frozen=True)
class AlgorithmResult:
    """One algorithm over all clients and seeds.

    Where clients differ in metric or unit, `score`, `kept` and `pooled` are mean gains over training alone in per cent, and
    `alone` is zero.

    Args:
        algorithm: its name.
        clients: each by itself.
        alone: the mean over clients, by seed, where everybody trains alone.
        score: the same under the algorithm.
        kept: the same of the models that clients keep.
        pooled: the same of pooled training.
        gain: of score over alone.
        worst: the client with the worst mean score, and that score.
        gained: how many clients have a positive mean gain, by whatever little.
        judged: of how many clients there is a gain.
        p: of the paired t test of federated against alone over the seeds' means, since clients of one seed are not independent;
            NaN with one seed, or without any difference.
        p_corrected: the same, corrected for seeds that split the same patients again, see `corrected_p`.
        overall: the median over seeds of the metric on all clients' test data together; NaN where they answer different
            questions.
        bytes: that travelled in a run, the mean over seeds.
        seconds: of a run, the mean over seeds.
    """

    algorithm: str
    clients: Sequence[ClientResult]
    alone: Estimate
    score: Estimate
    kept: Estimate
    pooled: Estimate
    gain: Estimate
    worst: tuple[str, float]
    gained: int
    judged: int
    p: float
    p_corrected: float
    overall: float
    bytes: float
    seconds: float


def comparable(frame: pd.DataFrame) -> bool:
    """Whether all clients have the same metric and unit, so that a mean over them says something.

    >>> comparable(pd.DataFrame({"metric": ["AUROC", "RMSE"], "unit": ["", "years"]}))
    False
    """
    return len(frame[["metric", "unit"]].drop_duplicates()) == 1


def analyse(frame: pd.DataFrame) -> list[AlgorithmResult]:
    """Every algorithm of a comparison, the best mean first.

    Args:
        frame: comparison.csv: one row per algorithm, seed and client, with the test metric of each arm.
    """
    relative = not comparable(frame)
    results = [_algorithm(str(name), group, relative) for name, group in frame.groupby("algorithm", sort=False)]
    higher = bool(frame["higher_is_better"].iloc[0]) or relative

    def rank(result: AlgorithmResult) -> float:
        """The key of an algorithm: the better its mean, the smaller; without a mean it comes last."""
        mean = result.score.mean
        return np.inf if np.isnan(mean) else (-mean if higher else mean)

    return sorted(results, key=rank)


def _algorithm(name: str, rows: pd.DataFrame, relative: bool) -> AlgorithmResult:
    rows = rows.astype(dict.fromkeys(["alone", *GAINS], float))
    # Of an error, less is a gain: after this, more is always better.
    sign = rows["higher_is_better"].map({True: 1.0, False: -1.0})
    rows = rows.assign(**{gain: sign * (rows[arm] - rows["alone"]) for arm, gain in GAINS.items()})
    if relative:
        # Of nothing there is no per cent.
        # The absolute value, so that the sign of a gain is that of the difference.
        scale = 100 / rows["alone"].abs().replace(0, np.nan)
        rows = rows.assign(**{gain: rows[gain] * scale for gain in GAINS.values()})
    clients = [_client(str(client), group) for client, group in rows.groupby("client", sort=False)]
    # A client without a metric in some arm says nothing of who gains.
    judged = [client for client in clients if not np.isnan(client.gain.mean)]
    columns = ("gain", "kept_gain", "pooled_gain") if relative else ("federated", "kept", "pooled")
    score, kept, pooled = (_mean_by_seed(rows, column) for column in columns)
    gain = _mean_by_seed(rows, "gain")
    totals = rows.groupby("seed")[["bytes", "seconds"]].first()
    return AlgorithmResult(
        algorithm=name,
        clients=clients,
        alone=Estimate(0.0, 0.0) if relative else _mean_by_seed(rows, "alone"),
        score=score,
        kept=kept,
        pooled=pooled,
        gain=gain,
        worst=_worst(judged, float(sign.iloc[0]), relative),
        gained=sum(client.gain.mean > ROUNDING for client in judged),
        judged=len(judged),
        p=corrected_p(gain.values, 0.0),
        p_corrected=corrected_p(gain.values, _share(rows[rows["gain"].notna()])),
        overall=_median(rows.groupby("seed")["overall"].first().astype(float)),
        bytes=float(totals["bytes"].mean()),
        seconds=float(totals["seconds"].mean()),
    )


def _client(name: str, rows: pd.DataFrame) -> ClientResult:
    # A seed without one of the two values tells nothing of a gain: it counts neither as won nor as lost.
    gains = rows["gain"].dropna()
    estimates = {arm: Estimate.of(rows[arm].tolist()) for arm in ("alone", "federated", "kept", "pooled")}
    return ClientResult(
        name,
        **estimates,
        gain=Estimate.of(gains.tolist()),
        wins=int((gains > 0).sum()),
        seeds=len(gains),
        p_corrected=corrected_p(gains.tolist(), _share(rows)),
    )


def _mean_by_seed(rows: pd.DataFrame, column: str) -> Estimate:
    """The mean over those clients that have both a federated and a value alone, seed by seed; where one of them lacks a value
    the seed has no mean, as it would be one over other clients."""
    # The same clients in every arm, so that two means can be compared.
    usable = rows[rows["gain"].notna()]
    return Estimate.of([group[column].mean(skipna=False) for _, group in usable.groupby("seed")])


def _median(values: pd.Series[float]) -> float:
    known = values.dropna()
    return float(known.median()) if len(known) else float("nan")


def _worst(clients: Sequence[ClientResult], sign: float, relative: bool) -> tuple[str, float]:
    if not clients:
        return "", float("nan")
    worst = min(clients, key=lambda client: client.gain.mean if relative else sign * client.federated.mean)
    return worst.client, worst.gain.mean if relative else worst.federated.mean


def _share(rows: pd.DataFrame) -> float:
    """Test examples by training examples, all clients together."""
    # A comparison of an earlier version does not say how many there were.
    known = len(rows) and {"n_test", "n_train"} <= set(rows.columns)
    return float(rows["n_test"].sum() / rows["n_train"].sum()) if known else float("nan")


def corrected_p(gains: Sequence[float], share: float) -> float:
    """Of the t test that the mean of gains over seeds is zero, where each seed splits the same patients again.

    Such gains are not independent: their training sets overlap. Instead of the variance by J, the number of seeds, the mean has
    the variance times (1/J + share) (Nadeau and Bengio 2003). With a share of 0 it is the plain paired t test.

    Args:
        gains: one for each seed.
        share: the number of test examples by that of training examples.

    >>> gains = [0.02, 0.03, 0.01, 0.04, 0.02]
    >>> f"{corrected_p(gains, 0):.3f} {corrected_p(gains, 1 / 3):.3f}"
    '0.009 0.045'
    """
    if len(gains) < 2 or not np.ptp(gains):
        return float("nan")
    error = np.std(gains, ddof=1) * np.sqrt(1 / len(gains) + share)
    return float(2 * stats.t.sf(abs(np.mean(gains)) / error, len(gains) - 1))


def references(frame: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """What simple methods reach at each client over the seeds, by their names; no algorithm changes it.

    Args:
        frame: comparison.csv, whose columns `reference: <name>` these are.
    """
    columns = [column for column in frame.columns if column.startswith(REFERENCE)]
    # Once a seed and client: the rows of all algorithms say the same.
    once = frame.drop_duplicates(["seed", "client"])
    by_client = {str(name): rows for name, rows in once.groupby("client", sort=False)}
    return {
        column.removeprefix(REFERENCE): {name: Estimate.of(rows[column].tolist()) for name, rows in by_client.items()}
        for column in columns
    }
