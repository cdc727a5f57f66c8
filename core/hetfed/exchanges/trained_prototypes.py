"""Prototypes that the server trains, so that classes keep a distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges.base import EVERYBODY, Exchange
from hetfed.exchanges.prototypes import MINIMUM_COUNT, Prototypes, class_points, classes_and_features
from hetfed.model import Output
from hetfed.parts import write_tensors
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.seeding import isolated


@dataclass(frozen=True, config=STRICT)
class TrainedPrototypes(Exchange):
    """The server learns one prototype per class from the clients' class means, with a margin between classes (FedTGP,
    Zhang et al. 2024).

    A class mean of a client must be nearer to its class's prototype than to any other by a margin: the distance of a class to
    the nearest other class, the largest over the classes, and no more than `margin_cap`. Clients use the prototypes as in
    `Prototypes`.

    Args:
        weight: of the squared distance between a feature and the prototype of its class, in the local loss.
        epochs: passes over the class means at the server each time.
        lr: of the server's SGD.
        batch_size: of those passes.
        margin_cap: the largest margin.
        minimum_count: as in `Prototypes`.

    >>> TrainedPrototypes(margin_cap=10.0).weight
    10.0
    """

    weight: PositiveFloat = 10.0
    epochs: PositiveInt = 100
    lr: PositiveFloat = 0.01
    batch_size: PositiveInt = 10
    margin_cap: PositiveFloat = 100.0
    minimum_count: PositiveInt = MINIMUM_COUNT

    @property
    def _prototypes(self) -> Prototypes:
        return Prototypes(weight=self.weight, minimum_count=self.minimum_count)

    def missing(self, profile: Profile) -> str | None:
        """A client needs gradients, classes and features, as in `Prototypes`."""
        return self._prototypes.missing(profile)

    def check(self, profiles: Sequence[Profile]) -> None:
        """All clients must agree on the classes and the feature size, as in `Prototypes`."""
        self._prototypes.check(profiles)

    def init(self, server: ServerContext) -> Tensors:
        """A fresh network that gives the prototypes, and counts of zero: no class has been seen."""
        classes, size = classes_and_features(next(iter(server.members.values())))
        with isolated(server.seed, "server", "prototypes"):
            net = _PrototypeNet(classes, size)
        return {"counts": torch.zeros(classes), **{f"net/{name}": tensor for name, tensor in net.state_dict().items()}}

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The prototypes of the classes seen so far."""
        if not state["counts"].any():
            return None
        # Prototypes travel, and the network that makes them stays at the server.
        with torch.no_grad():
            means = _net_of(state)()
        return Payload({"means": means, "counts": state["counts"].sign()})

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember the prototypes for the loss."""
        self._prototypes.apply(context, payload)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The mean squared distance of each feature to the prototype of its class."""
        return self._prototypes.loss(context, parameters, batch, output)

    def declare(self, profile: Profile) -> Declaration:
        """Class means and counts, as in `Prototypes`."""
        return self._prototypes.declare(profile)

    def upload(self, context: ClientContext) -> Payload | None:
        """Class means of the features of the trained model."""
        return self._prototypes.upload(context)

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state with prototypes trained on the class means that arrived; as it was where none did."""
        uploads = merged[EVERYBODY].uploads
        points, classes = class_points(uploads)
        if not len(points):
            return state
        net, margin = _net_of(state), self._margin(points, classes)
        optimizer, chance = torch.optim.SGD(net.parameters(), lr=self.lr), server.generator("prototypes")
        for _ in range(self.epochs):
            for rows in torch.randperm(len(points), generator=chance).split(self.batch_size):
                distance = torch.cdist(points[rows], net())
                # The margin is added to the distance from the own prototype: a mean must be nearer to that by as much to count
                # as told apart.
                own = F.one_hot(classes[rows], distance.shape[1])
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(-(distance + own * margin), classes[rows]))
                optimizer.step()
        trained = {f"net/{name}": tensor.detach() for name, tensor in net.state_dict().items()}
        # Added up for their sign alone: a class that was seen once keeps its prototype.
        counts = torch.stack([payload.tensors["counts"] for payload in uploads.values()]).sum(dim=0)
        return {"counts": state["counts"] + counts, **trained}

    def _margin(self, points: Tensor, classes: Tensor) -> Tensor:
        """The largest distance of a class to its nearest neighbour among the classes."""
        present = classes.unique()
        centres = torch.stack([points[classes == c].mean(dim=0) for c in present])
        # One class alone has no neighbour: without a margin it is only pulled to its means.
        if len(present) < 2:
            return torch.zeros(())
        apart = torch.cdist(centres, centres).fill_diagonal_(torch.inf)
        return apart.min(dim=1).values.max().clamp(max=self.margin_cap)


class _PrototypeNet(nn.Module):
    """An embedding per class, through two linear layers with a ReLU between them."""

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(classes, size))
        self.layers = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))

    def forward(self) -> Tensor:
        """The prototypes (classes, size)."""
        prototypes: Tensor = self.layers(self.embedding)
        return prototypes


def _net_of(state: Tensors) -> _PrototypeNet:
    """The network with the server's parameters."""
    classes, size = state["net/embedding"].shape
    # Its weights are overwritten at once; isolated, building it leaves torch's default generator as it was.
    with isolated("shape only"):
        net = _PrototypeNet(classes, size)
    write_tensors(net, {name.removeprefix("net/"): tensor for name, tensor in state.items() if name.startswith("net/")})
    return net
