"""What a client keeps in the end: a mean of what its models of several arms predict, or one of them.

A real participant can have three models: the one of the federation, that one trained further by itself, and one trained
alone. A rule gives each a share, looking at the client's own validation data or at nothing. `tests/benchmarks/kept_rules.py`
compares the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch

from hetfed.data import Examples
from hetfed.evaluation import error_of_gain, judge
from hetfed.model import Output
from hetfed.results.arms import ALONE, FEDERATED, OWN_ARMS
from hetfed.tasks import Task, loss_if_any

Keep = Literal["mean", "mean of two", "validation", "loss", "one standard error", "stacking"]
"""The mean of all arms' predictions, or of those alone and federated; the arm with the best metric, or the least loss, on
validation data; federated, unless alone is better there by more than one standard error; the shares with the least loss."""
Answers = Mapping[str, Output]
"""What the models of a client predict for its validation examples, by arm."""
Shares = Mapping[str, float]
"""The share of each arm in a mean prediction, above 0; their sum is 1."""


def shares_of(rule: Keep, answers: Answers, task: Task, validation: Examples) -> Shares:
    """The arms that a client keeps, and how much each counts.

    An arm whose predictions are not finite counts nothing, unless there is no other.

    Args:
        rule: one of `Keep`.
        answers: on the validation examples, of each arm that the client has a model of; at least one.
        task: of the client.
        validation: its examples.

    >>> right, wrong = Output(torch.tensor([[2.0, 0.0], [0.0, 2.0]])), Output(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    >>> from hetfed.tasks import Classification
    >>> examples = Examples({}, torch.tensor([0, 1]), ["a", "b"])
    >>> answers = {"alone": wrong, "federated": right}
    >>> [shares_of(rule, answers, Classification(("ill", "well")), examples) for rule in ("mean", "validation")]
    [{'federated': 0.5, 'alone': 0.5}, {'federated': 1.0}]
    """
    sound = {arm: answers[arm] for arm in OWN_ARMS if arm in answers and bool(answers[arm].logits.isfinite().all())}
    return RULES[rule](sound or dict(answers), task, validation)


def _equal(answers: Answers) -> Shares:
    return dict.fromkeys(answers, 1 / len(answers))


def _mean(answers: Answers, task: Task, validation: Examples) -> Shares:
    """All of them alike: nothing is chosen, and so nothing is chosen by chance."""
    return _equal(answers)


def _mean_of_two(answers: Answers, task: Task, validation: Examples) -> Shares:
    """Alone and federated."""
    return _equal({arm: answers[arm] for arm in (FEDERATED, ALONE) if arm in answers} or answers)


def _best_metric(answers: Answers, task: Task, validation: Examples) -> Shares:
    """The one with the best metric; where it is equal or nowhere defined, with the least loss."""
    # Of equals max takes the first: the order of OWN_ARMS decides.
    return {max(answers, key=lambda arm: judge(answers[arm], task, validation).score): 1.0}


def _least_loss(answers: Answers, task: Task, validation: Examples) -> Shares:
    return {min(answers, key=lambda arm: _loss(answers[arm], task, validation)): 1.0}


def _one_standard_error(answers: Answers, task: Task, validation: Examples) -> Shares:
    """Federated, unless alone is better by more than chance may make it (Breiman et al. 1984 prune trees so)."""
    if FEDERATED in answers and ALONE in answers:
        alone, federated = (judge(answers[arm], task, validation).score[0] for arm in (ALONE, FEDERATED))
        error = error_of_gain(answers[ALONE], answers[FEDERATED], task, validation)
        return {ALONE if error is not None and alone - federated > error else FEDERATED: 1.0}
    return {next(iter(answers)): 1.0}


def _stacking(answers: Answers, task: Task, validation: Examples) -> Shares:
    """The shares whose mean has the least loss (Wolpert 1992), of the whole tenths from 0 to 1."""
    tenths = 10
    tried = [
        {arm: part / tenths for arm, part in zip(answers, parts, strict=True) if part}
        for parts in torch.cartesian_prod(*[torch.arange(tenths + 1)] * len(answers)).view(-1, len(answers)).tolist()
        if sum(parts) == tenths
    ]
    return min(tried, key=lambda shares: _loss(mean_answer(shares, answers, task), task, validation))


def _loss(answer: Output, task: Task, validation: Examples) -> float:
    found = loss_if_any(task, answer, validation.whole())
    return math.inf if found is None else float(found)


RULES: dict[Keep, Callable[[Answers, Task, Examples], Shares]] = {
    "mean": _mean,
    "mean of two": _mean_of_two,
    "validation": _best_metric,
    "loss": _least_loss,
    "one standard error": _one_standard_error,
    "stacking": _stacking,
}
assert set(RULES) == set(get_args(Keep))


def mean_answer(shares: Shares, answers: Answers, task: Task) -> Output:
    """The mean of the arms' predictions, each with its share.

    The only one is given as it is.
    """
    outputs = [answers[arm] for arm in shares]
    return outputs[0] if len(outputs) == 1 else task.average(outputs, list(shares.values()))


def in_words(shares: Shares) -> str:
    """A short name of what is kept.

    >>> in_words({"federated": 1.0}), in_words({"federated": 0.5, "alone": 0.5}), in_words({"federated": 0.3, "alone": 0.7})
    ('federated', 'mean of federated, alone', '0.3 federated, 0.7 alone')
    """
    if len(shares) == 1:
        return next(iter(shares))
    if len(set(shares.values())) == 1:
        return f"mean of {', '.join(shares)}"
    return ", ".join(f"{share:.1f} {arm}" for arm, share in shares.items())
