"""From one client's model to the server's state and another's model, a payload enters the ten modules of the picture."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import toy
from torch import Tensor

from hetfed.composition import compose, enrol
from hetfed.engines.local import Sites
from hetfed.exchanges import SharedParameters
from hetfed.federation import Federation
from hetfed.payload import Merged, Payload
from hetfed.rounds import init, run_round

PICTURE = Path(__file__).parent.parent.parent / "docs" / "images" / "payload.svg"
TENSORS = "hetfed.parts"
"""Where the tensors of a payload are read from a model and written into one."""


def handled(value: Any, depth: int = 2) -> Iterator[Any]:
    """A value and what it holds."""
    yield value
    if depth and isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from handled(one, depth - 1)
    elif depth and type(value).__module__.startswith("hetfed"):
        for name in ("outbox", "inbox", "encoded", "contents", "uploads"):
            yield from handled(getattr(value, name, None), depth - 1)


def test_a_payloads_way_is_short() -> None:
    clients = [toy.client("a"), toy.client("b")]
    enrolment = enrol(compose(SharedParameters("head")), [client.profile for client in clients])
    sites, federation = Sites.of(clients, enrolment, 0), Federation.of(enrolment, 2, 0)
    state, modules = init(federation), {TENSORS}

    def watch(frame: FrameType, event: str, returned: object) -> None:
        module = frame.f_globals.get("__name__", "")
        if event in {"call", "return"} and module.startswith("hetfed"):
            values = [*frame.f_locals.values(), returned]
            if any(carries(one) for value in values for one in handled(value)):
                modules.add(module)

    def carries(value: object) -> bool:
        return isinstance(value, Payload | Merged) or (isinstance(value, bytes) and len(value) > 50)

    sys.setprofile(watch)
    try:
        for _ in range(2):
            state = run_round(federation, state, sites)
    finally:
        sys.setprofile(None)
    (named,) = re.findall(r"Ten modules: (.*)\.", PICTURE.read_text(encoding="utf-8"))
    shown = {f"hetfed.{name.replace('/', '.')}" for name in named.split(", ")}
    assert modules == shown and len(shown) == 10
    assert all(isinstance(tensor, Tensor) for tensor in state.server["shared-parameters"].values())
