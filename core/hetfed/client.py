"""A client: its data, its model, its way of training; and its state between rounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from weakref import ref

import torch
from torch import Tensor, nn

from hetfed.data import ClientData, Examples, Facts
from hetfed.evaluation import predict
from hetfed.kept.description import Description
from hetfed.model import Output
from hetfed.participation import Presence
from hetfed.parts import copy_of
from hetfed.seeding import isolated
from hetfed.tasks import Metrics, Task
from hetfed.training import Augment, Training

Tensors = dict[str, Tensor]
LIVE = 64
"""How many clients have a live module at a time: what is a cache need not grow with the number of clients.

One that has lost its module pays for an initialisation when its next turn comes."""
_live: deque[ref[Client]] = deque()


# eq=False: a client is the same as itself alone. Tensors do not compare to one truth value, and dictionaries have no hash.
@dataclass(frozen=True, eq=False)
class Client:
    """One participant.

    Args:
        name: unique among the clients of a federation; it seeds all that is random in a client's turns.
        data: the examples, in three splits, and the facts that a model is built from.
        task: the loss, the metrics, and the question that is asked.
        blueprint: builds a model of this client's kind for data with the given facts. It draws weights from torch's default
            generator and from nothing else, so that the same seed gives the same model.
        training: how the client trains in each round.
        public: inputs that all clients hold in the same order; their targets are never read.
        unread: where there are public inputs that this client cannot read, why, as what may follow "it".
        augment: changes the training batches at random; None for none.
        kind: the same text for clients whose model and training are the same; pooled training trains them as one.
        about: what a report says of the client.
        references: computes, by name, the test metrics of simple methods to be held beside the model.
        common: builds a small model that every client of the plan can hold beside its own; None where there is no such model.
        presence: how reliable and how fast the client is.
        description: how its model is built again, and how its inputs are made, without its data.
    """

    name: str
    data: ClientData
    task: Task
    blueprint: Callable[[Facts], nn.Module]
    training: Training = field(default_factory=Training)
    public: Examples | None = None
    unread: str = ""
    augment: Augment | None = None
    kind: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    references: Callable[[], Mapping[str, Metrics]] = field(default=dict)
    common: Callable[[Facts], nn.Module] | None = None
    presence: Presence = field(default_factory=Presence)
    description: Description = field(default_factory=Description)

    def new_model(self, *seed_path: object) -> nn.Module:
        """A freshly initialised model, the same for the same `seed_path`."""
        with isolated(*seed_path):
            return self.blueprint(self.data.facts)

    @cached_property
    def module(self) -> nn.Module:
        """The live module that a turn works with; between turns its tensors mean nothing, and it may be built anew."""
        # Any weights do: whoever cares for them loads a state first. It is built before it queues up, since an exchange may
        # look at the modules of other clients meanwhile.
        module = self.new_model("module", self.name)
        # A weak reference: the queue must not keep the clients of an earlier federation alive.
        _live.append(ref(self))
        if len(_live) > LIVE:
            oldest = _live.popleft()()
            if oldest is not None:
                vars(oldest).pop("module", None)
        return module

    @cached_property
    def parameters(self) -> int:
        """How many parameters its model has."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def probe(self) -> Output:
        """What a model of this client says of two of its examples; the shapes are what matters."""
        return predict(self.module, self.data.train.take(torch.arange(min(2, len(self.data.train)))))


@dataclass
class ClientState:
    """All that a client carries from round to round; nothing of it is ever part of a payload by itself.

    `model` is the module's whole state_dict(). `optimizer` holds the moments as `<parameter>/<moment>`; it is empty where they
    are not kept. `exchanges` is the private memory of each exchange, by label, and under `<label> owed` what compression has
    left out of its uploads so far. `best` is the model that did best on validation data, `score` its (metric, minus loss), so
    that larger is better, and `best_round` when it was.
    """

    model: Tensors
    optimizer: Tensors = field(default_factory=dict)
    exchanges: dict[str, Tensors] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    score: tuple[float, float] | None = None
    best_round: int = 0


def new_state(client: Client, seed: int) -> ClientState:
    """The state before the first round."""
    # Seeded by the client's name: clients of one architecture start apart, unless an exchange sends them a common start.
    model = client.new_model(seed, client.name, "initial")
    return ClientState(copy_of(model))
