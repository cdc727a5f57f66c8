"""Frozen teachers: trained models of some clients teach the others on the others' own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.evaluation import UNREADABLE, predict
from hetfed.exchanges.base import EVERYBODY, Exchange
from hetfed.exchanges.groups import Columns, check_columns, check_label_space, rule_of
from hetfed.model import Output
from hetfed.parts import inside, of_group, within, write_tensors
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.tasks import scaled

PROJECTORS = "projectors"
"""The path of a student's own projectors in its model."""
SENT = "sent"
"""Where a teacher hears, and remembers, that it has arrived."""
MEAN, SCALE = "target mean", "target scale"
"""The names under which a teacher sends what its answers are scaled by; no tensor of a model has a blank in its name."""


@dataclass(frozen=True, config=STRICT)
class TeacherDistillation(Exchange):
    """The teachers' softened predictions train students of any architecture (Hinton et al. 2015).

    The teachers send their parameters, and what their answers are scaled by, and are frozen. From then on every student's loss
    gains `weight` times the distillation loss against the mean of the teachers' logits, scaled as the student's own are, on its
    own batch. A student's memory, and with it every checkpoint,
    holds the parameters of all its teachers: where everybody teaches everybody else, that grows with the square of the clients.

    Args:
        teachers: names of the clients that teach; without any, everybody teaches everybody else.
        temperature: softens both sides (classification).
        weight: of the distillation loss beside the student's own.
        after: the round after which the teachers are frozen and sent, once; who was not there then sends, or is sent to, when
            it next is. Without it, they are sent anew whenever it is their turn (`every`).
        weighting: "equal", or "fit", which weighs teachers by how well they predict the student's own training labels.
        hint: weight of the squared distance between the student's features, through a projector for each teacher, and the
            teacher's (FitNets, Romero et al. 2015).

    >>> TeacherDistillation(teachers=("university",), after=5, weighting="fit").temperature
    2.0
    """

    teachers: tuple[str, ...] = ()
    temperature: PositiveFloat = 2.0
    weight: PositiveFloat = 1.0
    after: PositiveInt | None = None
    weighting: Literal["equal", "fit"] = "equal"
    hint: NonNegativeFloat = 0.0

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add a projector for each teacher's features."""
        own = profile.probe.features
        # Without a hint nothing is added, and a student's model stays what it was.
        if not self.hint or own is None:
            return
        projectors = {
            name: nn.Linear(own.shape[-1], member.probe.features.shape[-1])
            for name, member in sorted((member.name, member) for member in members)
            if self._teaches(name, profile) and member.probe.features is not None
        }
        # A client's name may hold a full stop, which the path of a submodule may not.
        model.add_module(PROJECTORS, nn.ModuleDict({_module_name(name): layer for name, layer in projectors.items()}))

    def check(self, profiles: Sequence[Profile]) -> None:
        """The teachers must be among the clients, ask what the students ask, and be able to read what these hold.

        Raises:
            PlanError: a teacher takes no part, asks another question, or cannot read a student's data.
        """
        by_name = {profile.name: profile for profile in profiles}
        for name in self.teachers:
            if name not in by_name:
                raise PlanError(
                    "no client of this name takes part",
                    key="teachers",
                    value=name,
                    remedy=f"Name some of: {', '.join(sorted(by_name))}.",
                )
        for student in profiles:
            for teacher in profiles:
                if self._teaches(teacher.name, student):
                    _check_readable(teacher, student)
                    check_columns([teacher, student], _columns_read(teacher, student), "predictions")
                    check_label_space([teacher, student], "predictions")

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The parameters of those of the client's teachers that are new to it."""
        teachers = [name for name in server.members if self._teaches(name, profile) and _arrival(name) in state]
        new = [name for name in teachers if self.after is None or int(state[_arrival(name)]) >= server.reached]
        mine = {key: tensor for name in new for key, tensor in within(name, of_group(name, state)).items()}
        if self.after is not None and int(state.get(_arrival(profile.name), -1)) >= server.reached:
            # An upload may be refused, late or short of a quorum: only now may the teacher stop.
            mine[SENT] = torch.ones(1)
        return Payload(mine) if mine else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember the teachers' parameters, in memory that lasts between rounds."""
        context.memory.update(payload.tensors)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The distillation loss against the mean of the teachers' logits, and the hint."""
        teachers = self._teachers(context)
        if not teachers.modules:
            return None
        with torch.no_grad():
            said: dict[str, Output] = {
                name: _as_student(name, functional_call(teacher, _weights(name, context.memory), (batch.inputs,)), context)
                for name, teacher in teachers.modules.items()
            }
            logits = torch.stack([w * o.logits for w, o in zip(teachers.weights, said.values(), strict=True)]).sum(dim=0)
        loss = self.weight * context.task.distillation_loss(output.logits, logits, self.temperature)
        return loss + self.hint * _hint(context, parameters, output, said) if self.hint else loss

    def _teachers(self, context: ClientContext) -> _Teachers:
        """The frozen teachers that have arrived, built once a turn."""
        found = context.scratch.get("teachers")
        if not isinstance(found, _Teachers):
            names = [
                name for name in sorted(context.peers) if self._teaches(name, context.profile) and _sent(name, context.memory)
            ]
            modules = {name: _frozen(context.peers[name], context.memory).to(context.device) for name in names}
            losses = torch.zeros(len(names)) if self.weighting == "equal" else _losses(context, modules)
            found = context.scratch["teachers"] = _Teachers(modules, (-losses).softmax(dim=0))
        return found

    def _teaches(self, teacher: str, student: Profile) -> bool:
        """Whether the client called `teacher` teaches `student`: those who only teach do not learn."""
        return teacher in self.teachers and student.name not in self.teachers if self.teachers else teacher != student.name

    def declare(self, profile: Profile) -> Declaration:
        """Every tensor of a teacher's model but the projectors."""
        teaches = profile.name in self.teachers or not self.teachers
        own = {key: rule_of(key, spec) for key, spec in profile.signature.tensors.items() if not inside(key, PROJECTORS)}
        if not teaches:
            return Declaration({}, float(profile.examples))
        # One number for each of the answers: what they mean at a student, whose own are scaled otherwise.
        shape = _scaling_shape(profile)
        if profile.scaled:
            own |= {MEAN: TensorRule(shape), SCALE: TensorRule(shape, low=0.0)}
        reveals = ("the mean and the scale of its targets",) if profile.scaled else ()
        rules = {f"{profile.name}/{key}": rule for key, rule in own.items()}
        return Declaration(rules, float(profile.examples), reveals=reveals)

    def upload(self, context: ClientContext) -> Payload | None:
        """A teacher's parameters, when it has trained enough; None from a client that does not teach."""
        name = context.name
        if (self.teachers and name not in self.teachers) or context.round < (self.after or 0) or SENT in context.memory:
            return None
        state = context.model.state_dict()
        # The whole model with its buffers, since it is to predict; but not projectors, which serve its own learning.
        own = {key: tensor.clone() for key, tensor in state.items() if not inside(key, PROJECTORS)}
        if context.profile.scaled:
            own |= dict(zip((MEAN, SCALE), _scaling(context), strict=True))
        return Payload(within(name, own), weight=len(context.train))

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state with all teachers side by side: nothing is merged, their logits are, at each student."""
        uploads = merged[EVERYBODY].uploads
        arrived = {_arrival(name): torch.tensor([server.round]) for name in uploads}
        return {**state, **arrived, **{key: tensor for payload in uploads.values() for key, tensor in payload.tensors.items()}}


class _Teachers(NamedTuple):
    """Frozen models by the teacher's name, and their shares of the mean (teachers,)."""

    modules: dict[str, nn.Module]
    weights: Tensor


def _columns_read(teacher: Profile, student: Profile) -> dict[str, Columns]:
    """The columns of both, of the inputs that the teacher reads."""
    return {one.name: {name: one.columns[name] for name in teacher.inputs if name in one.columns} for one in (teacher, student)}


def _scaling_shape(profile: Profile) -> tuple[int, ...]:
    """Of what the answers to one example are scaled by; at least one number."""
    return tuple(profile.probe.logits.shape[1:]) or (1,)


def _scaling(context: ClientContext) -> list[Tensor]:
    """The mean and the scale of each answer of a client."""
    shape = _scaling_shape(context.profile)
    return [torch.as_tensor(number, dtype=torch.float32).expand(shape).clone() for number in context.task.scaling]


def _as_student(name: str, said: Output, context: ClientContext) -> Output:
    """What a teacher says, scaled as the student's own answers are."""
    sent = of_group(name, context.memory)
    values = said.logits * sent[SCALE] + sent[MEAN] if SCALE in sent else said.logits
    return replace(said, logits=scaled(values, context.task))


def _weights(name: str, memory: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model that a teacher sent."""
    return {key: tensor for key, tensor in of_group(name, memory).items() if key not in (MEAN, SCALE)}


def _losses(context: ClientContext, teachers: Mapping[str, nn.Module]) -> Tensor:
    """The loss of each teacher on the student's own training data (teachers,)."""
    train = context.train
    whole = train.whole()
    said = [_as_student(name, predict(teacher, train), context) for name, teacher in teachers.items()]
    losses = [context.task.loss(output, whole) for output in said]
    # Without a single known label every loss is 0, and all weigh the same.
    return torch.tensor([float(loss) for loss in losses])


def _hint(context: ClientContext, parameters: Mapping[str, Tensor], output: Output, said: Mapping[str, Output]) -> Tensor:
    """The mean squared distance of the projected features to each teacher's."""
    if output.features is None:
        return torch.zeros(())
    projectors = dict(context.model.get_submodule(PROJECTORS).named_children())
    distances = [
        F.mse_loss(
            cast("Tensor", context.call(f"{PROJECTORS}.{_module_name(name)}", parameters, output.features)), other.features
        )
        for name, other in said.items()
        if _module_name(name) in projectors and other.features is not None
    ]
    return torch.stack(distances).mean() if distances else torch.zeros(())


def _arrival(teacher: str) -> str:
    """Where the server remembers the round in which a teacher arrived."""
    return f"arrival of {teacher}"


def _module_name(client: str) -> str:
    # U+2024, one dot leader: it looks like a full stop, no name of a client may hold it, and a path may.
    return client.replace(".", "\u2024")


def _sent(teacher: str, memory: Mapping[str, Tensor]) -> bool:
    return any(key.startswith(f"{teacher}/") for key in memory)


def _frozen(teacher: Profile, memory: Mapping[str, Tensor]) -> nn.Module:
    """The teacher's architecture with the parameters it sent, in evaluation mode."""
    model = teacher.new_model("teacher", teacher.name)
    write_tensors(model, _weights(teacher.name, memory))
    return model.eval().requires_grad_(False)


def _check_readable(teacher: Profile, student: Profile) -> None:
    remedy = "Choose a teacher with the student's modalities and classes, or list the clients that take part."
    try:
        # A model fails in its own way on inputs that are not its own: whatever it raises is the reason.
        logits = predict(teacher.module, student.blank(1)).logits
    except UNREADABLE as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        problem = f"teacher {teacher.name!r} cannot read the data of student {student.name!r} ({why})"
        raise PlanError(problem, remedy=remedy) from error
    if logits.shape[1:] != student.probe.logits.shape[1:]:
        shapes = f"{tuple(logits.shape[1:])} and {tuple(student.probe.logits.shape[1:])}"
        raise PlanError(
            f"teacher {teacher.name!r} and student {student.name!r} answer in different shapes: {shapes}", remedy=remedy
        )
