"""Several algorithms and seeds over one plan, side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.algorithms import NAMED
from hetfed.errors import PlanError, RunFolderError, among
from hetfed.launch.launcher import Launcher
from hetfed.launch.workers import Job, Runner
from hetfed.plan import Plan
from hetfed.plan_schema import plain
from hetfed.results.about import ABOUT, About, read_about
from hetfed.results.analyse import REFERENCE
from hetfed.results.arms import ALONE, FEDERATED, FINETUNED, POOLED
from hetfed.results.folder import COMPARISON, PLAN, SUMMARY, RunFolder, folder_of
from hetfed.results.reading import contents_of, refuse_links, table_of
from hetfed.results.tables import read_csv, write_csv
from hetfed.run.enrolled import enrolled
from hetfed.run.prepare import load_clients

OWN, EVERY = "plan", "all"
"""Stand for the plan's own exchanges, and for it and every named algorithm, among the algorithms to compare."""


@dataclass(frozen=True)
class Comparison:
    """What is compared: `plan` under each algorithm, by its name; and why others were left out.

    Training alone and pooled do not depend on the algorithm: `baseline`, in which nobody shares anything, runs them once a
    seed.

    Args:
        file: what messages call the plan.
        plan: as it was read.
        variants: the plan under each algorithm.
        baseline: everybody training alone, and pooled training.
        seeds: how many: 0, 1, ...
        left_out: reasons by algorithm.
    """

    file: str
    plan: Plan
    variants: Mapping[str, Plan]
    baseline: Plan
    seeds: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def jobs(self, vertical: str, data_dir: Path | None, out: Path) -> Iterator[Job]:
        """Every run, the baseline of each seed first.

        Args:
            vertical: its name.
            data_dir: the folder of data sets.
            out: the folder of the comparison; each run has a folder in it.
        """
        for seed in range(self.seeds):
            for name, variant in {ALONE: self.baseline, **self.variants}.items():
                plan = variant.with_federation(seed=seed)
                # The only arm of the baseline; lent to all who would train alone for as many steps.
                lends = name != ALONE and not plan.composition().phases
                lent = RunFolder(folder_of(out, ALONE, seed)).checkpoints / FEDERATED if lends else None
                # As text and not as an object: a job goes to another process as a line of JSON.
                where = folder_of(out, name, seed)
                yield Job(f"{name}, seed {seed}", vertical, plan.resolved(), self.file, where, data_dir, lent)

    def with_earlier(self, about: About) -> Comparison:
        """It and what was compared in the same folder before.

        Raises:
            PlanError: an algorithm of that time is not known any more.
        """
        earlier = {name: _variant(self.plan, name) for name in about.algorithms}
        variants = {**earlier, **self.variants}
        left_out = {name: why for name, why in {**about.left_out, **self.left_out}.items() if name not in variants}
        return replace(self, variants=variants, seeds=max(self.seeds, about.seeds), left_out=left_out)

    def about(self) -> About:
        """What its folder says of it."""
        set_apart = {
            name: table.model_dump(mode="json", exclude_defaults=True)
            for name, table in self.plan.variant.items()
            if name == ALONE or name in self.variants
        }
        variants = {name: table for name, table in set_apart.items() if table}
        return About(self.file, self.seeds, tuple(self.variants), variants, dict(self.left_out))


def settle(launcher: Launcher, plan: Plan, file: str, *, algorithms: Sequence[str], seeds: int) -> Comparison:
    """What there is to compare. Of "all" algorithms, those that do not suit the plan's clients are left out with the reason.

    Args:
        launcher: loads the data, to see which algorithms suit the clients.
        plan: as it was read.
        file: what messages call it.
        algorithms: names; "plan" for its own exchanges, "all" for every algorithm that suits.
        seeds: how many.

    Raises:
        UsageError: plan or data do not suit an algorithm that was named; that shows before the first run.
    """
    known = [name for name in [OWN, EVERY, *NAMED] if name != ALONE]
    for name in algorithms:
        if name not in {*known, ALONE}:
            raise PlanError("unknown algorithm", key="--algorithms", value=name, remedy=among(name, known))
    # In the order asked for, each once.
    wanted = dict.fromkeys([OWN, *NAMED] if EVERY in algorithms else algorithms)
    wanted.pop(ALONE, None)
    if not wanted:
        problem = "no algorithm to compare with training alone"
        raise PlanError(problem, key="--algorithms", remedy=f"Name some of: {', '.join(known)}.")
    try:
        # Data are loaded once for all algorithms, whose variants differ in exchanges and training alone.
        clients = load_clients(plan, launcher.vertical, launcher.data_dir)
        variants, left_out = {}, {}
        for name in wanted:
            variant = _variant(plan, name)
            try:
                enrolled(variant, clients)
            except PlanError as error:
                if name == OWN and EVERY not in algorithms:
                    raise
                left_out[name] = f"{error.problem}. {error.remedy}" if error.value is None else str(error)
                continue
            variants[name] = variant
        # Of an algorithm that the user named, and not of "all", a misfit is an error.
        if left_out and EVERY not in algorithms:
            why = " ".join(f"{name}: {reason}" for name, reason in left_out.items())
            remedy = f"{why} Leave {'it' if len(left_out) == 1 else 'them'} out of --algorithms."
            raise PlanError("does not suit these clients", key="--algorithms", value=", ".join(left_out), remedy=remedy)
    except PlanError as error:
        raise error.seen_from(file=file) from error
    if not variants:
        remedy = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PlanError("no algorithm suits these clients", file=file, remedy=remedy)
    return Comparison(file, plan, variants, _baseline(plan), seeds, left_out)


def _variant(plan: Plan, algorithm: str) -> Plan:
    """`plan` with another algorithm and the arm alone; pooled training is the baseline's, unless the algorithm has phases."""
    chosen = under(plan, algorithm)
    return chosen.with_federation(alone=True, pooled=chosen.federation.pooled and bool(chosen.composition().phases))


def _baseline(plan: Plan) -> Plan:
    """`plan` with everybody training alone."""
    alone = under(plan, ALONE)
    return alone.sharing_nothing().with_federation(pooled=plan.federation.pooled)


def compare_plan(launcher: Launcher, comparison: Comparison, out: Path, runner: Runner) -> pd.DataFrame:
    """Run what has not ended yet below `out`, and write `comparison.csv` after each run.

    Returns one row per algorithm, seed and client, those of earlier comparisons in the same folder included.

    Args:
        launcher: of the vertical.
        comparison: as `settle` gives it.
        out: a new folder, or that of a comparison of the same plan.
        runner: runs jobs one by one or several at a time.

    Raises:
        UsageError, RunError: a run came to nothing.
    """
    _refuse_run(out)
    try:
        whole = comparison.with_earlier(read_about(out))
    except PlanError as error:
        raise error.seen_from(file=out / ABOUT) from error
    name, data_dir = launcher.vertical.name, launcher.data_dir
    for job in whole.jobs(name, data_dir, out):
        # Every run that is there, those of earlier comparisons too, before the first one starts: the rows of two plans in one
        # table would pass for a comparison of algorithms.
        if (job.out / PLAN).is_file():
            RunFolder(job.out).expect_plan(job.resolved())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "Give another folder with --out."
        raise RunFolderError(f"cannot be written: {error.strerror}", file=out, remedy=remedy) from None
    whole.about().write(out)
    # Only what is asked for now is run. What was compared before is in the table with the runs that it has.
    jobs = list(comparison.jobs(name, data_dir, out))
    waiting = [job for job in jobs if not _ended(job)]
    alone = {folder_of(out, ALONE, seed) for seed in range(comparison.seeds)}
    done = len(jobs) - len(waiting)
    # First those who train alone: their models are lent to the others, and freed when all have ended.
    for part in ([job for job in waiting if job.out in alone], [job for job in waiting if job.out not in alone]):
        for job in runner(part, done=done):
            done += 1
            if job.out not in alone:
                _free_checkpoints(job.out)
            # After every run, so that a comparison that is stopped leaves a table of what has ended.
            _leave_rows(whole, out)
    for folder in alone:
        _free_checkpoints(folder)
    return _leave_rows(whole, out)


def _refuse_run(out: Path) -> None:
    """A run lies in the cells of a comparison, never at its top.

    Raises:
        RunFolderError: one does.
    """
    for name in (PLAN, SUMMARY):
        if (out / name).is_file():
            remedy = "Give an empty or a new folder, or that of a comparison, with --out."
            raise RunFolderError("the folder holds a single run, not a comparison", file=out / name, remedy=remedy)


def _ended(job: Job) -> bool:
    return (job.out / SUMMARY).is_file()


def _free_checkpoints(out: Path) -> None:
    """Nobody goes on with a run that has ended, and the states of many clients fill a disk."""
    shutil.rmtree(RunFolder(out).checkpoints, ignore_errors=True)


def read_comparison(out: Path) -> tuple[pd.DataFrame, About]:
    """The rows of a comparison that has ended, and what was compared.

    Returns:
        A row per algorithm, seed and client; metrics read to the last bit, None as NaN.

    Raises:
        RunFolderError: there is none, or it is broken.
    """
    refuse_links(out)
    for name in (COMPARISON, ABOUT):
        if not (out / name).is_file():
            raise RunFolderError("no ended comparison here", file=out / name, remedy="Run the comparison to its end.")
    # A client may be called "NA" or "007".
    missing = {arm: [""] for arm in (ALONE, FEDERATED, FINETUNED, POOLED, "overall", "kept")}
    exactly: dict[str, Any] = {"keep_default_na": False, "na_values": missing, "float_precision": "round_trip"}
    frame = read_csv(out / COMPARISON, dtype={"client": str, "unit": str}, **exactly)
    with contents_of(out / COMPARISON):
        # Names become those of folders: that of an algorithm leads nowhere else.
        for name in frame["algorithm"]:
            plain(name)
    return frame, read_about(out)


def under(plan: Plan, algorithm: str) -> Plan:
    """`plan` with another algorithm.

    Raises:
        PlanError: there is none of that name.

    >>> from hetfed.plan import read_plan
    >>> plan = read_plan('[[client]]\\nname = "north"', "one.toml")
    >>> under(plan, "fedavg").federation.algorithm.name, under(plan, "plan") == plan
    ('fedavg', True)
    """
    return plan.model_copy(update={"variant": {}}) if algorithm == OWN else plan.under(algorithm)


def _leave_rows(comparison: Comparison, out: Path) -> pd.DataFrame:
    """Write the rows that there are, if there are any yet."""
    frame = collect(comparison, out)
    if len(frame):
        write_csv(out / COMPARISON, frame)
    return frame


def collect(comparison: Comparison, out: Path) -> pd.DataFrame:
    """The rows of the runs that have ended, and whose baseline has.

    Returns:
        The columns of comparison.csv: names, the metric of each arm, the model that is kept, and what the run cost.
    """
    rows: list[dict[str, Any]] = []
    for seed in range(comparison.seeds):
        baseline = _summary(folder_of(out, ALONE, seed))
        if baseline is None:
            continue
        alone = {client["name"]: client for client in baseline["clients"]}
        for name in comparison.variants:
            summary = _summary(folder_of(out, name, seed))
            if summary is not None:
                with contents_of(folder_of(out, name, seed) / SUMMARY):
                    rows += [_row(name, seed, client, alone[client["name"]], summary) for client in summary["clients"]]
    return pd.DataFrame(rows)


def _summary(folder: Path) -> dict[str, Any] | None:
    file = folder / SUMMARY
    return table_of(file) if file.is_file() else None


def _row(
    algorithm: str, seed: int, client: dict[str, Any], baseline: dict[str, Any], summary: dict[str, Any]
) -> dict[str, Any]:
    """One client under one algorithm and seed; `baseline` is its entry where everybody trained alone."""
    return {
        "algorithm": algorithm,
        "seed": seed,
        "client": client["name"],
        "metric": client["metric"],
        "unit": client["unit"],
        "higher_is_better": client["higher_is_better"],
        ALONE: client[ALONE],
        FEDERATED: client[FEDERATED],
        FINETUNED: client[FINETUNED],
        POOLED: baseline[POOLED] if client[POOLED] is None else client[POOLED],
        "overall": summary["overall"][FEDERATED],
        "kept": client["kept"] and client["kept"]["value"],
        "kept_arm": client["kept"] and client["kept"]["arm"],
        "bytes": sum(summary["communication_bytes"].values()),
        "rounds": summary["rounds"],
        "seconds": summary["turn_seconds"],
        "n_train": client["n_train"],
        "n_test": client["n_test"],
        **{f"{REFERENCE}{name}": values.get(client["metric"]) for name, values in baseline["references"].items()},
    }
