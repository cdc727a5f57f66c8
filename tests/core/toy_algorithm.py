"""An algorithm of one's own: plans know what this file registers, and one row in the table of algorithms buys it every law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import goldens
import torch
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from hetfed.algorithms import algorithm
from hetfed.client import Client, Tensors
from hetfed.composition import Composition, compose
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges import Exchange, exchange
from hetfed.model import Output
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.profile import Profile


@exchange("feature-means")
@dataclass(frozen=True)
class FeatureMeans(Exchange):
    """Clients share the mean of their features, and pull that of every batch towards everybody's."""

    merge: ClassVar[str] = "mean"
    weight: PositiveFloat = 1.0

    def missing(self, profile: Profile) -> str | None:
        return super().missing(profile) or ("its model gives no features" if profile.probe.features is None else None)

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        return Payload(state) if state else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        context.memory.update(payload.tensors)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        return self.weight * F.mse_loss(output.features.mean(dim=0), context.memory["mean"]) if context.memory else None

    def declare(self, profile: Profile) -> Declaration:
        return Declaration({"mean": TensorRule(tuple(profile.probe.features.shape[1:]))})

    def upload(self, context: ClientContext) -> Payload | None:
        return Payload({"mean": context.predict(context.train).features.mean(dim=0)}, weight=len(context.train))

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        return dict(merged[""].tensors)


@algorithm("feature-means")
def feature_means(weight: float = 1.0) -> Composition:
    return compose(FeatureMeans(weight=weight))


def golden() -> None:
    """In the second round the mean feature is pulled towards what it was, on average, after the first one."""
    clients = goldens.pair()
    done = goldens.run("feature-means", clients, rounds=2, weight=3.0)

    def mean(client: Client, p: Tensors) -> Tensor:
        return goldens.says(p, client.data.train.inputs["point"])[1].mean(dim=0)

    first = [goldens.descend(done.before.clients[c.name].model, goldens.own_loss(c), 2) for c in clients]
    everybody = sum(n * mean(c, p) for n, c, p in zip((8, 12), clients, first, strict=True)) / 20
    assert torch.allclose(done.after[0].server["feature-means"]["mean"], everybody, atol=1e-6)

    def pulled(p: Tensors) -> Tensor:
        return goldens.own_loss(clients[0])(p) + 3.0 * ((mean(clients[0], p) - everybody) ** 2).sum() / len(everybody)

    goldens.assert_near(done.after[1].clients["a"].model, goldens.descend(first[0], pulled, 2))
