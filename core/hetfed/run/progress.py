"""Progress on long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SHOWN = 4
"""How many clients' values fit on a line."""


class Listener(Protocol):
    """What a run tells while it runs.

    `Launcher.run` takes any object with these three methods; `Silent` is the shortest.
    """

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """An arm of the comparison starts, with `done` of its `rounds` behind it."""
        ...

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """A round has ended; `values` are the clients' validation metrics, `metric` what they all are, if they are the same."""
        ...

    def say(self, text: str) -> None:
        """Something that should not be missed."""
        ...


class Silent:
    """Tells nobody.

    >>> Silent().say("round 1: an upload was refused")
    """

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """Nothing."""

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class Lines:
    """A line per event.

    >>> import io
    >>> text = io.StringIO()
    >>> lines = Lines(Console(file=text))
    >>> lines.begin("federated", rounds=2, done=0)
    >>> lines.round_done("federated", 1, values={"north": 0.75, "south": 0.85}, metric="AUROC")
    >>> text.getvalue().splitlines()
    ['federated: 2 rounds', 'federated: round 1/2  validation AUROC 0.800 (mean of 2)']
    """

    def __init__(self, console: Console) -> None:
        self._console, self._rounds = console, 0

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """Announce the arm."""
        self._rounds = rounds
        self.say(f"{arm}: {rounds} round{'' if rounds == 1 else 's'}" + (f", going on after round {done}" if done else ""))

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
    """Validation values in a few words: their mean, or one by one where there is no `metric` that all of them are.

    >>> shown({"north": 0.75, "south": 0.85, "east": None}, "AUROC")
    'validation AUROC 0.800 (mean of 2)'
    >>> shown({"loops": 4.25, "camera": 31.5}, "")
    'validation: loops 4.25, camera 31.5'
    """
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    if not known:
        return ""
    if metric:
        return f"validation {metric} {sum(known.values()) / len(known):.3f} (mean of {len(known)})"
    first = ", ".join(f"{name} {value:.4g}" for name, value in islice(known.items(), SHOWN))
    return f"validation: {first}{', ...' if len(known) > SHOWN else ''}"


@contextmanager
def listener_of(console: Console) -> Iterator[Listener]:
    """The listener that suits `console`.

    >>> import io
    >>> with listener_of(Console(file=io.StringIO())) as listener:
    ...     type(listener).__name__
    'Lines'
    """
    if not console.is_terminal:
        # Redirected to a file, a bar would leave thousands of control characters.
        yield Lines(console)
        return
    with Progress(*_columns(12), TextColumn("{task.fields[values]}"), console=console) as progress:
        yield Bar(progress)


class Board:
    """Progress of many runs: on a terminal a bar for all and one for each that is running, elsewhere a line for each end.

    Args:
        console: where lines go.
        progress: the bars; None where the console is no terminal.
        total: how many runs there are.
        done: how many of them have ended.
    """

    def __init__(self, console: Console, progress: Progress | None, total: int, done: int) -> None:
        self._console, self._progress, self._total, self._done = console, progress, total, done
        self._all = progress.add_task("all runs", total=total, completed=done, values="") if progress else None
        self._listeners: dict[str, _OnBoard] = {}

    @staticmethod
    @contextmanager
    def of(console: Console, total: int, done: int) -> Iterator[Board]:
        """The board that suits `console`, for `total` runs of which `done` have ended."""
        if not console.is_terminal:
            yield Board(console, None, total, done)
            return
        with Progress(*_columns(28), TextColumn("{task.fields[values]}"), console=console) as progress:
            yield Board(console, progress, total, done)

    def listener(self, title: str) -> _OnBoard:
        """What tells the board of the run called `title`."""
        return self._listeners.setdefault(title, _OnBoard(title, self._console, self._progress))

    def tell(self, title: str, event: Mapping[str, Any]) -> None:
        """The same from an event of another process: "begin", "round", "say", "done" or "error".

        Args:
            title: of the run.
            event: one line of JSON that a worker has written.
        """
        listener, kind = self.listener(title), event["event"]
        if kind == "begin":
            listener.begin(event["arm"], event["rounds"], event["done"])
        elif kind == "round":
            listener.round_done(event["arm"], event["number"], values={}, metric="")
        elif kind == "say":
            listener.say(event["text"])
        elif kind == "done":
            self.job_done(title)
        else:
            listener.take_down()

    def job_done(self, title: str) -> None:
        """The run called `title` has ended.

        >>> import io
        >>> text = io.StringIO()
        >>> Board(Console(file=text), None, total=3, done=1).job_done("fedavg, seed 0")
        >>> text.getvalue()
        '[2/3] fedavg, seed 0\\n'
        """
        self._done += 1
        if self._progress is None or self._all is None:
            self._console.print(f"[{self._done}/{self._total}] {title}", markup=False, highlight=False, soft_wrap=True)
            return
        self._progress.update(self._all, completed=self._done)
        listener = self._listeners.pop(title, None)
        if listener is not None:
            listener.take_down()


class _OnBoard:
    """One run on the board: a bar that starts anew with each arm."""

    def __init__(self, title: str, console: Console, progress: Progress | None) -> None:
        self._title, self._console, self._progress = title, console, progress
        self._bar: TaskID | None = None

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """A new arm."""
        self.take_down()
        if self._progress is not None:
            self._bar = self._progress.add_task(f"  {self._title}", total=rounds, completed=done, values=arm)

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """Move the bar on."""
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=number)

    def say(self, text: str) -> None:
        """A line above the bars."""
        console = self._progress.console if self._progress is not None else self._console
        console.print(f"{self._title}: {text}", markup=False, highlight=False, soft_wrap=True)

    def take_down(self) -> None:
        """Remove the bar."""
        if self._progress is not None and self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = None


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """A description of so many characters, a bar, a count, and times."""
    name = TextColumn(f"{{task.description:<{width}}}")
    return name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
