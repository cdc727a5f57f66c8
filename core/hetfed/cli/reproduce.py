"""`hetfed reproduce`: the article's case studies."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hetfed.cli.again import command, stoppable
from hetfed.cli.tables import outcome_table
from hetfed.cli.vertical import DataDir, Seed, default_folder
from hetfed.errors import PlanError
from hetfed.vertical import Vertical, shipped, verticals

Study = Annotated[str | None, typer.Argument(metavar="[NAME]", help="A case study; without one, all are listed.")]
Everything = Annotated[bool, typer.Option("--all", help="Run every study.")]
OutFolder = Annotated[Path | None, typer.Option(help="Folder for the runs. Default: runs/reproduce-<name>-<time>.")]


def reproduce(
    name: Study = None, everything: Everything = False, data_dir: DataDir = None, seed: Seed = None, out: OutFolder = None
) -> None:
    """List the article's case studies, or run one: first on random input, then on real data of the same shape.

    Example: hetfed reproduce medical --data-dir data
    """
    found = studies()
    if name is None and not everything:
        _list(found, Console())
        return
    if name is not None and name not in found:
        raise PlanError("no such case study", key="NAME", value=name, remedy=f"There are: {', '.join(sorted(found))}.")
    # A new folder: with --out, the one that was named holds half a study now.
    anew = command(
        "reproduce", *([] if name is None else [name]), *(["--all"] if everything else []), data_dir=data_dir, seed=seed
    )
    with stoppable(lambda: f"a case study does not go on from where it was. Start it in a new folder with: {anew}"):
        for study in sorted(found) if name is None else [name]:
            home = (out / study if everything else out) if out else default_folder("reproduce", study)
            _run(study, *found[study], home, data_dir=data_dir, seed=seed)


def studies() -> dict[str, tuple[Vertical, Traversable]]:
    """Every case study that an installed vertical ships, by name."""
    folders = [
        (vertical, folder) for vertical in verticals().values() for folder in vertical.studies.iterdir() if folder.is_dir()
    ]
    return {folder.name: (vertical, folder) for vertical, folder in folders if shipped(folder)}


def _list(found: dict[str, tuple[Vertical, Traversable]], console: Console) -> None:
    import tomllib

    for name in sorted(found):
        plan = tomllib.loads(shipped(found[name][1])["random"].read_text(encoding="utf-8"))
        console.print(f"{name:<16} {plan.get('title', '')}", highlight=False)
    console.print("Run one with: hetfed reproduce NAME, or all with: hetfed reproduce --all", highlight=False)


def _run(study: str, vertical: Vertical, folder: Traversable, home: Path, *, data_dir: Path | None, seed: int | None) -> None:
    from hetfed.plan import read_plan
    from hetfed.run.launch import Launcher

    console = Console()
    for kind in ("random", "real"):
        name = f"{study}-{kind}"
        plan = read_plan(shipped(folder)[kind].read_text(encoding="utf-8"), name).with_federation(seed=seed)
        console.rule(f"{study}, {kind} input")
        summary = Launcher(vertical, console, data_dir).run(plan, name, home / kind)
        console.print(outcome_table(summary))
        console.print(f"report: {home / kind / 'report.html'}", highlight=False, soft_wrap=True)
