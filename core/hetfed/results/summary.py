"""The summary of a run, summary.json: who took part, what came out alone, federated and pooled, and what travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hetfed.client import Client
from hetfed.composition import Enrolment, Step
from hetfed.evaluation import Outcome
from hetfed.exchanges import kind_of
from hetfed.federation import FederationState
from hetfed.plan import Plan
from hetfed.results.arms import ARMS


@dataclass(frozen=True)
class Results:
    """The outcomes of a run.

    Args:
        outcomes: of each client by name, and there by arm.
        kept: the arm whose model each client keeps; None where none was judged.
        overall: the metric on all test data together, by arm; None where it is not defined.
    """

    outcomes: Mapping[str, Mapping[str, Outcome]]
    kept: Mapping[str, str | None]
    overall: Mapping[str, float | None]


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
    first = clients[0].task
    return {
        "plan": name,
        "title": plan.title,
        "description": plan.description,
        "algorithm": enrolment.composition.name,
        "public": plan.public,
        "seed": plan.federation.seed,
        "rounds": plan.federation.rounds,
        "metric": first.metric,
        "higher_is_better": first.higher_is_better,
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
        "clients": [_client(client, results.outcomes[client.name], results.kept[client.name]) for client in clients],
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


def _client(client: Client, outcomes: Mapping[str, Outcome], kept: str | None) -> dict[str, Any]:
    absent = Outcome(note="not part of this plan")
    found = {arm: outcomes.get(arm, absent) for arm in ARMS}
    return {
        "name": client.name,
        "metric": client.task.metric,
        "unit": client.unit,
        "synthetic": client.synthetic,
        "higher_is_better": client.task.higher_is_better,
        "n_train": len(client.data.train),
        "n_validation": len(client.data.validation),
        "n_test": len(client.data.test),
        "n_public": None if client.public is None else len(client.public),
        "parameters": client.profile.signature.size,
        **{arm: finite(outcome.value) for arm, outcome in found.items()},
        "kept": None if kept is None else {"arm": kept, "value": finite(outcomes[kept].value)},
        "validation": {arm: finite(outcome.validation) for arm, outcome in found.items()},
        "validation_loss": {arm: finite(outcome.validation_loss) for arm, outcome in found.items()},
        "notes": {arm: outcome.note for arm, outcome in found.items() if outcome.note},
        "selected_round": {arm: outcome.round for arm, outcome in found.items()},
        "metrics": {arm: _finite_values(outcome.metrics) for arm, outcome in found.items()},
        "references": {name: _finite_values(metrics.values) for name, metrics in client.references().items()},
        "about": {**client.about, **({"noted": " ".join(client.notes)} if client.notes else {})},
    }


def finite(value: float | None) -> float | None:
    """`value`, or None where it is not a finite number.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if value is not None and math.isfinite(value) else None


def _finite_values(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in values.items()}
