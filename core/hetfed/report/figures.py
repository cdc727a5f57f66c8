"""Figures in words, the same in every table: equal decimals in a column, intervals, and who gains beyond chance.

Nothing here loads torch: the command line's tables are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor, isfinite, log10
from typing import Any

DASH = "–"
UNCLEAR = "no clear difference"


def decimals(values: Iterable[float | None]) -> int:
    """How many decimals a column of metrics has: three below ten, fewer where they say nothing, more where all is small.

    >>> decimals([0.8942, None, 1.0]), decimals([12.34, 9.8]), decimals([1234.5]), decimals([0.00123])
    (3, 2, 0, 5)
    """
    largest = max((abs(value) for value in values if value is not None and isfinite(value)), default=0.0)
    if largest == 0 or 0.01 <= largest < 10:
        return 3
    return max(2 - floor(log10(largest)), 0) if largest < 0.01 else max(4 - len(str(int(largest))), 0)


def number(value: float | None, places: int | None = None) -> str:
    """A metric with so many decimals, or as many as it needs by itself; a dash where it is undefined.

    >>> number(0.87654), number(0.5, 4), number(None)
    ('0.877', '0.5000', '–')
    """
    if value is None or not isfinite(value):
        return DASH
    return f"{value:,.{decimals([value]) if places is None else places}f}"


def signed(value: float | None, places: int = 3) -> str:
    """A difference with its sign, a dash where it is undefined.

    >>> signed(0.0312), signed(-12.3456, 2), signed(None)
    ('+0.031', '-12.35', '–')
    """
    return DASH if value is None or not isfinite(value) else f"{value:+,.{places}f}"


def interval(chance: Mapping[str, Any] | None, places: int) -> str:
    """A 95 % interval, with one decimal less than the figure that it belongs to; empty where there is none.

    >>> interval({"low": 0.8123, "high": 0.951}, 3), interval({"low": None, "high": None}, 3)
    ('0.81 to 0.95', '')
    """
    if chance is None or chance["low"] is None:
        return ""
    return f"{number(chance['low'], max(places - 1, 0))} to {number(chance['high'], max(places - 1, 0))}"


def clear(gain: Mapping[str, Any] | None) -> bool:
    """Whether a gain or a loss is one beyond chance: its 95 % interval holds no zero.

    >>> clear({"value": 0.1, "low": 0.01, "high": 0.2}), clear({"value": 0.1, "low": -0.01, "high": 0.2}), clear(None)
    (True, False, False)
    """
    return gain is not None and gain["low"] is not None and (gain["low"] > 0 or gain["high"] < 0)


def verdict(gain: Mapping[str, Any] | None) -> str:
    """A gain in a word or two.

    >>> verdict({"value": 0.1, "low": 0.01, "high": 0.2}), verdict({"value": 0.1, "low": -0.01, "high": 0.2}), verdict(None)
    ('better', 'no clear difference', '–')
    """
    if gain is None or gain["value"] is None:
        return DASH
    if not clear(gain):
        return UNCLEAR
    return "better" if gain["value"] > 0 else "worse"


def change(gain: Mapping[str, Any] | None, places: int) -> str:
    """A gain with its interval; empty where there is none.

    >>> change({"value": 0.1, "low": -0.012, "high": 0.2}, 3)
    '+0.100 (-0.012 to +0.200)'
    """
    if gain is None or gain["value"] is None:
        return ""
    between = "" if gain["low"] is None else f" ({signed(gain['low'], places)} to {signed(gain['high'], places)})"
    return f"{signed(gain['value'], places)}{between}"


def case(counts: Mapping[str, Any]) -> tuple[str, int] | None:
    """What few examples show little of, and how many owners have it: the second of two classes, the rarest of several, the
    event; None where numbers are predicted.

    >>> case({"owners": 24, "cases": {"benign": 15, "malignant": 9}})
    ('malignant', 9)
    """
    found = list(counts["cases"].items())
    if not found:
        return None
    name, number_of_it = found[1] if len(found) == 2 else min(found, key=lambda one: one[1])
    return str(name), int(number_of_it)


def counted_owners(counts: Mapping[str, Any], owned_by: str) -> str:
    """How many patients or days a figure is from, and how many of them of the class that counts.

    >>> counted_owners({"owners": 24, "cases": {"benign": 15, "malignant": 9}}, "patients")
    "24 patients, 9 of 'malignant'"
    """
    found = case(counts)
    return f"{counts['owners']:,} {owned_by}" + (f", {found[1]:,} of {found[0]!r}" if found else "")


def weak(clients: Iterable[Mapping[str, Any]]) -> list[str]:
    """Whose validation data are too few to choose a model by, and why, in words."""
    return [f"{client['name']} ({why})" for client in clients if (why := client.get("too_few_to_choose"))]
