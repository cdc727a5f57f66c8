"""Mistakes that people make in a script, each answered with one message that names the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import toy
from torch import Tensor

import hetfed as hf


class Sending(hf.Exchange):
    """An exchange that does nothing wrong."""

    def declare(self, profile: hf.Profile) -> hf.Declaration:
        return hf.Declaration({"t": hf.TensorRule((1,))})

    def upload(self, context: hf.ClientContext) -> hf.Payload | None:
        return hf.Payload({"t": torch.ones(1)})

    def update(self, server: hf.ServerContext, state: dict[str, Tensor], merged: dict[str, hf.Merged]) -> dict[str, Tensor]:
        return {"t": merged[""].tensors["t"]} if self.merge != "each" else state


class Summing(Sending):
    merge: ClassVar[str] = "sum"


class ByAverage(Sending):
    merge: ClassVar[str] = "avg"


class Listing(Sending):
    def update(self, server: hf.ServerContext, state: object, merged: object) -> object:
        return {"t": [1.0]}


class Sulking(Sending):
    def broadcast(self, server: hf.ServerContext, state: object, profile: hf.Profile) -> None:
        raise ValueError("not today")


def clients() -> list[hf.Client]:
    return [toy.client("a"), toy.client("b")]


def federate(members: list[hf.Client], exchange: hf.Exchange) -> hf.Result:
    return hf.federate(members, exchange, rounds=2, arms=(), finetune=0, progress=False)


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (ByAverage(), r"ByAverage.merge: no way of merging \(value: 'avg'\)"),
        (Listing(), "the server failed in round 1, in the update of Listing: the server's next state is a dict of tensors"),
        (Sulking(), "the server failed in round 1, in the broadcast of Sulking: not today"),
    ],
)
def test_mistakes_in_an_exchange_are_told_with_their_place(exchange: hf.Exchange, message: str) -> None:
    with pytest.raises(hf.errors.HetfedError, match=message):
        federate(clients(), exchange)


def test_a_sum_counts_everybody_whatever_was_declared() -> None:
    ended = federate(clients(), Summing())
    assert ended.ledger["accepted"].all()
    assert ended.summary["uploads_refused"] == 0


def with_metric(client: hf.Client) -> hf.Client:
    return replace(client, task=hf.Classification(("low", "high"), metric="acc"))


def with_a_third_class(client: hf.Client) -> hf.Client:
    target = client.data.test.target.clone()
    target[3] = 2
    return replace(client, data=replace(client.data, test=replace(client.data.test, target=target)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_metric, r"client 'a'.metric: no such metric \(value: 'acc'\). .*accuracy"),
        (with_a_third_class, r"client 'a': a test example is of a class beyond the 2 that the task names \(value: 2\)"),
    ],
)
def test_mistakes_in_a_client_are_told_before_the_first_round(change: Callable[[hf.Client], hf.Client], message: str) -> None:
    one, other = clients()
    with pytest.raises(hf.errors.PlanError, match=message):
        federate([change(one), other], hf.SharedParameters())


def test_arrays_of_other_lengths_are_no_data() -> None:
    with pytest.raises(hf.errors.DataError, match=r"the arrays differ in length \(value: {'target': 3, 'x': 2}\)"):
        hf.ClientData.of({"x": torch.zeros(2, 4).numpy()}, [0, 1, 0])
