"""The commands that every vertical has: plans, run, compare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from hetfed.cli.again import command, outliving, stoppable
from hetfed.cli.tables import comparison_table, outcome_table
from hetfed.errors import PlanError
from hetfed.vertical import Vertical, plan_text, shipped

if TYPE_CHECKING:
    from hetfed.launch.launcher import Launcher
    from hetfed.plan import Plan

PlanName = Annotated[str, typer.Argument(metavar="[PLAN]", help="A shipped plan, or a TOML file.")]
Shown = Annotated[str | None, typer.Argument(metavar="[PLAN]", help="A shipped plan to print.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the run. Default: runs/<vertical>-<plan>-<time>.")]


def existing(folder: Path | None) -> Path | None:
    """The folder of data sets that an option or the environment names, once it is known that there is one.

    Raises:
        PlanError: there is none, or it is a file.
    """
    key, named = ("--data-dir", folder) if folder else ("HETFED_DATA", Path(os.environ.get("HETFED_DATA") or "."))
    if not named.is_dir():
        problem = "a file, not a folder" if named.exists() else "no such folder"
        remedy = "Name the folder that holds a folder for each data set; `hetfed datasets fetch` makes one."
        raise PlanError(problem, key=key, value=str(named), remedy=remedy)
    return folder


DataDir = Annotated[
    Path | None,
    typer.Option(callback=existing, help="Folder of data sets. Default: $HETFED_DATA, else the user's cache."),
]
Rounds = Annotated[int | None, typer.Option(min=1, help="Instead of the plan's number of rounds.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of the plan's seed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")]
Algorithms = Annotated[str, typer.Option(help='Comma-separated: named algorithms, "plan" for its own exchanges, or "all".')]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at a time. Default: one per processor core.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, ...")]


def commands_of(vertical: Vertical) -> typer.Typer:
    """The command group of one vertical.

    A command group of a further vertical needs no code: this function makes it from `name` and the shipped plans.

    >>> from hetfed.vertical import verticals
    >>> [command.name for command in commands_of(verticals()["medical"]).registered_commands]
    ['plans', 'run', 'compare']
    """
    app = typer.Typer(no_args_is_help=True, suggest_commands=False)

    def example(what: str, words: str) -> str:
        """The help of a command, an example at its end."""
        return f"{what}\n\nExample: hetfed {vertical.name} {words}"

    what = "List the shipped plans; with a name, print that plan, as a start for one of your own."

    @app.command("plans", help=example(what, "plans sample"))
    def plans(name: Shown = None) -> None:
        """List the plans, or print one."""
        if name is None:
            _print_plans(vertical)
        else:
            typer.echo(plan_text(vertical, name)[0], nl=False)

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
        """Run one plan."""
        if resume and out is None:
            remedy = "Name the folder of the interrupted run with --out."
            raise PlanError("there is no folder to go on in", key="--resume", remedy=remedy)
        # Settled once, before anything can be stopped: the command to go on with must name the folder that this one has used.
        where = out or default_folder(vertical.name, plan)
        again = command(vertical.name, "run", plan, data_dir=data_dir, rounds=rounds, seed=seed, out=where)
        with stoppable(lambda: _resumption(where, again)):
            # Imported here, since torch takes seconds to load: --help and a mistyped option are to be answered at once.
            from hetfed.launch.launcher import Launcher
            from hetfed.plan import read_plan
            from hetfed.report.troubles import troubles

            text, file = plan_text(vertical, plan)
            chosen, console = read_plan(text, file).with_federation(rounds=rounds, seed=seed), Console()
            summary = Launcher(vertical, console, data_dir).run(chosen, file, where, resume=resume)
            console.print(outcome_table(summary, console))
            for line in troubles(where):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
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
        """Run a plan under several algorithms."""
        where = out or default_folder(vertical.name, f"compare-{plan}")
        settings: dict[str, object] = {"data_dir": data_dir, "rounds": rounds, "jobs": jobs, "out": where}
        again = command(vertical.name, "compare", plan, algorithms=algorithms, seeds=seeds, **settings)
        with stoppable(lambda: f"what has ended is kept. Go on with: {again}"), outliving(again):
            from hetfed.launch.launcher import Launcher
            from hetfed.plan import read_plan

            text, file = plan_text(vertical, plan)
            chosen = read_plan(text, file).with_federation(rounds=rounds)
            _compare(
                Launcher(vertical, Console(), data_dir), chosen, file, where, algorithms=algorithms, seeds=seeds, jobs=jobs
            )

    return app


def _print_plans(vertical: Vertical) -> None:
    """A table of the shipped plans."""
    # tomllib alone: to read plans in full would load torch for a list of titles.
    import tomllib

    what = Column("what it does (on which data sets)", overflow="fold")
    table = Table(Column("plan", no_wrap=True), "clients", "rounds", what, box=None)
    for name, file in shipped(vertical.plans).items():
        plan = tomllib.loads(file.read_text(encoding="utf-8"))
        rounds = plan.get("federation", {}).get("rounds", "")
        does = f"{plan.get('title', '')} ({', '.join(_data_sets(plan))})"
        table.add_row(name, str(len(plan["client"])), str(rounds), does)
    Console().print(table)
    Console().print(f"Print one with: hetfed {vertical.name} plans PLAN", highlight=False)


def _data_sets(plan: Mapping[str, Any]) -> list[str]:
    """The data sets that a plan names, in the order of its clients."""
    default = plan.get("defaults", {}).get("data", {})
    tables = [*({**default, **client.get("data", {})} for client in plan["client"]), plan.get("public", {})]
    return list(dict.fromkeys(table["dataset"] for table in tables if "dataset" in table))


def _compare(launcher: Launcher, plan: Plan, file: str, where: Path, *, algorithms: str, seeds: int, jobs: int | None) -> None:
    """Run what `compare` asks for, and print and write what comes of it."""
    # Imported here for the same reason as in `run`.
    from hetfed.launch.compare import compare_plan, read_comparison, settle
    from hetfed.launch.workers import OneByOne, Workers
    from hetfed.report.comparison import write_comparison
    from hetfed.results.analyse import analyse, comparable
    from hetfed.results.folder import usable_cpus

    console = launcher.console
    names = [name.strip() for name in algorithms.split(",") if name.strip()]
    console.print("loading data ...", highlight=False)
    comparison = settle(launcher, plan, file, algorithms=names, seeds=seeds)
    for name, reason in comparison.left_out.items():
        console.print(f"{name} does not suit these clients: {reason}", markup=False, highlight=False, soft_wrap=True)
    # In parallel unless told otherwise: runs of a comparison do not depend on each other.
    count = jobs or usable_cpus()
    runner = OneByOne(launcher.vertical, console) if count == 1 else Workers(count, console)
    # One run at a time needs no process of its own, and none of its time to start.
    frame = compare_plan(launcher, comparison, where, runner)
    console.print(comparison_table(analyse(frame), console, relative=not comparable(frame)))
    console.print(f"report: {write_comparison(where, *read_comparison(where))}", highlight=False, soft_wrap=True)


def _resumption(where: Path, again: str) -> str:
    """How to go on with a run that was to go to `where`."""
    from hetfed.results.folder import PLAN

    if (where / PLAN).is_file():
        return f"what has been done is kept. Go on with: {again} --resume"
    return f"nothing has been written. Start again with: {again}"


def default_folder(vertical: str, plan: str) -> Path:
    """A folder below runs/ that nobody has used.

    >>> default_folder("medical", "plans/mine.toml").name.startswith("medical-mine-")
    True
    """
    from datetime import datetime

    return Path("runs") / f"{vertical}-{Path(plan).stem}-{datetime.now():%Y%m%d-%H%M%S}"
