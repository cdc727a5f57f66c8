"""From the text of a plan to an ended run: what every command that runs a plan does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from hetfed.errors import RunFolderError
from hetfed.plan import Plan, read_plan
from hetfed.run.execute import execute, prepare
from hetfed.run.folder import RunFolder
from hetfed.run.progress import listener
from hetfed.vertical import Vertical


def launch(
    vertical: Vertical,
    text: str,
    file: str,
    out: Path,
    console: Console,
    *,
    data_dir: Path | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Run the plan in `text` to its end, below `out`; returns the summary.

    Raises:
        UsageError: what is wrong with the plan, the data or the folder, before anything is written.
        RunError: a client's turn failed.
    """
    plan = read_plan(text, file).with_federation(rounds=rounds, seed=seed)
    return launch_plan(vertical, plan, file, out, console, data_dir=data_dir, resume=resume)


def launch_plan(
    vertical: Vertical,
    plan: Plan,
    file: str,
    out: Path,
    console: Console,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """As `launch`, for a plan that has been read."""
    if resume and not out.exists():
        raise RunFolderError("nothing to resume", file=out, remedy="Give the folder of the interrupted run with --out.")
    console.print("loading data ...", highlight=False)
    prepared = prepare(plan, vertical, data_dir, file)
    folder = RunFolder.open(out, plan, resume=resume)
    with listener(console) as told:
        return execute(prepared, Path(file.rsplit(" ", maxsplit=1)[-1]).stem, folder, told)
