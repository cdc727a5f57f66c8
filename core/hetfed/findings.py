"""From what pydantic finds wrong in a table of a plan to the one message that a user reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hetfed.errors import PlanError

UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
ELSEWHERE = "docs/plans.md lists every key and its values."


def plan_error(
    error: ValidationError,
    known: type | Sequence[str],
    key: str,
    *,
    file: str | Path | None = None,
    clients: Sequence[Any] = (),
) -> PlanError:
    """The finding that explains most, as one message; how many more there are it says as well.

    `known` is the class of the table, or the keys that it may have; `clients` the tables by which clients are called by name.
    """
    # A misspelt key is found twice, as one too many and as one that is missing; and of a list whose only item is at fault,
    # pydantic says besides that it is too short.
    found = sorted(error.errors(), key=lambda each: (each["type"] == "too_short", each["type"] not in UNKNOWN))
    first = found[0]
    more = sum(each["type"] != "too_short" for each in found[1:])
    if first["loc"] == ("client",) and first["type"] in {"too_short", "missing"}:
        remedy = f"Add one for each participant, with a name of its own. {ELSEWHERE}"
        return PlanError("the plan has no [[client]] table", file=file, key="client", remedy=remedy)
    further = f" ({more} more finding{'s' if more > 1 else ''})" if more else ""
    where = ".".join(filter(None, (key, _path(first["loc"], clients))))
    if first["type"] in UNKNOWN:
        there = _known_at(known, first["loc"][:-1])
        return unknown_key(str(first["loc"][-1]), there, where, first["input"], file=file, further=further)
    value = None if first["type"] == "missing" else first["input"]
    return PlanError(_sentence(first["msg"]) + further, file=file, key=where, value=value, remedy=ELSEWHERE)


def unknown_key(
    word: str, known: Sequence[str], key: str, value: object, *, file: str | Path | None = None, further: str = ""
) -> PlanError:
    """A key that is none of `known`."""
    remedy = f"{nearest(word, known)}Known keys here: {', '.join(sorted(known)) or 'none'}."
    return PlanError("unknown key" + further, file=file, key=key, value=value, remedy=remedy)


def nearest(word: str, known: Sequence[str]) -> str:
    """The one of `known` that may have been meant, as a question; empty where none is like it."""
    return "".join(f"Did you mean {name!r}? " for name in get_close_matches(word, known, n=1))


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _path(location: Sequence[int | str], clients: Sequence[Any]) -> str:
    """`client 'DU'.training.lr`, `exchange[0].every`."""
    parts: list[str] = []
    for part in location:
        named = parts == ["client"] and isinstance(part, int) and isinstance(clients[part], Mapping) and "name" in clients[part]
        if named:
            parts = [f"client {clients[int(part)]['name']!r}"]
        elif isinstance(part, int) and parts:
            parts[-1] += f"[{part}]"
        else:
            parts.append(str(part))
    return ".".join(parts)


def _known_at(known: type | Sequence[str], location: Sequence[int | str]) -> list[str]:
    """The keys of the table at `location` below one of class `known`."""
    if not isinstance(known, type):
        return list(known)
    table: Any = known
    for part in location:
        table = next(_tables(table.model_fields[part].annotation), table) if part in _fields(table) else table
    return _fields(table)


def _fields(table: Any) -> list[str]:
    """The keys of a class of tables."""
    return list(table.model_fields if issubclass(table, BaseModel) else table.__dataclass_fields__)


def _tables(annotation: Any) -> Iterator[type]:
    """The classes of tables that a type holds, itself or somewhere inside."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables(inner)
