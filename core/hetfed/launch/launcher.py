"""From the text of a plan to an ended run: what every command that runs a plan does."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hetfed.errors import RunFolderError
from hetfed.plan import Plan
from hetfed.report import write_report
from hetfed.results.folder import RunFolder
from hetfed.run.execute import execute
from hetfed.run.prepare import prepare
from hetfed.run.progress import Listener, listener_of
from hetfed.vertical import Vertical


@dataclass(frozen=True)
class Launcher:
    """Runs plans of one vertical: where its data is, and where progress is told.

    Args:
        vertical: makes clients of plans.
        console: where progress is told.
        data_dir: the folder of data sets.
    """

    vertical: Vertical
    console: Console
    data_dir: Path | None = None

    def run(
        self,
        plan: Plan,
        file: str,
        out: Path,
        *,
        resume: bool = False,
        listener: Listener | None = None,
        lent: Path | None = None,
    ) -> dict[str, Any]:
        """Run `plan`, which `file` holds, to its end in the folder `out`; returns the summary.

        `listener` is told of progress; without one, the console is.

        Args:
            plan: as `read_plan` gives it.
            file: what messages call it.
            out: a new or an empty folder; with `resume` that of the interrupted run.
            resume: go on from the last checkpoint of each arm.
            listener: in place of the console.
            lent: the checkpoint of an arm in which the same clients have trained alone in the same way, which need not be done
                again.

        Raises:
            UsageError: what is wrong with the plan, the data or the folder, before anything is written.
            RunError: a client's turn failed.
        """
        if resume and not out.exists():
            raise RunFolderError("nothing to resume", file=out, remedy="Give the folder of the interrupted run with --out.")
        self.console.print("loading data ...", highlight=False)
        # Before there is a folder: a plan or data that are wrong leave nothing behind.
        prepared = prepare(plan, self.vertical, self.data_dir, file)
        # Once each: the hospitals of one data set have the same notes.
        for note in dict.fromkeys(note for client in prepared.clients for note in client.notes):
            self.console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        folder = RunFolder.open(out, plan, resume=resume)
        # Held while it runs: two processes in one folder would write over each other's checkpoints.
        with folder.held(), nullcontext(listener) if listener else listener_of(self.console) as told:
            summary = execute(prepared, _name(file), folder, told, lent)
            write_report(folder)
            return summary


def _name(file: str) -> str:
    """The plan's own name: that of its file, or the last word of what it is called in messages."""
    return Path(file).stem if Path(file).is_file() else file.rsplit(" ", maxsplit=1)[-1]
