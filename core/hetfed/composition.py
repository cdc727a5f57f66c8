"""A federated algorithm is a composition of exchanges, each with its own cadence and its own circle of clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from hetfed.client import Client
from hetfed.compression import Compression, decode
from hetfed.data import Facts
from hetfed.errors import PlanError, among
from hetfed.exchanges import Exchange, kind_of
from hetfed.parts import has_part, parts_near
from hetfed.payload import Payload
from hetfed.training import Phase, last_round


@dataclass(frozen=True)
class Step:
    """One exchange of a composition.

    Clients upload in every round that `every` divides; what the server made of it goes out at the start of the next round.
    `until` is the last round in which they upload; after it everybody goes on with what has arrived. With 0 the server sends
    once, before the first round: a common start and no more; below zero it counts from the last round.
    `clients` are the names of those that take part; None stands for all that can. `label` is the step's name in the ledger.
    `compression` makes its payloads smaller.
    """

    exchange: Exchange
    every: int = 1
    clients: tuple[str, ...] | None = None
    label: str = ""
    until: int | None = None
    compression: Compression | None = None

    def last_broadcast(self, round_number: int) -> int:
        """The latest round up to this one (1, 2, ...) at whose start the server sends something new."""
        uploads = round_number - 1 if self.until is None else min(round_number - 1, self.until)
        return uploads // self.every * self.every + 1

    def uploads(self, round_number: int) -> bool:
        """Whether clients send at the end of this round."""
        return round_number % self.every == 0 and (self.until is None or round_number <= self.until)

    def base(self, received: Payload | None) -> Mapping[str, Tensor]:
        """What a client's payload is a change of: what it was sent in the same round, unless it sends changes by itself."""
        return {} if received is None or self.exchange.sends_changes else received.tensors

    def includes(self, client: Client) -> bool:
        """Whether `client` takes part."""
        return self.clients is None or client.name in self.clients

    def write(self, payload: Payload) -> bytes:
        """What travels from the server to a client."""
        return (self.compression.down(payload) if self.compression else payload).encoded

    def read(self, encoded: bytes) -> Payload:
        """What a client makes of it."""
        payload = Payload.decode(encoded)
        return Payload(decode(payload.tensors), payload.weight) if self.compression else payload


@dataclass(frozen=True)
class Composition:
    """The steps in their order, with unique labels; no steps at all means that everybody trains alone.

    `phases` say what trains when in the local epochs of a round; without any, each client's own `training` does.
    """

    steps: tuple[Step, ...] = ()
    name: str = "alone"
    phases: tuple[Phase, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def of(self, client: Client) -> list[Step]:
        """The steps that `client` takes part in."""
        return [step for step in self.steps if step.includes(client)]

    def phases_of(self, client: Client, round_number: int, rounds: int) -> list[Phase]:
        """The phases of local training: the composition's, else the client's own, else one in which everything trains."""
        # Where none of them is active in this round the list is empty, and the client does not train in it.
        phases = self.phases or client.training.phases or (Phase(),)
        return [phase for phase in phases if phase.active(round_number, rounds)]

    def over(self, rounds: int) -> Composition:
        """The same for so many rounds: no step's end counts from the last one any more."""
        steps = [step if step.until is None else replace(step, until=last_round(step.until, rounds)) for step in self.steps]
        return replace(self, steps=tuple(steps))


def every(rounds: int, exchange: Exchange) -> Step:
    """`exchange`, but only every so many rounds."""
    return Step(exchange, every=rounds)


def compose(*parts: Exchange | Step, name: str = "composed", phases: Sequence[Phase] = ()) -> Composition:
    """A composition of exchanges; a label is the exchange's kind, numbered where the kind occurs more than once.

    Raises:
        PlanError: two steps have the same label.
    """
    steps = [part if isinstance(part, Step) else Step(part) for part in parts]
    words = [kind_of(step.exchange) for step in steps]
    seen: Counter[str] = Counter()
    labelled = []
    for step, word in zip(steps, words, strict=True):
        seen[word] += 1
        label = word if words.count(word) == 1 else f"{word}-{seen[word]}"
        labelled.append(replace(step, label=step.label or label))
    for label, count in Counter(step.label for step in labelled).items():
        if count > 1:
            raise PlanError("two exchanges have the same label", key="exchange.label", value=label, remedy="Rename one.")
    return Composition(tuple(labelled), name, tuple(phases))


@dataclass(frozen=True)
class Enrolment:
    """A composition in which each step names its clients; `left_out` says which client sits out which step, and why.

    `clients` are those given, their models extended by what the exchanges need.
    """

    composition: Composition
    clients: tuple[Client, ...]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def enrol(composition: Composition, clients: Sequence[Client]) -> Enrolment:
    """Settle who takes part in what, before the first round.

    Raises:
        PlanError: a client that a step names cannot take part; nobody can; or those who can do not fit together.
    """
    steps, left_out = [], {}
    # First, since a client's own phases also hold where it trains alone, without what an exchange adds.
    for client in clients:
        _check_paths(client.training.phases, [client], f"the model of {client.name!r} has no such part", "training.phases")
    for step in composition:
        reasons = {client.name: reason for client in clients if (reason := step.exchange.missing(client))}
        _check_named(step, reasons, clients)
        _check_compression(step)
        able = [client for client in clients if step.includes(client) and client.name not in reasons]
        # A client that is there by itself is what tests and trials have; among others, nobody sends what nobody shares.
        lonely = step.exchange.lonely(able) if len(clients) > 1 else {}
        enrolled = [client for client in able if client.name not in lonely]
        reasons |= lonely
        if not enrolled:
            remedy = "; ".join(by_reason(reasons)) + "."
            if step.clients is not None and not lonely:
                remedy = "Name at least one under `clients`, or leave that key out."
            raise PlanError("no client can take part", key=step.label, remedy=remedy)
        try:
            step.exchange.check(enrolled)
        except PlanError as error:
            raise error.seen_from(key=step.label) from error
        steps.append(replace(step, clients=tuple(client.name for client in enrolled)))
        # Where a plan names the clients of a step, the others are no news; only those who share with nobody are.
        unasked = reasons if step.clients is None else dict(lonely)
        if unasked:
            left_out[step.label] = unasked
        # Extended before the next step is looked at: SharedParameters("companion") must find the companion that the step before
        # it has added.
        clients = [extended(client, step.exchange, enrolled) if client in enrolled else client for client in clients]
    # Last, since a phase of the composition may name what an exchange adds to a model.
    _check_paths(composition.phases, clients, "no client's model has this part", "phase")
    return Enrolment(replace(composition, steps=tuple(steps)), tuple(clients), left_out)


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """Each reason once, behind the names of those whom it keeps away."""
    names = {reason: [name for name in sorted(reasons) if reasons[name] == reason] for _, reason in sorted(reasons.items())}
    return [f"{', '.join(who)}: {reason}" for reason, who in names.items()]


def extended(client: Client, exchange: Exchange, enrolled: Sequence[Client]) -> Client:
    """The client with what `exchange` adds to its model."""
    # Who gets nothing new stays the same object, with its live module and its probe.
    if type(exchange).extend is Exchange.extend:
        return client

    def blueprint(facts: Facts) -> nn.Module:
        model = client.blueprint(facts)
        exchange.extend(client, model, enrolled)
        return model

    return replace(client, blueprint=blueprint)


def _check_paths(phases: Sequence[Phase], clients: Sequence[Client], problem: str, key: str) -> None:
    for path in (path for phase in phases for path in (*phase.only, *phase.frozen)):
        if not any(has_part(client.module, path) for client in clients):
            found = {part for client in clients for part in parts_near(client.module, path)}
            remedy = f"Name a submodule: {', '.join(sorted(found)) or 'there is none'}."
            raise PlanError(problem, key=key, value=path, remedy=remedy)


def _check_compression(step: Step) -> None:
    if step.compression and step.compression.kind != "8-bit" and step.exchange.sends_changes:
        raise PlanError(
            "what it sends is a change already, of which the rest would be lost",
            key=f"{step.label}.compression",
            value=step.compression.kind,
            remedy='Set compression = "8-bit".',
        )
    if step.compression and step.compression.kind != "8-bit" and step.every > 1:
        raise PlanError(
            "what clients send is compressed as a change of what they were sent in the same round, which here is nothing",
            key=f"{step.label}.compression",
            value=step.compression.kind,
            remedy='Set every = 1, or compression = "8-bit".',
        )


def _check_named(step: Step, reasons: dict[str, str], clients: Sequence[Client]) -> None:
    names = [client.name for client in clients]
    for name in step.clients or ():
        if name not in names:
            raise PlanError("no such client", key=f"{step.label}.clients", value=name, remedy=among(name, names, "There are"))
        if name in reasons:
            raise PlanError(
                f"client {name!r} cannot take part: {reasons[name]}",
                key=f"{step.label}.clients",
                remedy="Give it what is missing, or leave it out of this exchange.",
            )
