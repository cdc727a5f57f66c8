"""A client: its data, its model, its way of training; its state between rounds; its bench during a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from hetfed.data import ClientData, Examples, Facts
from hetfed.evaluation import predict
from hetfed.model import Output
from hetfed.seeding import generator, isolated
from hetfed.tasks import Metrics, Task
from hetfed.training import Augment, Training

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Client:
    """One participant.

    `blueprint` builds a model of this client's kind for data with the given facts. `kind` is the same text for clients whose
    model and training are the same. `public` are inputs that all clients hold in the same order, `about` is what a report says
    of the client, and `references` computes, by name, the test metrics of simple methods to be held beside the model.
    """

    name: str
    data: ClientData
    task: Task
    blueprint: Callable[[Facts], nn.Module]
    training: Training = field(default_factory=Training)
    public: Examples | None = None
    augment: Augment | None = None
    kind: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    references: Callable[[], Mapping[str, Metrics]] = field(default=dict)

    def new_model(self, *seed_path: object) -> nn.Module:
        """A freshly initialised model, the same for the same `seed_path`."""
        with isolated(*seed_path):
            return self.blueprint(self.data.facts)

    @cached_property
    def module(self) -> nn.Module:
        """The live module that a turn works with; between turns its tensors mean nothing."""
        return self.new_model("module", self.name)

    @cached_property
    def probe(self) -> Output:
        """What a model of this client says of two of its examples; the shapes are what matters."""
        return predict(self.module, self.data.train.take(torch.arange(min(2, len(self.data.train)))))


@dataclass
class ClientState:
    """All that a client carries from round to round; nothing of it is ever part of a payload by itself.

    `exchanges` is the private memory of each exchange, by label; `best` is the model that did best on validation data,
    `score` its (metric, minus loss), so that larger is better, and `best_round` when it was.
    """

    model: Tensors
    optimizer: Tensors = field(default_factory=dict)
    exchanges: dict[str, Tensors] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    score: tuple[float, float] | None = None
    best_round: int = 0


def new_state(client: Client, seed: int) -> ClientState:
    """The state before the first round."""
    model = client.new_model(seed, client.name, "initial")
    return ClientState(model={name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


@dataclass(frozen=True)
class Bench:
    """A client at work in one turn, as an exchange sees it.

    `memory` is the private memory of the exchange that looks (it lasts between rounds); `scratch` lasts for this turn.
    `peers` are the other clients' kinds of model, by name: an architecture is no secret, its parameters are.
    """

    client: Client
    model: nn.Module
    seed: int
    round: int
    memory: Tensors
    peers: Mapping[str, Client]
    scratch: dict[str, object] = field(default_factory=dict)

    def of(self, memory: Tensors) -> Bench:
        """The same bench as seen by the exchange that owns `memory`."""
        return replace(self, memory=memory, scratch={})

    def generator(self, *purpose: object) -> torch.Generator:
        """Chance of this client in this round for this purpose, and no other."""
        return generator(self.seed, self.client.name, self.round, *purpose)

    def predict(self, examples: Examples) -> Output:
        """What the model says of `examples` now, in evaluation mode."""
        return predict(self.model, examples)
