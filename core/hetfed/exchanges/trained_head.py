"""A head that the server trains on class means of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.errors import PlanError
from hetfed.exchanges.base import EVERYBODY, Exchange
from hetfed.exchanges.prototypes import MINIMUM_COUNT, Prototypes, class_means, class_points, declared_means
from hetfed.parts import HEAD, copy_of, read_tensors, write_tensors
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.seeding import INITIAL


@dataclass(frozen=True, config=STRICT)
class TrainedHead(Exchange):
    """Clients send class means of features; the server trains the head on them and gives it to all (FedGH, Yi et al. 2023).

    Any architectures can take part whose features have the same size and whose heads are alike.

    Args:
        epochs: passes over the class means at the server each time.
        lr: of the server's SGD.
        batch_size: of those passes.
        minimum_count: as in `Prototypes`.

    >>> from hetfed.composition import every
    >>> every(2, TrainedHead(epochs=5)).exchange.lr
    0.01
    """

    epochs: PositiveInt = 10
    lr: PositiveFloat = 0.01
    batch_size: PositiveInt = 10
    minimum_count: PositiveInt = MINIMUM_COUNT

    def missing(self, profile: Profile) -> str | None:
        """A client needs classes, features and a head."""
        signature = profile.signature
        return Prototypes().missing(profile) or (None if signature.names(HEAD) else signature.without(HEAD))

    def check(self, profiles: Sequence[Profile]) -> None:
        """All clients must agree on the classes, the feature size and the head's shapes.

        Raises:
            PlanError: two clients differ.
        """
        Prototypes().check(profiles)
        first = profiles[0]
        for profile in profiles[1:]:
            if self._shapes(profile) != self._shapes(first):
                raise PlanError(
                    f"clients {first.name!r} and {profile.name!r} have heads of other shapes: {self._shapes(first)} and "
                    f"{self._shapes(profile)}",
                    remedy="Give their models the same kind of head.",
                )

    def init(self, server: ServerContext) -> Tensors:
        """A freshly initialised head."""
        first = next(iter(server.members.values()))
        return read_tensors(first.new_model(server.seed, INITIAL), first.signature.names(HEAD))

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The head, from the first round on: all start from the same one."""
        return Payload(state)

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put the head in place."""
        write_tensors(context.model, payload.tensors)

    def declare(self, profile: Profile) -> Declaration:
        """Class means and counts, as in `Prototypes`; what comes back is part of the model."""
        return replace(declared_means(profile, self.minimum_count), lasting=True)

    def upload(self, context: ClientContext) -> Payload | None:
        """Class means of the features of the trained model."""
        return class_means(context, self.minimum_count)

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state with the head trained on the class means that arrived; as it was where none did."""
        found = merged[EVERYBODY]
        points, classes = class_points(found.uploads)
        if not len(points):
            return state
        # In evaluation mode: a few class means are no batch to normalise, and leave nothing to drop.
        head = server.members[found.names[0]].new_model("shape only").get_submodule(HEAD).eval()
        write_tensors(head, {name.removeprefix(f"{HEAD}."): tensor for name, tensor in state.items()})
        optimizer, chance = torch.optim.SGD(head.parameters(), lr=self.lr), server.generator(HEAD)
        for _ in range(self.epochs):
            # Class means only, a handful of points: this costs the server next to nothing.
            for rows in torch.randperm(len(points), generator=chance).split(self.batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(head(points[rows]), classes[rows]))
                optimizer.step()
        return {f"{HEAD}.{name}": tensor for name, tensor in copy_of(head).items()}

    def _shapes(self, profile: Profile) -> dict[str, tuple[int, ...]]:
        signature = profile.signature
        return {name: signature.tensors[name].shape for name in signature.names(HEAD)}
