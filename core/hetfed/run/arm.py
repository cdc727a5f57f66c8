"""One arm of the comparison: a federation, the sites that it runs at, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hetfed.client import Tensors
from hetfed.composition import Composition
from hetfed.engines.local import Sites
from hetfed.evaluation import Outcome, overall, predict
from hetfed.federation import Federation, FederationState
from hetfed.model import Output
from hetfed.rounds import ask


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

    def ended(self, state: FederationState) -> Arm:
        """The arm at its end."""
        return replace(self, state=state)

    def selected(self, name: str) -> Tensors:
        """The model that a client has selected; its first one, where it never completed a round.

        Returns:
            The tensors of the model by name.
        """
        state = self.sites.states[name]
        return state.best or state.model

    def outcomes(self) -> dict[str, Outcome]:
        """How each client's selected model does on its own test data; clients test at home and send figures."""
        found = {name: report.outcome for name, report in ask(self.federation, self.sites, "test").items()}
        return {name: outcome for name, outcome in found.items() if outcome is not None}

    def said(self, name: str) -> Output:
        """What a client's selected model says of its own test data."""
        client = self.sites.clients[name]
        client.module.load_state_dict(self.selected(name))
        return predict(client.module, client.data.test)

    def overall(self) -> float | None:
        """The metric on the test data of all clients together, each judged by its own model; None where that makes no sense.

        It needs everybody's predictions and targets in one place: only a simulation has it.

        An example is the AUROC over the patients of all hospitals. Where hospitals score on scales of their own it is low,
        though each hospital's own AUROC is high.
        """
        # Who never completed a round is judged by its first model: left out, it would change whom the metric is about.
        clients = list(self.sites.clients.values())
        return overall([self.said(client.name) for client in clients], clients)
