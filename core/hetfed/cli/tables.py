"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from hetfed.report.figures import DASH, case, decimals, interval, number, signed, verdict, weak

if TYPE_CHECKING:
    from rich.console import Console

    from hetfed.results.analyse import AlgorithmResult

# Written out, though `hetfed.results.arms` has them: to import that loads torch, and this module is loaded for --help.
ARMS = ("alone", "federated", "finetuned", "pooled")
SPARED = {
    "report.html": ("train", "reference", "finetuned", "pooled", "test", "95 %", "federated is", "kept"),
    "comparison.md": ("together", "worst client", "p", "kept", "MiB", "p corrected", "gain over alone"),
}
"""The columns that a narrow terminal goes without, the first one first, by the file that has them all."""
UNBOUNDED = 10_000


def outcome_table(summary: Mapping[str, Any], console: Console) -> Table:
    """The test metric of every client alone, federated and pooled.

    Args:
        summary: summary.json.
        console: whose width decides which columns stay.
    """
    clients = summary["clients"]
    places = max(decimals(client[arm] for arm in ARMS) for client in clients)
    columns = {
        "client": [client["name"] for client in clients],
        "train": [str(client["n_train"]) for client in clients],
        "test": [_tested(client) for client in clients],
        **{arm: [number(client[arm], places) for client in clients] for arm in ARMS},
        "reference": [_reference(client, places) for client in clients],
        "95 %": [interval(client["intervals"]["federated"], places) or DASH for client in clients],
        "federated is": [verdict(client["gains"].get("federated")) for client in clients],
        "kept": [kept(client, places) for client in clients],
    }
    if not any(client["references"] for client in clients):
        del columns["reference"]
    table = _fitted(columns, console, "report.html")
    table.title = f"{summary['plan']}: {_judged_by(clients)}"
    notes = [f"test: {_owners(clients)}; 95 %: of federated; better or worse than alone only beyond chance"]
    few = weak(clients)
    notes += [f"too few validation data to choose by: {', '.join(few)}"] if few else []
    table.caption = "\n".join([*notes, *([str(table.caption)] if table.caption else [])])
    table.caption_justify = "left"
    return table


def _tested(client: Mapping[str, Any]) -> str:
    """How many patients or days a client is tested on, and in brackets how many of them of the class that counts."""
    found = case(client["test_counts"])
    return str(client["test_counts"]["owners"]) + (f" ({found[1]})" if found else "")


def _owners(clients: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of the column `test` count."""
    owned_by = " or ".join(dict.fromkeys(client["owned_by"] for client in clients))
    cases = dict.fromkeys(found[0] for client in clients if (found := case(client["test_counts"])))
    return owned_by + (f" (of them {' or '.join(cases)})" if cases else "")


def _reference(client: Mapping[str, Any], places: int) -> str:
    """The best of the simple methods, and its name."""
    known = {
        name: found for name, values in client["references"].items() if (found := values.get(client["metric"])) is not None
    }
    if not known:
        return DASH
    best = (max if client["higher_is_better"] else min)(known, key=lambda name: known[name])
    return f"{number(known[best], places)} {best}"


def _judged_by(clients: Sequence[Mapping[str, Any]]) -> str:
    """The metric of the clients, and which way is better."""
    metrics = {client["metric"]: "higher" if client["higher_is_better"] else "lower" for client in clients}
    if len(metrics) == 1:
        return "".join(f"test {metric} ({way} is better)" for metric, way in metrics.items())
    return "each client's own test metric"


def kept(client: Mapping[str, Any], places: int) -> str:
    """The metric of what the client keeps.

    >>> kept({"kept": {"arm": "mean of federated, alone", "value": 0.8}}, 3)
    '0.800'
    """
    return DASH if client["kept"] is None else number(client["kept"]["value"], places)


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
    places = decimals(result.score.mean for result in results)
    half = [f" ± {number(r.score.half_width, places)}" if number(r.score.half_width) != DASH else "" for r in results]
    gain = {} if relative else {"gain over alone": [signed(r.gain.mean, places) for r in results]}
    return {
        "algorithm": [r.algorithm for r in results],
        "mean gain, %" if relative else "mean": [number(r.score.mean, places) + h for r, h in zip(results, half, strict=True)],
        **gain,
        "kept": [number(r.kept.mean, places) for r in results],
        "worst client": [f"{number(r.worst[1], places)} {r.worst[0]}" for r in results],
        "above": [f"{r.gained}/{r.judged}" for r in results],
        "p": [number(r.p, 3) for r in results],
        "p corrected": [number(r.p_corrected, 3) for r in results],
        "together": [number(r.overall, places) for r in results],
        "MiB": [f"{r.bytes / 2**20:.2f}" for r in results],
    }


def _side_by_side(columns: Mapping[str, Sequence[str]]) -> Table:
    first, *others = columns
    # With two blanks between columns, a name of two words and the model that is kept do not fit a terminal of 80.
    table = Table(Column(first, no_wrap=True), *others, box=None, padding=(0, 1, 0, 0))
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table
