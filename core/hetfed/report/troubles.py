"""What went wrong in a run that came to its end all the same, in sentences: for the terminal and for the page."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from hetfed.report.facts import Facts, read_facts
from hetfed.report.sent import Sent
from hetfed.report.words import counted, undefined
from hetfed.results.folder import RunFolder


def troubles(run: Path) -> list[str]:
    """Why values are missing, and whose uploads were refused, of a run that has ended.

    Raises:
        RunFolderError: the folder holds no such run.
    """
    facts = read_facts(RunFolder(run))
    # An arm that was not asked for is not missing.
    missing = [f"no value for {reason}" for reason in undefined(facts) if not reason.endswith(": not part of this plan")]
    return missing + refusals(facts.sent) + beyond(facts)


def refusals(sent: Sequence[Sent]) -> list[str]:
    """Whose uploads were refused, how many of how many, and why; an exchange of which nothing was accepted comes first.

    >>> sent = Sent("head", "north", 10, 400, [24.0], [], 10, {"not finite": [2, 3, 4]})
    >>> refusals([sent])
    ['3 of 10 uploads of head from north were refused: not finite.']
    """
    by_exchange: dict[str, list[Sent]] = {}
    for one in sent:
        by_exchange.setdefault(one.exchange, []).append(one)
    lost = [
        f"Every upload of {exchange} was refused: nothing came of it."
        for exchange, each in by_exchange.items()
        if all(_refused(one) == one.uploads for one in each)
    ]
    return lost + [
        f"{_refused(one)} of {counted(one.uploads, 'upload')} of {one.exchange} from {one.client} "
        f"{'was' if _refused(one) == 1 else 'were'} refused: {_reasons(one.refused)}."
        for one in sent
        if one.refused
    ]


def beyond(facts: Facts) -> list[str]:
    """The exchanges and phases whose last round lies beyond that of the run."""
    rounds, plan = facts.summary["rounds"], tomllib.loads(facts.plan)
    tables = [(exchange["label"], exchange) for exchange in facts.summary["exchanges"]]
    tables += [(f"phase {number}", phase) for number, phase in enumerate(plan.get("phase", []), 1)]
    for client in plan["client"]:
        phases = client["training"].get("phases", [])
        tables += [(f"phase {number} of {client['name']}", phase) for number, phase in enumerate(phases, 1)]
    return [
        f"{name} was to end with round {table['until']}, and the run has {counted(rounds, 'round')}."
        for name, table in tables
        if (table.get("until") or 0) > rounds
    ]


def _refused(sent: Sent) -> int:
    return sum(map(len, sent.refused.values()))


def _reasons(refused: Mapping[str, Sequence[int]]) -> str:
    """The commonest reason, and how many others there were."""
    first, *others = sorted(refused, key=lambda reason: -len(refused[reason]))
    more = counted(len(others), "other reason")
    return f"{first} (and {more})" if others else first
