"""Who would share with nobody but itself sends nothing, by whatever exchange; and lessons are digested at the round's rate."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import toy
from sklearn.naive_bayes import GaussianNB
from torch import nn
from whole import Federation, enrol, init, run_round

from hetfed.algorithms import feddf, fedmd
from hetfed.client import Client, Tensors
from hetfed.composition import Step, compose
from hetfed.data import Spec
from hetfed.errors import PlanError
from hetfed.exchanges import KINDS, Exchange
from hetfed.exchanges.companions import Companion
from hetfed.exchanges.groups import lonely
from hetfed.learner import Learner
from hetfed.training import Training

OWN = sorted(kind for kind, found in KINDS.items() if found.__module__.startswith("hetfed."))
COMPANIONS = [kind for kind in OWN if issubclass(KINDS[kind], Companion)]
SHARING = [kind for kind in OWN if kind not in COMPANIONS]


def common(spec: Spec) -> nn.Module:
    return toy.Net(spec["inputs"], 3)


def able(name: str) -> Client:
    return replace(toy.client(name), common_fn=common)


def unable(name: str) -> Client:
    """One that learns without gradients, and holds no public inputs."""
    client = replace(toy.client(name), public=None)
    return replace(client, model_fn=lambda spec: Learner(GaussianNB(), client.task, {"point": (2,)}))


def new(kind: str) -> Exchange:
    return KINDS[kind]()


def test_there_are_exchanges_of_both_sorts() -> None:
    assert set(COMPANIONS) == {"mixed-models", "mutual-learning", "nested-features", "proximal-copy", "second-model"}
    assert {"trained-head", "trained-prototypes", "feature-generator", "teacher-distillation"} <= set(SHARING)


@pytest.mark.parametrize("kind", SHARING)
def test_who_is_there_alone_is_lonely(kind: str) -> None:
    assert lonely(new(kind), [able("a").profile]) == {"a": "nobody else can take part"}
    assert lonely(new(kind), [able("a").profile, able("b").profile]) == {}


@pytest.mark.parametrize("kind", SHARING)
def test_where_only_one_of_several_can_take_part_nobody_does(kind: str) -> None:
    with pytest.raises(PlanError, match=rf"{kind}: no client can take part.*a: nobody else can take part") as raised:
        enrol(compose(new(kind)), [able("a"), unable("b"), unable("c")])
    assert "b, c: " in str(raised.value)
    two = enrol(compose(new(kind)), [able("a"), unable("b"), able("c")])
    assert two.composition.steps[0].clients == ("a", "c")
    assert set(two.left_out[kind]) == {"b"}


@pytest.mark.parametrize("kind", SHARING)
def test_who_is_named_alone_is_lonely_too(kind: str) -> None:
    with pytest.raises(PlanError, match=rf"{kind}: no client can take part.*nobody else can take part"):
        enrol(compose(Step(new(kind), clients=("a",))), [able("a"), able("b")])


def test_a_model_like_no_other_learns_from_the_ensemble_of_all() -> None:
    """Of distilled parameters every group learns from what all have sent: one that is a group by itself is not alone."""
    composition = feddf()
    enrolment = enrol(composition, [able("a"), able("b"), toy.client("c", width=6)])
    assert enrolment.composition.steps[0].clients == ("a", "b", "c")
    assert enrolment.left_out == {}
    apart, _ = toy.federate([toy.client("c", width=6)], composition)
    among, _ = toy.federate([toy.client("a"), toy.client("c", width=6)], composition)
    key = next(key for key in apart.server["distilled-parameters"] if key.endswith("head.weight"))
    assert not torch.equal(apart.server["distilled-parameters"][key], among.server["distilled-parameters"][key])


@pytest.mark.parametrize("kind", COMPANIONS)
def test_a_companion_is_of_use_to_one_by_itself(kind: str) -> None:
    assert lonely(new(kind), [able("a").profile]) == {}
    enrolment = enrol(compose(new(kind)), [able("a"), unable("b")])
    assert enrolment.composition.steps[0].clients == ("a",)
    assert enrolment.left_out == {kind: {"b": "its model does not learn by gradients"}}


def digested(rounds: int, **training: object) -> list[Tensors]:
    """How far two clients' models are moved in the second round by nothing but the lesson, in one step of gradient descent."""
    settings = Training.model_validate({"optimizer": "sgd", "lr": 0.5, "epochs": 0, **training})
    clients = [toy.client(name, training=settings) for name in "ab"]
    composition = fedmd().over(rounds)
    enrolment = enrol(composition, clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0)
    first = run_round(federation, init(federation))
    second = run_round(federation, first)
    return [
        {key: second.clients[name].model[key] - tensor for key, tensor in first.clients[name].model.items() if "head" in key}
        for name in "ab"
    ]


@pytest.mark.parametrize("rounds", [2, 3, 10])
def test_a_lesson_is_digested_at_the_rate_of_the_round(rounds: int) -> None:
    share = 0.5 * (1 + math.cos(math.pi / rounds))
    for constant, cosine in zip(digested(rounds), digested(rounds, schedule="cosine"), strict=True):
        for name, step in constant.items():
            assert step.abs().max() > 1e-4
            assert float((cosine[name] - share * step).abs().max()) < 1e-6
