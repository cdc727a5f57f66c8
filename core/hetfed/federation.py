"""The federation: clients and a composition; its state; and one round of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hetfed.client import Client, ClientState, Tensors, new_state
from hetfed.composition import Composition, Step
from hetfed.context import ServerContext
from hetfed.engines.local import Engine, local
from hetfed.errors import PayloadRefused, RunError
from hetfed.participation import Participation, duration
from hetfed.payload import Payload
from hetfed.training import Select
from hetfed.turn import Failure, Job, Report, Round, Turn, take_in


@dataclass(frozen=True)
class Federation:
    """Who learns together, and how; build one by `Federation.of`.

    `clients` are in the order of their names: the order of a plan changes nothing. `composition` is one over these `rounds`, in
    which no step's end counts from the last round any more; `Federation.of` sees to both. `quorum` is how many uploads of an
    exchange the server needs before it merges them; below it, the server's state stays as it was.
    """

    clients: tuple[Client, ...]
    composition: Composition
    rounds: int
    seed: int
    quorum: int = 1
    participation: Participation = field(default_factory=Participation)
    select: Select = "validation"

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
        """A federation of `clients`, put in order."""
        ordered = tuple(sorted(clients, key=lambda client: client.name))
        return Federation(ordered, composition.over(rounds), rounds, seed, quorum, participation or Participation(), select)

    @cached_property
    def members(self) -> Mapping[str, Mapping[str, Client]]:
        """Those who take part in each step, by its label and their names."""
        return {step.label: {c.name: c for c in self.clients if step.includes(c)} for step in self.composition}

    @cached_property
    def peers(self) -> Mapping[str, Client]:
        """The clients by name."""
        return {client.name: client for client in self.clients}

    def duration(self, client: Client, round_number: int) -> float:
        """How long the client's local training takes in a round, in units of its `presence.speed`."""
        phases = self.composition.phases_of(client, round_number, self.rounds)
        return duration(client, sum(phase.examples(client.training, len(client.data.train)) for phase in phases))

    def round(self, number: int) -> Round:
        """What every turn of a round needs to know."""
        return Round(number, self.rounds, self.seed, self.composition, self.peers, self.select)

    def server_context(self, step: Step, round_number: int, reached: int = 0) -> ServerContext:
        """The server as the exchange of `step` sees it in a round."""
        asynchronous = self.participation.asynchronous
        return ServerContext(self.members[step.label], self.seed, round_number, asynchronous=asynchronous, reached=reached)


@dataclass(frozen=True)
class Parcel:
    """What one client sent by one exchange: when it was sent, and when it arrives.

    `base` is what the server had sent to the client, where the client's payload is a change of it.
    """

    client: str
    exchange: str
    encoded: bytes
    sent: int
    due: int
    base: bytes = b""


@dataclass(frozen=True)
class Upload:
    """One payload that left a client: what the ledger records.

    `travelled` is what the bytes decode to, None where they do not; `contents` is the payload that the exchange gets,
    decompressed, None where it was refused; `refused` is the reason, or None if it was accepted. `round` is the round in which
    it arrived, `sent` the one in which it was sent.
    """

    round: int
    client: str
    exchange: str
    encoded: bytes
    travelled: Payload | None = None
    contents: Payload | None = None
    refused: str | None = None
    sent: int = 0


@dataclass(frozen=True)
class Row:
    """One client in one round, as it stands in rounds.csv; bytes are those of its payloads.

    `failed` says why its turn came to nothing; it is empty where it did not.
    """

    round: int
    client: str
    train_loss: float
    validation: float | None
    validation_loss: float
    seconds: float
    bytes_up: int
    bytes_down: int
    refused: int
    failed: str = ""


@dataclass
class FederationState:
    """Everything that a run needs in order to go on.

    The rounds done, the server's state by step label, the clients' states, the rows so far, and what is still on its way.
    """

    round: int
    server: dict[str, Tensors]
    clients: dict[str, ClientState]
    rows: list[Row] = field(default_factory=list)
    pending: list[Parcel] = field(default_factory=list)


OnUpload = Callable[[Upload], None]
OnTurn = Callable[[int, str, Report], None]


def start(federation: Federation) -> FederationState:
    """The state before the first round."""
    server = {step.label: step.exchange.start(federation.server_context(step, 0)) for step in federation.composition}
    return FederationState(0, server, {client.name: new_state(client, federation.seed) for client in federation.clients})


def advance(
    federation: Federation,
    state: FederationState,
    engine: Engine = local,
    on_upload: OnUpload = lambda upload: None,
    on_turn: OnTurn = lambda round_number, client, report: None,
) -> FederationState:
    """One round: the server broadcasts, every client that it asks takes its turn, the server aggregates what it accepts.

    Raises:
        RunError: a turn failed, and the federation does not tolerate that; the message names the client and the round.
    """
    this = federation.round(state.round + 1)
    peers = this.peers
    inboxes: dict[str, dict[str, bytes]] = {}
    clients, pending = dict(state.clients), list(state.pending)
    rows: list[Row] = []
    uploads: list[Upload] = []
    # Only a compressed upload is read against what was sent. Held with every parcel, that would double what is on its way.
    compressed = {step.label for step in federation.composition if step.compression}

    def arrive(parcel: Parcel) -> None:
        upload = _receive(federation, parcel, this.number)
        uploads.append(upload)
        on_upload(upload)

    # What was due arrives before this round's turns. Its sender is not asked again before the next round (see `_jobs`), so that
    # no exchange gets two uploads of one client.
    for parcel in [parcel for parcel in pending if parcel.due == this.number]:
        pending.remove(parcel)
        arrive(parcel)
    for name, turn in engine(_jobs(federation, state, this, inboxes), this):
        bytes_down = sum(map(len, inboxes[name].values()))
        if isinstance(turn, Failure):
            rows.append(_failed(federation, this, name, turn, bytes_down))
            continue
        # Its state moves on whatever becomes of its uploads: which of them the server accepts is settled without it.
        clients[name] = turn.state
        on_turn(this.number, name, turn.report)
        delay = federation.participation.rounds_of_delay(federation.duration(peers[name], this.number))
        for label, encoded in turn.outbox.items():
            base = inboxes[name].get(label, b"") if label in compressed else b""
            parcel = Parcel(name, label, encoded, this.number, this.number + delay, base)
            if delay:
                pending.append(parcel)
            else:
                arrive(parcel)
        rows.append(_row(this.number, name, turn, bytes_down))
    server = _aggregate(federation, state.server, uploads, this.number)
    # However the engine ran them, rows stand in the order of rounds and clients.
    rows = [*state.rows, *sorted(rows, key=lambda row: row.client)]
    return FederationState(this.number, server, clients, _with_refusals(rows, uploads), pending)


def conclude(federation: Federation, state: FederationState, on_upload: OnUpload = lambda upload: None) -> None:
    """After the last round: what came of the last uploads reaches every client, as far as it is part of a model, and is judged.

    It stands in the rows as one more round, without training. Uploads that are still on their way come too late. `state` itself
    changes, client by client: a second state of all of them at once might not fit into memory.
    """
    # The round after the last one: with any cadence whose last upload was in round `rounds`, it is now that the server sends.
    # Of that, only what changes models: prototypes and the like shape a loss, and without training after it would cost bytes
    # for nothing.
    this = federation.round(federation.rounds + 1)
    late = [_too_late(parcel, federation.rounds) for parcel in state.pending]
    for upload in late:
        on_upload(upload)
    state.pending, state.rows = [], _with_refusals(state.rows, late)
    lasting = {step.label for step in federation.composition if step.exchange.changes_model}
    last_turns = _last_turns(state)
    for client in federation.clients:
        sent = _inbox(federation, state, client, this.number, last_turns.get(client.name, 0))
        inbox = {label: encoded for label, encoded in sent.items() if label in lasting}
        if not inbox:
            continue
        bytes_down = sum(map(len, inbox.values()))
        try:
            turn = take_in(Job(client, state.clients[client.name], inbox), this)
        except Exception as error:
            state.rows.append(_failed(federation, this, client.name, Failure(error), bytes_down))
            continue
        state.clients[client.name] = turn.state
        state.rows.append(_row(this.number, client.name, turn, bytes_down))


def _jobs(federation: Federation, state: FederationState, this: Round, inboxes: dict[str, dict[str, bytes]]) -> Iterator[Job]:
    """The turns of this round, one after the other; what the server sends is noted in `inboxes`."""
    # Still at work on an earlier round, until what it sends arrives.
    busy = {parcel.client for parcel in state.pending}
    last_turns = _last_turns(state)
    idle = [client for client in federation.clients if client.name not in busy]
    for client in federation.participation.choose(idle, federation.seed, this.number, of=len(federation.clients)):
        inboxes[client.name] = _inbox(federation, state, client, this.number, last_turns.get(client.name, 0))
        yield Job(client, state.clients[client.name], inboxes[client.name])


def _last_turns(state: FederationState) -> Mapping[str, int]:
    """The last round in which each client completed its turn; those who never did are not in it."""
    return {row.client: row.round for row in state.rows if not row.failed}


def _inbox(
    federation: Federation, state: FederationState, client: Client, round_number: int, last_turn: int
) -> dict[str, bytes]:
    """What the server sends to `client`, whose last completed turn was in the given round (0 for none), as bytes by step label:
    everything that has been sent out since, so that one who was absent does not go on from what is stale."""
    inbox = {}
    for step in federation.composition.of(client):
        if step.last_broadcast(round_number) > last_turn:
            reached = step.last_broadcast(last_turn) if last_turn else 0
            context = federation.server_context(step, round_number, reached)
            payload = step.exchange.broadcast(context, state.server[step.label], client)
            if payload is not None:
                inbox[step.label] = step.write(payload)
    return inbox


def _receive(federation: Federation, parcel: Parcel, round_number: int) -> Upload:
    """Decode and check one upload."""
    upload = Upload(round_number, parcel.client, parcel.exchange, parcel.encoded, sent=parcel.sent)
    client = federation.peers[parcel.client]
    try:
        step = next((step for step in federation.composition.of(client) if step.label == parcel.exchange), None)
        if step is None or not step.uploads(parcel.sent):
            raise PayloadRefused("nothing is due in this round")
        # Decoded before it is judged: the ledger lists the tensors that left the client, accepted or not.
        travelled = Payload.decode(parcel.encoded)
        upload = replace(upload, travelled=travelled)
        late = federation.participation.lateness(federation.duration(client, parcel.sent))
        if late:
            raise PayloadRefused(late)
        # Also needed to decompress: a few bytes must not become a tensor, larger than was declared, that fills the memory.
        declared = step.exchange.declare(client)
        contents = travelled
        if step.compression:
            sent = step.base(step.read(parcel.base) if parcel.base else None)
            contents = step.compression.arrived(travelled, sent, declared.shapes)
        declared.check(contents)
    except PayloadRefused as error:
        return replace(upload, refused=str(error))
    discount = federation.participation.discount(round_number - parcel.sent)
    return replace(upload, contents=replace(contents, discount=discount))


def _too_late(parcel: Parcel, round_number: int) -> Upload:
    """An upload that left its client and will not arrive before the run ends."""
    upload = Upload(round_number, parcel.client, parcel.exchange, parcel.encoded, sent=parcel.sent)
    try:
        return replace(upload, travelled=Payload.decode(parcel.encoded), refused="still on its way when the run ended")
    except PayloadRefused as error:
        return replace(upload, refused=str(error))


def _aggregate(
    federation: Federation, server: Mapping[str, Tensors], uploads: Sequence[Upload], round_number: int
) -> dict[str, Tensors]:
    """The server's next state of every exchange whose quorum has arrived."""
    after = dict(server)
    for step in federation.composition:
        # By name and not by arrival: a sum of floating-point numbers depends on their order.
        mine = sorted((u for u in uploads if u.exchange == step.label), key=lambda upload: upload.client)
        accepted = {u.client: u.contents for u in mine if u.contents is not None and u.refused is None}
        # At least one, also where a script sets the quorum to 0: no exchange is asked to aggregate nothing.
        if len(accepted) >= max(federation.quorum, 1):
            context = federation.server_context(step, round_number)
            after[step.label] = step.exchange.aggregate(context, after[step.label], accepted)
    return after


def _row(round_number: int, name: str, turn: Turn, bytes_down: int) -> Row:
    """The row of a turn; its refusals are counted when its uploads arrive, perhaps rounds later."""
    report = turn.report
    return Row(
        round_number,
        name,
        train_loss=report.train_loss,
        validation=report.validation,
        validation_loss=report.validation_loss,
        seconds=report.seconds,
        bytes_up=sum(map(len, turn.outbox.values())),
        bytes_down=bytes_down,
        refused=0,
    )


def _failed(federation: Federation, this: Round, name: str, failure: Failure, bytes_down: int) -> Row:
    # Some errors have no text, such as that of a memory that is full.
    why = str(failure.error) or repr(failure.error)
    if not federation.participation.tolerate_failures:
        raise RunError(f"client {name!r} failed in round {this.number}: {why}") from failure.error
    nan = float("nan")
    return Row(
        this.number,
        name,
        train_loss=nan,
        validation=None,
        validation_loss=nan,
        seconds=0.0,
        bytes_up=0,
        bytes_down=bytes_down,
        refused=0,
        failed=why,
    )


def _with_refusals(rows: Sequence[Row], uploads: Sequence[Upload]) -> list[Row]:
    """The rows, in which the uploads that were refused now count where they were sent, perhaps rounds ago."""
    refused = Counter((upload.client, upload.sent) for upload in uploads if upload.refused is not None)
    return [
        replace(row, refused=row.refused + refused[at]) if (at := (row.client, row.round)) in refused else row for row in rows
    ]
