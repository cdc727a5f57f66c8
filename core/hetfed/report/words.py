"""Numbers and findings in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from rich.filesize import pick_unit_and_suffix

from hetfed.composition import by_reason
from hetfed.report.facts import ClientFacts, Facts
from hetfed.report.figures import (
    DASH,
    UNCLEAR,
    change,
    clear,
    counted_owners,
    decimals,
    interval,
    number,
    signed,
    verdict,
    weak,
)
from hetfed.results.analyse import Estimate
from hetfed.results.arms import ARMS

SHARELESS = {"mean", "median", "geometric-median"}
"""The kinds of aggregation that have no use for their `share`."""
SYNTHETIC = "Synthetic data."
SYNTHETIC_MEANS = (
    "At least one client was trained and tested on generated data. These results show that the method runs; they say nothing "
    "about patients or traffic."
)


def estimate(value: Estimate, places: int | None = None, form: Callable[..., str] = number) -> str:
    """A mean and its interval, with so many decimals."""
    if not isfinite(value.mean):
        return DASH
    places = decimals([value.mean]) if places is None else places
    return form(value.mean, places) + (f" ± {number(value.half_width, places)}" if isfinite(value.half_width) else "")


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def counted(value: int, what: str) -> str:
    """So many of something: `1 round`, `2 rounds`."""
    return f"{count(value)} {what}{'' if value == 1 else 's'}"


def size(bytes_: int) -> str:
    """A number of bytes: exact below one KiB, else in KiB, MiB or GiB."""
    unit, name = pick_unit_and_suffix(bytes_, ["B", "KiB", "MiB", "GiB"], 1024)
    return f"{bytes_} B" if unit == 1 else f"{bytes_ / unit:,.1f} {name}"


def duration(seconds: float) -> str:
    """A time in the two units that matter."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listing(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def arm_name(arm: str | None) -> str:
    """An arm as people write it."""
    return DASH if arm is None else arm.replace("finetuned", "fine-tuned")


def setting(value: object) -> str:
    """A setting as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        if value.get("kind") in SHARELESS:
            value = {key: item for key, item in value.items() if key != "share"}
        # The default, and of use to a mean alone.
        if value.get("outliers") == "refuse":
            value = {key: item for key, item in value.items() if key != "outliers"}
        if set(value) == {"kind"}:
            return str(value["kind"])
        return ", ".join(f"{key} = {setting(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value) or "none"
    return "none" if value is None or value == "" else str(value)


def set_apart(variant: Mapping[str, Mapping[str, object]]) -> str:
    """How a plan sets an algorithm: its arguments, then what its clients train with."""
    parts = {"settings": "{}", "training": "training with {}"}
    return "; ".join(form.format(setting(variant[key])) for key, form in parts.items() if variant.get(key))


def headline(facts: Facts) -> list[str]:
    """The result in sentences, the first one being the most important; whoever loses is named."""
    judged = facts.judged
    sentences = [_count_sentence(facts)]
    if facts.summary["exchanges"] and not facts.shared:
        sentences.append("But no client sent anything that another received: the difference is one of initialisation.")
    if judged and facts.one_metric:
        sentences.append(_mean_sentence(facts))
    if any(client.kept for client in facts.clients):
        sentences.append(_kept_sentence(facts))
    behind = [client.name for client in facts.clients if client.behind_reference]
    if behind:
        sentences.append(f"A simple reference method does better than the federated model at {listing(behind)}.")
    few = weak(facts.summary["clients"])
    if few:
        sentences.append(f"Too few validation data to choose a model by: {listing(few)}.")
    return sentences


def _count_sentence(facts: Facts) -> str:
    """Who does better, who worse, and of whom that cannot be said."""
    if not facts.judged:
        return "No client can be compared federated and alone."
    found = {word: [c.name for c in facts.judged if verdict(c.chance("federated")) == word] for word in ("better", "worse")}
    unclear = [client.name for client in facts.judged if client.name not in {*found["better"], *found["worse"]}]
    parts = [f"{word} at {listing(names)}" for word, names in found.items() if names]
    parts += [f"{UNCLEAR} at {listing(unclear)}"] if unclear else []
    absent = len(facts.clients) - len(facts.judged)
    return f"Federated against alone: {', '.join(parts)}{f'; {absent} more cannot be compared' if absent else ''}."


def _mean_sentence(facts: Facts) -> str:
    means = facts.means
    metric = f"test {facts.summary['metric']}"
    places = decimals(means.values.values())
    arms = [arm for arm in ("federated", "alone", "pooled") if means.values[arm] is not None]
    words = [f"{number(means.values[arm], places)} {arm}" for arm in arms]
    return f"Mean {metric} ({facts.direction}): {words[0]} vs {' vs '.join(words[1:])}."


def _what(arm: str) -> str:
    """What is kept as a sentence says it.

    >>> _what("finetuned"), _what("mean of federated, alone")
    ('the fine-tuned model', 'the mean prediction of federated, alone')
    """
    return f"the {arm_name(arm)}".replace("mean of", "mean prediction of") + ("" if "," in arm else " model")


def _kept_sentence(facts: Facts) -> str:
    """Who keeps which model, and what that comes to."""
    keepers: dict[str, list[str]] = {}
    for client in facts.clients:
        if client.kept:
            keepers.setdefault(client.kept, []).append(client.name)
    parts = [f"{_what(arm)} at {listing(names)}" for arm, names in keepers.items()]
    mean = "" if facts.means.kept is None else f"; on test data this comes to {number(facts.means.kept)} in the mean"
    return f"What each client keeps: {', '.join(parts)}{mean}."


def undefined(facts: Facts) -> list[str]:
    """Why a value of the main table is a dash; a reason that several arms or clients share is given once."""

    def why(client: ClientFacts, arm: str) -> str | None:
        """The reason, None where there is a value."""
        return None if client.value(arm) is not None else str(client.entry["notes"].get(arm, "no reason is recorded"))

    return _reasons(facts, why)


def unsure(facts: Facts) -> list[str]:
    """Why a value of the main table has no interval, likewise."""

    def why(client: ClientFacts, arm: str) -> str | None:
        """The reason, None where there is an interval, or no value either."""
        found = client.interval(arm)
        if client.value(arm) is None or (found is not None and found["low"] is not None):
            return None
        return "none was computed" if found is None else f"{found['unsure']}"

    return _reasons(facts, why)


def _reasons(facts: Facts, why: Callable[[ClientFacts, str], str | None]) -> list[str]:
    clients: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for client in facts.clients:
        arms: dict[str, list[str]] = {}
        for arm in ARMS:
            reason = why(client, arm)
            if reason is not None:
                arms.setdefault(reason, []).append(arm)
        for reason, named in arms.items():
            clients.setdefault((tuple(named), reason), []).append(client.name)
    everyone = len(facts.clients)
    said = []
    for (missing, reason), names in clients.items():
        who = "every client" if len(names) == everyone > 1 else listing(names)
        said.append(f"{who}, {listing([arm_name(arm) for arm in missing])}: {reason}")
    return said


FORMATS = (
    number,
    signed,
    interval,
    clear,
    decimals,
    counted_owners,
    estimate,
    count,
    counted,
    size,
    duration,
    listing,
    arm_name,
    verdict,
    change,
    setting,
    by_reason,
)
"""What the templates of all reports may write a value with."""
