"""The federation: clients and a composition; its state; and one round of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hetfed.bench import Desk
from hetfed.client import Client, ClientState, Tensors, new_state
from hetfed.composition import Composition, Step
from hetfed.engines.local import Engine, local
from hetfed.errors import PayloadRefused
from hetfed.payload import Payload
from hetfed.turn import Job, Report, Round, Turn


@dataclass(frozen=True)
class Federation:
    """Who learns together, and how.

    `clients` are in the order of their names: the order of a plan changes nothing. `quorum` is how many uploads of an exchange
    the server needs before it merges them; below it, the server's state stays as it was.
    """

    clients: tuple[Client, ...]
    composition: Composition
    rounds: int
    seed: int
    quorum: int = 1

    @staticmethod
    def of(clients: Sequence[Client], composition: Composition, rounds: int, seed: int, quorum: int = 1) -> Federation:
        """A federation of `clients`, put in order."""
        ordered = tuple(sorted(clients, key=lambda client: client.name))
        return Federation(ordered, composition.over(rounds), rounds, seed, quorum)

    def members(self, step: Step) -> list[Client]:
        """Those who take part in `step`."""
        return [client for client in self.clients if step.includes(client)]

    def desk(self, step: Step, round_number: int) -> Desk:
        """The server's desk for `step` in a round."""
        return Desk({client.name: client for client in self.members(step)}, self.seed, round_number)


@dataclass(frozen=True)
class Upload:
    """One payload that left a client: what the ledger records.

    `travelled` is what the bytes decode to, None where they do not; `contents` is the payload that the exchange gets,
    decompressed, None where it was refused; `refused` is the reason, or None if it was accepted.
    """

    round: int
    client: str
    exchange: str
    encoded: bytes
    travelled: Payload | None = None
    contents: Payload | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Row:
    """One client in one round, as it stands in rounds.csv; bytes are those of its payloads."""

    round: int
    client: str
    train_loss: float
    validation: float | None
    validation_loss: float
    seconds: float
    bytes_up: int
    bytes_down: int
    refused: int


@dataclass
class FederationState:
    """Everything that a run needs in order to go on: the rounds done, the server's state by step label, the clients' states."""

    round: int
    server: dict[str, Tensors]
    clients: dict[str, ClientState]
    rows: list[Row] = field(default_factory=list)


OnUpload = Callable[[Upload], None]
OnTurn = Callable[[int, str, Report], None]


def start(federation: Federation) -> FederationState:
    """The state before the first round."""
    server = {step.label: step.exchange.start(federation.desk(step, 0)) for step in federation.composition}
    return FederationState(0, server, {client.name: new_state(client, federation.seed) for client in federation.clients})


def advance(
    federation: Federation,
    state: FederationState,
    engine: Engine = local,
    on_upload: OnUpload = lambda upload: None,
    on_turn: OnTurn = lambda round_number, client, report: None,
) -> FederationState:
    """One round: the server broadcasts, every client takes its turn, the server aggregates what it accepts."""
    peers = {client.name: client for client in federation.clients}
    this = Round(state.round + 1, federation.rounds, federation.seed, federation.composition, peers)
    inboxes = {client.name: _inbox(federation, state, client, this.number) for client in federation.clients}
    jobs = [Job(client, state.clients[client.name], inboxes[client.name]) for client in federation.clients]
    turns: dict[str, Turn] = {}
    for name, turn in engine(jobs, this):
        turns[name] = turn
        on_turn(this.number, name, turn.report)
    server, uploads = dict(state.server), []
    for step in federation.composition:
        members = federation.members(step)
        received = [_receive(step, client, turns[client.name], inboxes[client.name], this.number) for client in members]
        arrived = [upload for upload in received if upload is not None]
        accepted = {u.client: u.contents for u in arrived if u.contents is not None and u.refused is None}
        if len(accepted) >= max(federation.quorum, 1):
            server[step.label] = step.exchange.aggregate(federation.desk(step, this.number), server[step.label], accepted)
        uploads += arrived
    for upload in uploads:
        on_upload(upload)
    rows = [_row(this.number, name, turns[name], inboxes[name], uploads) for name in sorted(turns)]
    return FederationState(this.number, server, {name: turn.state for name, turn in turns.items()}, state.rows + rows)


def _inbox(federation: Federation, state: FederationState, client: Client, round_number: int) -> dict[str, bytes]:
    """What the server sends to `client`, as bytes by step label."""
    due = [step for step in federation.composition.of(client) if step.broadcasts(round_number)]
    sent = {
        step.label: step.exchange.broadcast(federation.desk(step, round_number), state.server[step.label], client)
        for step in due
    }
    steps = {step.label: step for step in due}
    return {label: steps[label].write(payload) for label, payload in sent.items() if payload is not None}


def _receive(step: Step, client: Client, turn: Turn, inbox: Mapping[str, bytes], round_number: int) -> Upload | None:
    """Decode and check one upload; None where the client sent nothing. `inbox` is what it had been sent."""
    encoded = turn.outbox.get(step.label)
    if encoded is None:
        return None
    upload = Upload(round_number, client.name, step.label, encoded)
    if not step.uploads(round_number):
        return replace(upload, refused="nothing is due in this round")
    try:
        travelled = Payload.decode(encoded)
        upload = replace(upload, travelled=travelled)
        declared = step.exchange.declare(client)
        contents = travelled
        if step.compression:
            sent = step.read(inbox[step.label]).tensors if step.label in inbox else {}
            contents = step.compression.arrived(travelled, sent, declared.shapes)
        declared.check(contents)
    except PayloadRefused as error:
        return replace(upload, refused=str(error))
    return replace(upload, contents=contents)


def _row(round_number: int, name: str, turn: Turn, inbox: Mapping[str, bytes], uploads: Sequence[Upload]) -> Row:
    mine = [upload for upload in uploads if upload.client == name]
    report = turn.report
    return Row(
        round_number,
        name,
        report.train_loss,
        report.validation,
        report.validation_loss,
        report.seconds,
        bytes_up=sum(len(upload.encoded) for upload in mine),
        bytes_down=sum(len(encoded) for encoded in inbox.values()),
        refused=sum(upload.refused is not None for upload in mine),
    )
