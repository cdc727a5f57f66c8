"""Parameters averaged per architecture, then distilled at the server from everybody's predictions on public inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch, Examples
from hetfed.evaluation import predict
from hetfed.exchanges.base import Exchange, without_gradients
from hetfed.exchanges.groups import group_of, of_group, within
from hetfed.exchanges.logit_distillation import LogitDistillation, public_of
from hetfed.exchanges.shared_parameters import SharedParameters
from hetfed.parts import copy_of, local_parts, read_tensors, write_tensors
from hetfed.payload import Declaration, Payload
from hetfed.seeding import isolated
from hetfed.training import descend, set_training_mode, shuffled

SHARED = SharedParameters(among="same-shape")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class DistilledParameters(Exchange):
    """The mean model of each group of equal architectures learns from the ensemble of all models (FedDF, Lin et al. 2020).

    The ensemble's mean logits on the public inputs are the lesson; no label is read. A fifth of the public inputs is held back:
    distillation stops when the distance there has not fallen for `patience` passes, and the best pass is kept.

    Args:
        temperature: softens both sides (classification).
        epochs: passes over the public inputs at the server each time, at most.
        patience: passes without progress before it stops.
        lr: of the server's Adam.
        batch_size: of those passes.
    """

    temperature: PositiveFloat = 1.0
    epochs: PositiveInt = 20
    patience: PositiveInt = 3
    lr: PositiveFloat = 1e-3
    batch_size: PositiveInt = 64

    @property
    def reads_public(self) -> bool:
        """Those of `[public]`."""
        return True

    @property
    def continues(self) -> bool:
        """As in `SharedParameters`."""
        return True

    @property
    def changes_model(self) -> bool:
        """What arrives is part of the model."""
        return True

    def missing(self, client: Client) -> str | None:
        """A client needs public inputs, and a model that learns by gradients and of which nothing must stay at home."""
        if local_parts(client.module):
            return "parts of its model mean nothing at the server"
        return without_gradients(client) or LogitDistillation().missing(client)

    def check(self, clients: Sequence[Client]) -> None:
        """All must answer with logits of the same shape."""
        LogitDistillation().check(clients)

    def start(self, server: ServerContext) -> Tensors:
        """As in `SharedParameters`."""
        return SHARED.start(server)

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """As in `SharedParameters`."""
        return SHARED.broadcast(server, state, client)

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """As in `SharedParameters`."""
        SHARED.apply(context, payload)

    def declare(self, client: Client) -> Declaration:
        """As in `SharedParameters`."""
        return SHARED.declare(client)

    def upload(self, context: ClientContext) -> Payload | None:
        """As in `SharedParameters`."""
        return SHARED.upload(context)

    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """Average within each group, then distil the ensemble into each mean."""
        after = SHARED.aggregate(server, state, uploads)
        clients = {name: server.members[name] for name in uploads}
        # The ensemble is of the uploaded models themselves and not of the groups' means, as in the paper.
        said = [predict(_model(client, uploads[name].tensors), public_of(client)).logits for name, client in clients.items()]
        lesson = torch.stack(said).mean(dim=0)
        for group, sent in SHARED.grouped(server, uploads).items():
            client = clients[next(iter(sent))]
            student = _model(client, of_group(group, after))
            # Seeded by shapes: dropout in the student must not depend on which client of the group comes first.
            with isolated(server.seed, "server", server.round, group_of(self.declare(client).shapes)):
                self._distil(server, student, client, lesson)
            # Under the names that travel, since the student has others too, such as the step counts of normalisation.
            after |= within(group, read_tensors(student, list(of_group(group, after))))
        return after

    def _distil(self, server: ServerContext, student: nn.Module, client: Client, lesson: Tensor) -> None:
        """Train `student` towards `lesson` (public inputs, ...), and leave it as it was after its best pass."""
        public = public_of(client)
        lessons = Examples(public.inputs, lesson, public.ids)
        # The same order for every group: all are stopped by the same inputs that were held back.
        order = torch.randperm(len(lessons), generator=server.generator("held back"))
        held, train = lessons.take(order[: max(len(order) // 5, 1)]), lessons.take(order[max(len(order) // 5, 1) :])

        def distance(batch: Batch) -> Tensor:
            return client.task.distillation_loss(student(batch.inputs).logits, batch.target, self.temperature)

        def held_distance() -> float:
            return float(client.task.distillation_loss(predict(student, held).logits, held.target, self.temperature))

        optimizer = torch.optim.Adam(student.parameters(), lr=self.lr)
        # The mean itself is the first candidate: distillation that only makes it worse is undone.
        best, tensors, waited = held_distance(), copy_of(student), 0
        for epoch in range(self.epochs):
            if waited >= self.patience or len(train) < 2:
                break
            set_training_mode(student, min(len(train), self.batch_size))
            descend(optimizer, shuffled(train, self.batch_size, server.generator("distil", epoch), None), distance)
            found = held_distance()
            waited = waited + 1
            if found < best:
                best, tensors, waited = found, copy_of(student), 0
        student.load_state_dict(tensors)


def _model(client: Client, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A model of the client's kind with these parameters."""
    model = client.new_model("shape only")
    write_tensors(model, tensors)
    return model
