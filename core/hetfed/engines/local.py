"""Turns run one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hetfed.errors import HetfedError
from hetfed.turn import Failure, Job, Round, Turn, take_turn

Engine = Callable[[Iterable[Job], Round], Iterator[tuple[str, Turn | Failure]]]
"""Runs the turns of one round, and yields each with its client's name as it ends."""


def local(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
    """The engine of a single process."""
    for job in jobs:
        try:
            yield job.client.name, take_turn(job, this)
        except HetfedError:
            raise
        except Exception as error:
            yield job.client.name, Failure(error)
