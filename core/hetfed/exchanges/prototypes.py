"""Class means of features: what each class looks like, in a space that all clients share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.exchanges.base import EVERYBODY, Exchange, without_gradients
from hetfed.exchanges.groups import check_label_space
from hetfed.model import Output
from hetfed.payload import CLASS_COUNTS, Declaration, Merged, Payload, TensorRule
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile

MINIMUM_COUNT = 5
"""Examples of a class that a client must have to tell of it, unless a plan says otherwise."""


@dataclass(frozen=True, config=STRICT)
class Prototypes(Exchange):
    """Class means of features pull the features of every client together (FedProto, Tan et al. 2022).

    Any architectures can take part whose features have the same size. What travels: means (classes, features) and counts
    (classes,); the counts tell the server how many examples of each class a client has.

    Args:
        weight: of the squared distance between a feature and the prototype of its class, in the local loss.
        mean: "counted" weighs a client's class mean by its count; "equal" does not (the paper's own code).
        minimum_count: a class of which a client has fewer training examples is not sent: the mean of one is that one's feature.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(Prototypes(weight=0.5), SharedParameters("head"))]
    ['prototypes', 'shared-parameters']
    """

    robust: ClassVar[bool] = True

    weight: PositiveFloat = 1.0
    mean: Literal["counted", "equal"] = "counted"
    minimum_count: PositiveInt = MINIMUM_COUNT

    def missing(self, profile: Profile) -> str | None:
        """A client needs gradients, classes and features."""
        if reason := without_gradients(profile):
            return reason
        if profile.task.class_count == 0:
            return "its task has no classes"
        if profile.probe.features is None:
            return "its model gives no features"
        return None if profile.probe.features.ndim == 2 else "its features are not one vector per example"

    def check(self, profiles: Sequence[Profile]) -> None:
        """All clients must agree on the classes and the feature size.

        Raises:
            PlanError: two clients differ.
        """
        first = profiles[0]
        for profile in profiles[1:]:
            if classes_and_features(profile) != classes_and_features(first):
                raise PlanError(
                    f"clients {first.name!r} and {profile.name!r} cannot share prototypes: (classes, feature size) is "
                    f"{classes_and_features(first)} at the one and {classes_and_features(profile)} at the other",
                    remedy="Give their models the same feature size and their tasks the same classes.",
                )
        check_label_space(profiles, "what their classes look like")

    def init(self, server: ServerContext) -> Tensors:
        """Means and counts of zero: no class has been seen."""
        classes, size = classes_and_features(next(iter(server.members.values())))
        return {"means": torch.zeros(classes, size), "counts": torch.zeros(classes)}

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The means of the classes seen so far."""
        # Signs and not counts: which classes have been seen is all that the others need to know.
        return Payload({"means": state["means"], "counts": state["counts"].sign()}) if state["counts"].any() else None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Remember the means for the loss."""
        # In memory: with a cadence of n rounds, the prototypes of the last broadcast go on pulling.
        context.memory.update(payload.tensors)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The mean squared distance of each feature to the prototype of its class."""
        classes = context.task.classes(batch)
        if not context.memory or classes is None or output.features is None or not context.work.learnable:
            return None
        # An unknown class, -1, reads the last count here; the first condition rules it out all the same.
        usable = (classes >= 0) & (context.memory["counts"][classes] > 0)
        # Where there is no prototype the distance is 0, and the mean over all is scaled up to that over those that have one.
        means = torch.where(usable[:, None], context.memory["means"][classes], output.features.detach())
        scale = len(usable) / usable.sum().clamp(min=1)
        return self.weight * (F.mse_loss(output.features, means) * scale)

    def declare(self, profile: Profile) -> Declaration:
        """The declaration of means (classes, features) and counts (classes,)."""
        return declared_means(profile, self.minimum_count)

    def upload(self, context: ClientContext) -> Payload | None:
        """Class means of the features of the trained model: while weights still move, means would mix several models."""
        return class_means(context, self.minimum_count)

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The mean of each class over the clients that have it; a class that nobody sent keeps its prototype."""
        means, counts = state["means"].clone(), state["counts"].clone()
        uploads = merged[EVERYBODY].uploads
        # Class by class, since different clients have seen each: who lacks a class must not pull its mean towards zero.
        for c in range(len(counts)):
            sent = {name: payload.tensors["counts"][c] for name, payload in uploads.items()}
            having = [name for name, count in sent.items() if count > 0]
            if having:
                weights = {name: float(sent[name]) if self.mean == "counted" else 1.0 for name in having}
                sent_means = {name: {"mean": uploads[name].tensors["means"][c]} for name in having}
                rows = {name: replace(uploads[name], tensors=sent_means[name], weight=weights[name]) for name in having}
                mean = server.aggregation(list(rows.values()))["mean"]
                share = server.share(rows, len(server.members))
                means[c] = Merged({}, (), 0, share).into(means[c] if counts[c] else mean, mean)
                counts[c] = sum(sent[name] for name in having)
        return {"means": means, "counts": counts}


def declared_means(profile: Profile, minimum_count: int) -> Declaration:
    """The declaration of class means of features (classes, features), and of the count of each class (classes,)."""
    classes, size = classes_and_features(profile)
    counts = TensorRule((classes,), low=0, high=profile.examples, whole=True)
    tensors = {"means": TensorRule((classes, size)), "counts": counts}
    reveals = (f"the mean feature of each class{of_so_many(minimum_count)}", f"{CLASS_COUNTS}{of_so_many(minimum_count)}")
    return Declaration(tensors, float(profile.examples), reveals=reveals, label_space=profile.task.label_space)


def of_so_many(minimum_count: int) -> str:
    """Which classes are told of, as it follows a declaration's words.

    >>> of_so_many(5)
    ', if it has at least 5 of it'
    """
    return f", if it has at least {minimum_count} of it" if minimum_count > 1 else ""


def told(counts: Tensor, minimum_count: int) -> Tensor:
    """The counts (classes,) of which a client speaks: a class of fewer examples counts as one that it does not have.

    >>> told(torch.tensor([7.0, 4.0, 0.0]), 5)
    tensor([7., 0., 0.])
    """
    return torch.where(counts >= minimum_count, counts, 0.0)


def class_means(context: ClientContext, minimum_count: int) -> Payload:
    """The mean feature of each class over the client's training data (classes, features), and counts (classes,); zeros for a
    class of fewer than `minimum_count` examples."""
    train, task = context.train, context.task
    features, classes = context.predict(train).features, task.classes(train.whole())
    assert features is not None and classes is not None
    known = classes >= 0
    # As a product of matrices: one pass over the features for all classes together.
    one_hot = F.one_hot(classes[known], task.class_count).float()
    counts = told(one_hot.sum(dim=0), minimum_count)
    means = one_hot.T @ features[known] / counts.clamp(min=1)[:, None]
    means = torch.where(counts[:, None] > 0, means, 0.0)
    return Payload({"means": means, "counts": counts}, weight=len(train))


def class_points(uploads: Mapping[str, Payload]) -> tuple[Tensor, Tensor]:
    """Every class mean that clients sent, one by one: points (k, features), and their classes (k,).

    >>> upload = Payload({"means": torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "counts": torch.tensor([5.0, 0.0])})
    >>> class_points({"a": upload})
    (tensor([[1., 1.]]), tensor([0]))
    """
    means, counts = (torch.stack([payload.tensors[key] for payload in uploads.values()]) for key in ("means", "counts"))
    # A row of zeros stands for an absent class, and must not pass for a mean.
    having, classes = (counts > 0).nonzero(as_tuple=True)
    return means[having, classes], classes


def classes_and_features(profile: Profile) -> tuple[int, int]:
    """The number of classes and the feature size of a client's model; 0 where it gives no features."""
    features = profile.probe.features
    return profile.task.class_count, 0 if features is None else features.shape[1]
