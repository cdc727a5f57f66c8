"""Who takes part in a run, and what can be wrong with that which no client and no exchange can tell by itself."""

from __future__ import annotations

from collections.abc import Sequence

from hetfed.client import Client
from hetfed.composition import Composition, Enrolment, enrol
from hetfed.device import resolve
from hetfed.errors import PlanError
from hetfed.plan import Plan, check_synchronous


def enrolled(plan: Plan, clients: Sequence[Client], composition: Composition | None = None) -> Enrolment:
    """Who takes part in what, for as many rounds as the plan has; a `composition` stands in place of the plan's own.

    Args:
        plan: gives rounds, quorum and participation.
        clients: with their data; only their profiles are looked at.
        composition: in place of the plan's own.

    Raises:
        PlanError: somebody or something does not fit; a device is not there; a quorum can never be reached; or there are rounds
            without training.
    """
    chosen = plan.composition() if composition is None else composition
    check_synchronous(plan.participation, chosen)
    _check_devices(clients)
    _check_targets(clients)
    # `over` settles an end that counts from the last round.
    enrolment = enrol(chosen.over(plan.federation.rounds), [client.profile for client in clients])
    _check_selection(plan, enrolment)
    _check_quorum(plan, enrolment)
    _check_phases(plan, enrolment)
    return enrolment


def _check_selection(plan: Plan, enrolment: Enrolment) -> None:
    """Figures of different metrics have no mean by which a round could be chosen."""
    metrics = {" in ".join(filter(None, (profile.task.metric, profile.unit))) for profile in enrolment.profiles}
    if plan.federation.select == "everybody" and len(metrics) > 1:
        problem = f"the clients are judged by different metrics: {', '.join(sorted(metrics))}"
        remedy = 'Set it to "validation", or let all be judged by one.'
        raise PlanError(problem, key="federation.select", value="everybody", remedy=remedy)


def _check_devices(clients: Sequence[Client]) -> None:
    """A device that is not there shows before the first round: the clients are here, where they train."""
    for client in clients:
        try:
            resolve(client.training.device)
        except PlanError as error:
            raise error.seen_from(key=f"client {client.name!r}") from error


def _check_targets(clients: Sequence[Client]) -> None:
    """A class that the task has no name for; only the client itself can see it."""
    for client in clients:
        count = client.task.class_count
        for part, examples in {
            "training": client.data.train,
            "validation": client.data.validation,
            "test": client.data.test,
        }.items():
            classes = client.task.classes(examples.whole()) if count else None
            if classes is not None and len(classes) and int(classes.max()) >= count:
                problem = f"a {part} example is of a class beyond the {count} that the task names"
                remedy = f"Name it, or number the classes from 0 to {count - 1}."
                raise PlanError(problem, key=f"client {client.name!r}", value=int(classes.max()), remedy=remedy)


def _check_quorum(plan: Plan, enrolment: Enrolment) -> None:
    """Uploads that fall short of a quorum are dropped: one that is out of reach would throw away everything."""
    quorum, asked = plan.federation.quorum, plan.participation.wanted(len(enrolment.profiles))
    # In asynchronous rounds uploads of earlier ones arrive beside those of the clients that are asked.
    if asked < quorum and not plan.participation.asynchronous:
        problem = f"only {asked} of {len(enrolment.profiles)} clients are asked in a round, and no upload would ever be merged"
        remedy = f"Set it to {asked} or less, or raise participation.fraction or participation.minimum."
        raise PlanError(problem, key="federation.quorum", value=quorum, remedy=remedy)
    for step in enrolment.composition:
        members = len(step.clients or ())
        if members < quorum and step.until != 0:
            problem = f"only {members} clients take part in {step.label!r}, and no upload would ever be merged"
            raise PlanError(problem, key="federation.quorum", value=quorum, remedy=f"Set it to {members} or less.")


def _check_phases(plan: Plan, enrolment: Enrolment) -> None:
    rounds = plan.federation.rounds
    for profile in enrolment.profiles:
        # A client without phases trains in every round.
        if not (enrolment.composition.phases or profile.training.phases):
            continue
        for number in range(1, rounds + 1):
            if not enrolment.composition.phases_of(profile, number, rounds):
                where = "phase" if enrolment.composition.phases else f"client {profile.name!r}.training.phases"
                problem = f"nothing trains in round {number} of {rounds}"
                raise PlanError(problem, key=where, remedy="Let `after` and `until` of the phases cover every round.")
