"""What each exchange does where something is missing, differs or is nothing; and what the goldens do not reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import goldens
import pytest
import torch
import toy
from goldens import a_and_b, held, near, pair, run, w
from torch import Tensor, nn
from whole import enrol

from hetfed.client import Client
from hetfed.composition import compose
from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.exchanges import (
    KINDS,
    ControlVariates,
    DistilledParameters,
    Exchange,
    FeatureGenerator,
    MixedModels,
    MutualLearning,
    NestedFeatures,
    Prototypes,
    ProximalCopy,
    SharedParameters,
    Slices,
    TeacherDistillation,
    TrainedHead,
    TrainedPrototypes,
)
from hetfed.model import Output
from hetfed.payload import Declaration
from hetfed.tasks import Regression
from hetfed.training import Training


def without_labels(client: Client) -> Client:
    """The same, but of no training example the class is known."""
    train = replace(client.data.train, target=torch.full_like(client.data.train.target, -1))
    return replace(client, data=replace(client.data, train=train))


def beside(client: Client, common: object = lambda spec: toy.Net(spec["inputs"], 3)) -> Client:
    return replace(client, common_fn=common)


COMPANIONS = [MutualLearning(), ProximalCopy(), MixedModels(), NestedFeatures()]


@pytest.mark.parametrize("exchange", COMPANIONS, ids=lambda exchange: type(exchange).__name__)
def test_of_a_companion_nothing_travels_by_itself(exchange: Exchange) -> None:
    clients = [beside(toy.client("a")), beside(toy.client("b"))]
    assert exchange.declare(clients[0].profile) == Declaration({})
    state, uploads = toy.federate(clients, compose(exchange))
    assert uploads == []
    assert list(state.server.values()) == [{}]


def headless(spec: Mapping[str, object]) -> nn.Module:
    return goldens.Normal()


MISSING = [
    (MutualLearning(), toy.client("a"), "no small common model"),
    (MutualLearning(hint=1.0), replace(beside(toy.client("a")), model_fn=headless), "gives no features"),
    (NestedFeatures(), toy.client("a"), "no small common model"),
    (NestedFeatures(), replace(beside(toy.client("a")), model_fn=headless), "no features of one vector"),
    (NestedFeatures(size=4), beside(toy.client("a")), "its features are fewer than 4"),
    (Prototypes(), replace(toy.client("a"), task=Regression()), "no classes"),
    (FeatureGenerator(), replace(toy.client("a"), model_fn=headless), "gives no features"),
    (DistilledParameters(), replace(toy.client("a"), public=None), "no public inputs"),
    (Slices("tail"), toy.client("a"), "no part 'tail' (it has: encoder, head)"),
    (ControlVariates("encoder.3"), toy.client("a"), "no part 'encoder.3' (it has: encoder.0, encoder.1, encoder.4)"),
]


@pytest.mark.parametrize(("exchange", "client", "lack"), MISSING, ids=[f"{type(e).__name__} {t}" for e, _, t in MISSING])
def test_what_a_client_lacks_is_said(exchange: Exchange, client: Client, lack: str) -> None:
    assert lack in exchange.missing(client.profile)


class Renamed(toy.Net):
    """A head that is no linear layer, or has another name."""

    def __init__(self, name: str) -> None:
        super().__init__(2, 4)
        head = self.head
        del self.head
        self.add_module(name, nn.Sequential(head))
        self.name = name

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.encoder(inputs["point"])
        return Output(self.get_submodule(self.name)(features), features)


def test_a_head_must_have_its_name() -> None:
    client = beside(replace(toy.client("a"), model_fn=lambda spec: Renamed("top")))
    for exchange in (TrainedHead(), FeatureGenerator()):
        assert exchange.missing(client.profile) == "its model has no part 'head' (it has: encoder, top)"
    linear = beside(replace(toy.client("a"), model_fn=lambda spec: Renamed("head")))
    assert NestedFeatures().missing(linear.profile) == "its model has no linear head"


def test_parts_that_mean_nothing_elsewhere_are_not_distilled_at_the_server() -> None:
    class Local(toy.Net):
        local_parts = ("encoder",)

    client = replace(toy.client("a"), model_fn=lambda spec: Local(2, 4))
    assert DistilledParameters().missing(client.profile) == "parts of its model mean nothing at the server"
    assert SharedParameters().declare(client.profile).shapes.keys() == {"head.weight", "head.bias"}


def test_a_mixture_may_stand_still() -> None:
    """0.25 of an own line, the rest of a copy: the gradient at 0 is -5, hence v = LR 0.25 5, u = LR 5."""
    done = run("apfl", a_and_b(), mixture=0.25, adaptive=False)
    assert w(done.after[0], "a") == near(0.1 * 0.25 * 5)
    assert w(done.after[0], "a", "companion.head.weight") == near(0.5)
    client = enrol(compose(MixedModels(mixture=0.25, adaptive=False)), a_and_b()).clients[0]
    client.module.load_state_dict(done.after[0].clients["a"].model)
    said = client.module({"x": torch.tensor([[2.0]])}).logits.item()
    assert said == near(2 * (0.25 * 0.125 + 0.75 * 0.5))
    assert "mixture" not in dict(client.module.named_parameters())


def test_bad_teachers_count_less() -> None:
    """FedKD: the distillation is divided by the sum of both losses."""
    (client,) = enrol(compose(MutualLearning(alpha=0.5, adaptive=True)), [pair()[0]]).clients
    batch = client.data.train.batch(torch.arange(8))
    context = toy.client_context(client)
    own, theirs = client.module(batch.inputs), client.module.companion(batch.inputs)
    mine, other = client.task.loss(own, batch), client.task.loss(theirs, batch)
    apart = goldens.divergence(theirs.logits, own.logits) + goldens.divergence(own.logits, theirs.logits)
    found = MutualLearning(alpha=0.5, adaptive=True).loss(context, context.tensors, batch, own)
    assert torch.allclose(found, other + apart / (mine + other), atol=1e-6)


def test_without_labels_companions_learn_from_each_other_alone() -> None:
    client = enrol(compose(MutualLearning()), [without_labels(pair()[0])]).clients[0]
    batch = client.data.train.batch(torch.arange(8))
    own, theirs = client.module(batch.inputs), client.module.companion(batch.inputs)
    apart = goldens.divergence(theirs.logits, own.logits) + goldens.divergence(own.logits, theirs.logits)
    context = toy.client_context(client)
    assert torch.allclose(MutualLearning().loss(context, context.tensors, batch, own), apart, atol=1e-6)


def test_whose_steps_are_no_gradients_measures_one_at_the_servers_model() -> None:
    """With momentum, where both epochs' steps would say something else: -5 at a and -10 at b."""
    clients = [replace(c, training=c.training.model_copy(update={"momentum": 0.5, "epochs": 2})) for c in a_and_b()]
    done = run("scaffold", clients)
    sent = {u.client: u.contents.tensors["head.weight"].item() for u in done.uploads if u.exchange == "control-variates"}
    assert sent == {"a": near(-5.0), "b": near(-10.0)}


def test_variates_of_clients_without_labels_are_zero() -> None:
    client = without_labels(toy.client("a", training=Training(lr=0.1, batch_size=8)))
    _, uploads = toy.federate([client], compose(SharedParameters(), ControlVariates()))
    (variates,) = [u.contents.tensors for u in uploads if u.exchange == "control-variates"]
    assert all(not tensor.any() for tensor in variates.values())


def test_before_everybodys_variate_has_arrived_nothing_is_corrected() -> None:
    client, exchange = toy.client("a"), ControlVariates()
    context = toy.client_context(client)
    exchange.begin(context)
    assert exchange.loss(context, context.tensors, client.data.train.batch(torch.arange(4)), client.profile.probe) is None
    assert exchange.upload(context) is None


def test_variates_of_differing_shapes_are_refused_unless_groups_are_formed() -> None:
    clients = [toy.client("a"), toy.client("b", width=5)]
    with pytest.raises(PlanError, match=r"'a' and 'b' cannot share control variates: tensor 'encoder.0.bias'"):
        enrol(compose(ControlVariates()), clients)
    _, uploads = toy.federate([*clients, toy.client("c")], compose(ControlVariates(among="same-shape")))
    assert {upload.client for upload in uploads if upload.refused is None} == {"a", "c"}


SERVERS = [Prototypes(), TrainedPrototypes(), TrainedHead(), FeatureGenerator()]


@pytest.mark.parametrize("exchange", SERVERS, ids=lambda exchange: type(exchange).__name__)
def test_where_no_class_is_known_the_server_learns_nothing(exchange: Exchange) -> None:
    client = without_labels(toy.client("a"))
    server = toy.server_context([client])
    before = exchange.init(server)
    after = toy.update(exchange, server, before, {"a": exchange.upload(toy.client_context(client))})
    assert toy.same(before, after)


@pytest.mark.parametrize("exchange", [Prototypes(), TrainedPrototypes()], ids=lambda exchange: type(exchange).__name__)
def test_a_class_that_nobody_has_pulls_nobody(exchange: Exchange) -> None:
    clients = [toy.client("a", one_class=True), toy.client("b")]
    server = toy.server_context(clients[:1])
    state = toy.update(exchange, server, exchange.init(server), {"a": exchange.upload(toy.client_context(clients[0]))})
    sent = exchange.broadcast(server, state, clients[1].profile)
    assert sent.tensors["counts"].tolist() == [1, 0]
    context = toy.client_context(clients[1])
    exchange.apply(context, sent)
    batch = clients[1].data.train.batch(torch.arange(24))
    output = clients[1].module(batch.inputs)
    pulled = ((output.features - sent.tensors["means"][0]) ** 2)[batch.target == 0].mean()
    assert torch.allclose(exchange.loss(context, context.tensors, batch, output), exchange.weight * pulled, atol=1e-5)
    none = clients[1].data.train.batch((batch.target == 1).nonzero()[:, 0])
    output = clients[1].module(none.inputs)
    loss = exchange.loss(context, context.tensors, none, output)
    (gradient,) = torch.autograd.grad(loss, [output.features])
    assert loss.item() == 0
    assert not gradient.any()


def test_one_class_has_no_margin_to_others() -> None:
    assert float(TrainedPrototypes()._margin(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))) == 0.0


def test_heads_of_other_shapes_cannot_be_trained_as_one() -> None:
    clients = [toy.client("a"), replace(toy.client("b"), model_fn=lambda spec: Renamed("head"))]
    with pytest.raises(PlanError, match=r"'a' and 'b' have heads of other shapes: .*'head.bias': \(2,\).*'head.0.bias'"):
        enrol(compose(TrainedHead()), clients)


def two_layers(width: int, gates: int = 3) -> nn.Module:
    """Layers that a slice can be made of, and stacked gates of which it cannot."""
    model = toy.Net(2, width)
    model.add_module("gates", nn.GRU(2, gates))
    return model


def test_what_is_no_slice_is_named() -> None:
    clients = [toy.client("a"), replace(toy.client("b"), model_fn=lambda spec: Renamed("head"))]
    with pytest.raises(PlanError, match=r"'b' is no slice of that of 'a': tensor 'head.0.bias' is \(2,\), the other's absent"):
        enrol(compose(Slices()), clients)
    deep = replace(toy.client("b", width=1), model_fn=lambda spec: goldens.Small(9))
    with pytest.raises(PlanError, match=r"is no slice of that of .*tensor 'encoder"):
        enrol(compose(Slices()), [toy.client("a"), deep])


def test_narrower_gates_are_no_slice_and_can_stay_at_home() -> None:
    wide, narrow = toy.client("a"), toy.client("b", width=2)
    clients = [replace(wide, model_fn=lambda f: two_layers(4)), replace(narrow, model_fn=lambda f: two_layers(2, 2))]
    with pytest.raises(PlanError, match=r"'gates' of 'b' is narrower than that of 'a'; a GRU holds several matrices as one"):
        enrol(compose(Slices()), clients)
    _, uploads = toy.federate(clients, compose(Slices(exclude=("gates",))))
    assert not [name for upload in uploads for name in upload.contents.tensors if "gates" in name]


def test_slices_of_numbers_have_no_classes_to_mask_and_need_no_normalisation() -> None:
    clients = [replace(c, task=Regression(), model_fn=lambda f: goldens.Small(3)) for c in pair()]
    numbers = [replace(c, data=ClientData(*[_as_numbers(c.data.train)] * 3)) for c in clients]
    enrolled = enrol(compose(Slices()), numbers).clients
    plain = [len(client.module._forward_hooks) for client in clients]
    assert [len(client.module._forward_hooks) for client in enrolled] == plain
    state, uploads = toy.federate(numbers, compose(Slices()))
    sent = [upload.contents.tensors["head.weight"] for upload in uploads]
    assert torch.allclose(state.server["slices"]["head.weight"], (sent[0] + sent[1]) / 2, atol=1e-6)


def _as_numbers(examples: Examples) -> Examples:
    return replace(examples, target=torch.stack([examples.target.float()] * 2, dim=1))


def test_what_nobody_holds_this_time_stays_as_it_was() -> None:
    """Only the narrow client uploads: the other half of the whole is not touched."""
    clients = [goldens.small("a", 8, width=4), goldens.small("b", 12, width=2)]
    exchange, server = Slices(), toy.server_context(clients)
    before = exchange.init(server)
    after = toy.update(exchange, server, before, {"b": exchange.upload(toy.client_context(clients[1]))})
    assert torch.equal(after["encoder.weight"][2:], before["encoder.weight"][2:])
    assert torch.equal(after["encoder.weight"][:2], clients[1].module.state_dict()["encoder.weight"])


def test_the_held_back_fifth_chooses_the_pass() -> None:
    """Distillation of one model into itself leads nowhere, and ends where it began."""
    clients = pair()[:1]
    done = run("feddf", clients, epochs=5, lr=0.5)
    assert toy.same(held(done.after[0], "distilled-parameters"), done.sent("a"))


class Featureless(toy.Net):
    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(super().forward(inputs).logits)


def test_a_hint_asks_nothing_of_those_without_features() -> None:
    clients = [toy.client("a"), replace(toy.client("b"), model_fn=lambda spec: Featureless(2, 4))]
    state, uploads = toy.federate(clients, compose(TeacherDistillation(hint=1.0)), 2)
    plain, _ = toy.federate(clients, compose(TeacherDistillation()), 2)
    assert [upload.refused for upload in uploads] == [None] * 4
    assert toy.same(state.clients["b"].model, plain.clients["b"].model)
    assert not any("projectors" in name for name in state.clients["b"].model)


CONTINUING = {"shared-parameters", "distilled-parameters", "slices"}
CHANGING = {"shared-parameters", "distilled-parameters", "slices", "trained-head", "logit-distillation"}


def test_what_goes_on_from_what_was_sent_and_what_changes_the_model() -> None:
    """Of the first, what compression leaves out is owed; to the second, the last broadcast is sent."""
    profile = beside(toy.client("a")).profile
    declared = {kind: KINDS[kind]().declare(profile) for kind in KINDS if kind != "feature-means"}
    assert {kind for kind, found in declared.items() if found.relative == "broadcast"} == CONTINUING
    assert {kind for kind, found in declared.items() if found.lasting} == CHANGING
    assert {kind for kind, found in declared.items() if found.relative == "change"} == {"control-variates"}
    assert {found.relative for found in declared.values()} == {"nothing", "broadcast", "change"}
    moving = Slices(window="rolling").declare(profile)
    assert (moving.relative, moving.lasting) == ("moving", True)
