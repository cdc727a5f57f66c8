"""A companion: a second model that trains beside the client's own, under the path `companion`.

These exchanges send nothing themselves. They add the companion to the model and say how the two learn from each other; with
`SharedParameters("companion")` after them in the composition the companion is what clients share, and their own model stays
personal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges.base import Exchange, without_gradients
from hetfed.model import Output
from hetfed.parts import COMPANION, HEAD, INNER_HEAD, below, write_tensors
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT, Size
from hetfed.profile import Profile
from hetfed.tasks import MultiTask

NO_COMMON_MODEL = "there is no small common model for it"


@dataclass(frozen=True, config=STRICT)
class Companion(Exchange):
    """The common part of all companions: nothing of them travels by itself."""

    def declare(self, profile: Profile) -> Declaration:
        """A declaration without tensors: nothing is ever sent."""
        return Declaration({})

    def upload(self, context: ClientContext) -> Payload | None:
        """Nothing: the companion travels by the `SharedParameters` that follows."""
        return None

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state as it was, since nothing arrives."""
        return state


@dataclass(frozen=True, config=STRICT)
class MutualLearning(Companion):
    """The client's own model and a small common one teach each other (FML, Shen et al. 2020; FedKD, Wu et al. 2022).

    Own loss: alpha CE + (1 - alpha) KL(own, companion); the companion's: beta CE + (1 - beta) KL(companion, own); each divided
    by the weight of its CE. Each takes the other's predictions as they are: no gradient flows to the teaching side.

    Args:
        alpha: weight of its own labels for the client's model.
        beta: weight of the labels for the companion.
        temperature: softens both sides.
        adaptive: divide the distillation by the sum of both models' losses, so that bad teachers count less (FedKD).
        hint: weight of the squared distance between the features of the two, the companion's through a projector (FedKD).

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(MutualLearning(alpha=0.7), SharedParameters(COMPANION))]
    ['mutual-learning', 'shared-parameters']
    """

    alpha: float = Field(default=0.5, gt=0, le=1)
    beta: float = Field(default=0.5, gt=0, le=1)
    temperature: PositiveFloat = 1.0
    adaptive: bool = False
    hint: NonNegativeFloat = 0.0

    def missing(self, profile: Profile) -> str | None:
        """A client needs gradients, a common model beside its own, and features for the hint."""
        if reason := without_gradients(profile):
            return reason
        if profile.common_fn is None:
            return NO_COMMON_MODEL
        return "its model gives no features" if self.hint and profile.probe.features is None else None

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add the common model, and the projector of the hint."""
        companion = _common(profile)
        # Under a path of its own, by which checkpoints and SharedParameters("companion") find it.
        model.add_module(COMPANION, companion)
        if self.hint:
            theirs, own = _feature_size(profile, companion), _feature_size(profile, model)
            model.add_module("projector", nn.Linear(theirs, own, bias=False))

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The companion's loss, and what each learns from the other."""
        task, other = context.task, _companions(context, parameters, batch)
        theirs = task.loss(other, batch)
        own_kl = task.distillation_loss(output.logits, other.logits, self.temperature)
        other_kl = task.distillation_loss(other.logits, output.logits, self.temperature)
        distance = self._hint(context, parameters, output, other)
        if self.adaptive:
            # The better both models are, the more they are worth listening to.
            mine = task.loss(output, batch)
            # The floor keeps two nearly perfect models from dividing by zero.
            divisor = (mine.detach() + theirs.detach()).clamp(min=1e-3)
            own_kl, other_kl, distance = own_kl / divisor, other_kl / divisor, distance / divisor
        # The turn adds the own task loss with a weight of 1, as below the companion's: divided by alpha and by beta, the
        # distillation keeps its ratio to them.
        total = (1 - self.alpha) / self.alpha * own_kl + (1 - self.beta) / self.beta * other_kl + self.hint * distance
        return total + theirs

    def _hint(self, context: ClientContext, parameters: Mapping[str, Tensor], output: Output, other: Output) -> Tensor:
        if not self.hint or output.features is None or other.features is None:
            return torch.zeros(())
        # The companion's features are projected, not the client's own: the own model predicts without a projector.
        return F.mse_loss(cast("Tensor", context.call("projector", parameters, other.features)), output.features)


@dataclass(frozen=True, config=STRICT)
class ProximalCopy(Companion):
    """The client's own model stays near a copy that is shared (Ditto, Li et al. 2021; pFedMe, Dinh et al. 2020).

    "received": the copy trains on the client's data by itself, and the own model is pulled, by weight/2 times the squared
    distance, towards the copy as it was when local training began. "current": the copy does not look at data, it and the own
    model pull each other (a Moreau envelope). One optimiser steps both at once, where pFedMe first solves for the own model to
    some accuracy and then moves the copy.

    Args:
        weight: of the pull (Ditto's lambda); 0 makes the own model purely local.
        anchor: what the own model is pulled to.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> ditto = compose(ProximalCopy(weight=0.1), SharedParameters(COMPANION))
    >>> ditto.steps[0].exchange.anchor
    'received'
    """

    weight: NonNegativeFloat = 0.1
    anchor: Literal["received", "current"] = "received"

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add a model of the client's own architecture."""
        model.add_module(COMPANION, profile.model_fn(profile.spec))

    def begin(self, context: ClientContext) -> None:
        """Let the own model start as the copy does; the copy, as it is now, is what pulls in this turn."""
        _start_as_companion(context)
        context.scratch["anchor"] = {name: p.detach().clone() for name, p in _companion(context).named_parameters()}

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The pull, and the copy's own loss where it has one."""
        anchor = context.scratch["anchor"]
        assert isinstance(anchor, dict)
        if self.anchor == "current":
            copy = below(COMPANION, parameters)
            # Neither side is detached: the copy feels the pull too, and has no other.
            return self.weight / 2 * _squared_distance(parameters, {name: copy[name] for name in anchor})
        # A constant anchor: towards the copy as it trains now, the pull would chase what moves in the same step.
        pull = self.weight / 2 * _squared_distance(parameters, anchor)
        theirs = context.task.loss(_companions(context, parameters, batch), batch)
        return pull + theirs


@dataclass(frozen=True, config=STRICT)
class MixedModels(Companion):
    """The client predicts with a mixture of its own model and a copy that is shared (APFL, Deng et al. 2020).

    The parameters in use are mixture x own + (1 - mixture) x copy; the copy trains by itself. Buffers are the own model's.

    Args:
        mixture: the share of the own model at the start, from 0 to 1.
        adaptive: whether the share is learned with the rest.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(MixedModels(mixture=0.25), SharedParameters(COMPANION))]
    ['mixed-models', 'shared-parameters']
    """

    mixture: float = Field(default=0.5, ge=0, le=1)
    adaptive: bool = True

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add the copy and the mixture; from now on the model predicts with the mixture."""
        copy = profile.model_fn(profile.spec)
        # Taken before the copy is added, so that they are the model's own alone. By name and not the tensors themselves: in
        # a functional call, others stand in their place.
        own, buffers = [name for name, _ in model.named_parameters()], [name for name, _ in model.named_buffers()]
        model.add_module(COMPANION, copy)
        share = torch.tensor(self.mixture)
        if self.adaptive:
            model.register_parameter("mixture", nn.Parameter(share))
        else:
            model.register_buffer("mixture", share)

        def forward(inputs: Mapping[str, Tensor]) -> Output:
            """The output of the mixture for a batch."""
            held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            share = held["mixture"]
            with torch.no_grad():
                # In place, and not a clamp of the share in use, outside of which it would learn nothing and never come back.
                share.copy_(share.clamp(0, 1))
            # The copy is detached: it learns from its own loss only.
            mixed: Tensors = {name: share * held[name] + (1 - share) * held[f"{COMPANION}.{name}"].detach() for name in own}
            # The copy's modules with the own buffers: running statistics must be those of the model that predicts.
            output: Output = functional_call(copy, {**mixed, **{name: held[name] for name in buffers}}, (inputs,))
            return output

        _replace_forward(model, forward)

    def begin(self, context: ClientContext) -> None:
        """Let the own model start as the copy does."""
        _start_as_companion(context)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The copy's own loss."""
        return context.task.loss(_companions(context, parameters, batch), batch) if context.work.learnable else None


@dataclass(frozen=True, config=STRICT)
class SecondModel(Companion):
    """A second model learns beside the client's own from the same batches; the prediction is the mean of both.

    Neither sees the other while it trains. Where the second one is averaged over all clients, what the federation knows reaches
    also those whose own model nobody shares (a mixture of a general and a private model, Peterson et al. 2019). Where nothing
    is averaged, it is the control for such a mixture: an ensemble of two, trained alone.

    Args:
        model: "common" is the small or chosen model that all clients can hold; "own" one more of the client's own architecture.
        own: the share of the client's own model in the prediction, from 0 to 1.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(SecondModel(), SharedParameters(COMPANION))]
    ['second-model', 'shared-parameters']
    """

    predicts_with_alone: ClassVar[bool] = True

    model: Literal["common", "own"] = "common"
    own: float = Field(default=0.5, ge=0, le=1)

    def missing(self, profile: Profile) -> str | None:
        """A client needs gradients, and a common model where that is the second one."""
        absent = NO_COMMON_MODEL if self.model == "common" and profile.common_fn is None else None
        return without_gradients(profile) or absent

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add the second model; from now on the model predicts with both."""
        second = _common(profile) if self.model == "common" else profile.model_fn(profile.spec)
        model.add_module(COMPANION, second)
        before, shares, task = model.forward, [self.own, 1 - self.own], profile.task

        def forward(inputs: Mapping[str, Tensor]) -> Output:
            """The own answer while it trains, so that each model has a loss of its own; the mean answer afterwards."""
            output: Output = before(inputs)
            if model.training or self.own == 1:
                return output
            other: Output = second(inputs)
            return replace(task.average([output, other], shares) if self.own else other, features=output.features)

        _replace_forward(model, forward)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The second model's own loss."""
        return context.task.loss(_companions(context, parameters, batch), batch) if context.work.learnable else None


@dataclass(frozen=True, config=STRICT)
class NestedFeatures(Companion):
    """The features of a small common model and of the client's own are fused, and learnt at two sizes (FedMRL, Yi et al. 2024).

    A projector maps both together to one vector; its first `size` numbers are enough for the common model's head, all of it
    serves the client's own head, which predicts.

    Args:
        size: of the inner vector; half of the features of the client's own model unless it is given.
        weight: of the inner prediction's loss.

    >>> from hetfed.composition import compose
    >>> from hetfed.exchanges import SharedParameters
    >>> [step.label for step in compose(NestedFeatures(size=16), SharedParameters(COMPANION))]
    ['nested-features', 'shared-parameters']
    """

    size: Size | None = None
    weight: PositiveFloat = 1.0

    def missing(self, profile: Profile) -> str | None:
        """A client needs gradients, a common model, a linear head, and features of one vector per example of enough numbers."""
        if reason := without_gradients(profile):
            return reason
        if profile.common_fn is None:
            return NO_COMMON_MODEL
        features = profile.probe.features
        if features is None or features.ndim != 2:
            return "its model gives no features of one vector per example"
        if not isinstance(getattr(profile.module, "head", None), nn.Linear):
            return "its model has no linear head"
        return f"its features are fewer than {self.size}" if features.shape[1] < (self.size or 0) else None

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add the common model, its head for the inner vector, and the projector."""
        companion, head = _common(profile), model.get_submodule("head")
        assert isinstance(head, nn.Linear)  # `missing` saw to it
        own, small = _feature_size(profile, model), _feature_size(profile, companion)
        # The inner head travels with the companion: where it is shared, only clients with the same inner size can average.
        size = self.size or max(own // 2, 1)
        companion.add_module(INNER_HEAD, nn.Linear(size, head.out_features))
        # The companion's own head answers nothing here, and must not travel for nothing.
        companion.add_module(HEAD, nn.Identity())
        projector = nn.Linear(own + small, own)
        model.add_module(COMPANION, companion)
        model.add_module("projector", projector)
        # The forward of now, which another companion in the composition may have replaced already.
        before = model.forward

        def forward(inputs: Mapping[str, Tensor]) -> Output:
            """The output of the own head for the fused features; the inner prediction is among the further heads."""
            output, common = before(inputs), companion(inputs)
            fused = projector(torch.cat([output.features, common.features], dim=1))
            inner = companion.get_submodule(INNER_HEAD)(fused[:, :size])
            return Output(head(fused), fused, {**output.further, COMPANION: inner})

        _replace_forward(model, forward)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The loss of the inner prediction, which answers the main question and no further one."""
        task = context.task
        main = task.main if isinstance(task, MultiTask) else task
        # Beside the loss of the outer prediction, which the turn adds by itself.
        return self.weight * main.loss(Output(output.further[COMPANION]), batch) if context.work.learnable else None


def _replace_forward(model: nn.Module, forward: Callable[[Mapping[str, Tensor]], Output]) -> None:
    """Let this one model predict by `forward`."""
    # nn.Module calls the `forward` that it finds on the instance first, and this one shadows the method of the class. It is a
    # closure, which cannot be pickled, and by which a deep copy would go on calling this model: nothing here does either.
    model.__dict__["forward"] = forward


def _companion(context: ClientContext) -> nn.Module:
    return context.model.get_submodule(COMPANION)


def _companions(context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch) -> Output:
    """What the companion says of a batch."""
    return cast("Output", context.call(COMPANION, parameters, batch.inputs))


def _common(profile: Profile) -> nn.Module:
    assert profile.common_fn is not None  # `missing` saw to it
    return profile.common_fn(profile.spec)


def _start_as_companion(context: ClientContext) -> None:
    """In the client's first turn, its own model takes over the companion's tensors."""
    # Noted in memory, so that a client that is resumed or joins late starts once and only once; and after everything has been
    # applied, so that what it takes over is the averaged copy.
    if "begun" not in context.memory:
        context.memory["begun"] = torch.ones(())
        write_tensors(context.model, _companion(context).state_dict())


def _squared_distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(one[name] - other[name]).square().sum() for name in other]).sum()


@torch.no_grad()
def _feature_size(profile: Profile, model: nn.Module) -> int:
    """How long a feature vector of `model` is."""
    # In evaluation mode: one example is no batch to normalise, and building a model must draw nothing but its weights.
    features = model.eval()(profile.blank(1).inputs).features
    model.train()
    assert features is not None
    return int(features.shape[-1])
