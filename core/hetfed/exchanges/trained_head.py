"""A head that the server trains on class means of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch.nn import functional as F

from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.errors import PlanError
from hetfed.exchanges.base import Exchange
from hetfed.exchanges.prototypes import Prototypes, class_means, class_points
from hetfed.parts import HEAD, copy_of, part_names, read_tensors, without_part, write_tensors
from hetfed.payload import Declaration, Payload


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainedHead(Exchange):
    """Clients send class means of features; the server trains the head on them and gives it to all (FedGH, Yi et al. 2023).

    Any architectures can take part whose features have the same size and whose heads are alike.

    Args:
        epochs: passes over the class means at the server each time.
        lr: of the server's SGD.
        batch_size: of those passes.
    """

    epochs: PositiveInt = 10
    lr: PositiveFloat = 0.01
    batch_size: PositiveInt = 10

    @property
    def counts_classes(self) -> bool:
        """Beside the mean of each class."""
        return True

    @property
    def changes_model(self) -> bool:
        """What arrives is part of the model."""
        return True

    def missing(self, client: Client) -> str | None:
        """A client needs classes, features and a head."""
        return Prototypes().missing(client) or (None if part_names(client.module, HEAD) else without_part(client.module, HEAD))

    def check(self, clients: Sequence[Client]) -> None:
        """All must agree on the classes, the feature size and the head's shapes."""
        Prototypes().check(clients)
        first = clients[0]
        for client in clients[1:]:
            if self._shapes(client) != self._shapes(first):
                raise PlanError(
                    f"clients {first.name!r} and {client.name!r} have heads of other shapes: {self._shapes(first)} and "
                    f"{self._shapes(client)}",
                    remedy="Give their models the same kind of head.",
                )

    def start(self, server: ServerContext) -> Tensors:
        """A fresh head."""
        first = next(iter(server.members.values()))
        return read_tensors(first.new_model(server.seed, "server", HEAD), part_names(first.module, HEAD))

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """The head."""
        return Payload(state)

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put it in place."""
        write_tensors(context.model, payload.tensors)

    def declare(self, client: Client) -> Declaration:
        """As in `Prototypes`."""
        return Prototypes().declare(client)

    def upload(self, context: ClientContext) -> Payload | None:
        """Class means of the features of the trained model."""
        return class_means(context)

    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """Train the head on the class means that arrived."""
        points, classes = class_points(uploads)
        if not len(points):
            return state
        # In evaluation mode: a few class means are no batch to normalise, and leave nothing to drop.
        head = server.members[next(iter(uploads))].new_model("shape only").get_submodule(HEAD).eval()
        write_tensors(head, {name.removeprefix(f"{HEAD}."): tensor for name, tensor in state.items()})
        optimizer, chance = torch.optim.SGD(head.parameters(), lr=self.lr), server.generator(HEAD)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(points), generator=chance).split(self.batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(head(points[rows]), classes[rows]))
                optimizer.step()
        return {f"{HEAD}.{name}": tensor for name, tensor in copy_of(head).items()}

    def _shapes(self, client: Client) -> dict[str, tuple[int, ...]]:
        state = client.module.state_dict()
        return {name: tuple(state[name].shape) for name in part_names(client.module, HEAD)}
