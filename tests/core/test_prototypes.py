"""Class means of features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy
from torch import Tensor
from whole import enrol

from hetfed.composition import compose
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.exchanges import Prototypes
from hetfed.model import Output
from hetfed.payload import Payload
from hetfed.tasks import Classification, Regression


def payload(means: list[list[float]], counts: list[float]) -> Payload:
    return Payload({"means": torch.tensor(means), "counts": torch.tensor(counts)})


NOTHING: dict[str, Tensor] = {"means": torch.zeros(2, 1), "counts": torch.zeros(2)}


@pytest.mark.parametrize(("mean", "expected"), [("counted", (3 * 1.0 + 1 * 5.0) / 4), ("equal", 3.0)])
def test_the_merged_mean_by_hand(mean: str, expected: float) -> None:
    uploads = {"a": payload([[1.0], [0.0]], [3, 0]), "b": payload([[5.0], [0.0]], [1, 0])}
    state = toy.update(Prototypes(mean=mean), toy.server_context(), NOTHING, uploads)
    assert state["means"][0].item() == pytest.approx(expected)
    assert state["counts"].tolist() == [4, 0]


def test_a_class_that_nobody_sends_keeps_its_prototype() -> None:
    before = {"means": torch.tensor([[7.0], [9.0]]), "counts": torch.tensor([2.0, 5.0])}
    state = toy.update(Prototypes(), toy.server_context(), before, {"a": payload([[1.0], [0.0]], [3, 0])})
    assert state["means"].tolist() == [[1.0], [9.0]]
    assert state["counts"].tolist() == [3, 5]


def test_a_class_that_nobody_has_ever_seen_pulls_nothing() -> None:
    exchange, client = Prototypes(), toy.client("a")
    assert exchange.broadcast(toy.server_context(), NOTHING, client.profile) is None
    context = toy.client_context(client)
    state = {"means": torch.ones(2, 3), "counts": torch.tensor([4.0, 0.0])}
    exchange.apply(context, exchange.broadcast(toy.server_context(), state, client.profile))
    features = torch.zeros(2, 3, requires_grad=True)
    both = exchange.loss(context, context.tensors, Batch({}, torch.tensor([0, 1])), Output(torch.zeros(2, 2), features))
    torch.autograd.backward(both)
    assert features.grad[0].abs().sum() > 0
    assert features.grad[1].tolist() == [0, 0, 0]
    features = torch.zeros(2, 3, requires_grad=True)
    neither = exchange.loss(context, context.tensors, Batch({}, torch.tensor([1, -1])), Output(torch.zeros(2, 2), features))
    torch.autograd.backward(neither)
    assert float(neither.detach()) == 0
    assert not features.grad.any()


def test_the_loss_is_the_weighted_mean_squared_distance() -> None:
    exchange, context = Prototypes(weight=0.5), toy.client_context(toy.client("a"))
    batch, output = Batch({}, torch.tensor([0, 1])), Output(torch.zeros(2, 2), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]]))
    assert exchange.loss(context, context.tensors, batch, output) is None  # nothing has arrived
    exchange.apply(context, payload([[0.0] * 3, [0.0] * 3], [1, 1]))
    assert float(exchange.loss(context, context.tensors, batch, output)) == pytest.approx(0.5 * (3 + 9) / 6)


def test_prototypes_are_those_of_the_trained_model() -> None:
    client = toy.client("a")
    state, uploads = toy.federate([client], compose(Prototypes()))
    client.module.load_state_dict(state.clients["a"].model)
    features, target = toy.client_context(client).predict(client.data.train).features, client.data.train.target
    for c in (0, 1):
        assert torch.allclose(uploads[0].contents.tensors["means"][c], features[target == c].mean(dim=0), atol=1e-6)
    assert uploads[0].contents.tensors["counts"].tolist() == [12, 12]


def test_examples_of_unknown_class_count_for_nothing() -> None:
    client = toy.client("a")
    target = client.data.train.target.clone()
    target[:10] = -1
    client = replace(client, data=replace(client.data, train=replace(client.data.train, target=target)))
    _, uploads = toy.federate([client], compose(Prototypes()), 2)
    assert uploads[1].contents.tensors["counts"].sum() == 14


def test_clients_with_one_class_and_other_architectures_take_part() -> None:
    clients = [toy.client("a"), toy.client("b", width=7), toy.client("c", one_class=True)]
    state, uploads = toy.federate(clients, compose(Prototypes()), 2)
    assert all(upload.refused is None for upload in uploads)
    assert {u.client: u.contents.tensors["counts"].tolist() for u in uploads if u.round == 2}["c"] == [24, 0]
    assert state.server["prototypes"]["counts"].tolist() == [48, 24]


def test_what_does_not_fit_is_named() -> None:
    assert "no classes" in Prototypes().missing(replace(toy.client("a"), task=Regression()).profile)
    other = replace(toy.client("b"), task=Classification(("x", "y", "z")), model_fn=lambda spec: toy.Net(2, 4, classes=3))
    with pytest.raises(PlanError, match=r"'a' and 'b'.*\(2, 3\) at the one and \(3, 3\)"):
        enrol(compose(Prototypes()), [toy.client("a"), other])


class Featureless(toy.Net):
    """Gives features as they are asked for."""

    def __init__(self, features: Tensor | None) -> None:
        super().__init__(2, 4)
        self.given = features

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        return Output(super().forward(inputs).logits, self.given)


@pytest.mark.parametrize(("features", "reason"), [(None, "gives no features"), (torch.zeros(2, 3, 4), "not one vector")])
def test_a_model_needs_one_vector_per_example(features: Tensor | None, reason: str) -> None:
    client = replace(toy.client("a"), model_fn=lambda spec: Featureless(features))
    assert reason in Prototypes().missing(client.profile)
