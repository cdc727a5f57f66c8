"""Control variates: every client corrects its gradients by how they differ from everybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges.base import Exchange, without_gradients
from hetfed.exchanges.groups import (
    Among,
    check_question,
    check_same,
    everybody,
    group_of_client,
    grouped,
    lonely,
    of_group,
    question_of,
    within,
)
from hetfed.model import Output
from hetfed.parts import WHOLE, answers, part_names, read_tensors, without_part
from hetfed.payload import Declaration, Payload
from hetfed.tasks import loss_if_any

COUNTED = "counted in round"
"""The name under which it travels when the server last counted a change of the client's."""
SENT = "sent in round"
"""Where the client remembers when it last sent one."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
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
    """

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    among: Among = "all"

    @property
    def sends_changes(self) -> bool:
        """Of the client's own variate."""
        return True

    def missing(self, client: Client) -> str | None:
        """A client needs parameters under the path."""
        return without_gradients(client) or (None if self._names(client) else without_part(client.module, self.part))

    def lonely(self, clients: Sequence[Client]) -> Mapping[str, str]:
        """Who is the only one of its group."""
        return lonely(clients, self._group if self.among == "same-shape" else everybody, self._question)

    def check(self, clients: Sequence[Client]) -> None:
        """Unless groups are formed, all hold the same, for the same question."""
        if self.among == "all":
            check_same(clients, {client.name: self.declare(client) for client in clients}, "control variates")
            check_question([client for client in clients if answers(client.module, self._names(client))], "a head's gradients")

    def start(self, server: ServerContext) -> Tensors:
        """Zeros."""
        return {
            f"{self._group(client)}/{name}": torch.zeros(shape)
            for client in server.members.values()
            for name, shape in self.declare(client).shapes.items()
        }

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """The usual gradient of the client's group, and in which round the server last counted a change of the client's own."""
        counted = state.get(_counted(client.name), torch.tensor([0]))
        return Payload({**of_group(self._group(client), state), COUNTED: counted})

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember it, until the next one; and that the last change has arrived, if it has."""
        counted = int(payload.tensors[COUNTED])
        context.memory.update(within("everybody", {n: tensor for n, tensor in payload.tensors.items() if n != COUNTED}))
        if SENT in context.memory and counted >= int(context.memory[SENT]):
            context.memory.update(within("counted", of_group("own", context.memory)))

    def begin(self, context: ClientContext) -> None:
        """Remember the point from which local training starts, or measure the gradient there."""
        # After every exchange has applied what arrived: this is the model from which training starts, the server's mean
        # included.
        names = self._names(context.client)
        context.scratch["start"] = read_tensors(context.model, names)
        if context.work.in_part or not _plain_sgd(context.client):
            context.scratch["gradient"] = _full_gradient(context, names)

    def loss(self, context: ClientContext, batch: Batch, output: Output) -> Tensor | None:
        """A linear term whose gradient is c - c_i."""
        everybody, own = of_group("everybody", context.memory), of_group("own", context.memory)
        if not everybody:
            return None
        parameters = dict(context.model.named_parameters())
        return torch.stack([((c - own[n] if n in own else c) * parameters[n]).sum() for n, c in everybody.items()]).sum()

    def declare(self, client: Client) -> Declaration:
        """One tensor for each corrected parameter."""
        parameters = dict(client.module.named_parameters())
        return Declaration.of({name: parameters[name].detach() for name in self._names(client)})

    def upload(self, context: ClientContext) -> Payload | None:
        """The change of the client's own variate since the last one that the server has counted: an upload may be refused,
        late, or short of a quorum, and c must stay the mean of the c_i."""
        everybody, start = of_group("everybody", context.memory), context.scratch["start"]
        assert isinstance(start, dict)
        if not everybody:
            return None
        own = {name: torch.zeros_like(c) for name, c in everybody.items()} | of_group("own", context.memory)
        new = context.scratch.get("gradient")
        if not isinstance(new, dict):
            new, parameters = dict(own), dict(context.model.named_parameters())
            # Without a step there is nothing to estimate a gradient from, and c_i stays as it is.
            if context.work.steps:
                distance = context.work.steps * context.work.lr
                new = {n: own[n] - c + (start[n] - parameters[n].detach()) / distance for n, c in everybody.items()}
        context.memory.update({**within("own", new), SENT: torch.tensor([context.round])})
        counted = of_group("counted", context.memory)
        return Payload({name: new[name] - counted[name] if name in counted else new[name] for name in own})

    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """c moves by the sum of the changes over the number of all members, absent ones included."""
        after = {**state, **{_counted(name): torch.tensor([server.round]) for name in uploads}}
        for group, sent in grouped(uploads, lambda name: self._group(server.members[name])).items():
            members = sum(self._group(client) == group for client in server.members.values())
            # Not by the payloads' weights: the paper's c is the plain mean of all c_i, and that of an absent client has not
            # changed.
            for name, before in of_group(group, state).items():
                change = torch.stack([payload.tensors[name] for payload in sent.values()]).sum(dim=0)
                after[f"{group}/{name}"] = before + change / members
        return after

    def _group(self, client: Client) -> str:
        return group_of_client(client, self.declare(client).shapes)

    def _question(self, client: Client) -> str:
        return question_of(client, self._names(client))

    def _names(self, client: Client) -> list[str]:
        return part_names(client.module, self.part, exclude=self.exclude, buffers=False)


def _counted(client: str) -> str:
    """Where the server remembers when it last counted a change of this client's."""
    return f"{COUNTED} for {client}"


def _plain_sgd(client: Client) -> bool:
    training = client.training
    # Each of these makes a step something else than the learning rate times the gradient, on which option II counts.
    changed = training.momentum or training.weight_decay or training.clip_norm
    return training.optimizer == "sgd" and not changed


def _full_gradient(context: ClientContext, names: list[str]) -> Tensors:
    """The gradient of the task's loss over the client's training data at the present model."""
    parameters = dict(context.model.named_parameters())
    learning = [name for name in names if parameters[name].requires_grad]
    totals, examples = {name: torch.zeros_like(parameters[name]) for name in names}, 0
    # Without dropout, and with the running statistics as they are: the estimate neither draws nor moves anything.
    context.model.eval()
    for batch in context.client.data.train.batches(context.client.training.batch_size):
        loss = loss_if_any(context.client.task, context.model(batch.inputs), batch)
        if loss is None or not learning:
            continue
        found = torch.autograd.grad(loss, [parameters[name] for name in learning], allow_unused=True)
        examples += len(batch)
        for name, gradient in zip(learning, found, strict=True):
            if gradient is not None:
                totals[name] += len(batch) * gradient
    return {name: total / max(examples, 1) for name, total in totals.items()}
