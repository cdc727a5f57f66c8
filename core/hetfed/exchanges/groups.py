"""Clients whose tensors agree in name, shape and what they answer form a group: only within one can they be averaged."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from hetfed.client import Client, Tensors
from hetfed.errors import PlanError
from hetfed.parts import answers
from hetfed.payload import Declaration, Payload

Among = Literal["all", "same-shape"]
"""Whether all clients must agree, or each group of those that do averages by itself."""
Shapes = Mapping[str, tuple[int, ...]]


def group_of(shapes: Shapes, question: str = "") -> str:
    """A short name for all who hold tensors of these names and shapes that answer this question, if they answer any."""
    # Twelve hexadecimal digits tell groups apart, and keep the names short under which a state holds its tensors.
    return hashlib.sha256((repr(sorted(shapes.items())) + question).encode()).hexdigest()[:12]


def group_of_client(client: Client, shapes: Shapes) -> str:
    """The group of a client that shares tensors of these names and shapes."""
    return group_of(shapes, question_of(client, shapes))


def question_of(client: Client, names: Collection[str]) -> str:
    """What the client's tensors of these names answer; empty where no head is among them."""
    return client.task.question if answers(client.module, names) else ""


def grouped(uploads: Mapping[str, Payload], group: Callable[[str], str]) -> dict[str, dict[str, Payload]]:
    """Uploads by client name, by the group that `group` says the client belongs to."""
    groups: dict[str, dict[str, Payload]] = defaultdict(dict)
    for name, payload in uploads.items():
        groups[group(name)][name] = payload
    return groups


def everybody(client: Client) -> str:
    """The group of all."""
    return ""


def lonely(
    clients: Sequence[Client], group: Callable[[Client], str] = everybody, question: Callable[[Client], str] = everybody
) -> dict[str, str]:
    """Those who are the only one of their group, and what they lack: `question` is what a client's tensors answer, if any."""
    sizes = Counter(map(group, clients))

    def reason(client: Client) -> str:
        if group is everybody:
            return "nobody else can take part"
        return f"nobody else has the same tensors there{', to answer the same question' if question(client) else ''}"

    return {client.name: reason(client) for client in clients if sizes[group(client)] == 1}


def within(group: str, tensors: Tensors) -> Tensors:
    """The tensors under the names by which the server's state, or a client's memory, keeps them."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def of_group(group: str, state: Tensors) -> Tensors:
    """What is kept for a group, under the names it had."""
    return {key.removeprefix(f"{group}/"): tensor for key, tensor in state.items() if key.startswith(f"{group}/")}


def check_same(clients: Sequence[Client], declared: Mapping[str, Declaration], what: str) -> None:
    """Raise `PlanError` that names two clients whose declared tensors differ, and the first one that does."""
    first = clients[0]
    for client in clients[1:]:
        difference = _difference(declared[first.name].shapes, declared[client.name].shapes)
        if difference:
            raise PlanError(
                f"clients {first.name!r} and {client.name!r} cannot share {what}: {difference}",
                remedy='Give them the same architecture there, share a smaller part, or set among = "same-shape".',
            )


def check_question(clients: Sequence[Client], what: str) -> None:
    """Raise `PlanError` that names two clients who ask different questions, and what these are."""
    for first, client in pairwise(clients):
        one, other = first.task.question, client.task.question
        if one != other:
            raise PlanError(
                f"clients {first.name!r} and {client.name!r} cannot share {what}: they ask {one!r} and {other!r}",
                remedy="Let those take part that ask the same, or share what answers nothing, such as all but the head.",
            )


def _difference(mine: Shapes, theirs: Shapes) -> str | None:
    for name in sorted(set(mine) | set(theirs)):
        if mine.get(name) != theirs.get(name):
            return f"tensor {name!r} is {mine.get(name, 'absent')} at the one and {theirs.get(name, 'absent')} at the other"
    return None
