"""Predictions on public inputs: all that a client needs to give, and to learn from, is its answers.

So any models can take part that answer the same question: other architectures, other libraries, no gradients at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch, Examples
from hetfed.errors import PlanError
from hetfed.evaluation import UNREADABLE, predict
from hetfed.exchanges.base import EVERYBODY, Exchange, Merge
from hetfed.exchanges.groups import check_label_space
from hetfed.learner import Learner
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile, blank
from hetfed.tasks import in_unit, scaled
from hetfed.training import set_training_mode, shuffled, train_steps

LOGITS = "logits"


@dataclass(frozen=True, config=STRICT)
class LogitDistillation(Exchange):
    """Every client predicts the public inputs; the mean of their logits is what each then learns from (FedMD, Li and Wang
    2019).

    The labels of the public set, if it has any, are never read. Raw logits travel, not probabilities: a mean of
    probabilities loses how sure each client was. Answers that a client scales by its own data travel in their unit.

    Args:
        temperature: softens both sides (classification).
        weight: of the distillation loss.
        epochs: passes over the public inputs each time.
        batch_size: of those passes.
        mean: "equal", or "examples" to weigh a client by its number of training examples.

    >>> from hetfed.composition import every
    >>> every(2, LogitDistillation(temperature=3.0)).exchange.merge
    'mean'
    """

    merge: ClassVar[Merge] = "mean"

    temperature: PositiveFloat = 1.0
    weight: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 64
    mean: Literal["equal", "examples"] = "equal"

    def missing(self, profile: Profile) -> str | None:
        """A client needs public inputs that its model can read."""
        public = profile.public
        if not public.count:
            return f"it {public.unread}" if public.unread else "it holds no public inputs"
        try:
            # A model fails in its own way on inputs that are not its own: whatever it raises is the reason why it cannot take
            # part.
            predict(profile.module, blank(public.inputs, 1))
        except UNREADABLE as error:
            return f"its model cannot read the public inputs: {error}"
        return None

    def check(self, profiles: Sequence[Profile]) -> None:
        """All must answer the same question about the same public inputs, in the same order, with logits of the same shape.

        Raises:
            PlanError: two clients differ in one of these.
        """
        first = profiles[0]
        for profile in profiles[1:]:
            if _shape(profile) != _shape(first):
                raise PlanError(
                    f"clients {first.name!r} and {profile.name!r} cannot distil logits: their predictions of the public inputs "
                    f"are {_shape(first)} and {_shape(profile)}",
                    remedy="Give both the same public inputs and the same classes.",
                )
            # In another order the mean would mix answers for different inputs, and nothing would look wrong.
            if profile.public.digest != first.public.digest:
                raise PlanError(
                    f"clients {first.name!r} and {profile.name!r} cannot distil logits: their public inputs are not the same "
                    "examples in the same order",
                    remedy="Give both the same public inputs.",
                )
        check_label_space(profiles, "predictions")

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The mean logits, once there are any: in the first round nothing is sent."""
        return Payload(state) if state else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Train towards the mean logits on the public inputs, with an optimiser of its own or as more examples."""
        task, training, teacher = context.task, context.profile.training, scaled(payload.tensors[LOGITS], context.task)
        if isinstance(context.model, Learner):
            # A learner has no steps: the lesson becomes further examples, and it is fitted anew.
            context.model.distil(teacher, self.weight, self.temperature)
            return
        public = public_of(context)
        taught = Examples(public.inputs, teacher, public.ids)
        # Of its own: moments of the distillation must not carry over into training on the client's own data.
        optimizer = training.new_optimizer(context.model.parameters(), context.work.lr)

        def loss(batch: Batch) -> Tensor:
            """The distillation loss of a batch of public inputs."""
            logits = context.model(batch.inputs).logits
            return self.weight * task.distillation_loss(logits, batch.target, self.temperature)

        set_training_mode(context.model, min(len(taught), self.batch_size))
        for epoch in range(self.epochs):
            batches = shuffled(taught, self.batch_size, context.generator("digest", epoch), context.augment)
            train_steps(optimizer, batches, loss, training.clip_norm)

    def declare(self, profile: Profile) -> Declaration:
        """The logits (public inputs, ...), and that they tell the client's predictions on public inputs."""
        weight = float(profile.examples) if self.mean == "examples" else 1.0
        tensors = {LOGITS: TensorRule(_shape(profile))}
        reveals = ("predictions on public inputs",)
        return Declaration(tensors, weight, lasting=True, reveals=reveals, label_space=profile.task.label_space)

    def upload(self, context: ClientContext) -> Payload | None:
        """The logits of the trained model for the public inputs."""
        weight = len(context.train) if self.mean == "examples" else 1.0
        return Payload({LOGITS: in_unit(context.predict(public_of(context)).logits, context.task)}, weight)

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state of merged logits."""
        found = merged[EVERYBODY]
        return {name: found.into(state.get(name, mean), mean) for name, mean in found.tensors.items()}


def public_of(context: ClientContext) -> Examples:
    """The public inputs of a client that takes part."""
    assert context.public is not None  # `missing` saw to it
    return context.public


def _shape(profile: Profile) -> tuple[int, ...]:
    """The shape (public inputs, ...) of the client's predictions."""
    return (profile.public.count, *torch.Size(profile.probe.logits.shape[1:]))
