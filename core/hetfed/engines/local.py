"""Turns run one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hetfed.errors import HetfedError, RunError
from hetfed.turn import Job, Round, Turn, take_turn

Engine = Callable[[Sequence[Job], Round], Iterator[tuple[str, Turn]]]
"""Runs the turns of one round, and yields each with its client's name as it ends."""


def local(jobs: Sequence[Job], this: Round) -> Iterator[tuple[str, Turn]]:
    """The engine of a single process.

    Raises:
        RunError: a turn failed; the message names the client and the round.
    """
    for job in jobs:
        try:
            yield job.client.name, take_turn(job, this)
        except HetfedError:
            raise
        except (RuntimeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
            raise RunError(f"client {job.client.name!r} failed in round {this.number}: {error}") from error
