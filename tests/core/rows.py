"""Rows of a comparison, made by hand."""

from __future__ import annotations

from typing import Any

Value = float | None


def row(seed: int, client: str, alone: Value, federated: Value, **other: Any) -> dict[str, Any]:
    """One client under one algorithm and seed; what is not said is as usual."""
    values = {"algorithm": "x", "seed": seed, "client": client, "metric": "AUROC", "unit": "", "higher_is_better": True}
    values |= {
        "alone": alone,
        "federated": federated,
        "finetuned": None,
        "pooled": None,
        "kept": federated,
        "overall": None,
        "n_train": 60,
        "n_test": 20,
    }
    return values | {"kept_arm": "federated", "bytes": 2**20, "rounds": 3, "seconds": 1.0} | other
