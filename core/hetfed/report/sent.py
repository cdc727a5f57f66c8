"""The ledger in short: what each client sent by each exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Sent:
    """All uploads of one client by one exchange.

    `tensors` are the (name, shape) pairs that were sent, each once; `refused` counts the reasons for refusal, and each
    reason comes with the rounds it was given in.

    Args:
        exchange: its label.
        client: its name.
        uploads: how many, the refused ones included.
        bytes: of all of them.
        weights: that they carried, each once.
        tensors: name and shape of each.
        numbers: the most that one upload held.
        refused: rounds by reason.
    """

    exchange: str
    client: str
    uploads: int
    bytes: int
    weights: Sequence[float]
    tensors: Sequence[tuple[str, str]]
    numbers: int
    refused: Mapping[str, Sequence[int]]


def by_exchange(entries: Sequence[Mapping[str, Any]]) -> list[Sent]:
    """The ledger's entries, by exchange and client, in the order in which they first occur.

    Args:
        entries: lines of a ledger, as `Ledger.entries` gives them.

    >>> entry = {"round": 1, "exchange": "head", "client": "north", "bytes": 40, "accepted": True}
    >>> entry["tensors"] = {"bias": ["float32", [2]]}
    >>> (sent,) = by_exchange([entry, {**entry, "round": 2}])
    >>> sent.uploads, sent.bytes, sent.numbers
    (2, 80, 2)
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["exchange"], entry["client"]), []).append(entry)
    return [_sent(*key, group) for key, group in groups.items()]


def repeated(entries: Sequence[Mapping[str, Any]]) -> int:
    """How many entries are repetitions of a round that was run again after an interruption.

    >>> entry = {"sent": 3, "exchange": "head", "client": "north"}
    >>> repeated([entry, entry, {**entry, "sent": 4}])
    1
    """
    # By round, exchange and client: a second line of all three is the same upload once more.
    counts = Counter((entry["sent"], entry["exchange"], entry["client"]) for entry in entries)
    return sum(counts.values()) - len(counts)


def _sent(exchange: str, client: str, entries: Sequence[Mapping[str, Any]]) -> Sent:
    refused: dict[str, list[int]] = {}
    for entry in entries:
        if not entry["accepted"]:
            refused.setdefault(entry["refused"], []).append(entry["round"])
    # As a set: rounds send the same tensors again and again.
    tensors = {(name, shape_words(shape)) for entry in entries for name, (_, shape) in entry["tensors"].items()}
    # The most in one upload: what is refused may hold fewer, or none that can be read.
    numbers = max(sum(prod(shape) for _, shape in entry["tensors"].values()) for entry in entries)
    # A ledger of an older version holds none.
    weights = sorted({weight for entry in entries if (weight := entry.get("weight")) is not None})
    size = sum(entry["bytes"] for entry in entries)
    return Sent(exchange, client, len(entries), size, weights, sorted(tensors), numbers, refused)


def shape_words(shape: Sequence[int]) -> str:
    """A shape as people write it: `2 x 3`, and `one number` for a scalar.

    >>> shape_words([16, 3, 3]), shape_words([])
    ('16 × 3 × 3', 'one number')
    """
    return " × ".join(str(size) for size in shape) or "one number"
