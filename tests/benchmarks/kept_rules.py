"""What should a client keep? Every rule on the same models, over plans and seeds.

    python tests/benchmarks/kept_rules.py --data-dir DATA --seeds 5 [PLAN ...]

Of each plan it trains the arms alone, federated and fine-tuned once a seed, and lets every rule choose among the models; the
control is the mean of two models that are both trained alone. It prints a row per plan and rule: the mean over clients and
seeds of the metric and of the gain over alone, and how many clients are below alone on the mean over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pandas as pd

from hetfed.client import Client
from hetfed.evaluation import judge
from hetfed.keeping import Keep, mean_answer, shares_of
from hetfed.plan import Plan, read_plan
from hetfed.results.arms import ALONE, OWN_ARMS
from hetfed.results.folder import RunFolder
from hetfed.run.arm import Arm
from hetfed.run.clock import Clock
from hetfed.run.keep import candidates
from hetfed.run.prepare import prepare
from hetfed.run.progress import Silent
from hetfed.run.training import ArmTraining
from hetfed.vertical import Vertical, shipped, verticals

CONTROL = "two alone"


def judged(plan: Plan, vertical: Vertical, data_dir: Path | None) -> Iterator[dict[str, object]]:
    """A row per client and rule of one run."""
    arms, clients = trained(plan, vertical, data_dir)
    control, _ = trained(plan.under("two-alone").with_federation(alone=False, finetune=0), vertical, data_dir, silent=True)
    for client in clients:
        parts = (client.data.validation, client.data.test)
        own = {name: arm for name, arm in arms.items() if arm.trained(client.name)}
        validation, test = ({name: arm.answer(client.name, part) for name, arm in own.items()} for part in parts)
        kept = {arm: {arm: 1.0} for arm in OWN_ARMS if arm in own}
        eligible = {name: validation[name] for name in candidates(client.name, own)}
        kept |= {f"keep: {rule}": shares_of(rule, eligible, client.task, parts[0]) for rule in get_args(Keep)}
        answers = {rule: mean_answer(shares, test, client.task) for rule, shares in kept.items()}
        answers |= {CONTROL: next(iter(control.values())).answer(client.name, parts[1])} if control else {}
        for rule, answer in answers.items():
            value = judge(answer, client.task, parts[1]).value
            if value is not None:
                better = client.task.higher_is_better
                yield {"client": client.name, "rule": rule, "value": value, "higher_is_better": better}


def trained(
    plan: Plan, vertical: Vertical, data_dir: Path | None, *, silent: bool = False
) -> tuple[dict[str, Arm], tuple[Client, ...]]:
    """The arms of a plan at their end; none, if `silent`, where it does not suit its clients."""
    with TemporaryDirectory() as folder:
        try:
            prepared = prepare(plan.with_federation(pooled=False), vertical, data_dir, "plan")
        except ValueError:
            if not silent:
                raise
            return {}, ()
        run = RunFolder.open(Path(folder, "run"), prepared.plan, resume=False)
        return ArmTraining(prepared, run, Silent(), Clock.of(run.checkpoints)).arms(), prepared.clients


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Per plan and rule: the mean, the mean gain over alone, and the clients below alone."""
    sign = rows["higher_is_better"].map({True: 1, False: -1})
    alone = rows[rows["rule"] == ALONE].set_index(["plan", "seed", "client"])["value"]
    against = rows.set_index(["plan", "seed", "client"]).index.map(alone)
    rows = rows.assign(gain=sign * (rows["value"] - against), relative=sign * (rows["value"] - against) / abs(against))
    by_client = rows.groupby(["plan", "rule", "client"], sort=False)[["value", "gain", "relative"]].mean().reset_index()
    grouped = by_client.groupby(["plan", "rule"], sort=False)
    found = grouped[["value", "gain", "relative"]].mean()
    found["clients"] = grouped.size()
    found["below"] = grouped["gain"].apply(lambda gains: int((gains < 0).sum()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", help="names of shipped plans; all that there are by default")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, help="instead of the plan's own")
    parser.add_argument("--rows", type=Path, help="a CSV file for the figure of every client and seed")
    asked = parser.parse_args()
    found: list[dict[str, object]] = []
    for vertical in verticals().values():
        for name, file in shipped(vertical.plans).items():
            if asked.plans and f"{vertical.name}/{name}" not in asked.plans and name not in asked.plans:
                continue
            for seed in range(asked.seeds):
                plan = read_plan(file.read_text(encoding="utf-8"), name).with_federation(seed=seed, rounds=asked.rounds)
                found += [
                    {"plan": f"{vertical.name} {name}", "seed": seed, **row} for row in judged(plan, vertical, asked.data_dir)
                ]
                if asked.rows:
                    pd.DataFrame(found).to_csv(asked.rows, index=False)
            sys.stdout.write(table(pd.DataFrame(found)).to_string(float_format="{:.3f}".format) + "\n")


if __name__ == "__main__":
    main()
