"""Turns run one after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hetfed.client import Client, ClientState
from hetfed.composition import Composition
from hetfed.errors import HetfedError, RunError
from hetfed.turn import Moment, Turn, take_turn


@dataclass(frozen=True)
class Job:
    """One client's turn, to be taken: its state, and payload bytes by step label."""

    client: Client
    state: ClientState
    inbox: Mapping[str, bytes]


class Engine(Protocol):
    """Runs the turns of one round, and yields each with its client's name as it ends."""

    def __call__(
        self, jobs: Sequence[Job], composition: Composition, moment: Moment, peers: Mapping[str, Client]
    ) -> Iterator[tuple[str, Turn]]: ...


def local(
    jobs: Sequence[Job], composition: Composition, moment: Moment, peers: Mapping[str, Client]
) -> Iterator[tuple[str, Turn]]:
    """The engine of a single process.

    Raises:
        RunError: a turn failed; the message names the client and the round.
    """
    for job in jobs:
        try:
            yield job.client.name, take_turn(job.client, job.state, job.inbox, composition, moment, peers)
        except HetfedError:
            raise
        except (RuntimeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
            raise RunError(f"client {job.client.name!r} failed in round {moment.round}: {error}") from error
