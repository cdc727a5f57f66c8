"""Clients whose tensors agree in name, shape, columns and what they answer form a group.

Only within a group can tensors be averaged: weights on other columns, or for another question, have the same shapes and mean
something else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from hetfed.errors import FEW, MANY, PlanError
from hetfed.exchanges.base import EVERYBODY, Exchange
from hetfed.parts import HEAD, TensorSpec, inside
from hetfed.payload import Declaration, Relative, TensorRule, short_name
from hetfed.profile import Profile

Among = Literal["all", "same-shape"]
"""Whether all clients must agree, or each group of those that do averages by itself."""
Shapes = Mapping[str, tuple[int, ...]]
Columns = Mapping[str, tuple[str, ...]]
"""The names of the columns of each input, in their order."""


def declared_part(
    profile: Profile, names: Collection[str], *, weight: float | None, relative: Relative, lasting: bool
) -> Declaration:
    """The declaration of the tensors of these names of a client's model.

    Args:
        profile: of the client.
        names: of tensors of its model.
        weight: what its uploads must weigh; None for anything up to its number of examples.
        relative: what its uploads are relative to.
        lasting: whether what comes back becomes part of its model.

    Returns:
        A declaration with the question where a head is among the tensors, and the columns that they stand on.
    """
    signature = profile.signature
    rules = {name: rule_of(name, signature.tensors[name]) for name in names}
    # Encoders of different questions can be averaged, heads cannot.
    label_space = profile.task.label_space if signature.answers(names) else ""
    return Declaration(rules, weight, relative, lasting, label_space=label_space, columns=columns_under(profile, names))


def rule_of(name: str, spec: TensorSpec) -> TensorRule:
    """The rule for a tensor of a model: its shape and dtype, and no variance and no number of batches below 0.

    >>> rule_of("norm.running_var", TensorSpec((8,))).low
    0.0
    """
    # The running statistics of normalisation are called so by torch: there is no other sign of a variance.
    low = 0.0 if name.endswith(("running_var", "num_batches_tracked")) else -float("inf")
    return TensorRule(spec.shape, spec.dtype, low=low)


def columns_under(profile: Profile, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The columns by name that tensors stand on, by input: those of every input, unless the model says what reads which.

    A head stands on features and not on columns: its tensors have none.
    """
    if all(inside(name, HEAD) for name in names):
        return {}
    signature = profile.signature
    read = signature.inputs_under(names) if signature.reads else set(profile.columns)
    return {name: columns for name, columns in profile.columns.items() if name in read}


def seed_of(shapes: Shapes) -> str:
    """The same text for all who hold tensors of these names and shapes: it seeds their common start.

    >>> seed_of({"a": (2,), "b": (3,)}) == seed_of({"b": (3,), "a": (2,)})
    True
    """
    return short_name(repr(sorted(shapes.items())))


def lonely(exchange: Exchange, profiles: Sequence[Profile]) -> dict[str, str]:
    """The clients that would share with nobody but themselves, and the reason: they send nothing.

    An exchange by which nobody sends anything is of use to a client by itself.
    """
    declared = {profile.name: exchange.declare(profile) for profile in profiles}
    if not any(declaration.tensors for declaration in declared.values()):
        return {}
    groups = {profile.name: exchange.group(profile) if exchange.groups_apart else EVERYBODY for profile in profiles}
    # Counted among those that are able: whom enrolment has left out is no company.
    sizes = Counter(groups.values())
    return {name: _reason(group, declared[name]) for name, group in groups.items() if sizes[group] == 1}


def _reason(group: str, declaration: Declaration) -> str:
    if group == EVERYBODY:
        return "nobody else can take part"
    return f"nobody else has the same tensors there{', to answer the same question' if declaration.label_space else ''}"


def check_same(profiles: Sequence[Profile], declared: Mapping[str, Declaration], what: str) -> None:
    """Check that the declared tensors of all clients agree in name, shape and columns.

    Raises:
        PlanError: two clients differ; it names both, and the first difference. `what` is what they would share, in words.
    """
    first = profiles[0]
    for profile in profiles[1:]:
        one, other = declared[first.name], declared[profile.name]
        # Each against the first: one difference is enough to refuse, and the message stays short.
        difference = _difference(one.shapes, other.shapes)
        if difference and not _columns_apart(one.columns, other.columns):
            raise PlanError(
                f"clients {first.name!r} and {profile.name!r} cannot share {what}: {difference}",
                remedy='Give them the same architecture there, share a smaller part, or set among = "same-shape".',
            )
        check_columns([first, profile], {name: declared[name].columns for name in (first.name, profile.name)}, what)


def check_columns(profiles: Sequence[Profile], columns: Mapping[str, Columns], what: str) -> None:
    """Check that what all clients share stands on the same columns, in the same order.

    Args:
        profiles: of the clients.
        columns: by client, the names of the columns that it stands on, by input.
        what: they would share, in words.

    Raises:
        PlanError: two clients differ; it names both, and the columns of both.
    """
    for first, profile in pairwise(profiles):
        for name, (one, other) in _columns_apart(columns[first.name], columns[profile.name]).items():
            remedy = "Let both read the same columns, or share what does not stand on them, such as the head."
            if sorted(one) == sorted(other):
                remedy = "Put the columns into one order, or share what does not stand on them, such as the head."
            raise PlanError(
                f"clients {first.name!r} and {profile.name!r} cannot share {what}: "
                f"the columns of {name!r} are ({_listed(one, other)}) at the one and ({_listed(other, one)}) at the other",
                remedy=remedy,
            )


def _columns_apart(mine: Columns, theirs: Columns) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The columns of both, by the inputs in which they differ; names at the one alone are a difference, too."""
    both = {name: (mine.get(name, ()), theirs.get(name, ())) for name in sorted(set(mine) | set(theirs))}
    return {name: (one, other) for name, (one, other) in both.items() if one != other}


def _listed(columns: Sequence[str], others: Sequence[str]) -> str:
    """The columns; of very many, those from the first one on that the other has otherwise."""
    if len(columns) <= MANY:
        return ", ".join(columns) or "without names"
    start = next((i for i, (one, other) in enumerate(zip(columns, others, strict=False)) if one != other), 0)
    return f"... {', '.join(columns[start : start + FEW])} ...: {len(columns)} in all"


def check_label_space(profiles: Sequence[Profile], what: str) -> None:
    """Check that all clients ask the same question.

    Raises:
        PlanError: two clients differ; it names both, and what they ask. `what` is what they would share, in words.
    """
    for first, profile in pairwise(profiles):
        one, other = first.task.label_space, profile.task.label_space
        if one != other:
            raise PlanError(
                f"clients {first.name!r} and {profile.name!r} cannot share {what}: they ask {one!r} and {other!r}",
                remedy="Let those take part that ask the same, or share what answers nothing, such as all but the head.",
            )


def _difference(mine: Shapes, theirs: Shapes) -> str | None:
    for name in sorted(set(mine) | set(theirs)):
        if mine.get(name) != theirs.get(name):
            return f"tensor {name!r} is {mine.get(name, 'absent')} at the one and {theirs.get(name, 'absent')} at the other"
    return None
