"""One arm of the comparison: a federation, the sites that it runs at, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from hetfed.client import Tensors
from hetfed.composition import Composition
from hetfed.data import Examples
from hetfed.engines.local import Sites
from hetfed.evaluation import Outcome, overall
from hetfed.federation import Federation, FederationState
from hetfed.model import Output
from hetfed.rounds import ask
from hetfed.selection import predict_mean, selected


@dataclass(frozen=True)
class Arm:
    """An arm before it starts, or at its end; `sites` move on with it.

    `extended_by` is the composition whose exchanges have added to the models of this arm, also where nothing is shared any
    more.

    Args:
        name: "federated", "finetuned" or "alone".
        federation: what is to be done in this arm.
        sites: the clients and their states.
        state: the server's.
        extended_by: without it, models that an exchange has added a projector to could not be built again.
    """

    name: str
    federation: Federation
    sites: Sites
    state: FederationState
    extended_by: Composition = field(default_factory=Composition)

    def models(self, name: str) -> list[Tensors]:
        """The models of a client whose mean prediction counts; its first one, where nobody has trained any."""
        state = self.sites.states[name]
        return selected(state, self.federation.select) or [state.model]

    def trained(self, name: str) -> bool:
        """Whether there is a model of the client that somebody has trained."""
        return bool(self.sites.states[name].best)

    def answer(self, name: str, examples: Examples) -> Output:
        """What a client predicts for its `examples` in this arm."""
        client = self.sites.clients[name]
        return predict_mean(client.module, self.models(name), client.task, examples)

    def outcomes(self) -> dict[str, Outcome]:
        """How each client does on its own test data; clients test at home and send figures."""
        # It also leaves at each site the models of the round that everybody's figures have chosen, where these choose.
        found = {name: r.outcome for name, r in ask(self.federation, self.sites, "test", self.state.rows).items()}
        return {name: outcome for name, outcome in found.items() if outcome is not None}

    def overall(self) -> float | None:
        """The metric on the test data of all clients together, each judged by its own model; None where that makes no sense.

        It needs everybody's predictions and targets in one place: only a simulation has it.

        An example is the AUROC over the patients of all hospitals. Where hospitals score on scales of their own it is low,
        though each hospital's own AUROC is high.
        """
        clients = list(self.sites.clients.values())
        # Who never completed a round is judged by its first model: left out, it would change whom the metric is about.
        return overall([self.answer(client.name, client.data.test) for client in clients], clients)
