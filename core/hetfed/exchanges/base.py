"""The contract of an exchange: one kind of knowledge that clients share, and how it is merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.exchanges.groups import lonely
from hetfed.learner import Learner
from hetfed.model import Output
from hetfed.payload import Declaration, Payload


def without_gradients(client: Client) -> str | None:
    """What is missing where a model has neither parameters nor a loss that changes them; None where it has."""
    return "its model does not learn by gradients" if isinstance(client.module, Learner) else None


@dataclass(frozen=True)
class Exchange(ABC):
    """A value: it stores its settings and nothing else. State lives with the server and with each client.

    The order in a round: the server's `broadcast` for every exchange; at the client, `apply` of what arrived, exchange after
    exchange, then `begin` of every one; training, to which every batch adds `loss`; `upload` of every one; at the server, each
    payload is checked against `declare`, and `aggregate` gets those that keep to it. What an exchange does not need, it leaves
    as it is here.

    The `memory` of a client's context lasts between rounds and is saved, its `scratch` is empty at the start of each turn.
    Methods keep nothing in `self`, and change no tensor of `state` or of a payload in place. They draw from the `generator` of
    their context alone; where initialisation or dropout draws for them, they are `isolated` by a seed of their own.
    """

    @property
    def continues(self) -> bool:
        """Whether an upload goes on from what the server sent, so that what compression leaves out of it is still owed."""
        return False

    @property
    def changes_model(self) -> bool:
        """Whether `apply` changes the model itself, so that what came of the last uploads is worth sending in the end."""
        return False

    @property
    def keeps_place(self) -> bool:
        """Whether a parameter of the client stands for the same thing in every round, so that its moments can be kept."""
        return True

    @property
    def sends_changes(self) -> bool:
        """Whether an upload is a change already, and not something of which a change can be taken."""
        return False

    @property
    def counts_classes(self) -> bool:
        """Whether its uploads say how many examples of each class a client has: the report tells it."""
        return False

    @property
    def reads_public(self) -> bool:
        """Whether it looks at public inputs: the report says which they are."""
        return False

    def extend(self, client: Client, model: nn.Module, members: Sequence[Client]) -> None:
        """Add to a freshly built model what the exchange needs there (a companion, a projector), as submodules.

        Called, in the order of the composition, each time that a model of the client is built, and must add the same modules
        every time. `members` are all who take part, each as it is before this. What is added is trained, kept private, saved
        and resumed like the rest of the model.
        """
        return

    def missing(self, client: Client) -> str | None:
        """What `client` lacks to take part, in words; None if it can. Unless written anew, all can that learn by gradients."""
        return without_gradients(client)

    def lonely(self, clients: Sequence[Client]) -> Mapping[str, str]:
        """Those of these clients who would share with nobody but themselves, by name, and why: they send nothing.

        Unless written anew, that is whoever is there by itself.
        """
        return lonely(clients)

    def check(self, clients: Sequence[Client]) -> None:
        """Raise `PlanError` where these clients, each able by itself, do not fit together."""
        return

    def start(self, server: ServerContext) -> Tensors:
        """The server's state before the first round."""
        return {}

    def broadcast(self, server: ServerContext, state: Tensors, client: Client) -> Payload | None:
        """What goes to `client` at the start of a round; None for nothing.

        The payload may hold the state's own tensors: it is serialised at once.
        """
        return None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Take in what the server sent, before local training; may itself train."""
        return

    def begin(self, context: ClientContext) -> None:
        """Just before local training, when every exchange has taken in what arrived."""
        return

    def loss(self, context: ClientContext, batch: Batch, output: Output) -> Tensor | None:
        """An extra term of the local loss, a scalar; None for none."""
        return None

    @abstractmethod
    def declare(self, client: Client) -> Declaration:
        """What every upload of `client` will look like."""

    @abstractmethod
    def upload(self, context: ClientContext) -> Payload | None:
        """What goes to the server after local training; None for nothing this time."""

    @abstractmethod
    def aggregate(self, server: ServerContext, state: Tensors, uploads: Mapping[str, Payload]) -> Tensors:
        """The server's next state from the uploads that were accepted, by client name in sorted order."""
