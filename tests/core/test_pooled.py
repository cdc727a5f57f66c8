"""The arm that has everybody's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from whole import Federation

from hetfed.algorithms import alone
from hetfed.client import Client
from hetfed.data import Batch, ClientData, Examples, Spec
from hetfed.evaluation import Outcome, evaluate
from hetfed.model import Output
from hetfed.pooled import OnEpoch, build_pools, fits, kinds_of, tie, train_pooled
from hetfed.seeding import INITIAL, generator, isolated
from hetfed.tasks import Classification, Regression
from hetfed.training import Training


def pooled(
    clients: Sequence[Client],
    members: Sequence[Client],
    on_epoch: OnEpoch = lambda epoch: None,
    *,
    rounds: int = 3,
    seed: int = 0,
) -> dict[str, Outcome]:
    """What comes of a model of the kind of `members` on the data of `clients`."""
    return train_pooled(Federation.of(clients, alone(), rounds, seed).server, clients, members, on_epoch)


class Pair(nn.Module):
    """Two modalities, each of which an example may lack (then it is NaN), summed before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"point": nn.Linear(2, 3), "extra": nn.Linear(4, 3)})
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = [encoder(inputs[name].nan_to_num()) for name, encoder in self.encoders.items() if name in inputs]
        total = torch.stack(features).sum(dim=0)
        return Output(self.head(total), total)


def pair(name: str, *, extra: bool = True, n: int = 10) -> Client:
    """A client with a point, and with something extra."""
    client = toy.client(name, n=n)

    def with_extra(examples: Examples) -> Examples:
        more = torch.randn(len(examples), 4, generator=generator(name, len(examples)))
        return replace(examples, inputs={**examples.inputs, **({"extra": more} if extra else {})})

    data = ClientData(with_extra(client.data.train), with_extra(client.data.validation), with_extra(client.data.test))
    return replace(client, data=data, model_fn=lambda spec: Pair(), kind="pair" if extra else "")


class City(nn.Module):
    """Sensors of its own, an encoder that knows no sensor, a head."""

    local_parts = ("sensors",)

    def __init__(self, sensors: int, outputs: int = 1) -> None:
        super().__init__()
        self.sensors = nn.Embedding(sensors, 3)
        self.encoder = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, outputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.encoder((inputs["x"][..., None] * self.sensors.weight).sum(dim=1))
        return Output(self.head(features), features)


def city(name: str, sensors: int, *, n: int = 12, training: Training | None = None) -> Client:
    def part(split: str) -> Examples:
        x = torch.randn(n, sensors, generator=generator(name, split))
        return Examples({"x": x}, x.mean(dim=1, keepdim=True), [f"{name}-{split}-{i}" for i in range(n)])

    data = ClientData(part("train"), part("validation"), part("test"), {"sensors": sensors})
    training = training or Training(lr=0.05, batch_size=4)
    return Client(name, data, Regression(), lambda spec: City(spec["sensors"]), training, kind="city")


def test_kinds_are_those_of_the_clients_and_who_has_none_stands_alone() -> None:
    clients = [toy.client("a"), toy.client("b", width=7), toy.client("c"), replace(toy.client("d"), kind="")]
    assert [[client.name for client in kind] for kind in kinds_of(clients)] == [["a", "c"], ["b"], ["d"]]


def test_data_of_clients_that_ask_the_same_are_joined_whatever_their_models() -> None:
    a, b, c = toy.client("a", n=8), toy.client("b", n=6, width=9), toy.client("c", n=4)
    (pool,) = build_pools([a, c], [a, b, c])
    assert [client.name for client in pool.clients] == ["a", "c", "b"]
    expected = torch.cat([x.data.train.inputs["point"] for x in (a, c, b)])
    assert torch.equal(pool.examples.inputs["point"], expected)
    assert list(pool.examples.ids) == [*a.data.train.ids, *c.data.train.ids, *b.data.train.ids]
    assert pool.model.encoder[0].weight.shape == (4, 2)


def test_a_modality_that_a_client_lacks_is_not_a_number_in_its_rows() -> None:
    a, b = pair("a", n=5), pair("b", extra=False, n=3)
    (pool,) = build_pools([a], [a, b])
    extra = pool.examples.inputs["extra"]
    assert torch.equal(extra[:5], a.data.train.inputs["extra"])
    assert extra[5:].isnan().all()
    assert extra.shape == (8, 4)
    assert torch.equal(pool.examples.inputs["point"][5:], b.data.train.inputs["point"])


def test_a_modality_that_the_model_does_not_read_is_left_out() -> None:
    a, b = pair("a", extra=False), pair("b")
    (pool,) = build_pools([a], [a, b])
    assert set(pool.examples.inputs) == {"point"}
    assert len(pool.examples) == 20


def another_shape(client: Client) -> Client:
    return replace(client, data=replace(client.data, train=replace(client.data.train, inputs={"point": torch.zeros(24, 3)})))


def another_modality(client: Client) -> Client:
    return replace(client, data=replace(client.data, train=replace(client.data.train, inputs={"image": torch.zeros(24, 2)})))


def another_question(client: Client) -> Client:
    return replace(client, task=Classification(("cold", "warm")))


def another_target(client: Client) -> Client:
    return replace(client, data=replace(client.data, train=replace(client.data.train, target=torch.zeros(24, 2))))


def further_heads(client: Client) -> Client:
    train = client.data.train
    return replace(client, data=replace(client.data, train=replace(train, further={"level": train.target})))


@pytest.mark.parametrize("change", [another_shape, another_modality, another_question, another_target, further_heads])
def test_only_answers_to_the_same_question_over_the_same_shapes_are_joined(change: object) -> None:
    a, b = toy.client("a"), toy.client("b")
    (pool,) = build_pools([a], [a])
    assert fits(b, pool)
    assert not fits(change(b), pool)


NOBODY = "no other client's data fits its model"


@pytest.mark.parametrize("change", [another_shape, another_modality])
def test_when_nobody_else_s_data_can_be_read_there_is_a_note_and_no_value(change: object) -> None:
    clients = [toy.client("a"), change(toy.client("b"))]
    (outcome,) = pooled(clients, clients[:1]).values()
    assert (outcome.value, outcome.note) == (None, NOBODY)


def test_members_whose_data_do_not_fit_each_other_each_get_the_note() -> None:
    members = [toy.client("a"), another_shape(toy.client("b"))]
    found = pooled(members, members)
    assert {name: outcome.note for name, outcome in found.items()} == {"a": NOBODY, "b": NOBODY}


def test_a_member_whose_data_do_not_fit_gets_the_note_beside_the_others() -> None:
    members = [toy.client("a"), another_shape(toy.client("b")), toy.client("c")]
    found = pooled(members, members)
    assert found["b"].note == NOBODY
    assert found["a"].value is not None
    assert found["c"].value is not None


KINDS = ("weight", "bias")


def test_tied_models_share_all_but_head_and_local_parts() -> None:
    one, other = City(5), City(5)
    assert tie(other, one)
    pairs = zip(one.named_parameters(), other.parameters(), strict=True)
    assert {name for (name, theirs), mine in pairs if mine is theirs} == {f"encoder.{i}.{k}" for i in "01" for k in KINDS}


def test_parameters_of_another_shape_are_not_tied() -> None:
    one, other = toy.Net(2, 4), toy.Net(3, 4)
    assert tie(other, one)
    assert other.encoder[0].weight is not one.encoder[0].weight
    assert other.encoder[0].bias is one.encoder[0].bias
    assert other.head.weight is not one.head.weight
    assert not tie(nn.Linear(2, 2), one)


def test_each_city_is_a_pool_of_its_own_around_one_encoder() -> None:
    cities = [city("a", 4), city("b", 7), city("c", 4)]
    pools = build_pools(cities, cities)
    assert [[client.name for client in pool.clients] for pool in pools] == [["a"], ["b"], ["c"]]
    assert len({id(pool.model.encoder[0].weight) for pool in pools}) == 1
    assert len({id(pool.model.sensors.weight) for pool in pools}) == 3
    assert len({id(pool.model.head.weight) for pool in pools}) == 3


def test_a_city_is_told_apart_by_its_pooled_model_too() -> None:
    cities = [city("a", 4), city("b", 7)]
    found = pooled(cities, cities, rounds=8)
    for client in cities:
        model = client.new_model(0)
        untrained = evaluate(model, client.task, client.data.test).value
        assert found[client.name].value < untrained
    assert found["a"].value != found["b"].value


def test_pooled_training_is_plain_pytorch_on_the_joined_data() -> None:
    a, b = toy.client("a", n=20), toy.client("b", n=12)
    found = pooled([a, b], [a, b], rounds=1, seed=4)
    points = torch.cat([a.data.train.inputs["point"], b.data.train.inputs["point"]])
    target = torch.cat([a.data.train.target, b.data.train.target])
    with isolated(4, INITIAL):
        model = toy.Net(2, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with isolated(4, "pooled a", 1):
        chance = generator(4, "pooled a", 1, 0)
        torch.randperm(4, generator=chance)  # which pool's turn it is: there is one
        for index in torch.randperm(32, generator=chance).split(8):
            optimizer.zero_grad()
            F.cross_entropy(model({"point": points[index]}).logits, target[index]).backward()
            optimizer.step()
    for client in (a, b):
        assert found[client.name].value == pytest.approx(evaluate(model, client.task, client.data.test).value, rel=1e-5)
        assert found[client.name].round == 1


def test_selection_is_on_validation_data_and_the_test_data_decide_nothing() -> None:
    def flipped(client: Client, split: str) -> Client:
        part = getattr(client.data, split)
        return replace(client, data=replace(client.data, **{split: replace(part, target=1 - part.target)}))

    clients = [toy.client("a"), toy.client("b")]
    plain = pooled(clients, clients, rounds=6)
    for name in "ab":
        test_flipped = [flipped(client, "test") if client.name == name else client for client in clients]
        found = pooled(test_flipped, test_flipped, rounds=6)
        assert found[name].round == plain[name].round
        assert found[name].value == pytest.approx(1 - plain[name].value)
    validation_flipped = [flipped(client, "validation") for client in clients]
    found = pooled(validation_flipped, validation_flipped, rounds=6)
    assert [found[name].round for name in "ab"] != [plain[name].round for name in "ab"]


def test_pooled_training_does_not_depend_on_the_order_of_a_plan() -> None:
    clients = [toy.client("a"), toy.client("b"), toy.client("c", width=5)]
    results = [
        {name: outcome for members in kinds_of(given) for name, outcome in pooled(given, members).items()}
        for given in (clients, clients[::-1])
    ]
    assert results[0] == results[1]
    assert set(results[0]) == {"a", "b", "c"}


def test_pooled_training_leaves_no_trace() -> None:
    clients = [toy.client("a"), toy.client("b")]
    before, module = torch.get_rng_state(), {k: v.clone() for k, v in clients[0].module.state_dict().items()}
    epochs: list[int] = []
    pooled(clients, clients, epochs.append)
    assert epochs == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)
    assert toy.same(dict(clients[0].module.state_dict()), module)


def test_each_client_s_own_augmentation_does_not_touch_what_it_holds() -> None:
    def shift(batch: Batch, chance: torch.Generator) -> Batch:
        batch.inputs["point"].add_(torch.rand(1, generator=chance) * 9)
        return batch

    clients = [replace(toy.client(name), augment=shift) for name in "ab"]
    plain = pooled([toy.client("a"), toy.client("b")], [toy.client("a"), toy.client("b")])
    assert pooled(clients, clients) != plain
    assert torch.equal(clients[0].data.train.inputs["point"], toy.client("a").data.train.inputs["point"])


@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=2, max_size=3))
def test_every_batch_of_every_pool_is_trained_on_whatever_the_sizes(size: int, counts: list[int]) -> None:
    seen: list[int] = []

    def watch(batch: Batch, chance: torch.Generator) -> Batch:
        seen.append(len(batch))
        return batch

    training = Training(batch_size=size, lr=0.01)
    cities = [replace(city(f"c{i}", 3 + i, n=n, training=training), augment=watch) for i, n in enumerate(counts)]
    pooled(cities, cities, rounds=1)
    assert sum(seen) == sum(counts)
    assert sorted(seen) == sorted(len(batch) for c in cities for batch in c.data.train.batches(size))


def values(rounds: int, **settings: object) -> list[float]:
    """What comes out for two cities that train with these settings (SGD: Adam does not care for the scale of a gradient)."""
    training = Training(**{"optimizer": "sgd", "lr": 0.1, "batch_size": 4, **settings})
    cities = [city(name, 4, training=training) for name in "ab"]
    return [outcome.value for outcome in pooled(cities, cities, rounds=rounds).values()]


def test_a_schedule_holds_for_pooled_training_too() -> None:
    assert values(1, schedule="cosine") == values(1)
    assert values(3, schedule="cosine") != values(3)


def test_pooled_steps_are_clipped() -> None:
    assert values(2, clip_norm=1e9) == values(2)
    assert values(2, clip_norm=0.01) != values(2)


def test_a_model_that_cannot_be_built_for_other_data_joins_nothing() -> None:
    def only_four(spec: Spec) -> nn.Module:
        if spec["sensors"] != 4:
            raise ValueError("too many sensors")
        return City(4)

    clients = [replace(city("a", 4), model_fn=only_four), city("b", 7)]
    assert pooled(clients, clients[:1])["a"].note == NOBODY


def test_looking_whether_a_model_can_read_other_data_changes_nothing_in_it() -> None:
    cities = [city("a", 4), city("b", 7, n=1)]
    pools = build_pools(cities, cities)
    assert len(pools) == 2
    for pool in pools:
        assert pool.model.encoder[1].num_batches_tracked == 0
        assert pool.model.training


def test_each_client_is_judged_by_its_own_metric() -> None:
    a, b = toy.client("a"), toy.client("b")
    b = replace(b, task=replace(b.task, metric="accuracy"))
    found = pooled([a, b], [a, b])
    assert found["a"].value == found["a"].metrics["AUROC"]
    assert found["b"].value == found["b"].metrics["accuracy"]
    assert found["b"].low < found["b"].value < found["b"].high


def test_each_client_s_examples_train_by_its_own_loss_and_augmentation_on_one_model() -> None:
    seen: list[int] = []

    def watch(batch: Batch, chance: torch.Generator) -> Batch:
        seen.append(len(batch))
        return batch

    a, b, c = toy.client("a", n=8), replace(toy.client("b", n=6), augment=watch), toy.client("c", n=5)
    b = replace(b, task=replace(b.task, balanced=True))
    pools = build_pools([a, b, c], [a, b, c])
    assert [[client.name for client in pool.clients] for pool in pools] == [["a", "c"], ["b"]]
    assert pools[0].model is pools[1].model
    assert [pool.task.balanced for pool in pools] == [False, True]
    found = pooled([a, b, c], [a, b, c], rounds=2)
    assert sum(seen) == 2 * 6
    assert all(outcome.value is not None for outcome in found.values())
    weighted = [replace(client, task=replace(client.task, balanced=True)) for client in (a, b, c)]
    assert pooled(weighted, weighted, rounds=2) != found


def test_clients_of_a_kind_that_train_otherwise_are_kinds_of_their_own() -> None:
    clients = [toy.client("a"), toy.client("b"), toy.client("c")]
    clients[1] = replace(clients[1], training=clients[1].training.model_copy(update={"lr": 0.5}))
    assert [[client.name for client in kind] for kind in kinds_of(clients)] == [["a", "c"], ["b"]]


def test_numbers_that_clients_scale_otherwise_are_learned_and_judged_in_their_unit() -> None:
    def far(name: str, task: Regression) -> Client:
        parts = []
        for split in ("train", "validation", "test"):
            x = torch.randn(40, 1, generator=generator(name, split))
            parts.append(Examples({"x": x}, 50 + 10 * x[:, 0], [f"{split}-{i}" for i in range(40)]))
        training = Training(lr=0.1, batch_size=8)
        return Client(name, ClientData(*parts), task, lambda spec: Line(), training, kind="line")

    a, b = far("a", Regression(50, 10, metric="RMSE")), far("b", Regression(40, 5, metric="MAE"))
    found = pooled([a, b], [a, b], rounds=30)
    assert found["a"].value < 1
    assert found["b"].value < 1


class Line(nn.Module):
    """A number from a number."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(inputs["x"])[:, 0])
