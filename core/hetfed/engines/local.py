"""Engines: where turns run. That of a single process holds every client and its state, and runs turns one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hetfed.client import Client, ClientState, new_state
from hetfed.composition import Composition, Enrolment
from hetfed.data import Examples
from hetfed.errors import HetfedError
from hetfed.turn import Job, Report, Round, take_turn


@dataclass(frozen=True)
class Order:
    """The server's order to one client in a round: to take its turn with what is sent.

    Args:
        client: its name.
        inbox: payload bytes by step label.
    """

    client: str
    inbox: Mapping[str, bytes]


@dataclass(frozen=True)
class Reply:
    """The result of a turn that came to an end. The client's state stays where it is.

    Args:
        outbox: payload bytes by step label.
        report: figures alone: losses, seconds.
    """

    outbox: Mapping[str, bytes]
    report: Report


@dataclass(frozen=True)
class Failure:
    """A turn that came to nothing, and the error that ended it."""

    error: Exception


Engine = Callable[[Iterable[Order], Round], Iterator[tuple[str, Reply | Failure]]]
"""Runs the turns of one round where the clients are, and yields what comes of each with its client's name as it ends."""


@dataclass
class Sites:
    """The clients of one process, by name, with their states: the engine that everything else is held against.

    Args:
        clients: by name, each with its settled model.
        states: what each carries from round to round, by name; `__call__` replaces them.
    """

    clients: Mapping[str, Client]
    states: dict[str, ClientState] = field(default_factory=dict)

    @staticmethod
    def of(clients: Iterable[Client], enrolment: Enrolment, seed: int) -> Sites:
        """The clients of an enrolment, each with the model that was settled there, before the first round.

        Args:
            clients: those of this process, in any order.
            enrolment: of all clients.
            seed: from which their first weights are drawn.
        """
        held = {client.name: client for client in clients}
        settled = {profile.name: held[profile.name].settled(profile) for profile in enrolment.profiles}
        return Sites(settled, {name: new_state(client, seed) for name, client in settled.items()})

    def public(self, composition: Composition) -> dict[str, Examples]:
        """The public inputs as each client reads them, by name, where an exchange works on them at the server; else none."""
        steps = [step for step in composition if step.exchange.public_at_server]
        names = {name for step in steps for name in self.clients if step.includes(name)}
        return {name: public for name in sorted(names) if (public := self.clients[name].public) is not None}

    def __call__(self, orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply | Failure]]:
        """Take the turns in their order; a state moves on when its turn has come to an end."""
        for order in orders:
            # One after another: what engines that run turns side by side are compared with.
            job = Job(self.clients[order.client], self.states[order.client], order.inbox)
            try:
                turn = take_turn(job, this)
            # An error of the plan's or of the folder's ends the run for everybody: it is no failure of this one client.
            except HetfedError:
                raise
            except Exception as error:
                # The state is not replaced: the client goes on, when it is next asked, from before this turn.
                yield order.client, Failure(error)
                continue
            self.states[order.client] = turn.state
            yield order.client, Reply(turn.outbox, turn.report)
