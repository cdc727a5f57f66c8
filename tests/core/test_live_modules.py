"""One law: how many clients have a live module at a time changes nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import conformance
import pytest
import toy
from torch import nn
from whole import Federation, State, enrol, finalize, init, run_round

from hetfed.client import Client
from hetfed.data import Spec
from hetfed.participation import Participation
from hetfed.plan import named_algorithm
from hetfed.profile import Profile

ROUNDS = 3


def common(spec: Spec) -> nn.Module:
    return toy.Net(spec["inputs"], 3)


def frozen(spec: Spec) -> nn.Module:
    """A model that comes with a first layer that does not learn."""
    model = toy.Net(spec["inputs"], 4)
    model.encoder[0].requires_grad_(False)
    return model


def clients(name: str) -> list[Client]:
    found = [replace(toy.client(n, width=w), common_fn=common) for n, w in zip("abcd", (4, 4, 6, 6), strict=True)]
    if name in {"heterofl", "fedrolex"}:
        return found
    return [replace(found[0], model_fn=frozen), *found[1:]]


def run(name: str) -> tuple[State, list[Client | Profile]]:
    """An algorithm to its end, and who has a live module then: clients, and profiles, whose modules are to be looked at."""
    enrolment = enrol(named_algorithm(name, {}).over(ROUNDS), clients(name))
    federation = Federation.of(enrolment.clients, enrolment.composition, ROUNDS, 0, participation=Participation(fraction=0.75))
    state = init(federation)
    for _ in range(ROUNDS):
        state = run_round(federation, state)
    state = finalize(federation, state)
    owners = [owner for client in enrolment.clients for owner in (client, client.profile)]
    return state, [owner for owner in owners if "module" in vars(owner)]


NAMES = [
    "alone", "fedavg", "scaffold", "fedbabu", "fedrep", "ditto", "apfl", "heterofl", "fedrolex", "fedmd", "feddf", "fedproto",
    "fedkd", "fedgen", "fedmrl", "codistillation",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_with_one_live_module_at_a_time_a_run_has_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, live = run(name)
    monkeypatch.setattr("hetfed.profile.LIVE", 1)
    # None that is alive from elsewhere: each new one makes room for itself by one other.
    monkeypatch.setattr("hetfed.profile._live", deque())
    found, fewer = run(name)
    assert len([owner for owner in live if isinstance(owner, Client)]) == 4
    assert len(fewer) <= 1
    assert conformance.same(found, expected)


def test_there_are_no_more_live_modules_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 2, 3):
        monkeypatch.setattr("hetfed.profile.LIVE", most)
        monkeypatch.setattr("hetfed.profile._live", deque())
        assert len(run("fedavg")[1]) == most
