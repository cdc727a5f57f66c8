"""Consensus of logits on public inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from whole import enrol

from hetfed.client import Client
from hetfed.composition import compose, every
from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.exchanges import LogitDistillation
from hetfed.model import Output
from hetfed.payload import Payload
from hetfed.tasks import Classification, Forecasting, Task
from hetfed.training import Training

STILL = Training(optimizer="sgd", lr=0.5, epochs=0)
"""No training of its own: what moves, moves by digesting."""
PUBLIC = Examples({"point": torch.tensor([[1.0, -2.0], [0.5, 4.0], [-3.0, 0.0]])}, torch.zeros(3).long(), ["x", "y", "z"])
POINTS = PUBLIC.inputs["point"]
TWO_CLASSES = Classification(("low", "high"))


class Scaled(nn.Module):
    """The logits are the point times a matrix that starts as a multiple of the identity."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2) * scale)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(inputs["point"] @ self.weight)


def scaled(name: str, scale: float, *, n: int = 4, training: Training = STILL, task: Task = TWO_CLASSES) -> Client:
    examples = toy.examples(n, name)
    return Client(name, ClientData(examples, examples, examples), task, lambda spec: Scaled(scale), training, PUBLIC)


def digest(client: Client, logits: Tensor, exchange: LogitDistillation) -> Tensor:
    """The model's matrix after it has digested `logits`."""
    exchange.apply(toy.client_context(client), Payload({"logits": logits}))
    return client.module.weight.detach()


@pytest.mark.parametrize(("mean", "factor"), [("equal", (1 + 3) / 2), ("examples", (2 * 1 + 6 * 3) / 8)])
def test_the_consensus_by_hand(mean: str, factor: float) -> None:
    clients = [scaled("a", 1.0, n=2), scaled("b", 3.0, n=6)]
    state, _ = toy.federate(clients, compose(LogitDistillation(mean=mean)))
    assert torch.allclose(state.server["logit-distillation"]["logits"], factor * POINTS)


def test_raw_logits_travel_and_not_probabilities() -> None:
    _, uploads = toy.federate([scaled("a", 5.0)], compose(LogitDistillation()))
    assert torch.equal(uploads[0].contents.tensors["logits"], 5 * POINTS)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_one_step_of_digesting_by_hand(temperature: float) -> None:
    """The gradient of T^2 KL with respect to the student's logits is T (q - p) / n, so W moves by -lr w T x'(q - p) / n."""
    teacher = POINTS.flip(1)
    q, p = ((logits / temperature).softmax(dim=1) for logits in (POINTS, teacher))
    expected = torch.eye(2) - 0.5 * 0.7 * temperature * POINTS.T @ (q - p) / 3
    found = digest(scaled("a", 1.0), teacher, LogitDistillation(temperature=temperature, weight=0.7))
    assert torch.allclose(found, expected, atol=1e-6)


def test_forecasts_digest_the_squared_distance_whatever_the_temperature() -> None:
    """The gradient of the mean over 3 x 2 squared distances is 2 (s - t) / 6."""
    task = Forecasting("km/h", 5, (5,), torch.zeros(1), torch.ones(1))
    expected = torch.eye(2) - 0.5 * POINTS.T @ (2 * (POINTS - 3 * POINTS) / 6)
    found = digest(scaled("a", 1.0, task=task), 3 * POINTS, LogitDistillation(temperature=9.0))
    assert torch.allclose(found, expected, atol=1e-5)


@given(st.floats(-3, 3), st.floats(0.5, 5), st.integers(1, 3), st.integers(1, 4))
def test_who_agrees_with_the_consensus_stays_where_it_is(scale: float, temperature: float, epochs: int, size: int) -> None:
    exchange = LogitDistillation(temperature=temperature, epochs=epochs, batch_size=size)
    assert torch.allclose(digest(scaled("a", scale), scale * POINTS, exchange), scale * torch.eye(2), atol=1e-5)


def test_digesting_brings_clients_of_any_architecture_towards_the_consensus() -> None:
    logits = torch.tensor([[3.0, -3.0], [-3.0, 3.0]]).repeat(5, 1)
    for width in (4, 9):
        client = toy.client("a", width=width)
        context = toy.client_context(client)
        before = float(client.task.distillation_loss(context.predict(client.public).logits, logits, 1.0))
        LogitDistillation(epochs=30).apply(context, Payload({"logits": logits}))
        after = float(client.task.distillation_loss(context.predict(client.public).logits, logits, 1.0))
        assert after < 0.6 * before


def test_architectures_may_differ_altogether() -> None:
    clients = [toy.client("a"), toy.client("b", width=7), replace(scaled("c", 1.0), public=toy.client("c").public)]
    state, uploads = toy.federate(clients, compose(LogitDistillation()), 2)
    assert [upload.refused for upload in uploads] == [None] * 6
    sent = [upload.contents.tensors["logits"] for upload in uploads if upload.round == 2]
    assert torch.allclose(state.server["logit-distillation"]["logits"], torch.stack(sent).mean(dim=0), atol=1e-6)
    assert {(row.round, row.client) for row in state.rows if row.bytes_down} == {(2, "a"), (2, "b"), (2, "c")}


def test_the_labels_of_the_public_inputs_are_never_read() -> None:
    def run(target: Tensor) -> dict[str, Tensor]:
        clients = [toy.client("a"), toy.client("b", width=6)]
        clients = [replace(client, public=replace(client.public, target=target)) for client in clients]
        state, _ = toy.federate(clients, compose(LogitDistillation(epochs=2)), 2)
        return {f"{name}/{key}": tensor for name in "ab" for key, tensor in state.clients[name].model.items()}

    assert toy.same(run(torch.arange(10) % 2), run(torch.full((10,), torch.nan)))


def test_digesting_leaves_the_moments_of_the_own_training_alone() -> None:
    state, _ = toy.federate([toy.client("a", training=Training(epochs=0, lr=0.1))], compose(LogitDistillation()), 2)
    assert state.clients["a"].optimizer == {}
    assert state.clients["a"].exchanges == {"logit-distillation": {}}


def test_a_consensus_is_digested_once_for_each_time_it_is_made() -> None:
    state, uploads = toy.federate([scaled("a", 1.0), scaled("b", 3.0)], compose(every(2, LogitDistillation())), 5)
    assert sorted({upload.round for upload in uploads}) == [2, 4]
    mine = [row for row in state.rows if row.client == "a"]
    assert [row.round for row in mine if row.bytes_down] == [3, 5]
    losses = [row.validation_loss for row in mine]
    assert losses[0] == losses[1] != losses[2] == losses[3] != losses[4]


def test_public_inputs_one_at_a_time_can_be_digested_in_spite_of_batch_normalisation() -> None:
    state, uploads = toy.federate([toy.client("a"), toy.client("b")], compose(LogitDistillation(batch_size=1)), 2)
    assert state.round == 2
    assert len(uploads) == 4


def test_without_public_inputs_a_client_sits_out() -> None:
    without = replace(toy.client("b"), public=None)
    empty = replace(toy.client("c"), public=PUBLIC.take(torch.arange(0)))
    enrolment = enrol(compose(LogitDistillation()), [toy.client("a"), without, empty, toy.client("d")])
    assert enrolment.composition.steps[0].clients == ("a", "d")
    assert enrolment.left_out == {"logit-distillation": dict.fromkeys("bc", "it holds no public inputs")}


def test_who_cannot_read_the_public_inputs_says_why() -> None:
    blind = replace(toy.client("a"), public=None, unread="cannot read the public inputs: they are images")
    assert LogitDistillation().missing(blind.profile) == "it cannot read the public inputs: they are images"
    assert LogitDistillation().missing(toy.client("a").profile) is None


@pytest.mark.parametrize(
    "inputs", [{"image": torch.zeros(10, 2)}, {"point": torch.zeros(10, 7)}, {"point": torch.zeros(10, 2, 2)}]
)
def test_a_model_that_cannot_read_the_public_inputs_sits_out(inputs: dict[str, Tensor]) -> None:
    public = replace(toy.client("a").public, inputs=inputs)
    assert "cannot read the public inputs" in LogitDistillation().missing(replace(toy.client("a"), public=public).profile)


def other_classes(client: Client) -> Client:
    task = Classification(("x", "y", "z"))
    return replace(client, task=task, model_fn=lambda spec: toy.Net(2, 4, classes=3))


def fewer_public_inputs(client: Client) -> Client:
    return replace(client, public=client.public.take(torch.arange(6)))


def another_order(client: Client) -> Client:
    return replace(client, public=client.public.take(torch.arange(10).flip(0)))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (other_classes, r"\(10, 2\) and \(10, 3\)"),
        (fewer_public_inputs, r"\(10, 2\) and \(6, 2\)"),
        (another_order, "not the same examples in the same order"),
    ],
)
def test_predictions_that_cannot_be_averaged_are_an_error_that_names_both_clients(change: object, difference: str) -> None:
    clients = [toy.client("a"), toy.client("b"), change(toy.client("c"))]
    with pytest.raises(PlanError, match=f"logit-distillation: clients 'a' and 'c' cannot distil logits.*{difference}"):
        enrol(compose(LogitDistillation()), clients)


def test_an_upload_of_other_logits_is_refused_by_its_declaration() -> None:
    assert LogitDistillation().declare(toy.client("a").profile).shapes == {"logits": (10, 2)}
