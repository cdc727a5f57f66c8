"""A comparison as tables in Markdown, to be put into a document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hetfed.report.figures import decimals, number, signed
from hetfed.report.words import estimate
from hetfed.results.analyse import AlgorithmResult, ClientResult, Estimate


def comparison_tables(
    results: Sequence[AlgorithmResult],
    label: str,
    *,
    relative: bool,
    notes: Sequence[str] = (),
    variants: Mapping[str, str] | None = None,
    sharing: Mapping[str, Collection[str]] | None = None,
    references: Mapping[str, Mapping[str, Estimate]] | None = None,
) -> str:
    """What should be known before; a row per algorithm, the best first; how the plan sets those that it does set; what simple
    methods reach; then a row per client under each algorithm.

    Args:
        results: as `analyse` gives them, the best first.
        label: the head of the column of means: the metric, or "mean gain, %".
        relative: whether clients differ in metric or unit, so that means are of gains in per cent.
        notes: sentences to stand above the tables.
        variants: by algorithm, what the plan sets otherwise, in words.
        sharing: by algorithm, the clients that take part in an exchange; None where that is not known.
        references: what simple methods reach, by their names and the clients'.
    """
    places = decimals(result.score.mean for result in results)
    # Of a client's metric, which differs from the score where gains are in per cent.
    own = decimals(client.federated.mean for result in results for client in result.clients)
    # With relative results the score is a mean gain already.
    gain = [] if relative else ["gain over alone"]
    tests = ["p", "p corrected"]
    head = ["algorithm", label, *gain, "kept", "worst client", "clients above alone", *tests, "all together", "MiB"]
    parts = [f"{note}\n" for note in notes]
    parts.append(_table(head, (_algorithm(result, places, relative=relative) for result in results)))
    if variants:
        lines = "".join(f"- {name}: {words}\n" for name, words in variants.items())
        parts.append(f"Set by the plan, the others as they are by default:\n\n{lines}")
    if references:
        names = list(next(iter(references.values())))
        rows = [[name, *(estimate(found[name], own) for found in references.values())] for name in names]
        parts.append(f"Simple methods:\n\n{_table(['client', *references], rows)}")
    for result in results:
        head = [
            "client",
            "alone",
            "federated",
            "pooled",
            "gain over alone" + (", %" if relative else ""),
            "seeds won",
            "p corrected",
        ]
        takes_part = None if sharing is None else sharing[result.algorithm]
        rows = [_client(client, own, takes_part is None or client.client in takes_part) for client in result.clients]
        parts.append(f"Under {result.algorithm}:\n\n{_table(head, rows)}")
    return "\n".join(parts)


def _algorithm(result: AlgorithmResult, places: int, *, relative: bool) -> list[str]:
    gain = [] if relative else [estimate(result.gain, places, signed)]
    worst = f"{number(result.worst[1], places)} ({result.worst[0]})"
    gained, sent = f"{result.gained} of {result.judged}", f"{result.bytes / 2**20:.3g}"
    return [
        result.algorithm,
        estimate(result.score, places),
        *gain,
        number(result.kept.mean, places),
        worst,
        gained,
        number(result.p, 3),
        number(result.p_corrected, 3),
        number(result.overall, places),
        sent,
    ]


def _client(result: ClientResult, places: int, takes_part: bool) -> list[str]:
    arms = [number(arm.mean, places) for arm in (result.alone, result.federated, result.pooled)]
    return [
        result.client + ("" if takes_part else " (no part)"),
        *arms,
        estimate(result.gain, places, signed),
        f"{result.wins} of {result.seeds}",
        number(result.p_corrected, 3),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    # A bar would end the cell.
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
