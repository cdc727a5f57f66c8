"""Nobody shares answers with those who ask something else, nor gradients with those who have none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy
from sklearn.ensemble import RandomForestClassifier
from torch import nn
from whole import enrol

from hetfed.algorithms import ditto, fedavg, fedbabu, fedmd, fedper, fml, scaffold
from hetfed.client import Client
from hetfed.composition import Step, compose
from hetfed.errors import PlanError
from hetfed.exchanges import (
    KINDS,
    ControlVariates,
    DistilledParameters,
    Exchange,
    FeatureGenerator,
    LogitDistillation,
    Prototypes,
    SharedParameters,
    Slices,
    TeacherDistillation,
    TrainedHead,
    TrainedPrototypes,
)
from hetfed.learner import Learner
from hetfed.parts import Signature
from hetfed.tasks import Classification


def mixed() -> list[Client]:
    """Two who ask one thing, and one who asks another with a model of the same shapes."""
    clients = [replace(toy.client(name), common_fn=lambda spec: toy.Net(spec["inputs"], 3)) for name in "abc"]
    return [*clients[:2], replace(clients[2], task=Classification(("benign", "malignant")))]


ANSWERS = [
    Prototypes(),
    TrainedPrototypes(),
    TrainedHead(),
    FeatureGenerator(),
    LogitDistillation(),
    DistilledParameters(),
    TeacherDistillation(),
    Slices(),
    SharedParameters(),
    SharedParameters("head"),
    ControlVariates(),
]


@pytest.mark.parametrize("exchange", ANSWERS, ids=lambda exchange: f"{type(exchange).__name__} {getattr(exchange, 'part', '')}")
def test_answers_to_different_questions_are_not_shared(exchange: Exchange) -> None:
    with pytest.raises(PlanError, match=r"clients '.' and '.' cannot share .*: they ask '.* or .*\?' and '.* or .*\?'\."):
        enrol(compose(exchange), mixed())
    assert [step.clients for step in enrol(compose(exchange), mixed()[:2]).composition] == [("a", "b")]


BODIES = [SharedParameters("encoder"), SharedParameters(exclude=("head",)), ControlVariates("encoder"), Slices("encoder")]


@pytest.mark.parametrize("exchange", BODIES, ids=lambda exchange: f"{type(exchange).__name__} {exchange.part}")
def test_a_body_is_shared_whatever_is_asked(exchange: Exchange) -> None:
    assert [step.clients for step in enrol(compose(exchange), mixed()).composition] == [("a", "b", "c")]


def sent_to(state: object, composition: object, client: str, label: str) -> dict[str, torch.Tensor]:
    clients = mixed()
    (step,) = [step for step in composition if step.label == label]
    return step.exchange.broadcast(
        toy.server_context(clients, step.exchange), state.server[label], clients["abc".index(client)].profile
    ).tensors


@pytest.mark.parametrize("composition", [fedavg(), scaffold()], ids=["fedavg", "scaffold"])
def test_heads_are_averaged_within_a_question(composition: object) -> None:
    """c, who asks something else, sends nothing and changes nothing."""
    state, uploads = toy.federate(mixed(), composition)
    apart, _ = toy.federate(mixed()[:2], composition)
    for step in composition:
        assert {u.client for u in uploads if u.exchange == step.label} == {"a", "b"}
        assert toy.same(*(sent_to(found, composition, "a", step.label) for found in (state, apart)))


def test_who_would_share_with_nobody_is_left_out_with_the_reason() -> None:
    clients = [toy.client("a"), toy.client("b"), toy.client("c", width=6)]
    enrolment = enrol(fedavg(), clients)
    assert enrolment.composition.steps[0].clients == ("a", "b")
    alone = "nobody else has the same tensors there, to answer the same question"
    assert enrolment.left_out == {"shared-parameters": {"c": alone}}
    listed = compose(Step(SharedParameters(among="same-shape"), clients=("b", "a", "c")))
    assert enrol(listed, clients).left_out == enrolment.left_out
    body = enrol(fedper(), clients).left_out
    assert body == {"shared-parameters": {"c": "nobody else has the same tensors there"}}
    assert enrol(fedavg(), clients[2:]).composition.steps[0].clients == ("c",)
    with pytest.raises(PlanError, match=r"no client can take part.*b, c: nobody else has the same"):
        enrol(fedavg(), clients[1:])


def test_bodies_are_averaged_across_questions_and_heads_are_not() -> None:
    for composition, label in ((fedper(), "shared-parameters"), (fedbabu(finetune=0), "body")):
        state, _ = toy.federate(mixed(), composition)
        assert toy.same(*(sent_to(state, composition, client, label) for client in "ac"))
    state, _ = toy.federate([replace(c, model_fn=lambda spec: toy.Net(spec["inputs"], 4)) for c in mixed()], fml())
    assert len({key.split("/")[0] for key in state.server["shared-parameters"]}) == 1


class Nameless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def test_a_model_that_names_no_head_answers_with_all_of_it() -> None:
    names = ["layers.0.bias", "layers.0.weight", "layers.1.bias", "layers.1.weight"]
    assert Signature.of(Nameless()).answers(names)
    assert not Signature.of(Nameless()).answers(names[:2])
    assert not Signature.of(toy.Net(2, 4)).answers(["encoder.0.weight"])
    assert not Signature.of(toy.Net(2, 4)).answers(["headless.weight"])


def forest(name: str) -> Client:
    client = toy.client(name)
    estimator = RandomForestClassifier(n_estimators=5, random_state=0)
    return replace(client, model_fn=lambda spec: Learner(estimator, client.task, {"point": (2,)}, public=len(client.public)))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"logit-distillation"}))
def test_who_learns_without_gradients_takes_no_part(kind: str) -> None:
    client = replace(forest("a"), common_fn=lambda spec: toy.Net(spec["inputs"], 3))
    assert KINDS[kind]().missing(client.profile) == "its model does not learn by gradients"


def test_a_forest_sits_out_all_but_what_it_says_of_public_inputs() -> None:
    clients = [forest("a"), toy.client("b"), toy.client("c")]
    for composition in (fedavg(), ditto(), compose(TeacherDistillation(hint=1.0))):
        enrolment = enrol(composition, clients)
        assert all(set(left_out) == {"a"} for left_out in enrolment.left_out.values())
        assert set(enrolment.left_out) == {step.label for step in composition}
        state, uploads = toy.federate(clients, composition, 2)
        assert {upload.client for upload in uploads} == {"b", "c"}
        assert {row.client for row in state.rows} == {"a", "b", "c"}
    _, uploads = toy.federate(clients, fedmd())
    assert {upload.client for upload in uploads} == {"a", "b", "c"}
