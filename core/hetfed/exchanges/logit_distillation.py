"""Predictions on public inputs: all that a client needs to give, and to learn from, is what it would say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from hetfed.aggregation import Aggregation, Setting
from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch, Examples
from hetfed.errors import PlanError
from hetfed.evaluation import UNREADABLE, predict
from hetfed.exchanges.base import Exchange
from hetfed.exchanges.groups import check_question
from hetfed.learner import Learner
from hetfed.payload import Declaration, Payload
from hetfed.training import descend, set_training_mode, shuffled


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class LogitDistillation(Exchange):
    """Every client predicts the public inputs; the mean of their logits is what each then digests (FedMD, Li and Wang 2019).

    The labels of the public set, if it has any, are never read. Raw logits travel, not probabilities: a mean of
    probabilities loses how sure each client was.

    Args:
        temperature: softens both sides (classification).
        weight: of the distillation loss.
        epochs: passes over the public inputs each time.
        batch_size: of those passes.
        mean: "equal", or "examples" to weigh a client by its number of training examples.
        aggregation: how uploads are merged.
    """

    temperature: PositiveFloat = 1.0
    weight: PositiveFloat = 1.0
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 64
    mean: Literal["equal", "examples"] = "equal"
    aggregation: Setting = Aggregation()

    @property
    def reads_public(self) -> bool:
        """Those of `[public]`."""
        return True

    @property
    def changes_model(self) -> bool:
        """What arrives is learnt at once."""
        return True

    def missing(self, client: Client) -> str | None:
        """A client needs public inputs that its model can read."""
        if client.public is None or not len(client.public):
            return f"it {client.unread}" if client.unread else "it holds no public inputs"
        try:
            # A model fails in its own way on inputs that are not its own: whatever it raises is the reason why it cannot take
            # part.
            predict(client.module, client.public.take(torch.arange(1)))
        except UNREADABLE as error:
            return f"its model cannot read the public inputs: {error}"
        return None

    def check(self, clients: Sequence[Client]) -> None:
        """All must answer the same question about the same public inputs, in the same order, with logits of the same shape."""
        first = clients[0]
        for client in clients[1:]:
            if _shape(client) != _shape(first):
                raise PlanError(
                    f"clients {first.name!r} and {client.name!r} cannot distil logits: their predictions of the public inputs "
                    f"are {_shape(first)} and {_shape(client)}",
                    remedy="Give both the same public inputs and the same classes.",
                )
            if list(public_of(client).ids) != list(public_of(first).ids):
                raise PlanError(
                    f"clients {first.name!r} and {client.name!r} cannot distil logits: their public inputs are not the same "
                    "examples in the same order",
                    remedy="Give both the same public inputs.",
                )
            if any((one != other).any() for one, other in zip(_scaling(client), _scaling(first), strict=True)):
                raise PlanError(
                    f"clients {first.name!r} and {client.name!r} cannot distil logits: the same number means another value, as "
                    "each scales its answers by its own training targets",
                    remedy="Give both tasks the same mean and scale.",
                )
        check_question(clients, "predictions")

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """The mean logits, once there are any."""
        return Payload(state) if state else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Digest: train towards the mean logits on the public inputs, with an optimiser of its own or as more examples."""
        if isinstance(context.model, Learner):
            context.model.digest(payload.tensors["logits"], self.weight, self.temperature)
            return
        public, training = public_of(context.client), context.client.training
        task, teacher = context.client.task, payload.tensors["logits"]
        lessons = Examples(public.inputs, teacher, public.ids)
        optimizer = training.new_optimizer(context.model.parameters(), context.work.lr)

        def loss(batch: Batch) -> torch.Tensor:
            logits = context.model(batch.inputs).logits
            return self.weight * task.distillation_loss(logits, batch.target, self.temperature)

        set_training_mode(context.model, min(len(lessons), self.batch_size))
        for epoch in range(self.epochs):
            batches = shuffled(lessons, self.batch_size, context.generator("digest", epoch), context.client.augment)
            descend(optimizer, batches, loss, training.clip_norm)

    def declare(self, client: Client) -> Declaration:
        """Logits for every public input."""
        return Declaration({"logits": _shape(client)})

    def upload(self, context: ClientContext) -> Payload | None:
        """What the trained model says of the public inputs."""
        weight = len(context.client.data.train) if self.mean == "examples" else 1.0
        return Payload({"logits": context.predict(public_of(context.client)).logits}, weight)

    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """The merged logits."""
        merged = self.aggregation(list(uploads.values()))
        return {n: server.mixed(state.get(n, mean), mean, uploads.values(), len(server.members)) for n, mean in merged.items()}


def public_of(client: Client) -> Examples:
    """The public inputs of a client that takes part."""
    assert client.public is not None  # `missing` saw to it
    return client.public


def _scaling(client: Client) -> list[torch.Tensor]:
    return [torch.as_tensor(part, dtype=torch.float64) for part in client.task.scaling]


def _shape(client: Client) -> tuple[int, ...]:
    """The shape (public inputs, ...) of the client's predictions."""
    return (len(public_of(client)), *client.probe.logits.shape[1:])
