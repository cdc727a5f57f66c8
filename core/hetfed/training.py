"""A client's own way of training: optimiser, learning rate, epochs; one loop for every client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, TypeVar

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationInfo,
    field_validator,
)
from torch import Tensor, nn

from hetfed.data import Batch, Examples
from hetfed.device import DeviceName
from hetfed.parts import NORM_LAYERS, inside
from hetfed.plan_schema import Count, Table

T = TypeVar("T")

Augment = Callable[[Batch, torch.Generator], Batch]
"""Changes a training batch at random; the generator is the only source of chance."""

Loss = Callable[[Batch], Tensor | None]
"""The loss of a batch, a scalar; None where there is nothing to learn from."""


class Phase(Table):
    """A part of the local epochs of a round in which only some of the model trains.

    `only` are the paths that train (all, where empty), `frozen` those that do not. `epochs` is the client's own number unless
    it is given. The phase belongs to the rounds after `after` and up to `until`; below zero, both count from the end.
    """

    epochs: Count | None = None
    only: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    after: int = 0
    until: int | None = None

    def active(self, round_number: int, rounds: int) -> bool:
        """Whether the phase belongs to this round of so many."""
        return last_round(self.after, rounds) < round_number <= last_round(self.until, rounds)

    def examples(self, training: Training, held: int) -> int:
        """How many examples it takes a client that holds so many, repeated ones counted again."""
        if training.steps and not self.epochs:
            return training.steps * min(training.batch_size, held)
        return (self.epochs or training.epochs) * held

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` learns in this phase."""
        chosen = not self.only or any(inside(name, path) for path in self.only)
        return chosen and not any(inside(name, path) for path in self.frozen)


def last_round(until: int | None, rounds: int) -> int:
    """The round that `until` names: the last one of `rounds` where it is None, counted from the end where it is below zero."""
    if until is None:
        return rounds
    return until if until >= 0 else max(rounds + until, 0)


class Training(Table):
    """How one client trains in each round: the `training` table of a plan.

    With `steps`, a round has so many batches instead of so many epochs. `device` is where it trains; a learner without
    gradients stays on the CPU.
    """

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: PositiveFloat = 1e-3
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.0
    epochs: int = Field(default=1, ge=0, le=10**6)
    steps: Count | None = None
    batch_size: Count = 32
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: PositiveFloat | None = None
    keep_optimizer: bool = True
    device: DeviceName = "cpu"
    phases: tuple[Phase, ...] = ()

    @field_validator("momentum")
    @classmethod
    def _has_momentum(cls, momentum: float, table: ValidationInfo) -> float:
        if momentum and table.data.get("optimizer") in {"adam", "adamw"}:
            raise ValueError('adam and adamw have none of it: set 0, or optimizer = "sgd" or "rmsprop"')
        return momentum

    def lr_at(self, round_number: int, rounds: int) -> float:
        """The learning rate in round 1..rounds."""
        if self.schedule == "constant":
            return self.lr
        # torch's CosineAnnealingLR in closed form: a scheduler object would be one more state to keep between rounds.
        return self.lr * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / rounds))

    def enough(self, passes: Iterable[Iterable[T]], phase: Phase) -> Iterator[T]:
        """The batches of a phase, of passes that have no end: as many passes as the phase has epochs, or batches as steps."""
        if self.steps and not phase.epochs:
            return islice(chain.from_iterable(passes), self.steps)
        return chain.from_iterable(islice(passes, phase.epochs or self.epochs))

    def new_optimizer(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """A fresh optimiser at learning rate `lr`."""
        parameters = list(parameters)
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay)
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay)
        kind = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, lr=lr, weight_decay=self.weight_decay)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's moments as named tensors on the CPU: `<parameter>/<moment>`."""
    # By parameter object, since an optimiser's state knows no names. A parameter that never had a gradient has no moments, and
    # none are loaded for it.
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{moment}": value.detach().to("cpu", copy=True)
        for parameter, moments in optimizer.state.items()
        for moment, value in moments.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        # A step count stays on the CPU, where torch's optimisers keep theirs.
        where = value.device if moment == "step" else parameters[name].device
        optimizer.state[parameters[name]][moment] = value.to(where, copy=True)


def set_training_mode(model: nn.Module, together: int) -> None:
    """Training mode for batches of so many examples; with one at a time the normalisation layers, which cannot train on one,
    stay in evaluation mode."""
    model.train()
    # 1 is the size of the largest batch here: of any larger set or size, `Examples.batches` leaves no example by itself.
    if together == 1:
        for module in model.modules():
            if isinstance(module, NORM_LAYERS):
                module.eval()


@contextmanager
def training_only(model: nn.Module, phase: Phase) -> Iterator[None]:
    """Within, those parameters learn that the phase names, of those that learn at all: a model may come with frozen ones."""
    frozen = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and not phase.trains(name)]
    for parameter in frozen:
        parameter.requires_grad_(False)
        # Else the optimiser would go on with the gradient of the phase before.
        parameter.grad = None
    try:
        yield
    finally:
        # The live module outlives the turn, also one that fails.
        for parameter in frozen:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Steps:
    """What a pass over batches did: how many steps, and the sum of their losses."""

    steps: int
    total: float

    def __add__(self, other: Steps) -> Steps:
        return Steps(self.steps + other.steps, self.total + other.total)

    @property
    def loss(self) -> float:
        """The mean loss of a step, NaN without any."""
        return self.total / self.steps if self.steps else math.nan


def train_steps(
    optimizer: torch.optim.Optimizer, batches: Iterable[Batch], loss: Loss, clip_norm: float | None = None
) -> Steps:
    """One optimiser step per batch that has a loss."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # Summed as a tensor and read once: a float() in every step would wait for the device.
    total, steps = torch.zeros(()), 0
    for batch in batches:
        value = loss(batch)
        # A loss that reaches no parameter that is trained now, all of them being frozen, has nothing to descend.
        if value is None or not value.requires_grad:
            continue
        optimizer.zero_grad()
        torch.autograd.backward(value)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        total, steps = total + value.detach(), steps + 1
    return Steps(steps, float(total))


def shuffled(examples: Examples, size: int, generator: torch.Generator, augment: Augment | None) -> Iterable[Batch]:
    """The batches of one epoch in random order, augmented."""
    order = torch.randperm(len(examples), generator=generator)
    for batch in examples.batches(size, order):
        yield augment(batch, generator) if augment else batch
