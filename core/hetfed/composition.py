"""A federated algorithm is a composition of exchanges, each with its own cadence and its own circle of clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.exchanges import KINDS, Exchange


@dataclass(frozen=True)
class Step:
    """One exchange of a composition.

    Clients upload in every round that `every` divides; what the server made of it goes out at the start of the next round.
    `until` is the last round in which they upload; after it everybody goes on with what has arrived. With 0 the server sends
    once, before the first round: a common start and no more.
    `clients` are the names of those that take part; None stands for all that can. `label` is the step's name in the ledger.
    """

    exchange: Exchange
    every: int = 1
    clients: tuple[str, ...] | None = None
    label: str = ""
    until: int | None = None

    def broadcasts(self, round_number: int) -> bool:
        """Whether the server sends at the start of this round (1, 2, ...)."""
        return (round_number - 1) % self.every == 0 and self._goes_on(round_number - 1)

    def uploads(self, round_number: int) -> bool:
        """Whether clients send at the end of this round."""
        return round_number % self.every == 0 and self._goes_on(round_number)

    def _goes_on(self, round_number: int) -> bool:
        return self.until is None or round_number <= self.until

    def includes(self, client: Client) -> bool:
        """Whether `client` takes part."""
        return self.clients is None or client.name in self.clients


@dataclass(frozen=True)
class Composition:
    """The steps in their order, with unique labels; no steps at all means that everybody trains alone."""

    steps: tuple[Step, ...] = ()
    name: str = "alone"

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def of(self, client: Client) -> list[Step]:
        """The steps that `client` takes part in."""
        return [step for step in self.steps if step.includes(client)]


def every(rounds: int, exchange: Exchange) -> Step:
    """`exchange`, but only every so many rounds."""
    return Step(exchange, every=rounds)


def compose(*parts: Exchange | Step, name: str = "composed") -> Composition:
    """A composition of exchanges; a label is the exchange's kind, numbered where the kind occurs more than once.

    Raises:
        PlanError: two steps have the same label.
    """
    steps = [part if isinstance(part, Step) else Step(part) for part in parts]
    kinds = {kind: word for word, kind in KINDS.items()}
    words = [kinds.get(type(step.exchange), type(step.exchange).__name__) for step in steps]
    seen: Counter[str] = Counter()
    labelled = []
    for step, word in zip(steps, words, strict=True):
        seen[word] += 1
        label = word if words.count(word) == 1 else f"{word}-{seen[word]}"
        labelled.append(replace(step, label=step.label or label))
    for label, count in Counter(step.label for step in labelled).items():
        if count > 1:
            raise PlanError("two exchanges have the same label", key="exchange.label", value=label, remedy="Rename one.")
    return Composition(tuple(labelled), name)


@dataclass(frozen=True)
class Seating:
    """A composition in which each step names its clients; `left_out` says which client sits out which step, and why."""

    composition: Composition
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def seat(composition: Composition, clients: Sequence[Client]) -> Seating:
    """Settle who takes part in what, before the first round.

    Raises:
        PlanError: a client that a step names cannot take part; nobody can; or those who can do not fit together.
    """
    steps, left_out = [], {}
    for step in composition:
        reasons = {client.name: reason for client in clients if (reason := step.exchange.missing(client))}
        _check_named(step, reasons, clients)
        seated = [client for client in clients if step.includes(client) and client.name not in reasons]
        if not seated:
            raise PlanError(
                "no client can take part",
                key=step.label,
                remedy="; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items())) + "."
                if step.clients is None
                else "Name at least one under `clients`, or leave that key out.",
            )
        try:
            step.exchange.check(seated)
        except PlanError as error:
            raise error.seen_from(key=step.label) from error
        steps.append(replace(step, clients=tuple(client.name for client in seated)))
        if reasons and step.clients is None:
            left_out[step.label] = reasons
    return Seating(replace(composition, steps=tuple(steps)), left_out)


def _check_named(step: Step, reasons: dict[str, str], clients: Sequence[Client]) -> None:
    names = [client.name for client in clients]
    for name in step.clients or ():
        if name not in names:
            raise PlanError("no such client", key=f"{step.label}.clients", value=name, remedy=f"There are: {', '.join(names)}.")
        if name in reasons:
            raise PlanError(
                f"client {name!r} cannot take part: {reasons[name]}",
                key=f"{step.label}.clients",
                remedy="Give it what is missing, or leave it out of this exchange.",
            )
