"""What a client keeps of its arms when they have ended, and how its models compare; at the client, from its own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hetfed.client import Client
from hetfed.compared import Compared, compare
from hetfed.evaluation import judge, outcome_of
from hetfed.keeping import in_words, mean_answer, shares_of
from hetfed.kept.save import Member, save_mean
from hetfed.model import Output
from hetfed.results.arms import ALONE, FEDERATED, KEPT
from hetfed.results.folder import RunFolder
from hetfed.results.pseudonyms import pseudonyms
from hetfed.results.summary import Kept
from hetfed.results.tables import write_csv
from hetfed.run.arm import Arm
from hetfed.run.prepare import Prepared


@dataclass(frozen=True)
class Ended:
    """A client at the end of a run.

    Args:
        kept: what it keeps.
        compared: its models side by side, what is kept among them.
    """

    kept: Kept
    compared: Compared


def keep(client: Client, arms: Mapping[str, Arm], prepared: Prepared, folder: RunFolder) -> Ended | None:
    """Leave in the folder what a client keeps: the models, what they are, and their predictions on test data.

    None, and nothing is left, where nobody has trained a model of the client's.

    Args:
        client: as it was before any composition extended it.
        arms: those whose model a real participant can have.
        prepared: the plan, which has the rule, and every client.
        folder: of the run.
    """
    task, data = client.task, client.data
    own = {name: arm for name, arm in arms.items() if arm.trained(client.name)}
    if not own:
        return None
    validation, test = ({n: arm.answer(client.name, part) for n, arm in own.items()} for part in (data.validation, data.test))
    eligible = {name: validation[name] for name in candidates(client.name, own)}
    shares = shares_of(prepared.plan.federation.keep, eligible, task, data.validation)
    # The validation metric of every arm, by which the client could have chosen, and no metric on test data, by which it could
    # not.
    judged = {name: judge(answer, task, data.validation).value for name, answer in validation.items()}
    about = {"arm": in_words(shares), "validation": judged}
    members = {name: _member(client.name, own[name]) for name in shares}
    save_mean(folder.models / client.name, members, shares, before=prepared.clients, about=about)
    chosen, tested = (mean_answer(shares, answers, task) for answers in (validation, test))
    _write_predictions(client, tested, folder, pseudonymous=prepared.plan.federation.pseudonyms)
    kept = Kept(shares, outcome_of(chosen, tested, task, data))
    return Ended(kept, compare(client, {**test, KEPT: tested}))


def candidates(name: str, arms: Mapping[str, Arm]) -> list[str]:
    """The arms among which a client keeps something: all in which somebody has trained a model of its.

    Alone is none of them where the federated prediction is a mean that has that model in it: it would count twice.

    Args:
        name: of the client.
        arms: by name.
    """
    steps = arms[FEDERATED].federation.composition.of(name) if FEDERATED in arms else []
    twice = any(step.exchange.predicts_with_alone for step in steps) and arms[FEDERATED].trained(name)
    return [arm for arm, found in arms.items() if found.trained(name) and not (twice and arm == ALONE)]


def _member(name: str, arm: Arm) -> Member:
    return Member(arm.sites.clients[name], arm.models(name), arm.extended_by)


def _write_predictions(client: Client, tested: Output, folder: RunFolder, *, pseudonymous: bool) -> None:
    table = client.task.table(tested, client.data.test)
    if pseudonymous:
        table["id"] = pseudonyms(table["id"])
    write_csv(folder.predictions / f"{client.name}.csv", table, float_format="%.6g")
