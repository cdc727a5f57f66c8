"""The mistakes that published code of each algorithm is known for, and how each would show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import goldens
import numpy as np
import pytest
import torch
import toy
from conformance import without
from goldens import descend, held, near, own_loss, pair, run, w
from torch import Tensor, nn
from whole import Federation, enrol, init, run_round

from hetfed.aggregation import weighted_mean
from hetfed.client import Client, Tensors, new_state
from hetfed.exchanges import DistilledParameters, FeatureGenerator, MutualLearning, SharedParameters, TrainedPrototypes
from hetfed.exchanges.trained_head import TrainedHead
from hetfed.model import Output
from hetfed.parts import COMPANION
from hetfed.plan import named_algorithm
from hetfed.training import Training


def toys(**settings: object) -> list[Client]:
    """Clients whose models have batch normalisation and dropout, and a common model."""
    found = [toy.client("a", **settings), toy.client("b", n=36, **settings)]
    return [replace(client, common_fn=lambda spec: toy.Net(spec["inputs"], 3)) for client in found]


def buffers_are_averaged_and_counts_are_not() -> None:
    """fedavg: running statistics are merged with the rest; a whole number has no mean."""
    done = run("fedavg", toys())
    names = ("encoder.1.running_mean", "encoder.1.running_var")
    for name in names:
        a, b = (done.sent(client)[name] for client in "ab")
        assert torch.allclose(held(done.after[0])[name], (24 * a + 36 * b) / 60, atol=1e-6)
        assert not torch.allclose(a, b)
    assert "encoder.1.num_batches_tracked" not in done.sent("a")
    counts = [done.after[0].clients[client].model["encoder.1.num_batches_tracked"].item() for client in "ab"]
    assert counts == [3, 5]


def the_pull_grows_with_the_square_of_the_distance() -> None:
    """fedprox: mu/2 times the squared distance: 0.3/2 (3^2 + 4^2) for a weight that moved by 3 and one that moved by 4."""
    client, exchange = toy.client("a"), SharedParameters("head", proximal=0.3)
    context = toy.client_context(client)
    state = {name: tensor.clone() for name, tensor in client.module.state_dict().items() if name.startswith("head")}
    moved = state["head.weight"].clone()
    moved[0, 0] += 3
    moved[1, 1] -= 4
    context.memory.update({**state, "head.weight": moved})
    loss = exchange.loss(context, context.tensors, client.data.train.batch(torch.arange(4)), client.profile.probe)
    assert float(loss.detach()) == pytest.approx(0.3 / 2 * 25)


def the_server_optimises_no_buffers(name: str) -> None:
    """fedadam and the like: an optimiser over running statistics would make a variance negative."""
    done = run(name, toys())
    expected = weighted_mean([upload.contents for upload in done.uploads])
    found = held(done.after[0])
    for key, tensor in found.items():
        assert torch.equal(tensor, expected[key]) == ("running" in key), key


def variates_last_between_rounds() -> None:
    """scaffold: what a client sends is the change of its variate, so that all it sent adds up to what it remembers."""
    done = run("scaffold", goldens.a_and_b(epochs=2), rounds=3)
    for client in "ab":
        mine = [u for u in done.uploads if (u.client, u.exchange) == (client, "control-variates")]
        sent = sum(upload.contents.tensors["head.weight"] for upload in mine)
        first, last = (s.clients[client].exchanges["control-variates"]["own/head.weight"] for s in done.after[::2])
        assert torch.allclose(last, sent, atol=1e-6)
        assert not torch.allclose(last, first, rtol=0.05)
    # What everybody holds is the mean over all members, a, who is absent, included.
    alone = run("scaffold", goldens.a_and_b(), engine=without({1: "a"}, after_the_turn=False))
    assert held(alone.after[0], "control-variates")["head.weight"].item() == near(-10 / 2)


class Misnamed(toy.Net):
    """Its normalisation goes by a name that says nothing of it, as torchvision's `downsample.1` does."""

    def __init__(self) -> None:
        super().__init__(2, 4)
        self.downsample = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return super().forward({"point": self.downsample(inputs["point"])})


def norm_layers_are_known_by_their_type() -> None:
    """fedbn."""
    clients = [replace(client, model_fn=lambda spec: Misnamed()) for client in toys()]
    sent = set(run("fedbn", clients).sent("a"))
    assert {"downsample.0.weight", "encoder.0.weight", "encoder.4.bias", "head.weight"} <= sent
    assert not {name for name in sent if name.startswith(("downsample.1", "encoder.1"))}


def a_newcomer_has_a_head_of_its_own() -> None:
    """fedper: one who joins later gets everybody's body, and has a head to go with it."""
    clients = [toy.client(name) for name in "abc"]
    enrolment = enrol(named_algorithm("fedper", {}), clients)
    early = Federation.of(enrolment.clients[:2], enrolment.composition, 3, 0)
    state = run_round(early, run_round(early, init(early)))
    body = held(state)
    state.clients["c"] = new_state(clients[2], 0)
    still = [replace(client, training=Training(epochs=0)) for client in enrolment.clients]
    after = run_round(Federation.of(still, enrolment.composition, 3, 0), state)
    assert toy.same({name: after.clients["c"].model[name] for name in body}, body)
    assert torch.equal(after.clients["c"].model["head.weight"], new_state(clients[2], 0).model["head.weight"])
    assert not torch.equal(after.clients["c"].model["head.weight"], after.clients["a"].model["head.weight"])


def the_last_round_is_like_any_other() -> None:
    """fedrep: no pass over everything at the end, which would make the personal heads look better than they are."""
    short, long = (run("fedrep", pair(), rounds=rounds) for rounds in (2, 4))
    assert toy.same(short.after[1].clients["a"].model, long.after[1].clients["a"].model)
    # Six epochs, one step each: five of the head and one of the body.
    clients = pair()
    model = {**short.after[0].clients["a"].model, **held(short.after[0])}
    trained = descend(descend(model, own_loss(clients[0]), 5, "head"), own_loss(clients[0]), 1, "encoder")
    goldens.assert_near(short.after[1].clients["a"].model, trained)


def the_frozen_head_is_one_and_the_same_everywhere() -> None:
    """fedbabu: at one who joins in the second round, too."""
    done = run("fedbabu", toys(), rounds=4, finetune=1)
    first = held(done.before, "first head")
    late = run("fedbabu", toys(), rounds=4, engine=without({1: "b"}, after_the_turn=False), finetune=1)
    for state in (*done.after[:3], *late.after[1:3]):
        for client in state.clients.values():
            assert toy.same({name: client.model[name] for name in first}, first)
    ends = [done.after[3].clients[client].model["head.weight"] for client in "ab"]
    assert not torch.equal(ends[0], first["head.weight"])
    assert not torch.equal(*ends)


def weight_zero_is_purely_local() -> None:
    """ditto: the own model then is what training alone makes of the common start."""
    clients = pair()
    done = run("ditto", clients, rounds=3, weight=0.0)
    start_of_all = {name.removeprefix("companion."): tensor for name, tensor in held(done.before).items()}
    goldens.assert_near(done.after[2].clients["a"].model, descend(start_of_all, own_loss(clients[0]), 6))
    pulled = run("ditto", clients, rounds=3, weight=1.0)
    heads = [found.after[2].clients["a"].model["head.weight"] for found in (pulled, done)]
    assert not torch.allclose(*heads)


def an_own_line_meets_its_copy_half_way() -> None:
    """pfedme: the copy follows the own model, whose loss it does not know: without data both stay where they are."""
    done = run("pfedme", goldens.a_and_b(epochs=1), weight=2.0)
    assert w(done.after[0], "a", "companion.head.weight") == 0.0
    assert w(done.after[0], "a") == near(0.5)


def a_share_beyond_its_bounds_comes_back() -> None:
    """apfl: clamped where it is used, a share that left [0, 1] would have no gradient any more."""
    client = enrol(named_algorithm("apfl", {}), goldens.a_and_b()).clients[0]
    with torch.no_grad():
        client.module.mixture.fill_(1.2)
        client.module.head.weight.fill_(2.0)
    batch = client.data.train.batch(torch.arange(2))
    loss = client.task.loss(client.module(batch.inputs), batch)
    torch.autograd.backward(loss)
    # At share 1 the line is 2 x; (v - u) (5 2 - 5).
    assert client.module.mixture.item() == 1.0
    assert client.module.mixture.grad.item() == pytest.approx(10.0)


def statistics_are_static_outputs_scaled_logits_masked() -> None:
    """heterofl: all three."""
    narrow = replace(toy.client("b", width=2, one_class=True), common_fn=None)
    clients = [toy.client("a"), narrow]
    done = run("heterofl", clients)
    assert not [name for upload in done.uploads for name in upload.contents.tensors if "running" in name]
    own = done.after[0].clients["b"].model
    first_layer = narrow.data.train.inputs["point"] @ own["encoder.0.weight"].T + own["encoder.0.bias"]
    # Batches of the same size, the cumulative mean of which is the mean; twice as much as the layer itself says.
    assert torch.allclose(own["encoder.1.running_mean"], 2 * first_layer.mean(dim=0), atol=1e-5)
    # Class 1, which it does not have, learns nothing.
    sent = {**held(done.before, "slices")}
    assert torch.equal(own["head.weight"][1], sent["head.weight"][1])
    assert not torch.equal(own["head.weight"][0], sent["head.weight"][0])


def the_window_moves_on() -> None:
    """fedrolex: else the last channels of the wide model would never meet a narrow client's data."""
    clients = [toy.client("a"), toy.client("b", width=1)]
    done = run("fedrolex", clients, rounds=4)
    windows = [int(upload.contents.tensors["window"]) for upload in done.uploads if upload.client == "b"]
    assert windows == [0, 1, 2, 3]


def raw_logits_travel() -> None:
    """fedmd: a mean of probabilities would forget how sure each client is."""
    clients = pair()
    done = run("fedmd", clients)
    logits = goldens.says(done.after[0].clients["a"].model, clients[0].public.inputs["point"])[0]
    assert torch.allclose(done.sent("a")["logits"], logits, atol=1e-6)
    assert not torch.allclose(logits.sum(dim=1), torch.ones(6), atol=0.05)


def distillation_stops_before_it_spoils() -> None:
    """feddf: with steps that lead nowhere the mean model is kept."""
    done = run("feddf", toys(), lr=50.0, epochs=4)
    plain = weighted_mean([upload.contents for upload in done.uploads])
    assert toy.same(held(done.after[0], "distilled-parameters"), plain)
    assert DistilledParameters().temperature == 1.0


def prototypes_are_those_of_the_trained_model() -> None:
    """fedproto: while weights move, a mean would be of several models."""
    clients = pair()
    done = run("fedproto", clients, minimum_count=1)
    trained = done.after[0].clients["a"].model
    assert torch.allclose(done.sent("a")["means"], goldens.class_means(clients[0], trained), atol=1e-6)
    assert done.sent("a")["counts"].tolist() == [4, 4]


def the_margin_has_a_cap() -> None:
    """fedtgp: and it is the largest of the distances to the nearest class: here 1, 1 and 4."""
    points, classes = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 1, 2])
    assert float(TrainedPrototypes()._margin(points, classes)) == 4.0
    assert float(TrainedPrototypes(margin_cap=0.5)._margin(points, classes)) == 0.5
    assert TrainedPrototypes().margin_cap == 100.0


def teachers_learn_nothing_from_their_pupils() -> None:
    """fml: with alpha = 1 the own model listens to nobody, and so nothing of this loss may reach it; and the divergence is a
    mean over examples, not over numbers: as large for a batch that holds everything twice."""
    client = enrol(named_algorithm("fml", {}), pair()).clients[0]
    batch = client.data.train.batch(torch.arange(8))
    twice = client.data.train.batch(torch.arange(8).repeat(2))

    def loss(alpha: float, beta: float, batch: object) -> Tensor:
        context = toy.client_context(client)
        return MutualLearning(alpha=alpha, beta=beta).loss(context, context.tensors, batch, client.module(batch.inputs))

    own = [parameter for name, parameter in client.module.named_parameters() if not name.startswith(COMPANION)]
    companion = list(client.module.get_submodule(COMPANION).parameters())
    for parameters, weights in ((own, (1.0, 0.5)), (companion, (0.5, 1.0))):
        term = loss(*weights, batch) - loss(1.0, 1.0, batch)
        assert term > 0
        found = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
        assert all(gradient is None or gradient.abs().max() < 1e-6 for gradient in found)
    assert torch.allclose(loss(0.5, 0.5, batch), loss(0.5, 0.5, twice), atol=1e-6)
    logits, other = (model(batch.inputs).logits for model in (client.module, client.module.get_submodule(COMPANION)))
    assert torch.allclose(client.task.distillation_loss(logits, other, 1.0), goldens.divergence(other, logits), atol=1e-6)


def each_of_the_two_has_a_loss_of_its_own() -> None:
    """second-model: were the mean prediction trained, the gradient of one would shrink where the other is sure already."""
    client = enrol(named_algorithm("second-model", {}), pair()).clients[0]
    batch = client.data.train.batch(torch.arange(8))
    own = client.module.train()(batch.inputs).logits
    client.module.get_submodule(COMPANION).get_parameter("head.bias").data += 5.0
    assert torch.equal(own, client.module.train()(batch.inputs).logits)
    assert not torch.equal(own, client.module.eval()(batch.inputs).logits)


def changes_are_compressed_and_weights_are_not() -> None:
    """fedkd: one who learnt nothing sends back what it got; and a change whose directions are all as strong is not zeroed."""
    still = [replace(client, training=Training(epochs=0)) for client in pair(common=12)]
    done = run("fedkd", still, energy=0.5)
    assert toy.same(held(done.after[0]), held(done.before))
    moved = run("fedkd", pair(common=12), energy=0.01)
    for name in ("companion.encoder.weight", "companion.head.weight"):
        change = held(moved.after[0])[name] - held(moved.before)[name]
        assert np.linalg.matrix_rank(change.numpy(), tol=1e-6) >= 1


def generated_features_differ_with_the_noise() -> None:
    """fedgen: without the diversity loss there is nothing that asks for it."""

    def spread(diversity: float) -> float:
        clients = pair()
        exchange = FeatureGenerator(epochs=40, lr=0.02, diversity=diversity)
        server = toy.server_context(clients)
        uploads = {client.name: exchange.upload(toy.client_context(client)) for client in clients}
        net = exchange._net(toy.update(exchange, server, exchange.init(server), uploads))
        noise = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
        return float(net(torch.zeros(50, dtype=torch.long), noise).std(dim=0).mean().detach())

    assert spread(3.0) > 1.1 * spread(0.0)
    assert FeatureGenerator().diversity == 1.0


def the_head_learns_at_the_server() -> None:
    """fedgh: the optimiser that steps is the head's own."""
    clients = pair()
    exchange, server = TrainedHead(epochs=50, lr=0.5), toy.server_context(clients)
    uploads = {client.name: exchange.upload(toy.client_context(client)) for client in clients}
    points = torch.cat([payload.tensors["means"] for payload in uploads.values()])

    def loss(state: Tensors) -> float:
        return float(goldens.entropy(points @ state["head.weight"].T + state["head.bias"], torch.tensor([0, 1, 0, 1])))

    before = exchange.init(server)
    assert loss(toy.update(exchange, server, before, uploads)) < 0.8 * loss(before)


def the_projector_stays_and_lasts() -> None:
    """fedmrl: it is private, and in the next round it is what it was."""
    clients = [replace(client, training=Training(epochs=0)) for client in pair()]
    trained = run("fedmrl", pair(), rounds=2)
    assert not [name for upload in trained.uploads for name in upload.contents.tensors if "projector" in name]
    projectors = [state.clients["a"].model["projector.weight"] for state in (trained.before, *trained.after)]
    assert not torch.equal(projectors[0], projectors[1])
    assert not torch.equal(projectors[1], projectors[2])
    enrolment = enrol(named_algorithm("fedmrl", {}), clients)
    still = Federation.of(enrolment.clients, enrolment.composition, 3, 0)
    assert torch.equal(run_round(still, trained.after[1]).clients["a"].model["projector.weight"], projectors[2])


def everybody_teaches_with_what_it_sent() -> None:
    """codistillation: a frozen teacher does not learn from its pupils."""
    done = run("codistillation", toys(), rounds=2, every=1)
    remembered = done.after[1].clients["a"].exchanges["teacher-distillation"]
    assert toy.same(remembered, {f"b/{name}": tensor for name, tensor in done.after[0].clients["b"].model.items()})
