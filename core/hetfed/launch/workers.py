"""Runs many plans, several at a time: each worker is a process of its own that is told what to run, a line of JSON a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, Protocol, TextIO

from rich.console import Console

from hetfed.errors import HetfedError, RunError, WorkerDied
from hetfed.launch.launcher import Launcher
from hetfed.plan import Plan, read_plan
from hetfed.results.folder import usable_cpus
from hetfed.run.progress import Board, Listener
from hetfed.vertical import Vertical, verticals


@dataclass(frozen=True)
class Job:
    """One run: the vertical's name, the text of the resolved plan, what to call it in messages, and where it goes.

    `lent` is the checkpoint of an arm in which the same clients have trained alone in the same way.
    """

    title: str
    vertical: str
    text: str
    file: str
    out: Path
    data_dir: Path | None
    lent: Path | None = None

    def resolved(self) -> Plan:
        """The plan."""
        return read_plan(self.text, self.file)

    def as_json(self) -> str:
        """One line."""
        return json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in self.__dict__.items()})

    @staticmethod
    def from_json(line: str) -> Job:
        """What `as_json` wrote."""
        known = json.loads(line)
        paths = {key: None if known[key] is None else Path(known[key]) for key in ("out", "data_dir", "lent")}
        return Job(**{**known, **paths})


class Runner(Protocol):
    """Runs jobs, and yields each as it ends; `done` others have ended before."""

    def __call__(self, jobs: Sequence[Job], done: int) -> Iterator[Job]: ...


@dataclass(frozen=True)
class OneByOne:
    """The runner of a single process."""

    vertical: Vertical
    console: Console

    def __call__(self, jobs: Sequence[Job], done: int) -> Iterator[Job]:
        """Run the jobs in their order.

        Raises:
            RunError: a run came to nothing; the message says which and why.
        """
        with Board.of(self.console, len(jobs) + done, done) as board:
            for job in jobs:
                try:
                    run_job(job, self.vertical, board.listener(job.title))
                except HetfedError as error:
                    raise RunError(f"{job.title}: {error}") from error
                board.job_done(job.title)
                yield job


@dataclass(frozen=True)
class Workers:
    """The runner of `count` processes, which share the machine's cores.

    A failed run stops the others after the runs they are at. The pools of concurrent.futures and loky do not: where a process
    of theirs dies, what runs in the others is ended with it, and neither the run nor how it died is told.
    """

    count: int
    console: Console

    def __call__(self, jobs: Sequence[Job], done: int) -> Iterator[Job]:
        """Run the jobs, the next one wherever a worker is free.

        Raises:
            RunError: a run came to nothing; the message says which and why. WorkerDied: its process is gone.
        """
        events: Queue[tuple[int, Job, Mapping[str, Any]]] = Queue()
        # All events come through one queue, in which each worker is known by its number.
        waiting, running, failures, died = list(jobs), 0, [], False
        with ExitStack() as stack:
            board = stack.enter_context(Board.of(self.console, len(jobs) + done, done))
            workers = [stack.enter_context(_Worker(i, events, self.count)) for i in range(min(self.count, len(jobs)))]
            for worker in workers:
                worker.take(waiting.pop(0))
                running += 1
            while running:
                number, job, event = events.get()
                board.tell(job.title, event)
                if event["event"] not in {"done", "error"}:
                    continue
                running -= 1
                if event["event"] == "error":
                    failures.append(f"{job.title}: {event['message']}")
                    died |= event.get("died", False)
                else:
                    yield job
                if waiting and not failures:
                    workers[number].take(waiting.pop(0))
                    running += 1
        if failures:
            raise (WorkerDied if died else RunError)("; ".join(failures))


class _Worker:
    """One process, and a thread that passes on what it says."""

    def __init__(self, number: int, events: Queue[tuple[int, Job, Mapping[str, Any]]], count: int) -> None:
        self._number, self._events = number, events
        threads = str(max(usable_cpus() // count, 1))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hetfed.launch.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # Else every process would take all cores for its own threads, and they would wait for each other.
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *reason: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        # The end of its input is the end of a worker's life. Only after an interruption, or an error on this side, is it not
        # given the time to finish its run.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        if reason[0] is not None:
            self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def take(self, job: Job) -> None:
        """Run `job` now; its events come through the queue."""
        assert self._process.stdin is not None
        # A process that has died says so by the end of what it says.
        with suppress(BrokenPipeError):
            self._process.stdin.write(job.as_json() + "\n")
            self._process.stdin.flush()
        # A thread for each job: reading a line blocks, and the main loop must hear from all workers.
        Thread(target=self._listen, args=(job,), daemon=True).start()

    def _listen(self, job: Job) -> None:
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            event = json.loads(line) if line else {"event": "error", "message": self._last_words(), "died": True}
            self._events.put((self._number, job, event))
            if event["event"] in {"done", "error"}:
                return

    def _last_words(self) -> str:
        """What is to be said of a process that says no more."""
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        return f"its process has died ({how})"


def run_job(job: Job, vertical: Vertical, listener: Listener) -> None:
    """Run one job to its end, going on with it where it was begun before."""
    plan = job.resolved()
    launcher = Launcher(vertical, Console(quiet=True), job.data_dir)
    # A folder that is there was begun by an earlier call of the same comparison.
    launcher.run(plan, job.file, job.out, resume=job.out.exists(), listener=listener, lent=job.lent)


class _Spoken:
    """Tells what happens in lines of JSON."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines

    def begin(self, arm: str, rounds: int, done: int) -> None:
        """An arm starts."""
        self._say(event="begin", arm=arm, rounds=rounds, done=done)

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        """A round has ended."""
        self._say(event="round", arm=arm, number=number)

    def say(self, text: str) -> None:
        """Something that should not be missed."""
        self._say(event="say", text=text)

    def ended(self, message: str | None) -> None:
        """The run has ended, or come to nothing."""
        self._say(event="done") if message is None else self._say(event="error", message=message)

    def _say(self, **event: object) -> None:
        self._lines.write(json.dumps(event) + "\n")
        self._lines.flush()


def work() -> None:
    """A worker's life: a job a line on standard input, until there is no more."""
    # Whoever started it stops it: an interruption from the keyboard reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = verticals()
    # The pipe is kept under another number, and number 1 then leads to standard error, for libraries in C as well.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        # A library may print: standard output is for events alone.
        os.dup2(2, 1)
        spoken = _Spoken(lines)
        for line in sys.stdin:
            job = Job.from_json(line)
            try:
                run_job(job, known[job.vertical], spoken)
            except HetfedError as error:
                spoken.ended(str(error))
            else:
                spoken.ended(None)


if __name__ == "__main__":
    work()
