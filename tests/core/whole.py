"""A federation with everybody in one value: clients, server and all their states, so that a test can look at any of them.

It is the library's own round over the library's own turns; only the states, which on real sites lie apart, are held together.
A round leaves the state before it as it was. An engine, here, is given whole jobs, and may lose, change or reorder what comes
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hetfed import composition as core
from hetfed import rounds as server
from hetfed.client import Client, ClientState, Tensors, new_state
from hetfed.composition import Composition
from hetfed.engines.local import Failure, Order, Reply, Sites
from hetfed.errors import HetfedError
from hetfed.federation import Federation as ServerSide
from hetfed.federation import FederationState, Row
from hetfed.participation import Participation
from hetfed.payload import InFlight, Upload
from hetfed.run.checkpoint import Checkpoint
from hetfed.selection import Select
from hetfed.turn import Job, Round, Turn, take_turn

Engine = Callable[[Iterable[Job], Round], Iterator[tuple[str, Turn | Failure]]]
"""Runs the jobs of a round, and yields the turn, or why there is none, with its client's name."""


@dataclass(frozen=True)
class Enrolment:
    """As in `hetfed.composition`, with the clients themselves, their models extended."""

    composition: Composition
    clients: tuple[Client, ...]
    left_out: Mapping[str, Mapping[str, str]]


def enrol(composition: Composition, clients: Sequence[Client]) -> Enrolment:
    """Settle who takes part in what."""
    found = core.enrol(composition, [client.profile for client in clients])
    settled = [client.settled(profile) for client, profile in zip(clients, found.profiles, strict=True)]
    return Enrolment(found.composition, tuple(settled), found.left_out)


@dataclass(frozen=True)
class Federation:
    """The server's side, and the clients in the order of their names."""

    server: ServerSide
    clients: tuple[Client, ...]

    @staticmethod
    def of(
        clients: Sequence[Client],
        composition: Composition,
        rounds: int,
        seed: int,
        *,
        quorum: int = 1,
        participation: Participation | None = None,
        select: Select = "validation",
    ) -> Federation:
        """A federation of clients that are enrolled in `composition`."""
        ordered = tuple(sorted(clients, key=lambda client: client.name))
        enrolment = core.Enrolment(composition, tuple(client.profile for client in ordered))
        public = Sites({client.name: client for client in ordered}).public(composition)
        settings = {"quorum": quorum, "participation": participation, "select": select, "public": public}
        return Federation(ServerSide.of(enrolment, rounds, seed, **settings), ordered)

    @property
    def composition(self) -> Composition:
        """What they share."""
        return self.server.composition

    @property
    def rounds(self) -> int:
        """How many there are."""
        return self.server.rounds

    def round(self, number: int) -> Round:
        """What every turn of a round needs to know."""
        return self.server.round(number)

    def duration(self, client: Client, number: int) -> float:
        """How long a client takes."""
        return self.server.duration(client.name, number)


@dataclass
class State:
    """The server's state and those of all clients."""

    round: int
    server: dict[str, Tensors]
    clients: dict[str, ClientState]
    rows: list[Row] = field(default_factory=list)
    pending: list[InFlight] = field(default_factory=list)

    def at_server(self) -> FederationState:
        """The server's part."""
        return FederationState(self.round, self.server, self.rows, self.pending)

    @staticmethod
    def of(state: FederationState, clients: Mapping[str, ClientState]) -> State:
        """Both parts together."""
        return State(state.round, state.server, dict(clients), state.rows, state.pending)


def local(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
    """The engine that loses nothing."""
    for job in jobs:
        try:
            yield job.client.name, take_turn(job, this)
        except HetfedError:
            raise
        except Exception as error:
            yield job.client.name, Failure(error)


def init(federation: Federation) -> State:
    """The state before the first round."""
    seed = federation.server.seed
    return State.of(server.init(federation.server), {c.name: new_state(c, seed) for c in federation.clients})


def run_round(
    federation: Federation,
    state: State,
    engine: Engine = local,
    on_upload: Callable[[Upload], None] = lambda upload: None,
) -> State:
    """One round."""
    clients = dict(state.clients)
    after = server.run_round(federation.server, state.at_server(), _between(federation, clients, engine), on_upload)
    return State.of(after, clients)


def finalize(
    federation: Federation, state: State, on_upload: Callable[[Upload], None] = lambda upload: None, engine: Engine = local
) -> State:
    """What comes after the last round."""
    clients = dict(state.clients)
    after = server.finalize(federation.server, state.at_server(), _between(federation, clients, engine), on_upload)
    return State.of(after, clients)


def _between(
    federation: Federation, states: dict[str, ClientState], engine: Engine
) -> Callable[[Iterable[Order], Round], Iterator[tuple[str, Reply | Failure]]]:
    """The library's kind of engine: it moves `states` on, and tells the server of a turn what it may know."""
    clients = {client.name: client for client in federation.clients}

    def between(orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply | Failure]]:
        jobs = (Job(clients[order.client], states[order.client], order.inbox) for order in orders)
        for name, turn in engine(jobs, this):
            if isinstance(turn, Failure):
                yield name, turn
                continue
            states[name] = turn.state
            yield name, Reply(turn.outbox, turn.report)

    return between


def with_clients(federation: Federation, clients: Sequence[Client]) -> Federation:
    """The same server with other clients at its sites."""
    return replace(federation, clients=tuple(clients))


def save_state(state: State, folder: Path, digest: str) -> None:
    """Leave a checkpoint of everything, in place of the one that is there."""
    checkpoint = Checkpoint(folder, digest)
    checkpoint.load(Sites({}))
    checkpoint.save(state.at_server(), Sites({}, dict(state.clients)))


def load_state(folder: Path, digest: str) -> State | None:
    """Everything as a checkpoint has it."""
    sites = Sites({})
    state = Checkpoint(folder, digest).load(sites)
    return None if state is None else State.of(state, sites.states)
