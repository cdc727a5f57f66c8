"""The summary of a run, summary.json: who took part, what came out alone, federated and pooled, and what travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hetfed.client import Client
from hetfed.compared import Compared, Counts
from hetfed.composition import Enrolment, Step
from hetfed.evaluation import Outcome
from hetfed.exchanges import kind_of
from hetfed.federation import FederationState
from hetfed.keeping import in_words
from hetfed.plan import Plan
from hetfed.results.arms import ARMS


@dataclass(frozen=True)
class Kept:
    """What a client keeps.

    Args:
        shares: of each arm in the mean prediction; their sum is 1.
        outcome: of that prediction.
    """

    shares: Mapping[str, float]
    outcome: Outcome


@dataclass(frozen=True)
class Results:
    """The outcomes of a run.

    Args:
        outcomes: of each client by name, and there by arm.
        kept: what each client keeps; None where nobody has trained a model of its.
        overall: the metric on all test data together, by arm; None where it is not defined.
        compared: each client's models side by side, by its name.
    """

    outcomes: Mapping[str, Mapping[str, Outcome]]
    kept: Mapping[str, Kept | None]
    overall: Mapping[str, float | None]
    compared: Mapping[str, Compared]


def summarise(
    name: str,
    plan: Plan,
    *,
    clients: Sequence[Client],
    enrolment: Enrolment,
    federated: FederationState,
    results: Results,
) -> dict[str, Any]:
    """The summary of a run as JSON has it.

    Every number in it is finite; a value that is not there is None, with the reason under `notes`.

    Args:
        name: of the plan.
        plan: as it was run.
        clients: as they took part, in the order of the plan.
        enrolment: who took part in what.
        federated: the server's state after the last round.
        results: of all arms.
    """
    metrics = {(client.task.metric, client.task.higher_is_better) for client in clients}
    metric, higher_is_better = metrics.pop() if len(metrics) == 1 else (None, None)
    return {
        "plan": name,
        "title": plan.title,
        "description": plan.description,
        "algorithm": enrolment.composition.name,
        "public": plan.public,
        "seed": plan.federation.seed,
        "pseudonyms": plan.federation.pseudonyms,
        "rounds": plan.federation.rounds,
        "metric": metric,
        "higher_is_better": higher_is_better,
        "synthetic": any(client.synthetic for client in clients),
        "communication_bytes": {
            "up": sum(row.bytes_up for row in federated.rows),
            "down": sum(row.bytes_down for row in federated.rows),
        },
        "uploads_refused": sum(row.refused for row in federated.rows),
        "turns_failed": sum(bool(row.failed) for row in federated.rows),
        "turn_seconds": round(sum(row.seconds for row in federated.rows), 2),
        "participation": plan.participation.model_dump(exclude_defaults=True) | _quorum(plan),
        "exchanges": [_exchange(step, enrolment) for step in enrolment.composition],
        "clients": [_client(client, results) for client in clients],
        "overall": _finite_values(results.overall),
    }


def _quorum(plan: Plan) -> dict[str, int]:
    return {"quorum": plan.federation.quorum} if plan.federation.quorum > 1 else {}


def _exchange(step: Step, enrolment: Enrolment) -> dict[str, Any]:
    # From declarations, which were enforced: what the summary says of a payload held for every upload.
    declared = {profile.name: step.exchange.declare(profile) for profile in enrolment.profiles if step.includes(profile.name)}
    return {
        "label": step.label,
        "kind": kind_of(step.exchange),
        "every": step.every,
        "until": step.until,
        "compression": None if step.compression is None else asdict(step.compression),
        "settings": asdict(step.exchange),
        "aggregation": asdict(step.aggregation) if step.follows_rule else None,
        "reveals": sorted({words for name in step.clients or () for words in declared[name].reveals}),
        "clients": list(step.clients or ()),
        "left_out": enrolment.left_out.get(step.label, {}),
    }


def _client(client: Client, results: Results) -> dict[str, Any]:
    absent = Outcome(note="not part of this plan")
    outcomes, kept = results.outcomes[client.name], results.kept[client.name]
    compared = results.compared.get(client.name, Compared())
    found = {arm: outcomes.get(arm, absent) for arm in ARMS}
    data, owned_by = client.data, client.data.owned_by
    validation, test = (Counts.of(client, part) for part in (data.validation, data.test))
    return {
        "name": client.name,
        "metric": client.task.metric,
        "unit": client.unit,
        "synthetic": client.synthetic,
        "higher_is_better": client.task.higher_is_better,
        "n_train": len(client.data.train),
        "n_validation": len(client.data.validation),
        "n_test": len(client.data.test),
        "owned_by": owned_by,
        "validation_counts": asdict(validation),
        "test_counts": asdict(test),
        "too_few_to_choose": validation.too_few(owned_by) or None,
        "n_public": None if client.public is None else len(client.public),
        "parameters": client.profile.signature.size,
        **{arm: finite(outcome.value) for arm, outcome in found.items()},
        "intervals": {arm: _interval(outcome) for arm, outcome in found.items()},
        "gains": {arm: asdict(gain) for arm, gain in compared.gains.items()},
        "kept": None if kept is None else _kept(kept),
        "validation": {arm: finite(outcome.validation) for arm, outcome in found.items()},
        "validation_loss": {arm: finite(outcome.validation_loss) for arm, outcome in found.items()},
        "notes": {arm: outcome.note for arm, outcome in found.items() if outcome.note},
        "selected_round": {arm: outcome.round for arm, outcome in found.items()},
        "metrics": {arm: _finite_values(outcome.metrics) for arm, outcome in found.items()},
        "references": {name: _finite_values(outcome.metrics) for name, outcome in compared.references.items()},
        "reference_intervals": {name: _interval(outcome) for name, outcome in compared.references.items()},
        "ahead_of_references": {name: asdict(gain) for name, gain in compared.ahead.items()},
        "about": {**client.about, **({"noted": " ".join(client.notes)} if client.notes else {})},
    }


def _kept(kept: Kept) -> dict[str, Any]:
    value, chance = finite(kept.outcome.value), _interval(kept.outcome)
    return {"arm": in_words(kept.shares), "shares": dict(kept.shares), "value": value, **chance}


def _interval(outcome: Outcome) -> dict[str, Any]:
    return {"low": outcome.low, "high": outcome.high, "unsure": outcome.unsure}


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if value is not None and math.isfinite(value) else None


def _finite_values(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in values.items()}
