"""Merging: declared by an exchange, done in one place, and the same in whatever order uploads arrive."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetfed import codecs
from hetfed.aggregation import Aggregation, weighted_mean
from hetfed.composition import Step, compose
from hetfed.compression import Compression
from hetfed.exchanges import ControlVariates, Prototypes, SharedParameters
from hetfed.merging import AddUp, Collect, Merging
from hetfed.payload import Payload

WEIGHTS = {"a": 24.0, "b": 17.0, "c": 3.0, "d": 60.0}


def uploads(seed: int = 0) -> dict[str, Payload]:
    chance = torch.Generator().manual_seed(seed)
    return {name: Payload({"w": torch.randn(5, 3, generator=chance)}, weight) for name, weight in WEIGHTS.items()}


def added(sent: dict[str, Payload], order: list[str], *, mean: bool = True) -> Tensor:
    merger = AddUp(len(WEIGHTS), WEIGHTS, mean)
    for name in order:
        merger.add(name, sent[name]) if name in sent else merger.skip(name)
    return merger.merged().tensors["w"]


@given(st.permutations(list(WEIGHTS)))
def test_the_order_of_arrival_changes_no_bit(order: list[str]) -> None:
    sent = uploads()
    assert torch.equal(added(sent, order), weighted_mean(list(sent.values()))["w"])
    assert torch.equal(added(sent, order, mean=False), torch.stack([p.tensors["w"] for p in sent.values()]).sum(dim=0))


@given(st.permutations(list(WEIGHTS)), st.sampled_from(list(WEIGHTS)))
def test_one_who_sends_nothing_leaves_the_mean_of_the_others(order: list[str], absent: str) -> None:
    sent = {name: payload for name, payload in uploads().items() if name != absent}
    assert torch.allclose(added(sent, order), weighted_mean(list(sent.values()))["w"], atol=1e-6)
    assert torch.equal(added(sent, order), added(sent, list(WEIGHTS)))


def test_without_a_word_of_the_absent_the_mean_is_that_of_those_who_sent() -> None:
    """The round ends: whoever has been waited for will not come any more."""
    sent = uploads()
    merger = AddUp(4, WEIGHTS, mean=True)
    for name in "db":
        merger.add(name, sent[name])
    merged = merger.merged()
    assert merged.names == ("b", "d")
    assert torch.allclose(merged.tensors["w"], weighted_mean([sent["b"], sent["d"]])["w"], atol=1e-6)


def test_weights_of_zero_count_as_equal() -> None:
    sent = {name: replace(payload, weight=0.0) for name, payload in uploads().items()}
    merger = AddUp(4, dict.fromkeys(WEIGHTS, 0.0), mean=True)
    for name, payload in sent.items():
        merger.add(name, payload)
    assert torch.allclose(merger.merged().tensors["w"], weighted_mean(list(sent.values()))["w"], atol=1e-7)


def test_a_sum_needs_no_declared_weight() -> None:
    """Weights are for means: an exchange that adds up need not speak of them."""
    clients = [toy.client(name) for name in "abc"]
    exchange = ControlVariates()
    merging = Merging(exchange, toy.server_context(clients, exchange), dict.fromkeys("abc"))
    for name in "abc":
        merging.add(name, Payload({"w": torch.ones(2)}, weight=7.0))
    merged = merging.merged()[""]
    assert merged.names == ("a", "b", "c")
    assert merged.tensors["w"].tolist() == [3.0, 3.0]


def test_uploads_are_added_up_as_they_arrive_and_not_held() -> None:
    """In the order of names, an upload is gone when it has been added; one that overtakes another waits for it."""
    clients = [toy.client(name) for name in "abc"]
    exchange = SharedParameters("head")
    server = toy.server_context(clients, exchange)
    merging = Merging(exchange, server, {name: exchange.declare(p).weight for name, p in server.members.items()})

    def payload(name: str) -> Payload:
        return Payload({"head.weight": torch.full((2, 3), 1.0), "head.bias": torch.zeros(2)}, len(clients[0].data.train))

    def held() -> int:
        gc.collect()
        return sum(type(one) is Payload for one in gc.get_objects())

    before = held()
    merging.add("a", payload("a"))
    assert held() == before
    merging.add("c", payload("c"))
    assert held() == before + 1
    merging.add("b", payload("b"))
    assert held() == before
    assert merging.merged()[""].names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("exchange", "rule", "asynchronous", "expected"),
    [
        (SharedParameters("head"), "mean", False, AddUp),
        (SharedParameters("head"), "median", False, Collect),
        (SharedParameters("head"), "mean", True, Collect),
        (ControlVariates(), "mean", False, AddUp),
        (Prototypes(), "mean", False, Collect),
    ],
)
def test_only_what_needs_all_uploads_holds_them(exchange: object, rule: str, asynchronous: bool, expected: type) -> None:
    server = replace(toy.server_context([toy.client("a")], exchange), asynchronous=asynchronous, aggregation=Aggregation(rule))
    assert type(Merging(exchange, server, {"a": 24.0})._merger("")) is expected


def test_any_exchange_that_merges_by_mean_can_merge_robustly() -> None:
    """One of three clients sends wild values: the median is not moved by them, the mean is."""
    clients = [toy.client(name) for name in "abc"]
    for exchange in (SharedParameters("head"), Prototypes()):
        found = {}
        for rule in ("mean", "median"):
            server = toy.server_context(clients, exchange, aggregation=Aggregation(rule))
            sent = {c.name: exchange.upload(toy.client_context(c)) for c in clients}
            wild = {key: t if key == "counts" else t + 1000 for key, t in sent["c"].tensors.items()}
            sent["c"] = replace(sent["c"], tensors=wild)
            after = toy.update(exchange, server, exchange.init(server), sent)
            found[rule] = max(float(t.abs().max()) for key, t in after.items() if key != "counts")
        assert found["median"] < 50 < found["mean"]


class Shift:
    """A codec that adds a number on the way and takes it away."""

    owes = False

    def __init__(self, by: float, seen: list[str]) -> None:
        self.by, self.seen = by, seen

    def up(self, payload: Payload, base: object, owed: object) -> Payload:
        self.seen.append(f"up {self.by}")
        return replace(payload, tensors={name: t * 2 + self.by for name, t in payload.tensors.items()})

    def arrived(self, payload: Payload, base: object, shapes: object) -> Payload:
        self.seen.append(f"arrived {self.by}")
        return replace(payload, tensors={name: (t - self.by) / 2 for name, t in payload.tensors.items()})

    def down(self, payload: Payload) -> Payload:
        return replace(payload, tensors={name: t + self.by for name, t in payload.tensors.items()})

    def read(self, payload: Payload) -> Payload:
        return replace(payload, tensors={name: t - self.by for name, t in payload.tensors.items()})


def test_codecs_form_a_chain_that_is_undone_in_the_reverse_order() -> None:
    seen: list[str] = []
    chain = (Shift(1.0, seen), Shift(2.0, seen))
    payload = Payload({"w": torch.arange(4.0)})
    travelled = Payload.decode(codecs.to_server(chain, payload, {}, [None, None]))
    assert torch.equal(travelled.tensors["w"], torch.arange(4.0) * 4 + 4)
    assert torch.equal(codecs.at_server(chain, travelled, {}, {"w": (4,)}).tensors["w"], payload.tensors["w"])
    assert seen == ["up 1.0", "up 2.0", "arrived 2.0", "arrived 1.0"]
    assert torch.equal(codecs.at_client(chain, codecs.to_client(chain, payload)).tensors["w"], payload.tensors["w"])


def test_a_codec_of_a_step_is_on_the_way_of_every_payload() -> None:
    """What arrives is what was sent, and what travels is not; compression comes after it."""
    seen: list[str] = []
    plain, _ = toy.federate([toy.client("a"), toy.client("b")], compose(SharedParameters("head")), 2)
    for compression in (None, Compression("8-bit")):
        step = Step(SharedParameters("head"), codecs=(Shift(0.5, seen),), compression=compression)
        state, sent = toy.federate([toy.client("a"), toy.client("b")], compose(step), 2)
        assert not [upload.refused for upload in sent if upload.refused]
        tolerance = 1e-5 if compression is None else 0.05
        for name in "ab":
            for key, tensor in state.clients[name].model.items():
                if key.startswith("head"):
                    assert torch.allclose(tensor, plain.clients[name].model[key], atol=tolerance), (name, key)
    assert seen
