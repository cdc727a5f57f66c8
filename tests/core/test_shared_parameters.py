"""Averaging parameters: golden values, the algorithms that are cases of it, and who averages with whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy
from goldens import line
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from whole import State, enrol

from hetfed.aggregation import weighted_mean
from hetfed.algorithms import fedavg, fedper, fedprox, lg_fedavg
from hetfed.composition import compose
from hetfed.data import Spec
from hetfed.errors import PlanError
from hetfed.exchanges import SharedParameters
from hetfed.payload import Payload


def server_tensor(state: State, name: str) -> Tensor:
    (found,) = [tensor for key, tensor in state.server["shared-parameters"].items() if key.endswith("/" + name)]
    return found


def test_one_round_of_fedavg_by_hand() -> None:
    """Mean squared error at w = 0 has the gradient -2 mean(x y); w after the step is 0.2 mean(x y)."""
    a = line("a", [1.0, 2.0], [1.0, 2.0])  # mean(x y) = 2.5, w = 0.5, two examples
    b = line("b", [1.0, 1.0, 1.0], [5.0, 5.0, 5.0])  # mean(x y) = 5, w = 1, three examples
    state, uploads = toy.federate([a, b], fedavg())
    sent = {upload.client: upload.contents for upload in uploads}
    assert sent["a"].tensors["head.weight"].item() == pytest.approx(0.5)
    assert sent["b"].tensors["head.weight"].item() == pytest.approx(1.0)
    assert (sent["a"].weight, sent["b"].weight) == (2, 3)
    assert server_tensor(state, "head.weight").item() == pytest.approx((2 * 0.5 + 3 * 1.0) / 5)


def test_the_second_round_starts_from_the_mean() -> None:
    """From w = 0.8, a: gradient 2 mean(x (w x - y)) = 2 (0.8 * 2.5 - 2.5) = -1, so w = 0.9."""
    clients = [line("a", [1.0, 2.0], [1.0, 2.0]), line("b", [1.0] * 3, [5.0] * 3)]
    _, uploads = toy.federate(clients, fedavg(), 2)
    second = next(u for u in uploads if u.round == 2 and u.client == "a")
    assert second.contents.tensors["head.weight"].item() == pytest.approx(0.9)


def test_with_the_proximal_term_the_second_epoch_is_pulled_back() -> None:
    """First step as without (the distance is 0): w = 0.5; second: gradient 2*2.5*(0.5-1) + mu 0.5 = -2.5 + 0.5 mu."""
    for mu, expected in ((0.0, 0.75), (2.0, 0.65)):
        client = line("a", [1.0, 2.0], [1.0, 2.0])
        client = replace(client, training=client.training.model_copy(update={"epochs": 2}))
        _, uploads = toy.federate([client], compose(SharedParameters(proximal=mu)))
        assert uploads[0].contents.tensors["head.weight"].item() == pytest.approx(expected)


def test_the_proximal_term_is_half_mu_times_the_squared_distance_and_so_is_its_gradient() -> None:
    client, exchange = toy.client("a"), SharedParameters(proximal=0.3)
    context, server = toy.client_context(client), toy.server_context([client])
    exchange.apply(context, exchange.broadcast(server, exchange.init(server), client))
    with torch.no_grad():
        for parameter in client.module.parameters():
            parameter.add_(0.5)
    client.module.zero_grad()
    loss = exchange.loss(context, context.tensors, client.data.train.batch(torch.arange(4)), client.profile.probe)
    count = sum(parameter.numel() for parameter in client.module.parameters())
    assert float(loss.detach()) == pytest.approx(0.15 * 0.25 * count, rel=1e-5)
    torch.autograd.backward(loss)
    for name, parameter in client.module.named_parameters():
        assert torch.allclose(parameter.grad, 0.3 * (parameter - context.memory[name]).detach(), atol=1e-6)


PAYLOADS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10_000)), min_size=1, max_size=6).map(
    lambda pairs: [Payload({"w": torch.randn(3, generator=torch.Generator().manual_seed(s))}, w) for w, s in pairs]
)


@given(PAYLOADS, st.randoms(use_true_random=False))
def test_a_weighted_mean_does_not_depend_on_order(payloads: list[Payload], chance: object) -> None:
    shuffled = list(payloads)
    chance.shuffle(shuffled)
    assert torch.allclose(weighted_mean(payloads)["w"], weighted_mean(shuffled)["w"], rtol=1e-6, atol=1e-7)


@given(PAYLOADS)
def test_a_weighted_mean_is_the_closed_form(payloads: list[Payload]) -> None:
    weights = torch.tensor([p.weight for p in payloads], dtype=torch.float64)
    weights = weights if weights.any() else torch.ones_like(weights)
    stacked = torch.stack([p.tensors["w"] for p in payloads]).double()
    expected = ((weights[:, None] * stacked).sum(dim=0) / weights.sum()).float()
    assert torch.allclose(weighted_mean(payloads)["w"], expected, rtol=1e-6, atol=1e-7)


@given(st.integers(1, 5), st.lists(st.integers(0, 99), min_size=5, max_size=5))
def test_the_mean_of_equal_uploads_is_that_upload(count: int, weights: list[int]) -> None:
    tensors = {"w": torch.tensor([0.1, -3.7, 1e-8]), "v": torch.ones(2, 2) / 3}
    assert toy.same(weighted_mean([Payload(tensors, weight) for weight in weights[:count]]), tensors)


def heads_sent(composition_of: object, widths: tuple[int, ...] = (4, 4)) -> set[str]:
    clients = [toy.client(f"c{i}", width=width) for i, width in enumerate(widths)]
    _, uploads = toy.federate(clients, composition_of)
    assert len(uploads) == len(clients)
    return {name for upload in uploads for name in upload.contents.tensors}


def test_fedper_never_uploads_the_head() -> None:
    names = heads_sent(fedper())
    assert names
    assert all(name.startswith("encoder.") for name in names)


def test_lg_fedavg_uploads_only_the_head_and_encoders_may_differ() -> None:
    assert heads_sent(lg_fedavg(), widths=(4, 5, 6)) == {"head.weight", "head.bias"}


def test_fedbn_keeps_normalisation_layers_local() -> None:
    names = heads_sent(compose(SharedParameters(norm="local")))
    assert "encoder.0.weight" in names
    assert not [name for name in names if name.startswith("encoder.1")]
    assert "encoder.1.running_mean" in heads_sent(fedavg())


def test_personal_parts_stay_as_they_were_trained() -> None:
    clients = [toy.client("a"), toy.client("b")]
    state, _ = toy.federate(clients, fedper(), 2)
    assert not torch.equal(state.clients["a"].model["head.weight"], state.clients["b"].model["head.weight"])


def test_clients_average_among_those_of_the_same_shape() -> None:
    clients = [toy.client("a"), toy.client("b"), toy.client("c", width=5), toy.client("d", width=5, n=48)]
    composition = compose(SharedParameters(among="same-shape"))
    state, uploads = toy.federate(clients, composition)
    sent = {upload.client: upload.contents for upload in uploads}
    groups = {key.split("/")[0] for key in state.server["shared-parameters"]}
    assert len(groups) == 2
    for one, other in (("a", "b"), ("c", "d")):
        expected = weighted_mean([sent[one], sent[other]])
        held = {k: t for k, t in state.server["shared-parameters"].items() if t.shape == expected["encoder.0.weight"].shape}
        assert any(torch.equal(tensor, expected["encoder.0.weight"]) for tensor in held.values())
    exchange, step = composition.steps[0].exchange, state.server["shared-parameters"]
    server = toy.server_context(clients, exchange)
    assert exchange.broadcast(server, step, clients[0].profile).tensors["encoder.0.weight"].shape == (4, 2)
    assert exchange.broadcast(server, step, clients[3].profile).tensors["encoder.0.weight"].shape == (5, 2)


def test_everybody_starts_from_the_same_initialisation() -> None:
    clients = [toy.client("a"), toy.client("b")]
    exchange = SharedParameters()
    server = toy.server_context(clients)
    state = exchange.init(server)
    assert toy.same(
        exchange.broadcast(server, state, clients[0].profile).tensors,
        exchange.broadcast(server, state, clients[1].profile).tensors,
    )
    assert not toy.same(state, exchange.init(toy.server_context(clients, seed=1)))


def test_shapes_that_differ_are_an_error_that_names_both_clients_and_the_tensor() -> None:
    clients = [toy.client("a"), toy.client("b", width=5)]
    with pytest.raises(
        PlanError, match=r"'a' and 'b' cannot share the whole model.*encoder.0.bias.*\(4,\).*\(5,\).*same-shape"
    ):
        enrol(fedavg("all"), clients)


def test_a_part_that_nobody_has_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"no client can take part.*its model has no part 'tail'"):
        enrol(compose(SharedParameters("tail")), [toy.client("a")])


def no_part(spec: Spec) -> nn.Module:
    model = toy.Net(spec["inputs"], 4)
    model.add_module("adapter", nn.Linear(1, 1))
    return model


def test_who_lacks_the_part_sits_out_and_trains_all_the_same() -> None:
    clients = [toy.client("a"), *(replace(toy.client(name), model_fn=no_part) for name in "bc")]
    enrolment = enrol(compose(SharedParameters("adapter")), clients)
    assert enrolment.left_out == {"shared-parameters": {"a": "its model has no part 'adapter' (it has: encoder, head)"}}
    state, uploads = toy.federate(clients, compose(SharedParameters("adapter")))
    assert {upload.client for upload in uploads} == {"b", "c"}
    assert {row.client for row in state.rows} == {"a", "b", "c"}


def test_fedprox_at_mu_zero_is_fedavg() -> None:
    results = [toy.federate([toy.client("a"), toy.client("b")], c, 2)[0] for c in (fedavg(), fedprox(0.0), fedprox(5.0))]
    assert toy.same(results[0].server["shared-parameters"], results[1].server["shared-parameters"])
    assert not toy.same(results[0].server["shared-parameters"], results[2].server["shared-parameters"])
