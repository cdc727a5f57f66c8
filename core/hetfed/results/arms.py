"""The arms of the comparison."""

from __future__ import annotations

ALONE, FEDERATED, FINETUNED, POOLED = "alone", "federated", "finetuned", "pooled"
ARMS = (ALONE, FEDERATED, FINETUNED, POOLED)
"""Everybody alone, the federation, the federated model trained further by its client alone, everybody's data in one place."""
OWN_ARMS = (FEDERATED, FINETUNED, ALONE)
"""Those whose model a real participant can have; of equals, the first is kept."""
KEPT = "kept"
"""Stands beside the arms for what a client keeps of them."""
