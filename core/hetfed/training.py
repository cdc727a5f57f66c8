"""A client's own way of training: optimiser, learning rate, epochs; one loop for every client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hetfed.data import Batch, Examples
from hetfed.parts import NORM_LAYERS

Augment = Callable[[Batch, torch.Generator], Batch]
"""Changes a training batch at random; the generator is the only source of chance."""

Loss = Callable[[Batch], Tensor | None]
"""The loss of a batch, a scalar; None where there is nothing to learn from."""


class Training(BaseModel):
    """How one client trains in each round: the `training` table of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    lr: PositiveFloat = 1e-3
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.0
    epochs: NonNegativeInt = 1
    batch_size: PositiveInt = 32
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: PositiveFloat | None = None
    keep_optimizer: bool = True

    def lr_at(self, round_number: int, rounds: int) -> float:
        """The learning rate in round 1..rounds."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (round_number - 1) / rounds))

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
    """The optimiser's moments as named tensors: `<parameter>/<moment>`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{moment}": value.detach().clone()
        for parameter, moments in optimizer.state.items()
        for moment, value in moments.items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        optimizer.state[parameters[name]][moment] = value.clone()


def set_training_mode(model: nn.Module, together: int) -> None:
    """Training mode for batches of so many examples; with one at a time the normalisation layers, which cannot train on one,
    stay in evaluation mode."""
    model.train()
    if together == 1:
        for module in model.modules():
            if isinstance(module, NORM_LAYERS):
                module.eval()


def descend(optimizer: torch.optim.Optimizer, batches: Iterable[Batch], loss: Loss, clip_norm: float | None = None) -> float:
    """One optimiser step per batch that has a loss; the mean loss over those steps, NaN without any."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    total, steps = torch.zeros(()), 0
    for batch in batches:
        value = loss(batch)
        if value is None or not value.requires_grad:
            continue
        optimizer.zero_grad()
        torch.autograd.backward(value)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        total, steps = total + value.detach(), steps + 1
    return float(total / steps) if steps else math.nan


def shuffled(examples: Examples, size: int, generator: torch.Generator, augment: Augment | None) -> Iterable[Batch]:
    """The batches of one epoch in random order, augmented."""
    order = torch.randperm(len(examples), generator=generator)
    for batch in examples.batches(size, order):
        yield augment(batch, generator) if augment else batch
