"""Part of the model is shared by averaging, the rest stays personal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.exchanges.base import EVERYBODY, Exchange, Merge, without_gradients
from hetfed.exchanges.groups import Among, check_label_space, check_same, declared_part
from hetfed.model import Output
from hetfed.parts import WHOLE, of_group, part_words, read_tensors, within, write_tensors
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.seeding import INITIAL
from hetfed.server_optimizer import ServerOptimizer


@dataclass(frozen=True, config=STRICT)
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
        server: an optimiser that takes the clients' mean change for a gradient (FedOpt); buffers, such as running statistics,
            are averaged all the same.

    >>> import hetfed as hf
    >>> data = hf.ClientData.of({"x": torch.zeros(10, 4)}, [0, 1] * 5)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> client = hf.Client("a", data, hf.Classification(("ill", "well")), lambda spec: model)
    >>> declared = SharedParameters(exclude=("2",)).declare(client.profile)
    >>> declared.shapes, declared.weight
    ({'0.bias': (8,), '0.weight': (8, 4)}, 6.0)
    """

    merge: ClassVar[Merge] = "mean"

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    norm: Literal["shared", "local"] = "shared"
    among: Among = "all"
    proximal: NonNegativeFloat = 0.0
    server: ServerOptimizer | None = None

    def missing(self, profile: Profile) -> str | None:
        """A client needs parameters under the path."""
        return without_gradients(profile) or (None if self._names(profile) else profile.signature.without(self.part))

    def check(self, profiles: Sequence[Profile]) -> None:
        """Parts that are to stay personal must exist; and unless groups are formed, all hold the same tensors, for the same
        question.

        Raises:
            PlanError: no client has a part of `exclude`, or two clients differ.
        """
        for path in self.exclude:
            if not any(profile.signature.has(path) for profile in profiles):
                found = {part for profile in profiles for part in profile.signature.near(path)}
                raise PlanError(
                    "no client's model has this part, so that all of it would be shared",
                    key="exclude",
                    value=path,
                    remedy=f"Name the submodule that stays personal: {', '.join(sorted(found))}.",
                )
        # Once, before round 1: in a round it would be a refused upload in every round.
        if self.among == "all":
            declared = {profile.name: self.declare(profile) for profile in profiles}
            check_same(profiles, declared, part_words(self.part))
            check_label_space([profile for profile in profiles if declared[profile.name].label_space], "a head")

    def group(self, profile: Profile) -> str:
        """The group of clients whose tensors agree, where groups are formed; else everybody."""
        return self.declare(profile).group if self.among == "same-shape" else EVERYBODY

    def init(self, server: ServerContext) -> Tensors:
        """One initialisation for each group of clients that average together."""
        state: Tensors = {}
        for profile in server.members.values():
            group = server.groups[profile.name]
            if not of_group(group, state):
                model = profile.new_model(server.seed, INITIAL)
                state |= within(group, read_tensors(model, self._names(profile)))
        return state

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The mean of the client's group."""
        return Payload(of_group(server.groups[profile.name], state))

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put the mean in place, and remember it if the loss needs it."""
        write_tensors(context.model, payload.tensors)
        if self.proximal:
            # In memory, which lasts between rounds, and not in scratch: the pull goes on in rounds in which nothing is sent.
            context.memory.update(payload.tensors)

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """The proximal term: proximal/2 times the squared distance to what the server sent; buffers are not pulled."""
        if not self.proximal:
            return None
        # Parameters only: a running statistic has no gradient to be pulled by.
        anchored = [name for name in context.profile.signature.parameters if name in context.memory]
        if not anchored:
            return None
        distances = [(parameters[name] - context.memory[name]).square().sum() for name in anchored]
        # A sum over all parameters, as in the paper, and no mean: mu keeps its meaning in models of other sizes.
        return self.proximal / 2 * torch.stack(distances).sum()

    def declare(self, profile: Profile) -> Declaration:
        """The tensors under the path, weighing as many examples as train them."""
        # The exact weight is declared, so that no client can claim more examples than it enrolled with.
        names, weight = self._names(profile), float(profile.examples)
        return declared_part(profile, names, weight=weight, relative="broadcast", lasting=True)

    def upload(self, context: ClientContext) -> Payload | None:
        """The trained part, weighing as many examples as trained it."""
        return Payload(read_tensors(context.model, self._names(context.profile)), weight=len(context.train))

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state with one mean per group; a group that sent nothing keeps its own."""
        after = dict(state)
        for group, found in merged.items():
            before, mean = of_group(group, state), dict(found.tensors)
            if self.server:
                # Parameters only: a step of an optimiser could make a running variance negative.
                parameters = server.members[found.names[0]].signature.parameters
                stepping = {name: tensor for name, tensor in before.items() if name in parameters}
                stepped, moments = self.server.step(stepping, mean, of_group(f"moments of {group}", state))
                mean |= stepped
                after |= within(f"moments of {group}", moments)
            after |= within(group, {name: found.into(before[name], tensor) for name, tensor in mean.items()})
        return after

    def _names(self, profile: Profile) -> list[str]:
        return profile.signature.names(self.part, exclude=self.exclude, with_norm=self.norm == "shared")
