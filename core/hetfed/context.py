"""What an exchange works with: a client during its turn, the server between the turns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hetfed.client import Client, Tensors
from hetfed.data import Examples
from hetfed.evaluation import predict
from hetfed.model import Output
from hetfed.payload import Payload
from hetfed.seeding import generator


@dataclass
class Work:
    """Local training in this turn: its learning rate, whether some of its steps train only a part, and how many there were."""

    lr: float = 0.0
    in_part: bool = False
    steps: int = 0


@dataclass(frozen=True)
class ClientContext:
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
    work: Work = field(default_factory=Work)

    def of(self, memory: Tensors) -> ClientContext:
        """The same as seen by the exchange that owns `memory`."""
        # What is put aside for a turn is an exchange's own as well; the model and what training did are the same for all.
        return replace(self, memory=memory, scratch={})

    def generator(self, *purpose: object) -> torch.Generator:
        """Chance of this client in this round for this purpose, and no other."""
        return generator(self.seed, self.client.name, self.round, *purpose)

    def predict(self, examples: Examples) -> Output:
        """What the model says of `examples` now, in evaluation mode."""
        return predict(self.model, examples)


@dataclass(frozen=True)
class ServerContext:
    """The server at work on one exchange in one round (0 before the first).

    `members` are those who take part, by name: the server knows their kinds of model and the public inputs, nothing else of
    them is looked at here. `reached` is, while it broadcasts, the last round up to which that client has been sent what was to
    be sent; 0 for one that has never been reached.
    """

    members: Mapping[str, Client]
    seed: int
    round: int = 0
    asynchronous: bool = False
    reached: int = 0

    def mixed(self, held: Tensor, mean: Tensor, sent: Collection[Payload], members: int) -> Tensor:
        """What the server holds after the `mean` of what was `sent`, having `held` before.

        In asynchronous rounds a few clients must not speak for all `members`: the mean goes in by the share of them that has
        arrived, late ones discounted.
        """
        if not self.asynchronous:
            return mean
        share = min(sum(payload.discount for payload in sent) / members, 1.0)
        return (held + share * (mean - held)).to(mean.dtype) if share < 1 else mean

    def generator(self, *purpose: object) -> torch.Generator:
        """Chance of the server in this round for this purpose, and no other."""
        return generator(self.seed, "server", self.round, *purpose)
