"""Parameters averaged per architecture, then distilled at the server from everybody's predictions on public inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch, Examples
from hetfed.evaluation import predict
from hetfed.exchanges.base import Exchange, without_gradients
from hetfed.exchanges.groups import seed_of
from hetfed.exchanges.logit_distillation import LogitDistillation
from hetfed.exchanges.shared_parameters import SharedParameters
from hetfed.parts import copy_of, of_group, read_tensors, within, write_tensors
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.seeding import isolated
from hetfed.training import set_training_mode, shuffled, train_steps

SHARED = SharedParameters(among="same-shape")


@dataclass(frozen=True, config=STRICT)
class DistilledParameters(Exchange):
    """The mean model of each group of equal architectures learns from the ensemble of all models (FedDF, Lin et al. 2020).

    The ensemble's mean logits on the public inputs are the distillation targets; no label is read. A fifth of the public
    inputs is held back: distillation stops when the distance there has not fallen for `patience` passes, and the best pass is
    kept. The server works on the public inputs as each client reads them, that is scaled as the client scales its own.

    Args:
        temperature: softens both sides (classification).
        epochs: passes over the public inputs at the server each time, at most.
        patience: passes without progress before it stops.
        lr: of the server's Adam.
        batch_size: of those passes.

    >>> DistilledParameters(epochs=5).groups_apart  # a group also learns from the others
    False
    """

    robust: ClassVar[bool] = True
    groups_apart: ClassVar[bool] = False
    public_at_server: ClassVar[bool] = True

    temperature: PositiveFloat = 1.0
    epochs: PositiveInt = 20
    patience: PositiveInt = 3
    lr: PositiveFloat = 1e-3
    batch_size: PositiveInt = 64

    def missing(self, profile: Profile) -> str | None:
        """A client needs public inputs, and a model that learns by gradients and of which nothing must stay at home."""
        if profile.signature.local:
            return "parts of its model mean nothing at the server"
        # The server judges students by its own copy of the task, in which no client's scaling is.
        if profile.scaled:
            return "its answers are scaled by its own data, which the server does not know"
        return without_gradients(profile) or LogitDistillation().missing(profile)

    def check(self, profiles: Sequence[Profile]) -> None:
        """All clients must answer with logits of the same shape."""
        LogitDistillation().check(profiles)

    def group(self, profile: Profile) -> str:
        """The group of clients whose models agree."""
        return SHARED.group(profile)

    def init(self, server: ServerContext) -> Tensors:
        """One initialisation for each group, as in `SharedParameters`."""
        return SHARED.init(server)

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The distilled mean of the client's group."""
        return SHARED.broadcast(server, state, profile)

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put the group's mean in place."""
        SHARED.apply(context, payload)

    def declare(self, profile: Profile) -> Declaration:
        """The whole model's tensors; and that the server sees the public inputs as the client reads them."""
        return replace(SHARED.declare(profile), reveals=("the public inputs as it reads them",))

    def upload(self, context: ClientContext) -> Payload | None:
        """The trained model."""
        return SHARED.upload(context)

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """Average within each group, then distil the ensemble into each mean."""
        means = {
            group: replace(found, tensors=server.aggregation(list(found.uploads.values()))) for group, found in merged.items()
        }
        after = SHARED.update(server, state, means)
        sent = {name: upload for found in merged.values() for name, upload in found.uploads.items()}
        # The ensemble is of the uploaded models themselves and not of the groups' means, as in the paper.
        said = [predict(_model(server.members[name], sent[name].tensors), server.public[name]).logits for name in sorted(sent)]
        target = torch.stack(said).mean(dim=0)
        for group, found in merged.items():
            profile = server.members[found.names[0]]
            student = _model(profile, of_group(group, after))
            # Seeded by shapes: dropout in the student must not depend on which client of the group comes first.
            with isolated(server.seed, "server", server.round, seed_of(self.declare(profile).shapes)):
                self._distil(server, student, profile, target)
            # Under the names that travel, since the student has others too, such as the step counts of normalisation.
            after |= within(group, read_tensors(student, list(of_group(group, after))))
        return after

    def _distil(self, server: ServerContext, student: nn.Module, profile: Profile, target: Tensor) -> None:
        """Train `student` towards `target` (public inputs, ...), and leave it as it was after its best pass."""
        public, task = server.public[profile.name], profile.task
        # In the place of labels stand the ensemble's logits: no label of the public inputs is looked at.
        taught = Examples(public.inputs, target, public.ids)
        # The same order for every group: all are stopped by the same inputs that were held back.
        order = torch.randperm(len(taught), generator=server.generator("held back"))
        held, train = taught.take(order[: max(len(order) // 5, 1)]), taught.take(order[max(len(order) // 5, 1) :])

        def distance(batch: Batch) -> Tensor:
            """The distillation loss of the student on a batch."""
            return task.distillation_loss(student(batch.inputs).logits, batch.target, self.temperature)

        def held_distance() -> float:
            """The distillation loss on the public inputs that were held back."""
            return float(task.distillation_loss(predict(student, held).logits, held.target, self.temperature))

        optimizer = torch.optim.Adam(student.parameters(), lr=self.lr)
        # The mean itself is the first candidate: distillation that only makes it worse is undone.
        best, tensors, waited = held_distance(), copy_of(student), 0
        for epoch in range(self.epochs):
            if waited >= self.patience or len(train) < 2:
                break
            set_training_mode(student, min(len(train), self.batch_size))
            train_steps(optimizer, shuffled(train, self.batch_size, server.generator("distil", epoch), None), distance)
            found = held_distance()
            waited = waited + 1
            if found < best:
                best, tensors, waited = found, copy_of(student), 0
        student.load_state_dict(tensors)


def _model(profile: Profile, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A model of the client's architecture with these parameters."""
    model = profile.new_model("shape only")
    write_tensors(model, tensors)
    return model
