"""Part of the model is shared, the rest stays personal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import ConfigDict, NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.bench import Bench, Desk
from hetfed.client import Client, Tensors
from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.exchanges.base import Exchange, weighted_mean
from hetfed.model import Output
from hetfed.parts import WHOLE, has_part, part_names, read_tensors, write_tensors
from hetfed.payload import Declaration, Payload


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
        among: "all" demands the same shapes of every client; "same-shape" averages within each group of clients whose
            tensors agree in name and shape.
        proximal: the weight mu of the proximal term.
    """

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    norm: Literal["shared", "local"] = "shared"
    among: Literal["all", "same-shape"] = "all"
    proximal: NonNegativeFloat = 0.0

    def missing(self, client: Client) -> str | None:
        """A client needs parameters under the path."""
        return None if self._names(client) else f"its model has no part {self.part!r}"

    def check(self, clients: Sequence[Client]) -> None:
        """What is to stay personal must exist; and unless groups are formed by shape, all hold the same names and shapes."""
        for path in self.exclude:
            if not any(has_part(client.module, path) for client in clients):
                raise PlanError(
                    "no client's model has this part, so that all of it would be shared",
                    key="exclude",
                    value=path,
                    remedy="Name the submodule that stays personal.",
                )
        if self.among == "same-shape":
            return
        first = clients[0]
        for client in clients[1:]:
            difference = _difference(self.declare(first).shapes, self.declare(client).shapes)
            if difference:
                raise PlanError(
                    f"clients {first.name!r} and {client.name!r} cannot share part {self.part!r}: {difference}",
                    remedy='Give them the same architecture there, share a smaller part, or set among = "same-shape".',
                )

    def start(self, desk: Desk) -> Tensors:
        """One initialisation for each group of clients that average together."""
        state: Tensors = {}
        for client in desk.members.values():
            group = _group(self.declare(client).shapes)
            if not any(key.startswith(group) for key in state):
                model = client.new_model(desk.seed, "server", group)
                state |= {f"{group}/{name}": tensor for name, tensor in read_tensors(model, self._names(client)).items()}
        return state

    def broadcast(self, desk: Desk, state: Tensors, client: Client) -> Payload | None:
        """The mean of the client's group."""
        group = _group(self.declare(client).shapes)
        return Payload({name: state[f"{group}/{name}"] for name in self._names(client)})

    def apply(self, bench: Bench, payload: Payload) -> None:
        """Put the mean in place, and remember it if the loss needs it."""
        write_tensors(bench.model, payload.tensors)
        if self.proximal:
            bench.memory.update(payload.tensors)

    def loss(self, bench: Bench, batch: Batch, output: Output) -> Tensor | None:
        """The proximal term."""
        if not self.proximal:
            return None
        anchored = [(p, bench.memory[name]) for name, p in bench.model.named_parameters() if name in bench.memory]
        return self.proximal / 2 * torch.stack([(p - anchor).square().sum() for p, anchor in anchored]).sum()

    def declare(self, client: Client) -> Declaration:
        """The tensors under the path."""
        state = client.module.state_dict()
        return Declaration.of({name: state[name] for name in self._names(client)})

    def upload(self, bench: Bench) -> Payload | None:
        """The trained part, weighing as many examples as trained it."""
        return Payload(read_tensors(bench.model, self._names(bench.client)), weight=len(bench.client.data.train))

    def aggregate(self, desk: Desk, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """A weighted mean per group; a group that sent nothing keeps its state."""
        groups: dict[str, list[Payload]] = defaultdict(list)
        for payload in uploads.values():
            groups[_group({name: tuple(tensor.shape) for name, tensor in payload.tensors.items()})].append(payload)
        means = {f"{group}/{n}": mean for group, sent in groups.items() for n, mean in weighted_mean(sent).items()}
        return {**state, **means}

    def _names(self, client: Client) -> list[str]:
        return part_names(client.module, self.part, exclude=self.exclude, with_norm=self.norm == "shared")


def _group(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A short name for clients whose shared tensors agree."""
    return hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:12]


def _difference(mine: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> str | None:
    for name in sorted(set(mine) | set(theirs)):
        if mine.get(name) != theirs.get(name):
            return f"tensor {name!r} is {mine.get(name, 'absent')} at the one and {theirs.get(name, 'absent')} at the other"
    return None
