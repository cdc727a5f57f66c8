"""Rounds that do not wait: who is asked beside those at work, how much a few may change, and what never arrives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import toy
from rich.console import Console
from torch import Tensor
from whole import Federation, State, enrol, init, run_round

from hetfed.algorithms import fedavg, fedmd, fedproto, heterofl
from hetfed.client import Client
from hetfed.composition import Composition
from hetfed.exchanges import Slices
from hetfed.launch.launcher import Launcher
from hetfed.participation import Participation, Presence
from hetfed.parts import of_group
from hetfed.payload import Payload, Upload
from hetfed.plan import read_plan

NOT_WAITING = Participation(time_limit=0.1, asynchronous=True)


def members(speeds: Mapping[str, float], **widths: int) -> list[Client]:
    """Clients by name, with so many thousand examples in a unit of time; each has 24."""
    return [replace(toy.client(n, width=widths.get(n, 4)), presence=Presence(speed=s)) for n, s in speeds.items()]


def run(
    clients: list[Client], composition: Composition, rounds: int, participation: Participation = NOT_WAITING
) -> tuple[list[State], list[Upload]]:
    """The states after each round, the first one before all of them, and every upload."""
    enrolment = enrol(composition, clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0, participation=participation)
    states, uploads = [init(federation)], list[Upload]()
    for _ in range(rounds):
        states.append(run_round(federation, states[-1], on_upload=uploads.append))
    return states, uploads


def contents(upload: Upload) -> Mapping[str, Tensor]:
    assert upload.contents is not None
    return upload.contents.tensors


def test_a_fraction_is_of_all_clients_and_not_of_the_idle_ones() -> None:
    """Half of four are asked in every round, also where two of them are at work and two are left."""
    clients = members({"a": 1.0, "b": 1.0, "c": 0.1, "d": 0.1})
    states, _ = run(clients, fedavg(), 12, NOT_WAITING.model_copy(update={"fraction": 0.5}))
    at_work = [len({upload.client for upload in state.pending}) for state in states[:-1]]
    assert set(at_work) == {0, 1, 2}
    assert [len(after.rows) - len(before.rows) for before, after in pairwise(states)] == [2] * 12


def test_a_mean_goes_in_by_the_share_of_those_it_could_be_of() -> None:
    """a is one of two who have such a model; c and d have another, and do not count."""
    clients = members({"a": 1.0, "b": 0.01, "c": 0.01, "d": 0.01}, c=6, d=6)
    states, uploads = run(clients, fedavg(), 1)
    (upload,) = uploads
    before, after = (state.server["shared-parameters"] for state in states)
    groups = {key.split("/")[0] for key in before}
    assert len(groups) == 2
    for group in groups:
        held, found = of_group(group, before), of_group(group, after)
        mine = all(found[name].shape == tensor.shape for name, tensor in contents(upload).items())
        for name, tensor in held.items():
            expected = 0.5 * tensor + 0.5 * contents(upload)[name] if mine else tensor
            assert torch.allclose(found[name], expected, atol=1e-6), name


def test_a_late_slice_counts_for_less() -> None:
    clients = members({"a": 1.0, "b": 1.0})
    server, exchange = toy.server_context(clients), Slices()
    state = exchange.init(server)
    ones = {name: torch.ones_like(tensor) for name, tensor in state.items() if name != "window"}
    window = {"window": state["window"]}
    fours = {name: 4 * tensor for name, tensor in ones.items()}
    uploads = {"a": Payload({**window, **ones}, discount=1.0), "b": Payload({**window, **fours}, discount=0.5)}
    after = toy.update(exchange, server, state, uploads)
    for name, tensor in ones.items():
        assert torch.allclose(after[name], 2 * tensor), name


def test_a_slice_goes_in_by_its_share() -> None:
    clients = members({"a": 1.0, "b": 0.01, "c": 0.01, "d": 0.01})
    states, uploads = run(clients, heterofl(), 1)
    (upload,) = uploads
    for name, tensor in states[0].server["slices"].items():
        if name != "window":
            expected = 0.75 * tensor + 0.25 * contents(upload)[name]
            assert torch.allclose(states[1].server["slices"][name], expected, atol=1e-6), name


def test_a_late_slice_is_discounted_when_it_arrives() -> None:
    """b takes three rounds: of two members, 1 and (1 + 2) ** -1 have arrived."""
    clients = members({"a": 1.0, "b": 0.1})
    states, uploads = run(clients, heterofl(), 3, Participation(time_limit=0.1, asynchronous=True, staleness_exponent=1.0))
    arrived = {upload.client: contents(upload) for upload in uploads if upload.round == 3}
    assert set(arrived) == {"a", "b"}
    for name, tensor in states[2].server["slices"].items():
        if name != "window":
            mean = (arrived["a"][name] + arrived["b"][name] / 3) / (1 + 1 / 3)
            expected = tensor + (1 + 1 / 3) / 2 * (mean - tensor)
            assert torch.allclose(states[3].server["slices"][name], expected, atol=1e-6), name


@pytest.mark.parametrize(("composition", "key"), [(fedmd(), "logits"), (fedproto(), "means")], ids=["logits", "prototypes"])
def test_what_one_says_goes_in_by_its_share(composition: Composition, key: str) -> None:
    """The first of four is all there is at first; what it says then goes in by a quarter."""
    clients = members({"a": 1.0, "b": 0.01, "c": 0.01, "d": 0.01})
    (label,) = [step.label for step in composition]
    states, uploads = run(clients, composition, 3)
    assert [(upload.round, upload.client) for upload in uploads] == [(1, "a"), (2, "a"), (3, "a")]
    said = [contents(upload)[key] for upload in uploads]
    assert not torch.allclose(said[0], said[1], atol=1e-3)
    expected = said[0]
    assert torch.allclose(states[1].server[label][key], expected)
    for number in (1, 2):
        expected = 0.75 * expected + 0.25 * said[number]
        assert torch.allclose(states[number + 1].server[label][key], expected, atol=1e-6)


PLAN = """
title = "One is slow"
[federation]
rounds = 3
finetune = 0
alone = false
pooled = false
[participation]
time_limit = 0.1
asynchronous = true
[[exchange]]
kind = "shared-parameters"
part = "head"
[[exchange]]
kind = "prototypes"
[[client]]
name = "quick"
[[client]]
name = "slow"
presence = { speed = 0.12 }
[[client]]
name = "slower"
presence = { speed = 0.01 }
"""
LATE = "still on its way when the run ended"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The folder of a run, its summary and its ledger. The slow one needs two rounds, the slower one more than there are."""
    out = tmp_path_factory.mktemp("runs") / "slow"
    summary = Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(PLAN, "slow"), "toy plan slow", out)
    return out, summary, [json.loads(line) for line in (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_is_still_on_its_way_at_the_end_stands_in_the_ledger(
    ended: tuple[Path, dict[str, Any], list[dict[str, Any]]],
) -> None:
    _, _, ledger = ended
    lines = [(line["sent"], line["round"], line["client"], line["refused"]) for line in ledger]
    expected = [(n, n, "quick", None) for n in (1, 2, 3)] + [(1, 2, "slow", None), (3, 3, "slow", LATE), (1, 3, "slower", LATE)]
    assert sorted(map(str, lines)) == sorted(map(str, 2 * expected))
    assert all(line["accepted"] == (line["refused"] is None) for line in ledger)
    assert all(line["tensors"] for line in ledger)


def test_the_bytes_of_the_ledger_are_those_of_the_rounds(ended: tuple[Path, dict[str, Any], list[dict[str, Any]]]) -> None:
    out, summary, ledger = ended
    rounds = pd.read_csv(out / "rounds.csv")
    assert rounds["bytes_up"].sum() == sum(line["bytes"] for line in ledger) == summary["communication_bytes"]["up"]
    for row in rounds.to_dict("records"):
        mine = [line["bytes"] for line in ledger if (line["client"], line["sent"]) == (row["client"], row["round"])]
        assert row["bytes_up"] == sum(mine)
    refused = rounds[rounds["refused"] > 0]
    assert sorted(zip(refused["client"], refused["round"], refused["refused"], strict=True)) == [
        ("slow", 3, 2),
        ("slower", 1, 2),
    ]
    assert summary["uploads_refused"] == 4
