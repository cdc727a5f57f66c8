"""The arms of the comparison, and which of its models a client keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hetfed.evaluation import Outcome

ALONE, FEDERATED, FINETUNED, POOLED = "alone", "federated", "finetuned", "pooled"
ARMS = (ALONE, FEDERATED, FINETUNED, POOLED)
"""Everybody alone, the federation, the federated model trained further by its client alone, everybody's data in one place."""
OWN_ARMS = (FEDERATED, FINETUNED, ALONE)
"""Those whose model a real participant can have; of equals, the first is kept."""


def kept_arm(outcomes: Mapping[str, Outcome], *, higher_is_better: bool) -> str | None:
    """The arm whose model does best on the client's own validation data; None where no arm has been judged.

    As in the selection of a round, the metric decides, and where it is equal or nowhere defined, the loss. A model without a
    metric is kept only where none has one.

    Args:
        outcomes: of a client, by arm.
        higher_is_better: whether a larger value of the metric is a better one.

    >>> alone, federated = Outcome(validation=0.7, validation_loss=0.5), Outcome(validation=0.8, validation_loss=0.6)
    >>> outcomes = {ALONE: alone, FEDERATED: federated}
    >>> kept_arm(outcomes, higher_is_better=True)
    'federated'
    """

    def score(arm: str) -> tuple[float, float]:
        """The metric and the loss of an arm's model, both so that larger is better."""
        outcome = outcomes[arm]
        metric, loss = outcome.validation, outcome.validation_loss
        signed = -math.inf if metric is None else metric if higher_is_better else -metric
        return (signed, -math.inf if loss is None else -loss)

    judged = [arm for arm in OWN_ARMS if arm in outcomes and outcomes[arm].validation_loss is not None]
    # Of equals max takes the first: the order of OWN_ARMS decides.
    return max(judged, key=score, default=None)
