"""Losses without a branch on data: what is missing adds nothing, to the last bit of every gradient, stacked or alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
import toy
from torch import Tensor, nn
from torch.nn import functional as F

from functional import TORCH_WARNS, check_exports, check_functional
from hetfed.data import Batch
from hetfed.export import exportable
from hetfed.model import Output
from hetfed.seeding import generator
from hetfed.tasks import Classification, Forecasting, MultiTask, Regression, Survival, Task, loss_if_any
from hetfed.training import Training, train_steps

ROWS, SENSORS, STEPS, CLASSES = 37, 5, 3, 4
NAMES = tuple("abcd")
LOSSES = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}


def forecasting(kind: str = "huber") -> Forecasting:
    return Forecasting("km/h", 5, (5, 15), torch.tensor([40.0]), torch.tensor([7.0]), kind)


TASKS: dict[str, Task] = {
    "classification": Classification(NAMES),
    "balanced": Classification(NAMES, balanced=True),
    "survival": Survival(),
    **{f"regression {kind}": Regression(3.0, 2.0, loss_kind=kind) for kind in LOSSES},
    **{f"forecasting {kind}": forecasting(kind) for kind in LOSSES},
    "further": MultiTask(forecasting(), {"level": (Classification(NAMES), 0.3)}),
    "further balanced": MultiTask(Classification(NAMES), {"level": (Classification(NAMES, balanced=True), 0.5)}),
}
SHAPES: dict[str, tuple[int, ...]] = {
    "classification": (CLASSES,),
    "balanced": (CLASSES,),
    "survival": (1,),
    "regression": (2,),
    "forecasting": (STEPS, SENSORS),
    "further": (STEPS, SENSORS),
    "further balanced": (CLASSES,),
}


class Net(nn.Module):
    """Logits of any shape, and those of a further head."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.hidden = nn.Linear(3, 8)
        self.head, self.level = nn.Linear(8, math.prod(shape)), nn.Linear(8, SENSORS * CLASSES)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        features = self.hidden(inputs["point"]).tanh()
        level = self.level(features).unflatten(1, (SENSORS, CLASSES))
        return Output(self.head(features).unflatten(1, self.shape), features, {"level": level})


def shape_of(name: str) -> tuple[int, ...]:
    return SHAPES.get(name) or SHAPES[name.split(maxsplit=1)[0]]


def target_of(name: str, missing: float, chance: torch.Generator) -> Tensor:
    """A target of which this share is missing."""

    def gone(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=chance) < missing

    if name in {"classification", "balanced", "further balanced"}:
        return torch.randint(0, CLASSES, (ROWS,), generator=chance).masked_fill(gone(ROWS), -1)
    if name == "survival":
        # Few different times, so that some are equal.
        time = torch.randint(1, 9, (ROWS,), generator=chance).float().masked_fill(gone(ROWS), torch.nan)
        return torch.stack([torch.rand(ROWS, generator=chance).round(), time], dim=1)
    shape = (ROWS, *shape_of(name))
    return (torch.randn(shape, generator=chance) * 9 + 40).masked_fill(gone(*shape), torch.nan)


def batch_of(name: str, missing: float, seed: int = 0) -> Batch:
    chance = generator(name, missing, seed)
    level = torch.randint(0, CLASSES, (ROWS, SENSORS), generator=chance)
    level = level.masked_fill(torch.rand(level.shape, generator=chance) < missing, -1)
    return Batch({"point": torch.randn(ROWS, 3, generator=chance)}, target_of(name, missing, chance), {"level": level})


def output_of(name: str, seed: int = 0) -> Output:
    chance = generator("output", name, seed)
    logits = (torch.randn(ROWS, *shape_of(name), generator=chance) * 3).requires_grad_()
    return Output(logits, None, {"level": torch.randn(ROWS, SENSORS, CLASSES, generator=chance).requires_grad_()})


def by_indexing(task: Task, output: Output, batch: Batch) -> Tensor | None:
    """The loss of what is known, taken out by its index."""
    if isinstance(task, MultiTask):
        parts = [by_indexing(task.main, output, batch)]
        for name, (further, weight) in task.further.items():
            found = by_indexing(further, Output(output.further[name]), Batch({}, batch.further[name]))
            parts.append(None if found is None else weight * found)
        known = [part for part in parts if part is not None]
        return torch.stack(known).sum() if known else None
    if isinstance(task, Survival):
        return _cox(output.logits[:, 0], batch.target)
    if isinstance(task, Classification):
        there = batch.target != -1
        logits, target = output.logits[there], batch.target[there]
        counts = torch.bincount(target, minlength=CLASSES).clamp(min=1)
        weight = len(target) / (CLASSES * counts.float()) if task.balanced else None
        return F.cross_entropy(logits, target, weight=weight) if there.any() else None
    assert isinstance(task, Regression | Forecasting)
    target = (batch.target - task.mean) / task.scale
    there = ~target.isnan()
    return LOSSES[task.loss_kind](output.logits[there], target[there]) if there.any() else None


def _cox(risk: Tensor, target: Tensor) -> Tensor | None:
    there = ~target.isnan().any(dim=1)
    risk, (event, time) = risk[there], target[there].unbind(dim=1)
    if not event.any():
        return None
    order = torch.argsort(time, descending=True, stable=True)
    risk, event, time = risk[order], event[order], time[order]
    last = torch.searchsorted(-time, -time, right=True) - 1
    return ((torch.logcumsumexp(risk, dim=0)[last] - risk) * event).mean()


def gradients(loss: Tensor, output: Output) -> list[Tensor]:
    found = torch.autograd.grad(loss, [output.logits, output.further["level"]], allow_unused=True, materialize_grads=True)
    return list(found)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_have_the_bits_of_what_is_known_alone(name: str, missing: float) -> None:
    compared = 0
    for seed in range(20):
        output, batch = output_of(name, seed), batch_of(name, missing, seed)
        masked, indexed = TASKS[name].loss(output, batch), by_indexing(TASKS[name], output, batch)
        if indexed is None:
            continue
        compared += 1
        for one, other in zip(gradients(masked, output), gradients(indexed, output), strict=True):
            assert torch.equal(one, other)
        # Sums of what is known and of what is known among zeros differ by rounding.
        assert torch.equal(masked, indexed) if not missing else torch.allclose(masked, indexed, rtol=1e-6)
    assert compared > 10


@pytest.mark.parametrize("name", TASKS)
def test_with_nothing_known_the_loss_is_zero_and_teaches_nothing(name: str) -> None:
    output, batch = output_of(name), batch_of(name, 1.0)
    loss = TASKS[name].loss(output, batch)
    assert loss.shape == () and float(loss.detach()) == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients(loss, output))
    assert int(TASKS[name].learnable(batch)) == 0
    assert loss_if_any(TASKS[name], output, batch) is None


@pytest.mark.parametrize("name", TASKS)
def test_how_much_there_is_to_learn_is_a_count(name: str) -> None:
    batch, task = batch_of(name, 0.5), TASKS[name]
    found = task.learnable(batch)
    assert found.shape == () and not found.is_floating_point()
    known = (~batch.target.isnan() & (batch.target != -1)).int()
    if name == "survival":
        # Events, of those whose time is known.
        known = known[:, 1] * batch.target[:, 0].int()
    further = int((batch.further["level"] >= 0).sum()) if "further" in name else 0
    assert int(found) == int(known.sum()) + further


def test_without_an_event_nothing_is_learnt() -> None:
    target = torch.tensor([[0.0, 3.0], [0.0, 5.0]])
    risk = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = Survival().loss(Output(risk), Batch({}, target))
    assert float(loss.detach()) == 0 and not torch.autograd.grad(loss, risk)[0].any()


@pytest.mark.parametrize("name", TASKS)
def test_value_and_gradient_are_the_same_alone_called_and_stacked(name: str) -> None:
    models = [Net(shape_of(name)) for _ in range(3)]
    # One client knows all, one a part, one nothing.
    batches = [batch_of(name, missing, seed) for seed, missing in enumerate((0.0, 0.4, 1.0))]
    alone = check_functional(models, batches, TASKS[name])
    assert all(bool(client.gradients["head.weight"].any()) == known for client, known in zip(alone, (1, 1, 0), strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_distillation_is_the_same_alone_and_stacked(name: str) -> None:
    student, teacher = (torch.randn(3, ROWS, *shape_of(name), generator=generator(name, who)).double() for who in "st")

    def loss(one: Tensor, other: Tensor) -> Tensor:
        return TASKS[name].distillation_loss(one, other, 2.0)

    gradient, value = torch.func.vmap(torch.func.grad_and_value(loss))(student, teacher)
    for index in range(3):
        of_client, its_value = torch.func.grad_and_value(loss)(student[index], teacher[index])
        assert torch.allclose(value[index], its_value, rtol=1e-9)
        assert torch.allclose(gradient[index], of_client, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_a_batch_with_nothing_to_learn_from_is_no_step(optimizer: str) -> None:
    """An optimiser with a memory would step on a gradient of zero."""
    model, task = Net((CLASSES,)), Classification(NAMES)
    known, unknown = batch_of("classification", 0.0), batch_of("classification", 1.0)
    keys = {"momentum": 0.9} if optimizer in {"sgd", "rmsprop"} else {}
    descent = Training(optimizer=optimizer, lr=0.1, weight_decay=0.1, **keys).new_optimizer(model.parameters(), 0.1)

    def loss(batch: Batch) -> Tensor | None:
        return loss_if_any(task, model(batch.inputs), batch)

    assert train_steps(descent, [known, known], loss).steps == 2
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert train_steps(descent, [unknown, unknown], loss).steps == 0
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.filterwarnings(*TORCH_WARNS)
@pytest.mark.parametrize("form", ["torch.export", "torch.jit.trace", "torch.compile", "onnx"])
def test_a_small_model_is_exported(form: str) -> None:
    model = toy.Net(2, 4).eval()
    check_exports(model, lambda size: {"point": torch.randn(size, 2, generator=generator("points", size))}, form)


def test_inputs_of_an_exportable_model_come_in_the_order_of_their_names() -> None:
    class Difference(nn.Module):
        def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
            return inputs["b"] - inputs["a"]

    module = exportable(Difference(), ["b", "a"])
    assert float(module(torch.tensor(1.0), torch.tensor(5.0))) == 4
    assert not module.training
