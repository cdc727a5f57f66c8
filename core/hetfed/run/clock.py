"""How long a run has taken, over interruptions too."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hetfed.results.sealed import read_sealed, write_sealed

FILE = "seconds.json"


@dataclass(frozen=True)
class Clock:
    """The clock of a run, whose time is kept beside the checkpoints.

    Args:
        file: where its time is kept.
        before: seconds that the run had taken, up to the last checkpoint, when this process took it up.
        began: when that was, by this process's own clock.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     first = Clock.of(Path(home))
    ...     first.save()
    ...     Clock.of(Path(home)).before > 0
    True
    """

    file: Path
    before: float
    began: float

    @staticmethod
    def of(folder: Path) -> Clock:
        """The clock whose time is kept in `folder`, running.

        Raises:
            RunFolderError: its file is damaged.
        """
        return Clock(folder / FILE, read_sealed(folder / FILE) or 0.0, time.perf_counter())

    @property
    def seconds(self) -> float:
        """How long the run has taken so far; what was done after the last checkpoint and lost is not in it."""
        return self.before + time.perf_counter() - self.began

    def save(self) -> None:
        """Keep the time.

        Raises:
            RunError: it cannot be written.
        """
        write_sealed(self.file, self.seconds)
