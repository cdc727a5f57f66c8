"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

    from hetfed.results.analyse import AlgorithmResult

# Written out, though `hetfed.results.arms` has them: to import that loads torch, and this module is loaded for --help.
ARMS = ("alone", "federated", "finetuned", "pooled")
SPARED = {
    "report.html": ("train", "test", "gains", "pooled", "finetuned", "keeps"),
    "comparison.md": ("together", "worst client", "kept", "p", "MiB", "gain over alone"),
}
"""The columns that a narrow terminal goes without, the first one first, by the file that has them all."""
UNBOUNDED = 10_000


def number(value: float | None) -> str:
    """A metric in four figures, a dash where it is undefined.

    >>> number(0.87654), number(None)
    ('0.8765', '-')
    """
    return "-" if value is None or isnan(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference with its sign, a dash where it is undefined.

    >>> signed(0.0312), signed(float("nan"))
    ('+0.0312', '-')
    """
    return "-" if isnan(value) else f"{value:+.4f}"


def outcome_table(summary: Mapping[str, Any], console: Console) -> Table:
    """The test metric of every client alone, federated and pooled.

    Args:
        summary: summary.json.
        console: whose width decides which columns stay.
    """
    clients = summary["clients"]
    columns = {
        "client": [client["name"] for client in clients],
        "train": [str(client["n_train"]) for client in clients],
        "test": [str(client["n_test"]) for client in clients],
        **{arm: [number(client[arm]) for client in clients] for arm in ARMS},
        "gains": [gain(client) for client in clients],
        "keeps": [kept(client) for client in clients],
    }
    table = _fitted(columns, console, "report.html")
    table.title = f"{summary['plan']}: {_judged_by(clients)}"
    return table


def _judged_by(clients: Sequence[Mapping[str, Any]]) -> str:
    """The metric of the clients, and which way is better."""
    metrics = {client["metric"]: "higher" if client["higher_is_better"] else "lower" for client in clients}
    if len(metrics) == 1:
        return "".join(f"test {metric} ({way} is better)" for metric, way in metrics.items())
    return "each client's own test metric"


def gain(client: Mapping[str, Any]) -> str:
    """Whether the client does better federated than alone.

    >>> gain({"alone": 4.0, "federated": 3.5, "higher_is_better": False})  # an error that became smaller
    'yes'
    """
    alone, federated = client["alone"], client["federated"]
    if alone is None or federated is None:
        return "-"
    if alone == federated:
        return "same"
    return "yes" if (federated > alone) == client["higher_is_better"] else "no"


def kept(client: Mapping[str, Any]) -> str:
    """The arm whose model the client keeps, by its own validation data.

    >>> kept({"kept": {"arm": "finetuned", "value": 0.8}})
    'finetuned'
    """
    return "-" if client["kept"] is None else str(client["kept"]["arm"])


def comparison_table(results: Sequence[AlgorithmResult], console: Console, *, relative: bool) -> Table:
    """One row per algorithm, the best first; intervals are 95 % of the mean over seeds (Student's t).

    Args:
        results: as `analyse` gives them, the best first.
        console: whose width decides which columns stay.
        relative: whether clients differ in metric or unit, so that means are of gains in per cent.
    """
    return _fitted(_columns(results, relative=relative), console, "comparison.md")


def _fitted(columns: Mapping[str, Sequence[str]], console: Console, file: str) -> Table:
    """The columns by their heads; where the console is too narrow, those that are missed least are left to `file`."""
    columns, left = dict(columns), list[str]()
    # First with all columns, then without those that are missed least.
    for name in ("", *SPARED[file]):
        if name in columns:
            left.append(name)
            del columns[name]
        table = _side_by_side(columns)
        # Measured without a limit: asked for its width on this console, a table would say that it fits by breaking its lines.
        if console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum <= console.width:
            break
    if left:
        table.caption, table.caption_justify = f"also in {file}: {', '.join(left)}", "left"
    return table


def _columns(results: Sequence[AlgorithmResult], *, relative: bool) -> dict[str, list[str]]:
    """The cells of every column by its head."""
    mean = [number(r.score.mean) + ("" if isnan(r.score.half_width) else f" ± {number(r.score.half_width)}") for r in results]
    gain = {} if relative else {"gain over alone": [signed(r.gain.mean) for r in results]}
    return {
        "algorithm": [r.algorithm for r in results],
        "mean gain, %" if relative else "mean": mean,
        **gain,
        "kept": [number(r.kept.mean) for r in results],
        "worst client": [f"{number(r.worst[1])} {r.worst[0]}" for r in results],
        "gain": [f"{r.gained}/{r.judged}" for r in results],
        "p": [number(r.p) for r in results],
        "together": [number(r.overall) for r in results],
        "MiB": [f"{r.bytes / 2**20:.2f}" for r in results],
    }


def _side_by_side(columns: Mapping[str, Sequence[str]]) -> Table:
    first, *others = columns
    # With two blanks between columns, a name of two words and the model that is kept do not fit a terminal of 80.
    table = Table(Column(first, no_wrap=True), *others, box=None, padding=(0, 1, 0, 0))
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
