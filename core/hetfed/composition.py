"""A federated algorithm is a composition of exchanges, each with its own cadence and its own circle of clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from torch import nn

from hetfed.aggregation import Aggregation
from hetfed.codecs import Codec
from hetfed.compression import Compression
from hetfed.data import Spec
from hetfed.errors import HetfedError, PlanError, RunError, among
from hetfed.exchanges import Exchange, kind_of
from hetfed.exchanges.base import Merge
from hetfed.exchanges.groups import lonely
from hetfed.payload import Declaration
from hetfed.profile import Profile
from hetfed.training import Phase, last_round


@dataclass(frozen=True)
class Step:
    """One exchange of a composition, with its cadence and its circle of clients.

    Args:
        exchange: what is shared.
        every: clients upload in every round that it divides; what the server made of it goes out at the start of the next
            round.
        clients: the names of those that take part; None stands for all that can.
        label: the step's name in the ledger; `compose` fills it in.
        until: the last round in which clients upload; after it everybody goes on with what has arrived. With 0 the server sends
            once, before the first round: a common start and no more. Below zero it counts from the last round.
        compression: makes its payloads smaller, after what `codecs` do to them.
        aggregation: the rule by which uploads are merged, where the exchange merges by mean.
        codecs: what else happens to its payloads on their way, in this order at the client.

    >>> from hetfed.exchanges import SharedParameters
    >>> step = Step(SharedParameters("encoder"), every=2, compression=Compression("8-bit"), aggregation=Aggregation("median"))
    >>> [number for number in range(1, 7) if step.uploads(number)]
    [2, 4, 6]
    """

    exchange: Exchange
    every: int = 1
    clients: tuple[str, ...] | None = None
    label: str = ""
    until: int | None = None
    compression: Compression | None = None
    aggregation: Aggregation = field(default_factory=Aggregation)
    codecs: tuple[Codec, ...] = ()

    @property
    def follows_rule(self) -> bool:
        """Whether uploads are merged by `aggregation`; to set a rule where they are not is an error."""
        return self.exchange.merge == "mean" or self.exchange.robust

    @property
    def refuses_outliers(self) -> bool:
        """Whether uploads that are outliers among those of the round are refused; a robust rule sees to them itself."""
        return self.aggregation.kind == "mean" and self.aggregation.outliers == "refuse"

    @property
    def chain(self) -> tuple[Codec, ...]:
        """The codecs of its payloads on their way up, in this order; compression comes last."""
        return (*self.codecs, *([self.compression] if self.compression else []))

    def last_broadcast(self, round_number: int) -> int:
        """The latest round up to this one (1, 2, ...) at whose start the server sends something new.

        >>> from hetfed.exchanges import SharedParameters
        >>> [Step(SharedParameters(), every=2).last_broadcast(number) for number in (1, 2, 3, 4, 5)]
        [1, 1, 3, 3, 5]
        """
        # Until the start of this round, those of the rounds before have been merged.
        uploads = round_number - 1 if self.until is None else min(round_number - 1, self.until)
        return uploads // self.every * self.every + 1

    def uploads(self, round_number: int) -> bool:
        """Whether clients send at the end of this round."""
        return round_number % self.every == 0 and (self.until is None or round_number <= self.until)

    def includes(self, name: str) -> bool:
        """Whether the client of this name takes part."""
        return self.clients is None or name in self.clients


@dataclass(frozen=True)
class Composition:
    """The steps in their order, with unique labels; no steps at all means that everybody trains alone.

    Args:
        steps: in the order in which exchanges extend a model and take in what arrived.
        name: as reports call it.
        phases: what trains when in the local epochs of a round; without any, each client's own `training` says it.
    """

    steps: tuple[Step, ...] = ()
    name: str = "alone"
    phases: tuple[Phase, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def of(self, name: str) -> list[Step]:
        """The steps that the client of this name takes part in."""
        return [step for step in self.steps if step.includes(name)]

    def phases_of(self, profile: Profile, round_number: int, rounds: int) -> list[Phase]:
        """The phases of local training in a round: the composition's, else the client's own, else one in which everything
        trains.

        Args:
            profile: of the client.
            round_number: from 1.
            rounds: how many there are; a phase may count from the last one.
        """
        # Where none of them is active in this round the list is empty, and the client does not train in it.
        phases = self.phases or profile.training.phases or (Phase(),)
        active = [phase for phase in phases if phase.active(round_number, rounds)]
        # What a composition freezes so that it stays alike for all (FedBABU's head), those who share nothing train.
        if self.phases and not self.steps and not _train_all(active, profile):
            return [phase.model_copy(update={"only": (), "frozen": ()}) for phase in active]
        return active

    def sharing_nothing(self) -> Composition:
        """The same phases of local training, so that who trains alone takes the same steps."""
        return Composition(phases=self.phases)

    def over(self, rounds: int) -> Composition:
        """The same composition for so many rounds: no step's end counts from the last round any more.

        >>> from hetfed.exchanges import SharedParameters
        >>> compose(Step(SharedParameters(), until=-2)).over(10).steps[0].until
        8
        """
        # Settled once the number of rounds is known: what counts from the end would move with a longer run.
        steps = [step if step.until is None else replace(step, until=last_round(step.until, rounds)) for step in self.steps]
        return replace(self, steps=tuple(steps))


def _train_all(phases: Sequence[Phase], profile: Profile) -> bool:
    """Whether each parameter of the client's model trains in one of the phases."""
    return all(any(phase.trains(name) for phase in phases) for name in profile.signature.parameters)


def every(rounds: int, exchange: Exchange) -> Step:
    """A step of `exchange` whose clients upload only every so many rounds.

    >>> from hetfed.exchanges import Prototypes
    >>> every(5, Prototypes()).every
    5
    """
    return Step(exchange, every=rounds)


def compose(*parts: Exchange | Step, name: str = "composed", phases: Sequence[Phase] = ()) -> Composition:
    """A composition of exchanges; a label is the exchange's kind, numbered where the kind occurs more than once.

    Args:
        parts: exchanges, or steps that set a cadence or options.
        name: as reports call it.
        phases: what trains when in the local epochs of a round.

    Raises:
        PlanError: two steps have the same label, or something is no exchange.

    >>> from hetfed.exchanges import Prototypes, SharedParameters
    >>> [step.label for step in compose(SharedParameters("encoder"), every(2, Prototypes()))]
    ['shared-parameters', 'prototypes']
    >>> [step.label for step in compose(SharedParameters("encoder"), SharedParameters("head"))]
    ['shared-parameters-1', 'shared-parameters-2']
    """
    steps = [_step(part) for part in parts]
    words = [kind_of(step.exchange) for step in steps]
    seen: Counter[str] = Counter()
    labelled = []
    for step, word in zip(steps, words, strict=True):
        seen[word] += 1
        # A kind that occurs once needs no number: most labels are the words of the plan.
        label = word if words.count(word) == 1 else f"{word}-{seen[word]}"
        labelled.append(replace(step, label=step.label or label))
    for label, count in Counter(step.label for step in labelled).items():
        if count > 1:
            raise PlanError("two exchanges have the same label", key="exchange.label", value=label, remedy="Rename one.")
    # Labels are unique now: states, memories and the ledger are kept by them.
    return Composition(tuple(labelled), name, tuple(phases))


def _step(part: object) -> Step:
    step = part if isinstance(part, Step) else Step(part)  # type: ignore[arg-type]  # looked at below
    if not isinstance(step.exchange, Exchange):
        remedy = "Give an exchange, as hetfed.Prototypes(), or hetfed.every(2, hetfed.Prototypes())."
        if isinstance(part, type) and issubclass(part, Exchange):
            remedy = f"Write {part.__name__}(), with its settings between the brackets."
        raise PlanError("not an exchange", key="composition", value=step.exchange, remedy=remedy)
    return step


@dataclass(frozen=True)
class Enrolment:
    """A composition in which each step names its clients, and the profiles of those clients.

    Args:
        composition: its steps name those that take part.
        profiles: those given, their models extended by what the exchanges need.
        left_out: by step label and client name, why a client sits out a step.
    """

    composition: Composition
    profiles: tuple[Profile, ...]
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)


def enrol(composition: Composition, profiles: Sequence[Profile]) -> Enrolment:
    """Settle who takes part in what, before the first round.

    It looks at profiles only, and comes to the same at every site that has them all.

    Args:
        composition: as a plan or a script has it.
        profiles: of all clients, in any order.

    Raises:
        PlanError: a client that a step names cannot take part; nobody can; or those who can do not fit together.

    >>> import torch
    >>> from hetfed.client import Client
    >>> from hetfed.data import ClientData
    >>> from hetfed.exchanges import SharedParameters
    >>> from hetfed.tasks import Regression
    >>> def client(name, width):
    ...     data = ClientData.of({"x": torch.zeros(10, width)}, torch.zeros(10, 1))
    ...     return Client(name, data, Regression(), lambda spec: nn.Sequential(nn.Linear(width, 1)))
    >>> profiles = [client(name, width).profile for name, width in (("a", 4), ("b", 4), ("c", 9))]
    >>> enrolment = enrol(compose(SharedParameters(among="same-shape")), profiles)
    >>> enrolment.composition.steps[0].clients
    ('a', 'b')
    >>> enrolment.left_out["shared-parameters"]
    {'c': 'nobody else has the same tensors there, to answer the same question'}
    """
    steps, left_out = [], {}
    _check_names(profiles)
    for profile in profiles:
        check_profile(profile)
    # First, since a client's own phases also hold where it trains alone, without what an exchange adds.
    for profile in profiles:
        problem = f"the model of {profile.name!r} has no such part"
        _check_paths(profile.training.phases, [profile], problem, "training.phases")
    for step in composition:
        _check_step(step)
        # Every client is asked, named or not: who cannot take part is told so, with the reason.
        reasons = {profile.name: reason for profile in profiles if (reason := step.exchange.missing(profile))}
        _check_named(step, reasons, profiles)
        able = [profile for profile in profiles if step.includes(profile.name) and profile.name not in reasons]
        # A client that is there by itself is what tests and trials have; among others, nobody sends what nobody shares.
        single = lonely(step.exchange, able) if len(profiles) > 1 else {}
        enrolled = [profile for profile in able if profile.name not in single]
        reasons |= single
        # An exchange without members would run without an effect, and nobody would notice.
        if not enrolled:
            raise _nobody(step, reasons, named=step.clients is not None and not single)
        declared = [_declared(step, profile) for profile in enrolled]
        try:
            step.exchange.check(enrolled)
            _check_compression(step, declared)
        except PlanError as error:
            raise error.seen_from(key=step.label) from error
        steps.append(replace(step, clients=tuple(profile.name for profile in enrolled)))
        # Where a plan names the clients of a step, the others are no news; only those who share with nobody are.
        unasked = reasons if step.clients is None else dict(single)
        if unasked:
            left_out[step.label] = unasked
        # Extended before the next step is looked at: SharedParameters("companion") must find the companion that the step before
        # it has added.
        profiles = [extended(profile, step.exchange, enrolled) if profile in enrolled else profile for profile in profiles]
    # Last, since a phase of the composition may name what an exchange adds to a model.
    _check_paths(composition.phases, profiles, "no client's model has this part", "phase")
    return Enrolment(replace(composition, steps=tuple(steps)), tuple(profiles), left_out)


def by_reason(reasons: Mapping[str, str]) -> list[str]:
    """Each reason once, behind the names of the clients that it keeps away.

    >>> by_reason({"b": "no head", "a": "no head", "c": "no classes"})
    ['a, b: no head', 'c: no classes']
    """
    # Grouped by reason: of a hundred clients most lack the same.
    names = {reason: [name for name in sorted(reasons) if reasons[name] == reason] for _, reason in sorted(reasons.items())}
    return [f"{', '.join(who)}: {reason}" for reason, who in names.items()]


def _nobody(step: Step, reasons: Mapping[str, str], *, named: bool) -> PlanError:
    remedy = "Name at least one under `clients`, or leave that key out." if named else "; ".join(by_reason(reasons)) + "."
    return PlanError("no client can take part", key=step.label, remedy=remedy)


def extended(profile: Profile, exchange: Exchange, enrolled: Sequence[Profile]) -> Profile:
    """The profile with what `exchange` adds to the client's model."""
    # Who gets nothing new stays the same object, with what is known of its model.
    if type(exchange).extend is Exchange.extend:
        return profile

    def model_fn(spec: Spec) -> nn.Module:
        """The model that the profile's own function builds, with what the exchange adds."""
        model = profile.model_fn(spec)
        exchange.extend(profile, model, enrolled)
        return model

    return replace(profile, model_fn=model_fn)


def check_profile(profile: Profile) -> None:
    """Check that a client by itself can take part in anything.

    Raises:
        PlanError: a split is empty, or its model cannot read its inputs or answers in a wrong shape.
    """
    key = f"client {profile.name!r}"
    counts = {"training": profile.examples, "validation": profile.validation_examples, "test": profile.test_examples}
    for part, count in counts.items():
        if not count:
            raise PlanError(f"it has no {part} examples", key=key, remedy="Give every split at least one example.")
    remedy = "Return a tensor of logits, or hetfed.Output, from a forward that takes the inputs by name."
    try:
        # What the model makes of zeros in the shape of its inputs; whatever it raises is what is wrong with it.
        logits = profile.probe.logits
    except Exception as error:
        raise PlanError(f"its model cannot read its inputs: {error}", key=key, remedy=remedy) from error
    metric, known = profile.task.metric, getattr(profile.task, "METRICS", None)
    if known is not None and metric not in known:
        raise PlanError("no such metric", key=f"{key}.metric", value=metric, remedy=among(metric, known))
    classes = profile.task.class_count
    # Else the loss would fail in the first round with an index out of range, and name nobody.
    if classes and logits.shape[-1] != classes:
        problem = f"its model answers {logits.shape[-1]} numbers, and there are {classes} classes"
        raise PlanError(problem, key=key, remedy="Let the head have an output for each class.")
    if len(logits) != len(profile.blank(2)):
        problem = f"its model answers {tuple(logits.shape)} for two examples"
        raise PlanError(problem, key=key, remedy="Let the first dimension of the logits be the examples.")


def _check_names(profiles: Sequence[Profile]) -> None:
    # Names seed chance, and are the keys of states: two of one would share both.
    for name, count in Counter(profile.name for profile in profiles).items():
        if count > 1:
            raise PlanError("two clients have the same name", key="client.name", value=name, remedy="Rename one.")


def _check_paths(phases: Sequence[Phase], profiles: Sequence[Profile], problem: str, key: str) -> None:
    for path in (path for phase in phases for path in (*phase.only, *phase.frozen)):
        if not any(profile.signature.has(path) for profile in profiles):
            found = {part for profile in profiles for part in profile.signature.near(path)}
            remedy = f"Name a submodule: {', '.join(sorted(found)) or 'there is none'}."
            raise PlanError(problem, key=key, value=path, remedy=remedy)


def _check_step(step: Step) -> None:
    """The options that a step sets must suit its exchange."""
    if step.every < 1:
        remedy = "Set 1 for every round, 2 for every second one, and so on."
        raise PlanError("not a number of rounds", key=f"{step.label}.every", value=step.every, remedy=remedy)
    if step.exchange.merge not in get_args(Merge):
        remedy = among(step.exchange.merge, get_args(Merge), "There are")
        raise PlanError("no way of merging", key=f"{step.label}.merge", value=step.exchange.merge, remedy=remedy)
    if step.aggregation.kind != "mean" and not step.follows_rule:
        problem = f"{kind_of(step.exchange)} takes no mean of what clients send"
        raise PlanError(problem, key=f"{step.label}.aggregation", value=step.aggregation.kind, remedy="Leave it out.")


def _declared(step: Step, profile: Profile) -> Declaration:
    """What a client declares to send by a step.

    Raises:
        RunError: the exchange fails over it; the message names exchange and client, which a traceback would not.
    """
    try:
        return step.exchange.declare(profile)
    except HetfedError:
        raise
    except Exception as error:
        raise RunError(f"{step.label} cannot declare what {profile.name!r} sends: {error!r}") from error


def _check_compression(step: Step, declared: Sequence[Declaration]) -> None:
    if step.compression is None or step.compression.kind == "8-bit":
        return
    if any(declaration.relative == "change" for declaration in declared):
        raise PlanError(
            "what it sends is a change already, of which the rest would be lost",
            key="compression",
            value=step.compression.kind,
            remedy='Set compression = "8-bit".',
        )
    if step.every > 1:
        raise PlanError(
            "what clients send is compressed as a change of what they were sent in the same round, which here is nothing",
            key="compression",
            value=step.compression.kind,
            remedy='Set every = 1, or compression = "8-bit".',
        )


def _check_named(step: Step, reasons: dict[str, str], profiles: Sequence[Profile]) -> None:
    names = [profile.name for profile in profiles]
    for name in step.clients or ():
        if name not in names:
            raise PlanError("no such client", key=f"{step.label}.clients", value=name, remedy=among(name, names, "There are"))
        if name in reasons:
            raise PlanError(
                f"client {name!r} cannot take part: {reasons[name]}",
                key=f"{step.label}.clients",
                remedy="Give it what is missing, or leave it out of this exchange.",
            )
