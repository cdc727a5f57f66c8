"""The contract of an exchange: one kind of knowledge that clients share, and how it is merged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Batch
from hetfed.model import Output
from hetfed.payload import Declaration, Merged, Payload
from hetfed.plan_schema import ToldClass
from hetfed.profile import Profile

Merge = Literal["mean", "sum", "each"]
"""What the server needs of the uploads: their mean, their sum, or each of them."""
EVERYBODY = ""
"""The group of all."""


def without_gradients(profile: Profile) -> str | None:
    """The reason why a model cannot take part that has neither parameters nor a loss that changes them; None where it can."""
    # Asked of the signature and not of the model, which other sites do not have.
    return None if profile.signature.gradients else "its model does not learn by gradients"


@dataclass(frozen=True)
class Exchange(metaclass=ToldClass):
    """A value: it stores its settings and nothing else. State lives with the server and with each client.

    The order in a round: the server's `broadcast` for every exchange; at the client, `apply` of what arrived, exchange after
    exchange, then `begin` of every one; training, to which every batch adds `loss`; `upload` of every one; at the server, each
    payload is checked against `declare`, those that keep to it are merged as `merge` and `group` say, and `update` gets the
    result. What an exchange does not need, it leaves as it is here.

    Methods at the client see a `ClientContext`: its own training data and the profiles of the others. Methods at the server
    see profiles only. The `memory` of a client's context lasts between rounds and is saved, its `scratch` is empty at the
    start of each turn. Methods keep nothing in `self`, and change no tensor of `state` or of a payload in place. They draw
    from the `generator` of their context alone; where initialisation or dropout draws for them, they are `isolated` by a seed
    of their own.
    """

    merge: ClassVar[Merge] = "each"
    robust: ClassVar[bool] = False
    """Whether `update` itself merges by the rule of the step (`ServerContext.aggregation`), though `merge` is not "mean"."""
    groups_apart: ClassVar[bool] = True
    """Whether a group gets nothing of what the others send, so that a client that is a group by itself shares with nobody."""
    predicts_with_alone: ClassVar[bool] = False
    """Whether the prediction is a mean that has the model in it which the client would have alone: it would count twice."""
    public_at_server: ClassVar[bool] = False
    """Whether the server works on the public inputs, as each member reads them."""

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Add to a freshly built model what the exchange needs there (a companion, a projector), as submodules.

        Called, in the order of the composition, each time that a model of the client is built, and must add the same modules
        every time. What is added is trained, kept private, saved and resumed like the rest of the model.

        Args:
            profile: of the client.
            model: its model, with what the exchanges before have added; it is changed in place.
            members: all who take part, each as it is before this.
        """
        return

    def missing(self, profile: Profile) -> str | None:
        """The reason why a client cannot take part, as what may follow its name; None if it can.

        Unless written anew, all clients can that learn by gradients.
        """
        return without_gradients(profile)

    def check(self, profiles: Sequence[Profile]) -> None:
        """Check that these clients, each able by itself, fit together.

        Raises:
            PlanError: two of them do not; the error names both, what differs, and a remedy.
        """
        return

    def group(self, profile: Profile) -> str:
        """The name of the client's group: clients of the same name are merged. Unless written anew, it is everybody's."""
        return EVERYBODY

    def init(self, server: ServerContext) -> Tensors:
        """The server's state before the first round: tensors by name, and nothing else, so that it can be saved."""
        return {}

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The payload for one client at the start of a round; None for nothing.

        The payload may hold the state's own tensors: it is serialised at once.

        Args:
            server: the profiles of the members, their groups, the round.
            state: as `init` or the last `update` left it.
            profile: of the client that it goes to.
        """
        return None

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Take in what the server sent, before local training; may itself train.

        Args:
            context: of the client: its model, its training data, the exchange's memory.
            payload: as `broadcast` made it, after codecs.
        """
        return

    def begin(self, context: ClientContext) -> None:
        """Prepare local training, when every exchange has taken in what arrived: record where it starts, measure a gradient."""
        return

    def draw(self, context: ClientContext, batch: Batch) -> Tensors:
        """The random tensors of a batch, by name; the loss finds them in `batch.drawn`, and itself draws nothing."""
        return {}

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        """A further term of the local loss, a scalar; None for none.

        It is a function of `parameters` and of what is in the context's memory and scratch: whoever trains several clients at
        once calls it with tensors that are not those of the live module.

        Args:
            context: of the client.
            parameters: the model's parameters and buffers by name.
            batch: what is trained on, with the tensors that `draw` has drawn for it.
            output: of the model for this batch.
        """
        return None

    @abstractmethod
    def declare(self, profile: Profile) -> Declaration:
        """The declaration of every upload of a client: names, shapes, ranges, weight, and what the upload tells."""

    @abstractmethod
    def upload(self, context: ClientContext) -> Payload | None:
        """The payload for the server after local training; None for nothing this time."""

    @abstractmethod
    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The server's next state; the old one is not changed.

        Args:
            server: the profiles of the members, their groups, the round.
            state: as `init` or the last `update` left it.
            merged: the result of the uploads by group; a group that sent nothing is not in it.
        """
