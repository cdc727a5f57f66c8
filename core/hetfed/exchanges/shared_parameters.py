"""Part of the model is shared, the rest stays personal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import ConfigDict, NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.aggregation import Aggregation, Setting
from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.exchanges.base import Exchange, without_gradients
from hetfed.exchanges.groups import (
    Among,
    check_question,
    check_same,
    everybody,
    group_of,
    group_of_client,
    grouped,
    lonely,
    of_group,
    question_of,
    within,
)
from hetfed.model import Output
from hetfed.parts import WHOLE, answers, has_part, part_names, part_words, parts_near, read_tensors, without_part, write_tensors
from hetfed.payload import Declaration, Payload
from hetfed.server_optimizer import ServerOptimizer


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SharedParameters(Exchange):
    """Averages the parameters under `part`, weighted by training examples.

    The whole model is FedAvg (McMahan et al. 2017), all but the head FedPer (Arivazhagan et al. 2019), the head LG-FedAvg
    (Liang et al. 2020), `norm="local"` FedBN (Li et al. 2021). With `proximal` > 0 the local loss gains
    proximal/2 times the squared distance to what the server sent (FedProx, Li et al. 2020).

    Args:
        part: path of the submodule to share; empty for the whole model.
        exclude: paths below it that stay personal.
        norm: whether normalisation layers, found by type, are shared with their running statistics or stay local.
        among: "all" demands the same shapes of every client, and the same question where a head is shared; "same-shape"
            averages within each group of clients that agree in this.
        proximal: the weight mu of the proximal term.
        aggregation: how uploads are merged.
        server: an optimiser that takes the clients' mean change for a gradient (FedOpt); buffers, such as running statistics,
            are averaged all the same.
    """

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    norm: Literal["shared", "local"] = "shared"
    among: Among = "all"
    proximal: NonNegativeFloat = 0.0
    aggregation: Setting = Aggregation()
    server: ServerOptimizer | None = None

    @property
    def continues(self) -> bool:
        """Local training starts from what was sent."""
        return True

    @property
    def changes_model(self) -> bool:
        """What arrives is part of the model."""
        return True

    def missing(self, client: Client) -> str | None:
        """A client needs parameters under the path."""
        return without_gradients(client) or (None if self._names(client) else without_part(client.module, self.part))

    def lonely(self, clients: Sequence[Client]) -> Mapping[str, str]:
        """Who is the only one of its group."""
        return lonely(clients, self._group if self.among == "same-shape" else everybody, self._question)

    def check(self, clients: Sequence[Client]) -> None:
        """What is to stay personal must exist; and unless groups are formed, all hold the same, for the same question."""
        for path in self.exclude:
            if not any(has_part(client.module, path) for client in clients):
                found = {part for client in clients for part in parts_near(client.module, path)}
                raise PlanError(
                    "no client's model has this part, so that all of it would be shared",
                    key="exclude",
                    value=path,
                    remedy=f"Name the submodule that stays personal: {', '.join(sorted(found))}.",
                )
        if self.among == "all":
            check_same(clients, {client.name: self.declare(client) for client in clients}, part_words(self.part))
            check_question([client for client in clients if answers(client.module, self._names(client))], "a head")

    def start(self, server: ServerContext) -> Tensors:
        """One initialisation for each group of clients that average together."""
        state: Tensors = {}
        for client in server.members.values():
            group = self._group(client)
            if not of_group(group, state):
                # Seeded by shapes and not by a client's name: who comes first in a group must not matter.
                model = client.new_model(server.seed, "server", group_of(self.declare(client).shapes))
                state |= within(group, read_tensors(model, self._names(client)))
        return state

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """The mean of the client's group."""
        return Payload(of_group(self._group(client), state))

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put the mean in place, and remember it if the loss needs it."""
        write_tensors(context.model, payload.tensors)
        if self.proximal:
            # In memory, which lasts between rounds, and not in scratch: the pull goes on in rounds in which nothing is sent.
            context.memory.update(payload.tensors)

    def loss(self, context: ClientContext, batch: Batch, output: Output) -> Tensor | None:
        """The proximal term."""
        if not self.proximal:
            return None
        anchored = [(p, context.memory[name]) for name, p in context.model.named_parameters() if name in context.memory]
        if not anchored:
            return None
        return self.proximal / 2 * torch.stack([(p - anchor).square().sum() for p, anchor in anchored]).sum()

    def declare(self, client: Client) -> Declaration:
        """The tensors under the path."""
        state = client.module.state_dict()
        return Declaration.of({name: state[name] for name in self._names(client)})

    def upload(self, context: ClientContext) -> Payload | None:
        """The trained part, weighing as many examples as trained it."""
        return Payload(read_tensors(context.model, self._names(context.client)), weight=len(context.client.data.train))

    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """One mean per group; a group that sent nothing keeps its state."""
        after = dict(state)
        for group, sent in self.grouped(server, uploads).items():
            before, mean = of_group(group, state), self.aggregation(list(sent.values()))
            if self.server:
                # Parameters only: a step of an optimiser could make a running variance negative.
                parameters = dict(server.members[next(iter(sent))].module.named_parameters())
                stepping = {name: t for name, t in before.items() if name in parameters}
                stepped, moments = self.server.step(stepping, mean, of_group(f"moments of {group}", state))
                mean |= stepped
                after |= within(f"moments of {group}", moments)
            members = sum(self._group(client) == group for client in server.members.values()) if server.asynchronous else 0
            mixed = {name: server.mixed(before[name], tensor, sent.values(), members) for name, tensor in mean.items()}
            after |= within(group, mixed)
        return after

    def grouped(self, server: ServerContext, uploads: Mapping[str, Payload]) -> dict[str, dict[str, Payload]]:
        """Uploads by client name, by the group that averages together."""
        return grouped(uploads, lambda name: self._group(server.members[name]))

    def _group(self, client: Client) -> str:
        return group_of_client(client, self.declare(client).shapes)

    def _question(self, client: Client) -> str:
        return question_of(client, self._names(client))

    def _names(self, client: Client) -> list[str]:
        return part_names(client.module, self.part, exclude=self.exclude, with_norm=self.norm == "shared")
