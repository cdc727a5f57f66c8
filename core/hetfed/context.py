"""What an exchange works with: a client during its turn, the server between the turns.

A client's context holds what its own site may use to train, and the profiles of the others; a server's context holds profiles.
Test and validation data are in neither, nor is anybody else's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hetfed.aggregation import Aggregation
from hetfed.client import Tensors
from hetfed.data import Examples
from hetfed.device import CPU
from hetfed.evaluation import predict
from hetfed.model import Output
from hetfed.parts import below
from hetfed.payload import Payload
from hetfed.profile import Profile
from hetfed.seeding import generator
from hetfed.tasks import Task
from hetfed.training import Augment

UNSEEN = {"test", "validation", "data"}
"""What an exchange may reach for, and no context has."""


@dataclass
class Work:
    """Local training in this turn: its learning rate, whether some of its steps train only a part, and how many there were.

    `learnable` says whether the batch at hand has a known target. `stage` is where the turn stands, for messages.
    """

    lr: float = 0.0
    in_part: bool = False
    steps: int = 0
    learnable: bool = True
    stage: str = ""


@dataclass(frozen=True)
class ClientContext:
    """A client at work in one turn, as an exchange sees it.

    `train` are its training examples, `public` the public inputs as it reads them. `model` is its live module, and `tensors`
    are that module's own parameters and buffers by name. `memory` is the private memory of the exchange that looks (it lasts
    between rounds); `scratch` lasts for this turn. `peers` are the profiles of all clients, by name.

    All tensors in it are on `device`, and so are those of a payload that arrives. Generators draw on the CPU: an exchange moves
    what it draws.
    """

    profile: Profile
    task: Task
    train: Examples
    model: nn.Module
    tensors: Mapping[str, Tensor]
    seed: int
    round: int
    memory: Tensors
    peers: Mapping[str, Profile]
    public: Examples | None = None
    augment: Augment | None = None
    scratch: dict[str, object] = field(default_factory=dict)
    work: Work = field(default_factory=Work)
    device: torch.device = CPU

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Called for what is not there; type checkers need not know of it."""
            if name in UNSEEN:
                raise AttributeError(
                    f"no {name} data in a context: what judges a model is kept from what it learns by. An exchange works with "
                    "context.train"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def name(self) -> str:
        """The client's name."""
        return self.profile.name

    def of(self, memory: Tensors) -> ClientContext:
        """The same as seen by the exchange that owns `memory`."""
        # What is put aside for a turn is an exchange's own as well; the model and what training did are the same for all.
        return replace(self, memory=memory, scratch={})

    def generator(self, *purpose: object) -> torch.Generator:
        """Chance of this client in this round for this purpose, and no other."""
        return generator(self.seed, self.name, self.round, *purpose)

    def predict(self, examples: Examples) -> Output:
        """What the model says of `examples` now, in evaluation mode."""
        return predict(self.model, examples)

    def call(self, path: str, parameters: Mapping[str, Tensor], *arguments: object) -> object:
        """What the submodule at `path` makes of `arguments` with these `parameters` of the whole model, by name."""
        module = self.model.get_submodule(path)
        # The usual case: they are what is in the module already.
        if parameters is self.tensors:
            return module(*arguments)
        return functional_call(module, below(path, parameters), arguments)


@dataclass(frozen=True)
class ServerContext:
    """The server at work on one exchange in one round (0 before the first).

    `members` are the profiles of those who take part, by name; `groups` says who of them is merged with whom. `public` are the
    public inputs as members read them, where the exchange works on them at the server. `aggregation` is the rule by which
    uploads are merged. `reached` is, while the server broadcasts, the last round up to which that client has been sent what
    was to be sent; 0 for one that has never been reached.
    """

    members: Mapping[str, Profile]
    seed: int
    round: int = 0
    asynchronous: bool = False
    reached: int = 0
    groups: Mapping[str, str] = field(default_factory=dict)
    public: Mapping[str, Examples] = field(default_factory=dict)
    aggregation: Aggregation = field(default_factory=Aggregation)

    def share(self, sent: Mapping[str, Payload], members: int) -> float:
        """How much the mean of what was `sent` counts beside what the server held before, among so many members.

        In asynchronous rounds a few clients must not speak for all: their mean goes in by the share of the members that has
        arrived, late ones discounted.
        """
        if not self.asynchronous:
            return 1.0
        return min(sum(payload.discount for payload in sent.values()) / members, 1.0)

    def generator(self, *purpose: object) -> torch.Generator:
        """Chance of the server in this round for this purpose, and no other."""
        return generator(self.seed, "server", self.round, *purpose)
