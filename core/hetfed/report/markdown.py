"""A comparison as tables in Markdown, to be put into a document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hetfed.report.words import estimate, number, signed
from hetfed.results.analyse import AlgorithmResult, ClientResult


def comparison_tables(
    results: Sequence[AlgorithmResult],
    label: str,
    *,
    relative: bool,
    notes: Sequence[str] = (),
    variants: Mapping[str, str] | None = None,
    sharing: Mapping[str, Collection[str]] | None = None,
) -> str:
    """What should be known before; a row per algorithm, the best first; how the plan sets those that it does set; then a row
    per client under each of them.

    Args:
        results: as `analyse` gives them, the best first.
        label: the head of the column of means: the metric, or "mean gain, %".
        relative: whether clients differ in metric or unit, so that means are of gains in per cent.
        notes: sentences to stand above the tables.
        variants: by algorithm, what the plan sets otherwise, in words.
        sharing: by algorithm, the clients that take part in an exchange; None where that is not known.
    """
    gain = [] if relative else ["gain over alone"]
    head = ["algorithm", label, *gain, "kept", "worst client", "clients that gain", "p", "all together", "MiB"]
    parts = [f"{note}\n" for note in notes]
    parts.append(_table(head, (_algorithm(result, relative=relative) for result in results)))
    if variants:
        lines = "".join(f"- {name}: {words}\n" for name, words in variants.items())
        parts.append(f"Set by the plan, the others as they are by default:\n\n{lines}")
    for result in results:
        head = ["client", "alone", "federated", "pooled", "gain over alone" + (", %" if relative else ""), "seeds won"]
        takes_part = None if sharing is None else sharing[result.algorithm]
        rows = [_client(client, takes_part is None or client.client in takes_part) for client in result.clients]
        parts.append(f"Under {result.algorithm}:\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _algorithm(result: AlgorithmResult, *, relative: bool) -> list[str]:
    gain = [] if relative else [estimate(result.gain, signed)]
    worst = f"{number(result.worst[1])} ({result.worst[0]})"
    gained, sent = f"{result.gained} of {result.judged}", f"{result.bytes / 2**20:.3g}"
    return [
        result.algorithm,
        estimate(result.score),
        *gain,
        number(result.kept.mean),
        worst,
        gained,
        number(result.p),
        number(result.overall),
        sent,
    ]


def _client(result: ClientResult, takes_part: bool) -> list[str]:
    arms = [number(arm.mean) for arm in (result.alone, result.federated, result.pooled)]
    return [
        result.client + ("" if takes_part else " (no part)"),
        *arms,
        estimate(result.gain, signed),
        f"{result.wins} of {result.seeds}",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    # A bar would end the cell.
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
