"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

if TYPE_CHECKING:
    from hetfed.run.analyse import AlgorithmResult

ARMS = ("alone", "federated", "finetuned", "pooled")


def number(value: float | None) -> str:
    """A metric in four figures, a dash where it is undefined."""
    return "-" if value is None or isnan(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference with its sign, a dash where it is undefined."""
    return "-" if isnan(value) else f"{value:+.4f}"


def outcome_table(summary: Mapping[str, Any]) -> Table:
    """The test metric of every client alone, federated and pooled."""
    better = "higher is better" if summary["higher_is_better"] else "lower is better"
    table = Table(
        "client",
        "train",
        "test",
        *ARMS,
        "gains",
        "keeps",
        title=f"{summary['plan']}: test {summary['metric']} ({better})",
        box=None,
    )
    for client in summary["clients"]:
        values = [number(client[arm]) for arm in ARMS]
        table.add_row(
            client["name"], str(client["n_train"]), str(client["n_test"]), *values, gain(client, summary), kept(client)
        )
    return table


def gain(client: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Whether the client does better federated than alone."""
    alone, federated = client["alone"], client["federated"]
    if alone is None or federated is None:
        return "undefined"
    if alone == federated:
        return "same"
    return "yes" if (federated > alone) == summary["higher_is_better"] else "no"


def kept(client: Mapping[str, Any]) -> str:
    """The arm whose model the client keeps, by its own validation data."""
    return "-" if client["kept"] is None else str(client["kept"]["arm"])


def comparison_table(results: Sequence[AlgorithmResult], *, relative: bool) -> Table:
    """One row per algorithm, the best first; intervals are 95 % of the mean over seeds (Student's t)."""
    head = ("mean gain, %",) if relative else ("mean", "gain over alone")
    names = Column("algorithm", no_wrap=True)
    table = Table(names, *head, "kept", "worst client", "gain", "p", "together", "MiB", box=None)
    for r in results:
        score = [f"{number(r.score.mean)} ± {number(r.score.half_width)}"] + ([] if relative else [signed(r.gain.mean)])
        worst, gained = f"{number(r.worst[1])} {r.worst[0]}", f"{r.gained}/{r.judged}"
        rest = (number(r.kept.mean), worst, gained, number(r.p), number(r.overall), f"{r.bytes / 2**20:.2f}")
        table.add_row(r.algorithm, *score, *rest)
    return table
