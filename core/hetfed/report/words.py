"""Numbers and findings in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.filesize import pick_unit_and_suffix

from hetfed.composition import by_reason
from hetfed.report.facts import ClientFacts, Facts
from hetfed.results.analyse import Estimate
from hetfed.results.arms import ARMS

DASH = "–"
SHARELESS = {"mean", "median", "geometric-median"}
"""The kinds of aggregation that have no use for their `share`."""
SYNTHETIC = "Synthetic data."
SYNTHETIC_MEANS = (
    "At least one client was trained and tested on generated data. These results show that the method runs; they say nothing "
    "about patients or traffic."
)


def number(value: float | None) -> str:
    """A metric in three or four figures, a dash where it is undefined."""
    if value is None or value != value:  # noqa: PLR0124 (NaN)
        return DASH
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size > 1:
        # With #, zeros at the end stay: 12.30 below 12.34 shows that both are known as well.
        return f"{value:#.4g}"
    return f"{value:.3f}" if size >= 0.01 or size == 0 else f"{value:.3g}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return DASH if value != value else f"{value:+.3f}"  # noqa: PLR0124 (NaN)


def tone(value: float) -> str:
    """How a difference is coloured: by what is printed, so that +0.000 is neither a gain nor a loss."""
    shown = 0.0 if signed(value) == DASH else float(signed(value))
    return "gain" if shown > 0 else "loss" if shown < 0 else "soft"


def estimate(value: Estimate, form: Callable[[float], str] = number) -> str:
    """A mean and its interval."""
    if value.mean != value.mean:
        return DASH
    interval = "" if value.half_width != value.half_width else f" ± {number(value.half_width)}"
    return f"{form(value.mean)}{interval}"


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
    return DASH if arm is None else {"finetuned": "fine-tuned"}.get(arm, arm)


def verdict(client: ClientFacts) -> str:
    """The gain in words: better, worse, the same or undefined."""
    if client.gain is None:
        return "undefined"
    if client.gain == 0:
        return "the same"
    step = abs(client.gain)
    return f"{'better' if client.gain > 0 else 'worse'} by {number(step) if step >= 1e-4 else 'less than 0.0001'}"


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
    losers = [client.name for client in judged if client.gain is not None and client.gain < 0]
    if losers:
        sentences.append(f"Worse federated than alone: {listing(losers)}.")
    elif judged:
        sentences.append("No client does worse federated than alone.")
    if any(client.kept for client in facts.clients):
        sentences.append(_kept_sentence(facts))
    behind = [client.name for client in facts.clients if client.behind_reference]
    if behind:
        sentences.append(f"A simple reference method does better than the federated model at {listing(behind)}.")
    return sentences


def _count_sentence(facts: Facts) -> str:
    judged, everyone = len(facts.judged), len(facts.clients)
    if not judged:
        return "No client can be compared federated and alone."
    winners = sum(1 for client in facts.judged if client.gain is not None and client.gain > 0)
    verb = "does" if winners == 1 else "do"
    sentence = f"{winners} of {judged} client{'s' if judged > 1 else ''} {verb} better federated than alone"
    return f"{sentence}; {everyone - judged} more cannot be compared." if judged < everyone else f"{sentence}."


def _mean_sentence(facts: Facts) -> str:
    means = facts.means
    metric = f"test {facts.summary['metric']}"
    words = [f"{number(means.values['federated'])} federated", f"{number(means.values['alone'])} alone"]
    if means.values["pooled"] is not None:
        words.append(f"{number(means.values['pooled'])} pooled")
    return f"Mean {metric} ({facts.direction}): {words[0]} vs {' vs '.join(words[1:])}."


def _kept_sentence(facts: Facts) -> str:
    """Who keeps which model, and what that comes to."""
    keepers: dict[str, list[str]] = {}
    for client in facts.clients:
        if client.kept:
            keepers.setdefault(client.kept, []).append(client.name)
    parts = [f"the {arm_name(arm)} one at {listing(names)}" for arm, names in keepers.items()]
    mean = "" if facts.means.kept is None else f"; their mean on test data is {number(facts.means.kept)}"
    return f"The model that each client's own validation data would keep: {', '.join(parts)}{mean}."


def undefined(facts: Facts) -> list[str]:
    """Why a value of the main table is a dash; a reason that several arms or clients share is given once."""
    clients: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for client in facts.clients:
        arms: dict[str, list[str]] = {}
        for arm in ARMS:
            if client.value(arm) is None:
                arms.setdefault(client.entry["notes"].get(arm, "no reason is recorded"), []).append(arm)
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
    tone,
    estimate,
    count,
    counted,
    size,
    duration,
    listing,
    arm_name,
    verdict,
    setting,
    by_reason,
)
"""What the templates of all reports may write a value with."""
