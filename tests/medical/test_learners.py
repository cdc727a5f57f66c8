"""Scikit-learn's classifiers by name, and hospitals that have one instead of a network."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from hetfed.data import Examples
from hetfed.errors import PlanError
from hetfed.evaluation import predict
from hetfed.learner import Estimator, Learner
from hetfed.plan import read_plan
from hetfed.pooled import kinds_of
from hetfed.run.prepare import load_clients
from hetfed.seeding import generator
from hetfed.tasks import Classification
from hetfed_medical import vertical
from hetfed_medical.learners import LEARNERS, new_learner
from hetfed_medical.plan_schema import LearnerName

TASK = Classification(("a", "b", "c"))
WARDS = """
[defaults.data]
dataset = "sample-hospitals"
modalities = ["genes"]
limit = 60
[defaults.model]
learner = "random-forest"
[[client]]
name = "north"
data = { sites = ["north"] }
[[client]]
name = "south"
data = { sites = ["south"] }
model = { settings = { n_estimators = 7 } }
[[client]]
name = "west"
data = { sites = ["west"] }
"""


def examples(n: int) -> Examples:
    """Three clouds."""
    target = torch.arange(n) % 3
    x = torch.randn(n, 4, generator=generator("clouds", n)) + 3 * torch.nn.functional.one_hot(target, 4)
    return Examples({"genes": x}, target, [str(i) for i in range(n)])


def learner(estimator: Estimator, train: Examples, public: Examples | None = None) -> Learner:
    """A classifier that is fitted on these examples, at its own site."""
    return Learner(estimator, TASK, {"genes": (4,)}, public=0 if public is None else len(public)).bind(train, public)


def test_a_plan_may_name_each_and_no_other() -> None:
    assert set(get_args(LearnerName)) == set(LEARNERS)


@pytest.mark.parametrize("name", LEARNERS)
def test_each_learns_answers_with_probabilities_and_takes_a_lesson(name: str) -> None:
    public = examples(12)
    model = learner(new_learner(name, {}, "client 'x'", 0), examples(60), public)
    test = examples(33)
    logits = predict(model, test).logits
    assert (logits.argmax(dim=1) == test.target).float().mean() > 0.7
    assert torch.allclose(logits.exp().sum(dim=1), torch.ones(33), atol=0.01)
    turned = torch.nn.functional.one_hot((public.target + 1) % 3, 3) * 20.0
    model.distil(turned, weight=50.0)
    assert (predict(model, public).logits.argmax(dim=1) == (public.target + 1) % 3).float().mean() > 0.5


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("classes", ["a", "aa", "ab", "aab", "aabb", "abc", "aaaaab", "aaaaabbc"])
@pytest.mark.parametrize("name", LEARNERS)
def test_each_makes_do_with_as_few_examples_as_there_are(name: str, classes: str, distilled: bool) -> None:
    target = torch.tensor(["abc".index(each) for each in classes])
    x = torch.randn(len(target), 4, generator=generator(classes)) + 3 * torch.nn.functional.one_hot(target, 4)
    own, public = Examples({"genes": x}, target, list(map(str, range(len(target))))), examples(12)
    model = learner(new_learner(name, {}, "client 'x'", 0), own, public)
    if distilled:
        model.distil(torch.nn.functional.one_hot(public.target, 3) * 2.0, weight=0.5)
    logits = predict(model, public).logits
    assert logits.shape == (12, 3)
    assert logits.isfinite().all()


def test_of_three_examples_of_each_class_or_more_three_folds_are_made() -> None:
    """So that what a support vector machine says of a hospital of some size is what it has always said."""
    target, folds = np.arange(12) % 2, StratifiedKFold(3, shuffle=True, random_state=7)
    found = new_learner("svm", {}, "client 'x'", 0).cv
    for mine, theirs in zip(replace(found, seed=7).split(target, target), folds.split(target, target), strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("rarest", [1, 2])
def test_each_learns_where_a_class_is_rare(name: str, rarest: int) -> None:
    few = examples(60)
    own = few.take(torch.cat([torch.nonzero(few.target == c).flatten()[:count] for c, count in enumerate((rarest, 9, 9))]))
    assert predict(learner(new_learner(name, {}, "x", 0), own), few).logits.isfinite().all()


@pytest.mark.parametrize("name", LEARNERS)
def test_chance_is_that_of_the_seed(name: str) -> None:
    same = [learner(new_learner(name, {}, "x", 0, "north"), examples(60)) for _ in range(2)]
    one, other = (predict(model, examples(33)).logits for model in same)
    assert torch.equal(one, other)


def test_settings_are_the_classifier_s_own() -> None:
    forest = new_learner("random-forest", {"n_estimators": 7}, "client 'x'", 0)
    assert (forest.n_estimators, forest.min_samples_leaf) == (7, 2)
    assert clone(forest).get_params() == forest.get_params()
    with pytest.raises(PlanError, match=r"client 'x'\.model\.settings: .*'trees'.*RandomForestClassifier lists what it takes"):
        new_learner("random-forest", {"trees": 7}, "client 'x'", 0)


def test_hospitals_with_other_settings_are_of_another_kind() -> None:
    clients = load_clients(read_plan(WARDS, "x"), vertical, None)
    assert [sorted(client.name for client in kind) for kind in kinds_of(clients)] == [["north", "west"], ["south"]]
    assert [client.about["model"] for client in clients] == [
        "learner: random-forest",
        "learner: random-forest, n_estimators: 7",
        "learner: random-forest",
    ]
    assert all(client.common_fn is None for client in clients)


def test_two_hospitals_do_not_draw_the_same_trees() -> None:
    north, _, west = load_clients(read_plan(WARDS, "x"), vertical, None)
    assert north.module.estimator.random_state != west.module.estimator.random_state
    again = replace(north).module.estimator
    assert again.random_state == north.module.estimator.random_state
