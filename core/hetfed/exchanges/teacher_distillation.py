"""Frozen teachers: trained models of some clients teach the others on the others' own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from hetfed.bench import Bench, Desk
from hetfed.client import Client, Tensors
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.evaluation import predict
from hetfed.exchanges.base import Exchange
from hetfed.model import Output
from hetfed.parts import write_tensors
from hetfed.payload import Declaration, Payload


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TeacherDistillation(Exchange):
    """The teachers' softened predictions train students of any architecture (Hinton et al. 2015).

    The teachers train for `after` rounds, then send their parameters once and are frozen. From then on every student's loss
    gains `weight` times the distillation loss against the mean of the teachers' logits on the student's own batch.

    Args:
        teachers: names of the clients that teach.
        temperature: softens both sides (classification).
        weight: of the distillation loss beside the student's own.
        after: the round after which the teachers are frozen.
    """

    teachers: Annotated[tuple[str, ...], Field(min_length=1)]
    temperature: PositiveFloat = 2.0
    weight: PositiveFloat = 1.0
    after: PositiveInt = 1

    def check(self, clients: Sequence[Client]) -> None:
        """The teachers must be among the clients, and able to read what the students hold."""
        by_name = {client.name: client for client in clients}
        for name in self.teachers:
            if name not in by_name:
                raise PlanError(
                    "no client of this name takes part",
                    key="teachers",
                    value=name,
                    remedy=f"Name some of: {', '.join(sorted(by_name))}.",
                )
        for student in (client for client in clients if client.name not in self.teachers):
            for name in self.teachers:
                _check_readable(by_name[name], student)

    def broadcast(self, desk: Desk, state: Tensors, client: Client) -> Payload | None:
        """The teachers' parameters, once, to the students."""
        due = desk.round == self.after + 1 and client.name not in self.teachers
        return Payload(state) if due and state else None

    def apply(self, bench: Bench, payload: Payload) -> None:
        """Remember the teachers."""
        bench.memory.update(payload.tensors)

    def loss(self, bench: Bench, batch: Batch, output: Output) -> Tensor | None:
        """The distillation loss against the mean of the teachers' logits."""
        if not bench.memory:
            return None
        with torch.no_grad():
            logits = torch.stack([teacher(batch.inputs).logits for teacher in self._teachers(bench)]).mean(dim=0)
        return self.weight * bench.client.task.distillation_loss(output.logits, logits, self.temperature)

    def _teachers(self, bench: Bench) -> list[nn.Module]:
        """The frozen teachers that have arrived, built once a turn."""
        modules = bench.scratch.get("teachers")
        if not isinstance(modules, list):
            modules = [_frozen(bench.peers[name], bench.memory) for name in self.teachers if _sent(name, bench.memory)]
            bench.scratch["teachers"] = modules
        return modules

    def declare(self, client: Client) -> Declaration:
        """Every tensor of a teacher's model."""
        state = client.module.state_dict() if client.name in self.teachers else {}
        return Declaration.of({f"{client.name}/{name}": tensor for name, tensor in state.items()})

    def upload(self, bench: Bench) -> Payload | None:
        """A teacher's parameters, once, when it has trained enough."""
        name = bench.client.name
        if name not in self.teachers or bench.round != self.after:
            return None
        tensors = {f"{name}/{key}": tensor.detach().clone() for key, tensor in bench.model.state_dict().items()}
        return Payload(tensors, weight=len(bench.client.data.train))

    def aggregate(self, desk: Desk, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """All teachers side by side: nothing is merged, their logits are."""
        return {**state, **{name: tensor for payload in uploads.values() for name, tensor in payload.tensors.items()}}


def _sent(teacher: str, memory: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(f"{teacher}/") for key in memory)


def _frozen(teacher: Client, memory: Mapping[str, Tensor]) -> nn.Module:
    """The teacher's architecture with the parameters it sent, in evaluation mode."""
    model = teacher.new_model("teacher", teacher.name)
    prefix = f"{teacher.name}/"
    write_tensors(model, {key.removeprefix(prefix): t for key, t in memory.items() if key.startswith(prefix)})
    return model.eval().requires_grad_(False)


def _check_readable(teacher: Client, student: Client) -> None:
    remedy = "Choose a teacher with the student's modalities and classes, or list the clients that take part."
    try:
        logits = predict(teacher.module, student.data.train.take(torch.arange(1))).logits
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise PlanError(
            f"teacher {teacher.name!r} cannot read the data of student {student.name!r}: {error}", remedy=remedy
        ) from error
    if logits.shape[1:] != student.probe.logits.shape[1:]:
        shapes = f"{tuple(logits.shape[1:])} and {tuple(student.probe.logits.shape[1:])}"
        raise PlanError(
            f"teacher {teacher.name!r} and student {student.name!r} answer in different shapes: {shapes}", remedy=remedy
        )
