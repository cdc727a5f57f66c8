"""A generator of features that the server trains on the clients' heads: knowledge without any data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.device import moved
from hetfed.exchanges.base import EVERYBODY, Exchange
from hetfed.exchanges.groups import rule_of
from hetfed.exchanges.prototypes import MINIMUM_COUNT, Prototypes, classes_and_features, of_so_many, told
from hetfed.model import Output
from hetfed.parts import HEAD, copy_of, read_tensors, write_tensors
from hetfed.payload import CLASS_COUNTS, Declaration, Merged, Payload, TensorRule
from hetfed.plan_schema import STRICT, Size
from hetfed.profile import Profile
from hetfed.seeding import isolated

COUNTS = "class counts"


@dataclass(frozen=True, config=STRICT)
class FeatureGenerator(Exchange):
    """The server learns to generate features that the clients' heads recognise; clients train their heads on them too (FedGen,
    Zhu et al. 2021).

    What a client sends is its head and how many examples of each class it has; these counts are no secret any more then. The
    generator turns a class and noise into a feature; it is trained so that the heads, each weighted by its share of that
    class, name the class, and so that other noise gives another feature.

    Args:
        weight: of the loss on generated features, in the local loss.
        noise: numbers of noise.
        hidden: width of the generator.
        epochs: steps of the generator's optimiser each time, one batch each.
        lr: of the generator's Adam.
        batch_size: of the generator's training.
        diversity: weight of the loss that keeps features of other noise apart.
        minimum_count: a class of which a client has fewer training examples counts as one that it does not have.

    >>> FeatureGenerator(epochs=10).merge  # the server trains on each head by itself
    'each'
    """

    weight: PositiveFloat = 1.0
    noise: Size = 32
    hidden: Size = 128
    epochs: PositiveInt = 50
    lr: PositiveFloat = 3e-4
    batch_size: Size = 128
    diversity: NonNegativeFloat = 1.0
    minimum_count: PositiveInt = MINIMUM_COUNT

    def missing(self, profile: Profile) -> str | None:
        """A client needs classes, features and a head."""
        signature = profile.signature
        return Prototypes().missing(profile) or (None if signature.names(HEAD) else signature.without(HEAD))

    def check(self, profiles: Sequence[Profile]) -> None:
        """All clients must agree on the classes and the feature size."""
        Prototypes().check(profiles)

    def init(self, server: ServerContext) -> Tensors:
        """A fresh generator, and counts of zero: no class has been seen."""
        classes, size = classes_and_features(next(iter(server.members.values())))
        with isolated(server.seed, "server", "generator"):
            net = _Generator(classes, self.noise, self.hidden, size)
        return {COUNTS: torch.zeros(classes), **net.state_dict()}

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The generator and the classes that were seen, once it has learnt."""
        return Payload(state) if state[COUNTS].any() else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember the generator for the loss."""
        context.memory.update(payload.tensors)

    def draw(self, context: ClientContext, batch: Batch) -> Tensors:
        """As many generated features (b, size) as the batch has examples, and their classes (b,)."""
        if not context.memory:
            return {}
        # Built once a turn, at whose start scratch is empty.
        if "generator" not in context.scratch:
            built = self._net(context.memory).to(context.device)
            context.scratch.update(generator=built, chance=context.generator("generated features"))
        net, chance = context.scratch["generator"], context.scratch["chance"]
        assert isinstance(net, _Generator) and isinstance(chance, torch.Generator)
        # Drawn by everybody's counts: also classes that this client has never seen.
        classes = torch.multinomial(context.memory[COUNTS].cpu(), len(batch), replacement=True, generator=chance)
        drawn = {"classes": classes, "noise": torch.randn(len(classes), self.noise, generator=chance)}
        # Only the head learns from what is generated.
        with torch.no_grad():
            drawn = moved(drawn, context.device)
            return {"features": net(**drawn), "classes": drawn["classes"]}

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The cross-entropy of the head on the generated features."""
        if not batch.drawn:
            return None
        said = cast("Tensor", context.call(HEAD, parameters, batch.drawn["features"]))
        return self.weight * F.cross_entropy(said, batch.drawn["classes"])

    def declare(self, profile: Profile) -> Declaration:
        """The head's tensors, and one count per class."""
        tensors = profile.signature.tensors
        head = {name: rule_of(name, tensors[name]) for name in profile.signature.names(HEAD)}
        counts = TensorRule((profile.task.class_count,), low=0, high=profile.examples, whole=True)
        weight, label_space = float(profile.examples), profile.task.label_space
        reveals = (f"{CLASS_COUNTS}{of_so_many(self.minimum_count)}",)
        return Declaration({COUNTS: counts, **head}, weight, reveals=reveals, label_space=label_space)

    def upload(self, context: ClientContext) -> Payload | None:
        """The trained head, and how many examples of each class trained it."""
        train, task = context.train, context.task
        classes = task.classes(train.whole())
        assert classes is not None
        counts = told(torch.bincount(classes[classes >= 0], minlength=task.class_count).float(), self.minimum_count)
        head = read_tensors(context.model, context.profile.signature.names(HEAD))
        return Payload({COUNTS: counts, **head}, weight=len(train))

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state with the generator trained against the heads that arrived."""
        uploads = merged[EVERYBODY].uploads
        # Of this round only: the generator is asked for classes whose heads have just been heard.
        counts = torch.stack([payload.tensors[COUNTS] for payload in uploads.values()])
        total = counts.sum(dim=0)
        if not total.any():
            return state
        # Built once a round and frozen: only the generator learns here.
        heads = [_head_of(server.members[name], payload) for name, payload in uploads.items()]
        shares = counts / total.clamp(min=1)
        net, chance = self._net(state), server.generator("generator")
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        for _ in range(self.epochs):
            classes = torch.multinomial(total, self.batch_size, replacement=True, generator=chance)
            # From the server's own generator for this round: the order of clients changes nothing.
            noise = torch.randn(self.batch_size, self.noise, generator=chance)
            features = net(classes, noise)
            logits = torch.stack([share[classes][:, None] * head(features) for share, head in zip(shares, heads, strict=True)])
            loss = F.cross_entropy(logits.sum(dim=0), classes) + self.diversity * _sameness(features, noise)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return {COUNTS: total, **copy_of(net)}

    def _net(self, state: Tensors) -> _Generator:
        """The generator with the parameters of `state`."""
        size, classes = state["layers.2.weight"].shape[0], len(state[COUNTS])
        with isolated("shape only"):
            net = _Generator(classes, self.noise, self.hidden, size)
        write_tensors(net, {name: tensor for name, tensor in state.items() if name != COUNTS})
        return net


class _Generator(nn.Module):
    """A class and noise to a feature: two linear layers with a ReLU between them."""

    def __init__(self, classes: int, noise: int, hidden: int, size: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(nn.Linear(classes + noise, hidden), nn.ReLU(), nn.Linear(hidden, size))

    def forward(self, classes: Tensor, noise: Tensor) -> Tensor:
        """(b,) and (b, noise) -> (b, size)"""
        features: Tensor = self.layers(torch.cat([F.one_hot(classes, self.classes).float(), noise], dim=1))
        return features


def _sameness(features: Tensor, noise: Tensor) -> Tensor:
    """Near 1 where other noise gives the same feature, near 0 where it gives another (the diversity loss of the paper)."""
    apart = (features[:, None] - features[None]).abs().mean(dim=2)
    noise_apart = (noise[:, None] - noise[None]).square().mean(dim=2)
    return torch.exp(-(apart * noise_apart).mean())


def _head_of(profile: Profile, payload: Payload) -> nn.Module:
    """The head that a client sent, not to be trained."""
    head = profile.new_model("shape only").get_submodule(HEAD).eval()
    write_tensors(head, {n.removeprefix(f"{HEAD}."): t for n, t in payload.tensors.items() if n != COUNTS})
    return head.requires_grad_(False)
