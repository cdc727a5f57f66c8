"""The one training loop: optimisers, schedules, batches, what is kept between rounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from whole import Federation, init, run_round

from hetfed.algorithms import alone
from hetfed.data import Batch, Examples
from hetfed.seeding import INITIAL, generator
from hetfed.training import (
    Training,
    load_optimizer_tensors,
    optimizer_tensors,
    set_training_mode,
    shuffled,
    train_steps,
)

OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.7}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.7}),
}


@given(st.floats(1e-5, 1), st.integers(1, 30))
def test_the_cosine_schedule_is_that_of_torch(lr: float, rounds: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    training = Training(lr=lr, schedule="cosine")
    for number in range(1, rounds + 1):
        assert training.lr_at(number, rounds) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimizer.step()
        scheduler.step()


@given(st.integers(2, 50))
def test_a_cosine_schedule_falls_from_the_rate_and_stays_above_zero(rounds: int) -> None:
    rates = [Training(lr=0.5, schedule="cosine").lr_at(number, rounds) for number in range(1, rounds + 1)]
    assert rates[0] == 0.5
    assert rates == sorted(set(rates), reverse=True)
    assert rates[-1] > 0
    assert {Training(lr=0.5).lr_at(number, rounds) for number in range(1, rounds + 1)} == {0.5}


def test_a_round_trains_at_its_own_rate() -> None:
    """In the second of two rounds a cosine schedule has halved; plain gradient descent then goes half as far."""

    def head(schedule: str, rounds: int) -> Tensor:
        training = Training(optimizer="sgd", lr=0.1, schedule=schedule, batch_size=99)
        client = toy.client("a", training=training)
        federation = Federation.of([client], alone(), 2, 0)
        state = init(federation)
        for _ in range(rounds):
            state = run_round(federation, state)
        return state.clients["a"].model["head.weight"]

    assert torch.equal(head("constant", 1), head("cosine", 1))
    steps = [head(schedule, 2) - head(schedule, 1) for schedule in ("constant", "cosine")]
    assert torch.allclose(steps[1], steps[0] / 2, atol=1e-7)
    assert steps[0].norm() > 1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_is_that_of_torch_with_the_plan_s_settings(name: str) -> None:
    kind, momentum = OPTIMIZERS[name]
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    training = Training(optimizer=name, lr=0.3, weight_decay=0.1, momentum=momentum.get("momentum", 0.0))
    mine, plain = training.new_optimizer([weights[0]], 0.05), kind([weights[1]], lr=0.05, weight_decay=0.1, **momentum)
    assert type(mine) is kind
    for step in range(4):
        for weight, optimizer in zip(weights, (mine, plain), strict=True):
            weight.grad = torch.tensor([0.5, -1.0]) * (step + 1)
            optimizer.step()
        assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimiser_goes_on_from_its_tensors_to_the_last_bit(name: str) -> None:
    training = Training(optimizer=name, momentum=OPTIMIZERS[name][1].get("momentum", 0.0))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        for index, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=generator("gradient", number, index))
        optimizer.step()

    model, copy = toy.Net(2, 4), toy.Net(2, 4)
    optimizer = training.new_optimizer(model.parameters(), 0.1)
    for number in range(3):
        step(model, optimizer, number)
    tensors = optimizer_tensors(optimizer, model)
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    copy.load_state_dict(model.state_dict())
    resumed = training.new_optimizer(copy.parameters(), 0.1)
    load_optimizer_tensors(resumed, copy, tensors)
    for number in range(3, 6):
        step(model, optimizer, number)
        step(copy, resumed, number)
    assert toy.same(model.state_dict(), copy.state_dict())
    assert toy.same(tensors, kept)  # copies, not the live moments


def test_moments_are_named_by_parameter() -> None:
    model = toy.Net(2, 4)
    optimizer = Training().new_optimizer(model.parameters(), 0.1)
    assert optimizer_tensors(optimizer, model) == {}
    nn.functional.mse_loss(model({"point": torch.randn(4, 2)}).logits, torch.zeros(4, 2)).backward()
    optimizer.step()
    expected = {f"{name}/{m}" for name, _ in model.named_parameters() for m in ("exp_avg", "exp_avg_sq", "step")}
    assert set(optimizer_tensors(optimizer, model)) == expected


def one_weight(value: float = 0.0) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.full((2,), value))
    return weight, torch.optim.SGD([weight], lr=1.0)


def batches(count: int) -> Iterator[Batch]:
    return (Batch({}, torch.tensor([float(i)])) for i in range(count))


def test_a_gradient_is_clipped_to_its_largest_norm() -> None:
    gradient = torch.tensor([3.0, 4.0])  # of norm 5
    for clip, expected in ((None, 1.0), (10.0, 1.0), (1.0, 0.2)):
        weight, optimizer = one_weight()
        train_steps(optimizer, batches(1), lambda batch, weight=weight: (weight * gradient).sum(), clip)
        assert torch.allclose(weight.detach(), -expected * gradient, atol=1e-5)


def test_a_batch_without_a_loss_makes_no_step() -> None:
    weight, optimizer = one_weight()
    seen: list[float] = []

    def loss(batch: Batch) -> Tensor | None:
        seen.append(batch.target.item())
        if batch.target.item() == 1:
            return None
        return weight.sum() + 10 * batch.target.item()

    assert train_steps(optimizer, batches(3), loss).loss == pytest.approx(((0) + (-2 + 20)) / 2)
    assert seen == [0, 1, 2]
    assert weight.tolist() == [-2, -2]  # two steps of one


@pytest.mark.parametrize("value", [None, torch.ones(())], ids=["no loss", "a loss that depends on no parameter"])
def test_without_any_step_the_mean_loss_is_not_a_number(value: Tensor | None) -> None:
    weight, optimizer = one_weight(1.0)
    assert math.isnan(train_steps(optimizer, batches(3), lambda batch: value).loss)
    assert math.isnan(train_steps(optimizer, [], lambda batch: weight.sum()).loss)
    assert weight.tolist() == [1, 1]


def test_gradients_of_one_batch_do_not_leak_into_the_next() -> None:
    weight, optimizer = one_weight()
    weight.grad = torch.full((2,), 99.0)
    train_steps(optimizer, batches(2), lambda batch: weight.sum())
    assert weight.tolist() == [-2, -2]


def numbered(n: int) -> Examples:
    return Examples(
        {"x": torch.arange(n)[:, None]}, torch.arange(n), [str(i) for i in range(n)], {"level": torch.arange(n) * 2}
    )


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 99))
def test_batches_hold_every_example_once_and_none_stands_alone(n: int, size: int, seed: int) -> None:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    found = list(numbered(n).batches(size, order))
    assert torch.cat([batch.target for batch in found]).tolist() == order.tolist()
    assert all(len(batch) == size for batch in found[:-1])
    assert 1 <= len(found[-1]) <= size + 1
    assert len(found[-1]) > 1 or n == 1
    for batch in found:
        assert torch.equal(batch.inputs["x"][:, 0], batch.target)
        assert torch.equal(batch.further["level"], batch.target * 2)


def test_batches_without_an_order_are_in_that_of_the_examples() -> None:
    assert [batch.target.tolist() for batch in numbered(7).batches(3)] == [[0, 1, 2], [3, 4, 5, 6]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_examples_are_joined_and_taken_apart_again(sizes: list[int]) -> None:
    whole = numbered(sum(sizes))
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    parts = [whole.take(torch.arange(low, high)) for low, high in pairwise(edges)]
    joined = Examples.concat(parts)
    assert [len(part) for part in parts] == sizes
    assert list(joined.ids) == list(whole.ids)
    for name, mine in (("x", joined.inputs["x"]), ("target", joined.target), ("level", joined.further["level"])):
        assert torch.equal(mine, {"x": whole.inputs["x"], "target": whole.target, "level": whole.further["level"]}[name])


def test_an_epoch_is_shuffled_by_its_generator_alone() -> None:
    epochs = [[b.target.tolist() for b in shuffled(numbered(20), 6, generator(seed), None)] for seed in (1, 1, 2)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(chain.from_iterable(epochs[0])) == list(range(20))


def noise(batch: Batch, chance: torch.Generator) -> Batch:
    """In place, to see that no example is changed for good."""
    batch.inputs["point"].add_(torch.randn(batch.inputs["point"].shape, generator=chance))
    return batch


def test_augmentation_has_the_epoch_s_generator_and_changes_no_example_for_good() -> None:
    examples = toy.examples(20, "a")
    before = examples.inputs["point"].clone()
    one, other = (list(shuffled(examples, 6, generator(3), noise)) for _ in range(2))
    assert all(torch.equal(x.inputs["point"], y.inputs["point"]) for x, y in zip(one, other, strict=True))
    order = torch.randperm(20, generator=generator(3))
    assert not torch.equal(torch.cat([batch.inputs["point"] for batch in one]), before[order])
    assert torch.equal(torch.cat([batch.target for batch in one]), examples.target[order])
    assert torch.equal(examples.inputs["point"], before)


def test_augmentation_is_part_of_a_client_s_training_only() -> None:
    client = toy.client("a")
    augmented = replace(client, augment=noise)
    runs = [toy.federate([c], alone(), 2)[0].clients["a"].model for c in (client, augmented, augmented)]
    assert not toy.same(runs[0], runs[1])
    assert toy.same(runs[1], runs[2])
    assert torch.equal(client.data.train.inputs["point"], toy.client("a").data.train.inputs["point"])
    assert torch.equal(client.data.validation.inputs["point"], toy.client("a").data.validation.inputs["point"])


@pytest.mark.parametrize(("together", "trains"), [(1, False), (2, True), (32, True)])
def test_one_example_at_a_time_leaves_normalisation_in_evaluation_mode(together: int, trains: bool) -> None:
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "inner": nn.Sequential(nn.LayerNorm(2), nn.Dropout(), nn.Linear(2, 2))})
    model.eval()
    set_training_mode(model, together)
    assert model.training
    assert model["inner"][1].training
    assert model["inner"][2].training
    assert model["norm"].training is trains
    assert model["inner"][0].training is trains


def test_without_epochs_nothing_changes_but_the_round() -> None:
    client = toy.client("a", training=Training(epochs=0))
    state, _ = toy.federate([client], alone(), 2)
    assert toy.same(state.clients["a"].model, dict(client.new_model(0, INITIAL).state_dict()))
    assert all(math.isnan(row.train_loss) for row in state.rows)
