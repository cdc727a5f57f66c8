"""Rounds: the server broadcasts, clients take their turns wherever they are, the server checks and merges what comes back.

A round is a function from a state to the next one: it changes nothing that it was given. Where turns run is the engine's
affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from hetfed import codecs
from hetfed.client import Tensors
from hetfed.composition import Step
from hetfed.engines.local import Engine, Failure, Order, Reply
from hetfed.errors import HetfedError, PayloadRefused, RunError
from hetfed.federation import Federation, FederationState, Row
from hetfed.merging import Merging
from hetfed.outliers import Limits
from hetfed.payload import InFlight, Payload, Upload
from hetfed.turn import Report, Round, Stage

OnUpload = Callable[[Upload], None]


def init(federation: Federation) -> FederationState:
    """The server's state before the first round."""
    server = {step.label: step.exchange.init(federation.server_context(step, 0)) for step in federation.composition}
    return FederationState(0, server)


def run_round(
    federation: Federation,
    state: FederationState,
    engine: Engine,
    on_upload: OnUpload = lambda upload: None,
) -> FederationState:
    """One round: the server broadcasts, every client that it asks takes its turn, the server merges what it accepts.

    Args:
        federation: the participants, their composition and its settings.
        state: after the round before; it is not changed.
        engine: runs the turns.
        on_upload: is called with each upload, accepted or not, when that is known: most are looked at side by side.

    Returns:
        The state after this round, its rows in the order of rounds and clients.

    Raises:
        RunError: a turn failed, and the federation does not tolerate that; the message names the client, the round, the stage
            and the exchange.
    """
    # A state says how many rounds are done: a resumed run goes on from here like any other.
    this = federation.round(state.round + 1, state.rows)
    asked = _asked(federation, state, this.number)
    inboxes: dict[str, dict[str, bytes]] = {}
    due = [upload for upload in state.pending if upload.due == this.number]
    incoming = _Incoming(federation, state, this.number, [*asked, *(upload.client for upload in due)], on_upload)
    pending, rows = [upload for upload in state.pending if upload.due != this.number], list[Row]()
    # What was due arrives before this round's turns. Its sender is not asked again before the next round (see `_asked`), so
    # that no exchange gets two uploads of one client.
    for upload in due:
        incoming.arrive(upload)
    for name, reply in engine(_orders(federation, state, asked, this, inboxes), this):
        # A failure has a row as well: rounds.csv tells of every client that was asked.
        rows.append(_row(federation, this.number, name, reply, inboxes[name]))
        if isinstance(reply, Reply):
            pending += incoming.send(name, reply, inboxes[name])
        incoming.ended(name)
    server = incoming.update(state.server)
    # However the engine ran them, rows stand in the order of rounds and clients.
    rows = [*state.rows, *sorted(rows, key=lambda row: row.client)]
    return FederationState(this.number, server, _with_refusals(rows, incoming.refused), pending)


def finalize(
    federation: Federation, state: FederationState, engine: Engine, on_upload: OnUpload = lambda upload: None
) -> FederationState:
    """After the last round: what came of the last uploads reaches every client, as far as it is part of a model, and is judged.

    It stands in the rows as one more round, without training. Uploads that are still on their way come too late.

    Raises:
        RunError: a turn failed, and the federation does not tolerate that.
    """
    # The round after the last one: with any cadence whose last upload was in round `rounds`, it is now that the server sends.
    # Of that, only what changes models: prototypes and the like shape a loss, and without training after it would cost bytes
    # for nothing.
    this = federation.round(federation.rounds + 1, state.rows)
    late = [_too_late(upload, federation.rounds) for upload in state.pending]
    for upload in late:
        on_upload(upload)
    inboxes: dict[str, dict[str, bytes]] = {}

    def orders() -> Iterator[Order]:
        """The turns of the clients to which something lasting is sent."""
        for order in _orders(federation, state, [profile.name for profile in federation.profiles], this, inboxes):
            lasting = {label: sent for label, sent in order.inbox.items() if federation.declared[label][order.client].lasting}
            inboxes[order.client] = lasting
            if lasting:
                yield replace(order, inbox=lasting)

    rows = [_row(federation, this.number, name, reply, inboxes[name]) for name, reply in engine(orders(), this)]
    rows.sort(key=lambda row: row.client)
    return FederationState(state.round, state.server, [*_with_refusals(state.rows, late), *rows])


def ask(federation: Federation, engine: Engine, stage: Stage, rows: Sequence[Row] = ()) -> dict[str, Report]:
    """Have every client go through a stage in which nothing travels but figures.

    Args:
        federation: of the arm.
        engine: runs the turns.
        stage: what clients are to do.
        rows: of all rounds, where everybody's figures choose one of them.

    Returns:
        The report of each client, by its name.

    Raises:
        RunError: a client could not.
    """
    # Two rounds on: by then, every round's figures are known.
    this = replace(federation.round(federation.rounds + 2, rows), number=federation.rounds, stage=stage)
    reports = {}
    # Empty inboxes: a stage of figures must not change what a client holds by what the server sends.
    for name, reply in engine((Order(profile.name, {}) for profile in federation.profiles), this):
        if isinstance(reply, Failure):
            raise RunError(f"client {name!r} failed{_notes(reply.error)}: {_words(reply.error)}") from reply.error
        reports[name] = reply.report
    return reports


class _Incoming:
    """The uploads of a round: each is checked when it arrives, and merged with those of its group."""

    def __init__(
        self, federation: Federation, state: FederationState, number: int, asked: Sequence[str], on_upload: OnUpload
    ) -> None:
        self._federation, self._number, self._on_upload = federation, number, on_upload
        self.refused: list[Upload] = []
        self._merging = {step.label: self._merging_of(step, state.server[step.label], asked) for step in federation.composition}
        # What is neither merged nor refused yet; its contents lie with the merging.
        self._waiting: dict[tuple[str, str], Upload] = {}
        # Only a compressed upload is read against what was sent. Held with every one, that would double what is on its way.
        self._compressed = {step.label for step in federation.composition if step.chain}

    def _merging_of(self, step: Step, state: Tensors, asked: Sequence[str]) -> Merging:
        server, declared = self._federation.server_context(step, self._number), self._federation.declared[step.label]

        def base(name: str) -> Mapping[str, Tensor]:
            """What a client was sent, as far as its upload goes on from there."""
            sent = None
            if declared[name].relative == "broadcast":
                sent = step.exchange.broadcast(server, state, self._federation.peers[name])
            return {} if sent is None else sent.tensors

        directions = not self._federation.participation.asynchronous
        limits = Limits(declared, base, directions) if step.refuses_outliers else None
        weights = {name: declared[name].weight for name in asked if step.includes(name)}
        return Merging(step.exchange, server, weights, limits, partial(self._verdict, step.label))

    def send(self, name: str, reply: Reply, inbox: Mapping[str, bytes]) -> list[InFlight]:
        """Take what a client sends; returns what will arrive in a later round."""
        federation = self._federation
        # Simulated from the number of examples and the client's speed, so that it is the same on any machine.
        delay = federation.participation.rounds_of_delay(federation.duration(name, self._number))
        arrives = self._number + delay
        sent = [
            InFlight(name, label, encoded, self._number, arrives, inbox.get(label, b"") if label in self._compressed else b"")
            for label, encoded in reply.outbox.items()
        ]
        # Held by the caller as part of the state, so that an interrupted run does not lose what is on its way.
        if delay:
            return sent
        for upload in sent:
            self.arrive(upload)
        return []

    def arrive(self, sent: InFlight) -> None:
        """Decode, check and merge one upload."""
        upload = _receive(self._federation, sent, self._number)
        if upload.contents is None:
            self.refused.append(upload)
            self._on_upload(upload)
        else:
            self._waiting[upload.exchange, upload.client] = upload
            self._merging[upload.exchange].add(upload.client, upload.contents)

    def _verdict(self, label: str, name: str, reason: str | None) -> None:
        """Tell of an upload once it is known whether it is merged."""
        upload = self._waiting.pop((label, name))
        if reason is not None:
            upload = replace(upload, contents=None, refused=reason)
            self.refused.append(upload)
        self._on_upload(upload)

    def ended(self, name: str) -> None:
        """Nothing more comes of this client in this round."""
        # Of every step: a turn that failed, or an exchange that sent nothing, must not hold up those whose names come after.
        for merging in self._merging.values():
            merging.skip(name)

    def update(self, server: Mapping[str, Tensors]) -> dict[str, Tensors]:
        """The server's next state of every exchange whose quorum has arrived."""
        after = dict(server)
        for step in self._federation.composition:
            merging = self._merging[step.label]
            # First of all: who is refused as an outlier does not count towards the quorum.
            merged = merging.merged()
            # At least one, also where a script sets the quorum to 0: no exchange is asked to merge nothing.
            if merging.accepted >= max(self._federation.quorum, 1):
                context = self._federation.server_context(step, self._number)
                with _server_stage("update", step.label, self._number):
                    after[step.label] = _state(step.exchange.update(context, after[step.label], merged))
        return after


def _asked(federation: Federation, state: FederationState, round_number: int) -> list[str]:
    """The names of the clients that take their turn in a round."""
    # Still at work on an earlier round, until what it sends arrives.
    busy = {upload.client for upload in state.pending}
    idle = [profile for profile in federation.profiles if profile.name not in busy]
    chosen = federation.participation.choose(idle, federation.seed, round_number, of=len(federation.profiles))
    return [profile.name for profile in chosen]


def _orders(
    federation: Federation, state: FederationState, names: Sequence[str], this: Round, inboxes: dict[str, dict[str, bytes]]
) -> Iterator[Order]:
    """The turns of a round, one after the other; what the server sends is noted in `inboxes`."""
    # The last round in which each client completed its turn.
    last_turns = {row.client: row.round for row in state.rows if not row.failed}
    for name in names:
        inboxes[name] = _inbox(federation, state, name, this.number, last_turns.get(name, 0))
        yield Order(name, inboxes[name])


def _inbox(federation: Federation, state: FederationState, name: str, round_number: int, last_turn: int) -> dict[str, bytes]:
    """What the server sends to a client, whose last completed turn was in the given round (0 for none), as bytes by step label:
    everything that has been sent out since, so that one who was absent does not go on from what is stale."""
    inbox = {}
    for step in federation.composition.of(name):
        if step.last_broadcast(round_number) > last_turn:
            reached = step.last_broadcast(last_turn) if last_turn else 0
            context = federation.server_context(step, round_number, reached)
            with _server_stage("broadcast", step.label, round_number):
                payload = step.exchange.broadcast(context, state.server[step.label], federation.peers[name])
                # Encoded for each client by itself: what is sent may depend on the client, as a slice or a group's mean does.
                if payload is not None:
                    inbox[step.label] = codecs.to_client(step.chain, payload)
    return inbox


def _receive(federation: Federation, sent: InFlight, round_number: int) -> Upload:
    """Decode and check one upload."""
    upload = Upload(round_number, sent.client, sent.exchange, sent.encoded, sent=sent.sent)
    profile = federation.peers[sent.client]
    try:
        # Whatever a client sends that it was not asked for is refused like any other fault, and the round goes on.
        step = next((step for step in federation.composition.of(sent.client) if step.label == sent.exchange), None)
        if step is None or not step.uploads(sent.sent):
            raise PayloadRefused("nothing is due in this round")
        declared = federation.declared[step.label][sent.client]
        declared.check_size(sent.encoded)
        # Decoded before it is judged: the ledger lists the tensors that left the client, accepted or not.
        travelled = Payload.decode(sent.encoded)
        upload = replace(upload, travelled=travelled)
        late = federation.participation.straggler(federation.duration(sent.client, sent.sent))
        if late:
            raise PayloadRefused(late)
        base = codecs.base_of(codecs.at_client(step.chain, sent.base) if sent.base else None, declared)
        # The shapes are also needed to decompress: a few bytes must not become a tensor, larger than was declared, that fills
        # the memory.
        contents = codecs.at_server(step.chain, travelled, base, declared.shapes)
        declared.check(contents, profile.examples)
    except PayloadRefused as error:
        return replace(upload, refused=str(error))
    # Of the rounds that have passed by the server's clock; the client has no say in it.
    discount = federation.participation.discount(round_number - sent.sent)
    return replace(upload, contents=replace(contents, discount=discount))


def _too_late(sent: InFlight, round_number: int) -> Upload:
    """An upload that left its client and will not arrive before the run ends."""
    upload = Upload(round_number, sent.client, sent.exchange, sent.encoded, sent=sent.sent)
    try:
        return replace(upload, travelled=Payload.decode(sent.encoded), refused="still on its way when the run ended")
    except PayloadRefused as error:
        return replace(upload, refused=str(error))


def _row(federation: Federation, number: int, name: str, reply: Reply | Failure, inbox: Mapping[str, bytes]) -> Row:
    """The row of a turn; its refusals are counted when its uploads arrive, perhaps rounds later."""
    bytes_down = sum(map(len, inbox.values()))
    if isinstance(reply, Failure):
        return _failed(federation, number, name, reply, bytes_down)
    report = reply.report
    return Row(
        number,
        name,
        train_loss=report.train_loss,
        received=report.received,
        validation=report.validation,
        validation_loss=report.validation_loss,
        seconds=report.seconds,
        bytes_up=sum(map(len, reply.outbox.values())),
        bytes_down=bytes_down,
        refused=0,
    )


def _failed(federation: Federation, number: int, name: str, failure: Failure, bytes_down: int) -> Row:
    notes, why = _notes(failure.error), _words(failure.error)
    # By default a run ends with its first error: a fault in a plan must not pass for an absence.
    if not federation.participation.tolerate_failures:
        raise RunError(f"client {name!r} failed in round {number}{notes}: {why}") from failure.error
    nan = float("nan")
    figures: dict[str, Any] = {"train_loss": nan, "received": None, "validation": None, "validation_loss": nan, "seconds": 0.0}
    return Row(number, name, **figures, bytes_up=0, bytes_down=bytes_down, refused=0, failed=f"{why}{notes}")


def _state(found: object) -> Tensors:
    """What an `update` gives, once it is known to be a state."""
    if not (isinstance(found, dict) and all(isinstance(tensor, Tensor) for tensor in found.values())):
        raise TypeError(f"the server's next state is a dict of tensors by name, not {type(found).__name__}")
    return found


@contextmanager
def _server_stage(stage: str, label: str, number: int) -> Iterator[None]:
    """Within, whatever an exchange raises is told with its place, as it is of a client's turn."""
    try:
        yield
    except HetfedError:
        raise
    except Exception as error:
        raise RunError(f"the server failed in round {number}, in the {stage} of {label}: {_words(error)}") from error


def _words(error: Exception) -> str:
    # Some errors have no text, such as that of a memory that is full.
    return str(error) or repr(error)


def _notes(error: Exception) -> str:
    """Where a turn stood."""
    return "".join(f", {note}" for note in getattr(error, "__notes__", ()))


def _with_refusals(rows: Sequence[Row], uploads: Sequence[Upload]) -> list[Row]:
    """The rows, in which the uploads that were refused now count where they were sent, perhaps rounds ago."""
    refused = Counter((upload.client, upload.sent) for upload in uploads if upload.refused is not None)
    return [
        replace(row, refused=row.refused + refused[at]) if (at := (row.client, row.round)) in refused else row for row in rows
    ]
