"""The commands that every vertical has: plans, run, compare."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hetfed.cli.tables import comparison_table, outcome_table
from hetfed.errors import PlanError
from hetfed.vertical import Vertical, plan_text, shipped

PlanName = Annotated[str, typer.Argument(metavar="[PLAN]", help="A shipped plan, or a TOML file.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the run. Default: runs/<vertical>-<plan>-<time>.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of data sets. Default: $HETFED_DATA, else the user's cache.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Instead of the plan's number of rounds.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of the plan's seed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")]
Algorithms = Annotated[str, typer.Option(help='Comma-separated: named algorithms, "plan" for its own exchanges, or "all".')]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one per processor core.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")]


def commands_of(vertical: Vertical) -> typer.Typer:
    """The command group of one vertical."""
    app = typer.Typer(no_args_is_help=True)

    def example(what: str, words: str) -> str:
        return f"{what}\n\nExample: hetfed {vertical.name} {words}"

    @app.command("plans", help=example("List the shipped plans.", "plans"))
    def plans() -> None:
        import tomllib

        table = Table("plan", "clients", "what it does", box=None)
        for name, file in shipped(vertical.plans).items():
            plan = tomllib.loads(file.read_text(encoding="utf-8"))
            table.add_row(name, str(len(plan["client"])), plan.get("title", ""))
        Console().print(table)

    what = "Run a plan: federated, alone and pooled, with a report at the end."

    @app.command("run", help=example(what, "run sample --seed 1 --out runs/first"))
    def run(
        plan: PlanName = "sample",
        out: Out = None,
        data_dir: DataDir = None,
        rounds: Rounds = None,
        seed: Seed = None,
        resume: Resume = False,
    ) -> None:
        from hetfed.plan import read_plan
        from hetfed.run.launch import Launcher

        if resume and out is None:
            remedy = "Give the folder of the interrupted run with --out."
            raise PlanError("nothing says which run to go on with", key="--resume", remedy=remedy)
        text, file = plan_text(vertical, plan)
        chosen = read_plan(text, file).with_federation(rounds=rounds, seed=seed)
        console, where = Console(), out or default_folder(vertical.name, plan)
        with stoppable(where, "--resume "):
            summary = Launcher(vertical, console, data_dir).run(chosen, file, where, resume=resume)
        console.print(outcome_table(summary))
        console.print(f"report: {where / 'report.html'}", highlight=False, soft_wrap=True)

    what = "Run a plan under several algorithms and seeds, and set the results side by side. Run again to go on after a stop."

    @app.command("compare", help=example(what, "compare sample --algorithms plan,fedproto --seeds 5 --out runs/compare"))
    def compare(
        plan: PlanName = "sample",
        algorithms: Algorithms = "plan",
        seeds: Seeds = 3,
        jobs: Jobs = None,
        out: Out = None,
        data_dir: DataDir = None,
        rounds: Rounds = None,
    ) -> None:
        from hetfed.plan import read_plan
        from hetfed.report.comparison import write_comparison
        from hetfed.run.analyse import analyse, comparable
        from hetfed.run.compare import compare_plan, read_comparison, settle
        from hetfed.run.launch import Launcher
        from hetfed.run.workers import OneByOne, Workers

        text, file = plan_text(vertical, plan)
        chosen = read_plan(text, file).with_federation(rounds=rounds)
        console, where = Console(), out or default_folder(vertical.name, f"compare-{plan}")
        names = [name.strip() for name in algorithms.split(",") if name.strip()]
        launcher = Launcher(vertical, console, data_dir)
        console.print("loading data ...", highlight=False)
        comparison = settle(launcher, chosen, file, algorithms=names, seeds=seeds)
        for name, reason in comparison.left_out.items():
            console.print(f"{name} does not suit these clients: {reason}", markup=False, highlight=False, soft_wrap=True)
        count = jobs or os.cpu_count() or 1
        runner = OneByOne(vertical, console) if count == 1 else Workers(count, console)
        with stoppable(where):
            frame = compare_plan(launcher, comparison, where, runner)
        console.print(comparison_table(analyse(frame), console, relative=not comparable(frame)))
        console.print(f"report: {write_comparison(where, *read_comparison(where))}", highlight=False, soft_wrap=True)

    return app


@contextmanager
def stoppable(out: Path, option: str = "") -> Iterator[None]:
    """An interruption from the keyboard says how to go on, and ends the command with the exit status that shells expect."""
    try:
        yield
    except KeyboardInterrupt:
        remedy = f"to go on, the same command with {option}--out {out}" if out.exists() else "nothing was written"
        Console(stderr=True).print(f"interrupted: {remedy}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None


def default_folder(vertical: str, plan: str) -> Path:
    """A folder below runs/ that nobody has used."""
    from datetime import datetime

    return Path("runs") / f"{vertical}-{Path(plan).stem}-{datetime.now():%Y%m%d-%H%M%S}"
