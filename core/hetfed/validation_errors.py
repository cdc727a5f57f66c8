"""What pydantic found wrong with a table of a plan, as one message in a plan's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from hetfed.errors import PlanError, among

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ALSO = 3
"""So many further findings are named; of the rest, how many they are."""
UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
LISTS = {"client", "exchange", "phase"}
"""The tables that a plan writes with two brackets."""
DOCUMENTED = "docs/plans.md lists every key and its values."
Keys = Mapping[str, Any]
"""The keys that a table may have, and the type of each."""


def plan_error(
    error: ValidationError, key: str, keys: Keys, *, file: str | Path | None = None, clients: Sequence[Any] = ()
) -> PlanError:
    """Everything that was found in the table `key`, which may have `keys`: the first in full, a few others in short.

    `clients` are the `[[client]]` tables of a whole plan, which go by their names.

    Args:
        error: what pydantic raised.
        key: the path of the table; empty for a whole plan.
        keys: those that the table may have, as `keys_of` gives them.
        file: the plan's file.
        clients: the tables whose names stand for their numbers.

    >>> from hetfed.plan import FederationTable
    >>> try:
    ...     FederationTable.model_validate({"rounds": 0})
    ... except ValidationError as error:
    ...     str(plan_error(error, "federation", keys_of(FederationTable)))
    'federation.rounds: input should be greater than 0 (value: 0). docs/plans.md lists every key and its values.'
    """
    first, *others = _by_weight(error.errors())
    return PlanError(
        _problem(first),
        file=file,
        key=_where(key, first["loc"], clients),
        # Of a key that is missing, pydantic gives the whole table around it.
        value=None if first["type"] in {"missing", "too_short"} else first["input"],
        remedy=_remedy(first, keys) + _also([f"{_where(key, one['loc'], clients)}: {_problem(one)}" for one in others]),
    )


def keys_of(kind: Any) -> Keys:
    """The keys of a table of this type (a model, a dataclass, or a list or a choice of them); none where it is no table.

    >>> from hetfed.participation import Presence
    >>> from hetfed.plan import ClientTable
    >>> sorted(keys_of(ClientTable)), keys_of(int)
    (['data', 'model', 'name', 'presence', 'training'], {})
    """
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in fields(kind)}
    return {name: hint for part in get_args(kind) for name, hint in keys_of(part).items()}


def _by_weight(found: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Unknown keys before others: what is missing may be what is misspelt. What is wrong with one client after the other, and
    so most likely with the defaults, comes last but for the first time."""
    # Of a list whose only item is at fault, pydantic says besides that it is too short.
    found = [one for one in found if one["type"] != "too_short"] or list(found)
    seen: set[tuple[object, ...]] = set()
    weighed = []
    for one in found:
        # Without the client's number: what comes from the defaults is at fault in the same place of every client.
        place = one["loc"][2:] if one["loc"][:1] == ("client",) else one["loc"]
        fault = (place, one["type"], repr(one["input"]))
        weighed.append((fault in seen, one["type"] not in UNKNOWN, one))
        seen.add(fault)
    return [one for *_, one in sorted(weighed, key=lambda each: each[:2])]


def _where(key: str, location: Sequence[int | str], clients: Sequence[Any]) -> str:
    """The path of a key: `client 'north'.training.lr`, `exchange[0].every`."""
    match location:
        # The number of a client says nothing to a reader of a long plan; its name does.
        case ("client", int(number), *rest) if name := _name_of(clients[number]):
            key, location = f"client {name!r}", rest
    for part in location:
        # The form in which a value is given is no key: a choice of forms has tags like <table>.
        if isinstance(part, str) and part.startswith("<"):
            continue
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else part
    return key


def _name_of(client: object) -> str | None:
    name = client.get("name") if isinstance(client, dict) else None
    return name if isinstance(name, str) else None


def _problem(one: ErrorDetails) -> str:
    """What is wrong, in the words of TOML instead of JSON's."""
    if one["type"] in UNKNOWN:
        return "unknown key"
    if one["loc"] == ("client",) and one["type"] in {"missing", "too_short"}:
        return "the plan has no [[client]]"
    words = re.sub(r"^(Value error|Assertion failed), ", "", one["msg"])
    # Pydantic's lists and objects are JSON's; a plan is written in TOML.
    words = re.sub("(?i)array|tuple", "list", words).replace("an object", "a valid table")
    return words[:1].lower() + words[1:]


def _remedy(one: ErrorDetails, keys: Keys) -> str:
    # A validator that knows the remedy says so.
    if remedy := one.get("ctx", {}).get("remedy"):
        return str(remedy)
    path, last = one["loc"][:-1], str((*one["loc"], "")[0])
    if one["type"] in UNKNOWN and (known := _reached(keys, path)) is not None:
        return among(one["loc"][-1], sorted(known), "Known keys here")
    if one["loc"] == ("client",) and one["type"] in {"missing", "too_short"}:
        return "Add a [[client]] table with a name for each participant; docs/plans.md shows how."
    if one["type"] in {"tuple_type", "list_type"} and isinstance(one["input"], str):
        return f'A list has brackets: write ["{one["input"]}"].'
    if len(one["loc"]) == 1 and one["type"] == "tuple_type" and last in LISTS:
        return f"Write [[{last}]], with two brackets, above each of these tables."
    return _misspelt(one) + DOCUMENTED


def _misspelt(one: ErrorDetails) -> str:
    """Of a missing key: what may have been meant for it, in a table whose further keys are not for this to judge."""
    if one["type"] != "missing" or not isinstance(one["input"], dict):
        return ""
    return "".join(f"Is {near!r} meant to be it? " for near in get_close_matches(str(one["loc"][-1]), one["input"], n=1))


def _reached(keys: Keys, path: Sequence[int | str]) -> Keys | None:
    """The keys of the table at `path`; None where it leads to no table that has any."""
    for part in path:
        # A number is a place in a list, an unknown word a key of a free table: what is below is of the same type.
        if isinstance(part, str) and part in keys:
            keys = keys_of(keys[part])
    return keys if keys or not path else None


def _also(others: Sequence[str]) -> str:
    if not others:
        return ""
    more = len(others) - ALSO
    return f" Also: {'; '.join(others[:ALSO])}{f'; and {more} more' if more > 0 else ''}."
