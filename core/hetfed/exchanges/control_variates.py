"""Control variates: every client corrects its gradients by how they differ from everybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges.base import EVERYBODY, Exchange, Merge, without_gradients
from hetfed.exchanges.groups import Among, check_label_space, check_same, declared_part
from hetfed.model import Output
from hetfed.parts import WHOLE, of_group, read_tensors, within
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.tasks import loss_if_any
from hetfed.training import Training

COUNTED = "counted in round"
"""The name under which it travels when the server last counted a change of the client's."""
SENT = "sent in round"
"""Where the client remembers when it last sent one."""


@dataclass(frozen=True, config=STRICT)
class ControlVariates(Exchange):
    """Adds (c - c_i) to the gradient of the shared parameters, c_i being the client's own usual gradient, c everybody's.

    With `SharedParameters` in the same composition this is SCAFFOLD (Karimireddy et al. 2020). A client that takes plain SGD
    steps on the whole model estimates c_i from how far it moved (their option II); any other, whose steps are no multiples of
    gradients, by its gradient at the server's model (option I). What travels is the change of c_i; c is their mean, in which
    every member counts the same.

    Args:
        part: path of the submodule whose gradients are corrected; empty for the whole model.
        exclude: paths below it that are not.
        among: as in `SharedParameters`.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(SharedParameters("encoder"), ControlVariates("encoder"))]
    ['shared-parameters', 'control-variates']
    """

    merge: ClassVar[Merge] = "sum"

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    among: Among = "all"

    def missing(self, profile: Profile) -> str | None:
        """A client needs parameters under the path."""
        return without_gradients(profile) or (None if self._names(profile) else profile.signature.without(self.part))

    def check(self, profiles: Sequence[Profile]) -> None:
        """Unless groups are formed, all clients must hold the same tensors, for the same question."""
        if self.among == "all":
            declared = {profile.name: self.declare(profile) for profile in profiles}
            check_same(profiles, declared, "control variates")
            check_label_space([profile for profile in profiles if declared[profile.name].label_space], "a head's gradients")

    def group(self, profile: Profile) -> str:
        """The group of clients whose tensors agree, where groups are formed; else everybody."""
        return self.declare(profile).group if self.among == "same-shape" else EVERYBODY

    def init(self, server: ServerContext) -> Tensors:
        """Zeros for the usual gradient of each group."""
        return {
            f"{server.groups[profile.name]}/{name}": torch.zeros(shape)
            for profile in server.members.values()
            for name, shape in self.declare(profile).shapes.items()
        }

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The usual gradient of the client's group, and in which round the server last counted a change of the client's own."""
        # Round 0 for a client of which nothing has been counted: its own variate still counts as zero.
        counted = state.get(_counted(profile.name), torch.tensor([0]))
        return Payload({**of_group(server.groups[profile.name], state), COUNTED: counted})

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember the usual gradient until the next one, and that the last change has arrived, if it has."""
        counted = int(payload.tensors[COUNTED])
        context.memory.update(within("everybody", {n: tensor for n, tensor in payload.tensors.items() if n != COUNTED}))
        if SENT in context.memory and counted >= int(context.memory[SENT]):
            context.memory.update(within("counted", of_group("own", context.memory)))

    def begin(self, context: ClientContext) -> None:
        """Remember the point from which local training starts, or measure the gradient there."""
        # After every exchange has applied what arrived: this is the model from which training starts, the server's mean
        # included.
        names = self._names(context.profile)
        context.scratch["start"] = read_tensors(context.model, names)
        if context.work.in_part or not _plain_sgd(context.profile.training):
            context.scratch["gradient"] = _full_gradient(context, names)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """A linear term whose gradient is c - c_i."""
        everybody, own = of_group("everybody", context.memory), of_group("own", context.memory)
        if not everybody:
            return None
        # Linear in the parameters, so that the correction passes through whichever optimiser and clipping the client has.
        return torch.stack([((c - own[n] if n in own else c) * parameters[n]).sum() for n, c in everybody.items()]).sum()

    def declare(self, profile: Profile) -> Declaration:
        """One tensor for each corrected parameter."""
        return declared_part(profile, self._names(profile), weight=1.0, relative="change", lasting=False)

    def upload(self, context: ClientContext) -> Payload | None:
        """The change of the client's own variate since the last one that the server has counted.

        An upload may be refused, late, or short of a quorum, and c must stay the mean of the c_i.
        """
        everybody, start = of_group("everybody", context.memory), context.scratch["start"]
        assert isinstance(start, dict)
        if not everybody:
            return None
        # c_i is zero before the client's first turn, as in the paper.
        own = {name: torch.zeros_like(c) for name, c in everybody.items()} | of_group("own", context.memory)
        new = context.scratch.get("gradient")
        if not isinstance(new, dict):
            new = dict(own)
            # Without a step there is nothing to estimate a gradient from, and c_i stays as it is.
            if context.work.steps:
                distance = context.work.steps * context.work.lr
                new = {n: own[n] - c + (start[n] - context.tensors[n].detach()) / distance for n, c in everybody.items()}
        context.memory.update({**within("own", new), SENT: torch.tensor([context.round])})
        counted = of_group("counted", context.memory)
        return Payload({name: new[name] - counted[name] if name in counted else new[name] for name in own})

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state in which c has moved by the sum of the changes over the number of all members, absent ones included."""
        after = dict(state)
        for group, found in merged.items():
            after |= {_counted(name): torch.tensor([server.round]) for name in found.names}
            # Not by the payloads' weights: the paper's c is the plain mean of all c_i, and that of an absent client has not
            # changed.
            before = of_group(group, state)
            after |= within(group, {name: c + found.tensors[name] / found.size for name, c in before.items()})
        return after

    def _names(self, profile: Profile) -> list[str]:
        return profile.signature.names(self.part, exclude=self.exclude, buffers=False)


def _counted(client: str) -> str:
    """Where the server remembers when it last counted a change of this client's."""
    return f"{COUNTED} for {client}"


def _plain_sgd(training: Training) -> bool:
    # Each of these makes a step something else than the learning rate times the gradient, on which option II counts.
    changed = training.momentum or training.weight_decay or training.clip_norm
    return training.optimizer == "sgd" and not changed


def _full_gradient(context: ClientContext, names: list[str]) -> Tensors:
    """The gradient of the task's loss over the client's training data at the present model."""
    learning = [name for name in names if context.tensors[name].requires_grad]
    totals, examples = {name: torch.zeros_like(context.tensors[name]) for name in names}, 0
    # Without dropout, and with the running statistics as they are: the estimate neither draws nor moves anything.
    context.model.eval()
    # In their order and without augmentation: the gradient of one fixed loss.
    for batch in context.train.batches(context.profile.training.batch_size):
        loss = loss_if_any(context.task, context.model(batch.inputs), batch)
        if loss is None or not learning:
            continue
        found = torch.autograd.grad(loss, [context.tensors[name] for name in learning], allow_unused=True)
        examples += len(batch)
        for name, gradient in zip(learning, found, strict=True):
            if gradient is not None:
                totals[name] += len(batch) * gradient
    return {name: total / max(examples, 1) for name, total in totals.items()}
