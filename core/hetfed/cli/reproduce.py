"""`hetfed reproduce`: the article's case studies."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hetfed.cli.again import command, stoppable
from hetfed.cli.tables import outcome_table
from hetfed.cli.vertical import DataDir, Seed, default_folder
from hetfed.errors import PlanError, among
from hetfed.vertical import Vertical, shipped, verticals

if TYPE_CHECKING:
    from hetfed.launch.launcher import Launcher
    from hetfed.plan import Plan

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
        raise PlanError("no such case study", key="NAME", value=name, remedy=among(name, sorted(found), "There are"))
    # A new folder: with --out, the one that was named holds half a study now.
    anew = command(
        "reproduce", *([] if name is None else [name]), *(["--all"] if everything else []), data_dir=data_dir, seed=seed
    )
    chosen = {study: found[study] for study in (sorted(found) if name is None else [name])}
    with stoppable(lambda: f"a case study does not go on from where it was. Start it in a new folder with: {anew}"):
        # Imported here, since torch takes seconds to load.
        from hetfed.launch.launcher import Launcher

        plans = {study: _plans(study, *each, data_dir=data_dir, seed=seed) for study, each in chosen.items()}
        for study, (vertical, _) in chosen.items():
            home = (out / study if everything else out) if out else default_folder("reproduce", study)
            _run(study, Launcher(vertical, Console(), data_dir), plans[study], home)


def studies() -> dict[str, tuple[Vertical, Traversable]]:
    """Every case study that an installed vertical ships, by name.

    >>> "medical" in studies()
    True
    """
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


def _plans(study: str, vertical: Vertical, folder: Traversable, *, data_dir: Path | None, seed: int | None) -> dict[str, Plan]:
    """The plans of a study by kind of input, once it is known that both can run: real data that is missing is to be told before
    there has been training on random input."""
    from hetfed.plan import read_plan
    from hetfed.run.prepare import prepare

    texts = {kind: shipped(folder)[kind].read_text(encoding="utf-8") for kind in ("random", "real")}
    plans = {kind: read_plan(text, f"{study}-{kind}").with_federation(seed=seed) for kind, text in texts.items()}
    for kind, plan in plans.items():
        prepare(plan, vertical, data_dir, f"{study}-{kind}")
    return plans


def _run(study: str, launcher: Launcher, plans: Mapping[str, Plan], home: Path) -> None:
    console = launcher.console
    for kind, plan in plans.items():
        # Random input first: it ends at chance level where nothing is wrong, and takes seconds.
        console.rule(f"{study}, {kind} input")
        summary = launcher.run(plan, f"{study}-{kind}", home / kind)
        console.print(outcome_table(summary, console))
        console.print(f"report: {home / kind / 'report.html'}", highlight=False, soft_wrap=True)
