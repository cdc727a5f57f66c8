"""Progress on long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Listener(Protocol):
    """What a run tells while it runs."""

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """An arm of the comparison starts, with `done` of its `rounds` behind it."""
        ...

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """A round has ended; `values` are the clients' validation metrics."""
        ...

    def say(self, text: str) -> None:
        """Something that should not be missed."""
        ...


class Silent:
    """Tells nobody."""

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """Nothing."""

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Lines:
    """A line per event."""

    def __init__(self, console: Console) -> None:
        self._console, self._rounds = console, 0

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """Announce the arm."""
        self._rounds = rounds
        self.say(f"{arm}: {rounds} rounds" + (f", going on after round {done}" if done else ""))

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """One line a round."""
        self.say(f"{arm}: round {number}/{self._rounds}  {shown(values, metric)}".rstrip())

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar per arm, the last validation values beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """A new bar."""
        self._bars[arm] = self._progress.add_task(arm, total=rounds, completed=done, values="")

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """Move the bar on."""
        self._progress.update(self._bars[arm], completed=number, values=shown(values, metric))

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)


def shown(values: Mapping[str, float | None], metric: str) -> str:
    """Validation values in a few words."""
    known = [value for value in values.values() if value is not None and math.isfinite(value)]
    return f"validation {metric} {sum(known) / len(known):.3f} (mean of {len(known)})" if known else ""


@contextmanager
def listener(console: Console) -> Iterator[Listener]:
    """The listener that suits `console`."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[values]}"), console=console) as progress:
        yield Bar(progress)
