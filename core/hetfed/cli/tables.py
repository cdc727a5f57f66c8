"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

ARMS = ("alone", "federated", "pooled")


def number(value: float | None) -> str:
    """A metric in four figures, a dash where it is undefined."""
    return "-" if value is None or isnan(value) else f"{value:.4g}"


def outcome_table(summary: Mapping[str, Any]) -> Table:
    """The test metric of every client alone, federated and pooled."""
    better = "higher is better" if summary["higher_is_better"] else "lower is better"
    table = Table(
        "client", "train", "test", *ARMS, "gains", title=f"{summary['plan']}: test {summary['metric']} ({better})", box=None
    )
    for client in summary["clients"]:
        values = [number(client[arm]) for arm in ARMS]
        table.add_row(client["name"], str(client["n_train"]), str(client["n_test"]), *values, gain(client, summary))
    return table


def gain(client: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Whether the client does better federated than alone."""
    alone, federated = client["alone"], client["federated"]
    if alone is None or federated is None:
        return "undefined"
    if alone == federated:
        return "same"
    return "yes" if (federated > alone) == summary["higher_is_better"] else "no"


def comparison_table(frame: pd.DataFrame) -> Table:
    """Mean over seeds of every algorithm, per client and over clients; the interval is 95 % of the mean (Student's t)."""
    from hetfed.run.compare import aggregate

    table = Table("algorithm", "client", "seeds", *ARMS, "federated minus alone", "wins", box=None)
    for row in aggregate(frame).to_dict("records"):
        values = [number(row[arm]) for arm in ARMS]
        difference = interval(row["difference"], row["half_width"])
        table.add_row(row["algorithm"], row["client"], str(row["seeds"]), *values, difference, f"{row['wins']}/{row['seeds']}")
    return table


def interval(middle: float, half_width: float) -> str:
    """A difference and half the width of its interval; the latter is undefined for one seed, both without any value."""
    if isnan(middle):
        return "-"
    return f"{middle:+.4f}" + ("" if isnan(half_width) else f" +/- {half_width:.4f}")
