"""Several algorithms and seeds over one plan, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from hetfed.algorithms import NAMED
from hetfed.errors import PlanError
from hetfed.plan import AlgorithmTable, Plan, named_algorithm
from hetfed.run.execute import prepare
from hetfed.run.folder import SUMMARY, RunFolder
from hetfed.run.launch import Launcher

OWN = "plan"
"""Stands for the plan's own exchanges among the algorithms to compare."""
EVERYONE = "mean over clients"


def compare_plan(
    launcher: Launcher, plan: Plan, file: str, out: Path, *, algorithms: Sequence[str], seeds: int
) -> pd.DataFrame:
    """Run every algorithm under every seed; a run that has ended below `out` is not run again.

    Returns one row per algorithm, seed and client, which is also written to `comparison.csv`.

    Raises:
        UsageError: plan or data do not suit one of the algorithms; that shows before the first run.
    """
    if not algorithms:
        raise PlanError("no algorithm to compare", key="--algorithms", remedy=f"Name some of: {', '.join([OWN, *NAMED])}.")
    variants = {name: under(plan, name) for name in algorithms}
    for variant in variants.values():
        prepare(variant, launcher.vertical, launcher.data_dir, file)
    rows: list[dict[str, Any]] = []
    for algorithm, variant in variants.items():
        for seed in range(seeds):
            launcher.console.print(f"{algorithm}, seed {seed}", highlight=False)
            summary = _ended(launcher, variant.with_federation(seed=seed), file, out / algorithm / f"seed-{seed}")
            rows += [_row(algorithm, seed, client, summary) for client in summary["clients"]]
            pd.DataFrame(rows).to_csv(out / "comparison.csv", index=False)
    return pd.DataFrame(rows)


def _ended(launcher: Launcher, plan: Plan, file: str, where: Path) -> dict[str, Any]:
    """The summary of a run of `plan` in `where`, which is run or gone on with unless it has ended."""
    if (where / SUMMARY).is_file():
        return RunFolder.open(where, plan, resume=True).summary()
    return launcher.run(plan, file, where, resume=where.exists())


def under(plan: Plan, algorithm: str) -> Plan:
    """`plan` with another algorithm.

    Raises:
        PlanError: there is none of that name.
    """
    if algorithm == OWN:
        return plan
    named_algorithm(algorithm, {})
    table = plan.federation.model_copy(update={"algorithm": AlgorithmTable(name=algorithm)})
    return plan.model_copy(update={"federation": table, "exchange": ()})


def _row(algorithm: str, seed: int, client: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "seed": seed,
        "client": client["name"],
        "metric": client["metric"],
        "unit": client["about"].get("unit", ""),
        "higher_is_better": summary["higher_is_better"],
        **{arm: client[arm] for arm in ("alone", "federated", "pooled")},
        "bytes": sum(summary["communication_bytes"].values()),
        "seconds": summary["seconds"],
    }


def aggregate(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, per algorithm and client and over all clients, with a 95 % interval of federated minus alone.

    `wins` counts the seeds in which federated beats alone. Clients that differ in metric or unit have no mean.
    """
    arms = ["alone", "federated", "pooled"]
    numbers = frame.astype(dict.fromkeys(arms, float))
    everyone = numbers.groupby(["algorithm", "seed", "higher_is_better"], sort=False)[arms].mean().reset_index()
    comparable = len(numbers[["metric", "unit"]].drop_duplicates()) == 1
    both = pd.concat([numbers, everyone.assign(client=EVERYONE)], ignore_index=True) if comparable else numbers
    rows = []
    for (algorithm, client), group in both.groupby(["algorithm", "client"], sort=False):
        difference = (group["federated"] - group["alone"]).dropna()
        better = difference > 0 if group["higher_is_better"].iloc[0] else difference < 0
        rows.append(
            {
                "algorithm": algorithm,
                "client": client,
                "seeds": len(group),
                **group[arms].mean().to_dict(),
                "difference": difference.mean(),
                "half_width": half_width(difference.to_numpy()),
                "wins": int(better.sum()),
            }
        )
    return pd.DataFrame(rows)


def half_width(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Half the width of the 95 % interval of the mean of `values` (k,); NaN for fewer than two."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
