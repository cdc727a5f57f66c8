"""Scikit-learn's estimators as models: what they are fitted on, what they say, and lessons both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load, save
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor
from whole import Federation, State, enrol, init, load_state, run_round, save_state

from hetfed.algorithms import NAMED, alone, fedmd
from hetfed.client import Client
from hetfed.composition import Composition, compose
from hetfed.data import ClientData, Examples
from hetfed.evaluation import predict
from hetfed.exchanges import LogitDistillation
from hetfed.learner import SURE, Learner
from hetfed.pooled import train_pooled
from hetfed.tasks import Classification, Forecasting, Regression

TASK = Classification(("low", "high"))
PUBLIC = toy.examples(10, "public")


def points(x: list[list[float]], target: list[Any]) -> Examples:
    return Examples({"point": torch.tensor(x)}, torch.tensor(target), [str(i) for i in range(len(x))])


def numbers(target: Tensor) -> Examples:
    x = torch.arange(float(len(target)))[:, None]
    return Examples({"point": torch.cat([x, x**2], dim=1)}, target, [str(i) for i in range(len(target))])


def unbound(estimator: Any, task: Any, train: Examples, public: Examples | None = None) -> Learner:
    """A learner for data of this shape, that has not seen them."""
    shapes = {name: tensor.shape[1:] for name, tensor in train.inputs.items()}
    return Learner(estimator, task, shapes, target=train.target.shape[1:], public=0 if public is None else len(public))


def bound(estimator: Any, task: Any, train: Examples, public: Examples | None = None) -> Learner:
    """A learner at the site of its data."""
    return unbound(estimator, task, train, public).bind(train, public)


def learner(train: Examples | None = None, estimator: Any = None, public: Examples | None = PUBLIC) -> Learner:
    return bound(GaussianNB() if estimator is None else estimator, TASK, train or toy.examples(24, "x"), public)


def forest(name: str, **options: Any) -> Client:
    """A client of the toy whose model is a forest."""
    client = toy.client(name, **options)
    estimator = RandomForestClassifier(20, random_state=len(name))

    def model_fn(spec: object) -> Learner:
        return Learner(clone(estimator), client.task, {"point": (2,)}, public=len(PUBLIC))

    return replace(client, model_fn=model_fn, kind="forest")


def probability(model: Learner, examples: Examples) -> Tensor:
    return predict(model, examples).logits.exp()


def by_hand(train: Examples, columns: Any, target: Any, weight: Any, at: Examples) -> Any:
    """The probabilities of naive Bayes on `train` and further weighted examples."""
    x, y = train.inputs["point"].double().numpy(), train.target.numpy()
    fitted = GaussianNB().fit(
        np.concatenate([x, columns]), np.concatenate([y, target]), np.concatenate([np.ones(len(y)), weight])
    )
    said = fitted.predict_proba(at.inputs["point"].double().numpy())
    # Nobody is certain, and what is nearly so stays in its order.
    said = np.where(said < 2 * SURE, SURE + said / 2, said)
    return np.where(said > 1 - 2 * SURE, 1 - SURE - (1 - said) / 2, said)


def advanced(clients: list[Client], composition: Composition, rounds: int, seed: int = 0) -> list[State]:
    """The states before the first round and after each."""
    enrolment = enrol(composition, clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, seed)
    states = [init(federation)]
    for _ in range(rounds):
        states.append(run_round(federation, states[-1]))
    return states


def test_a_classifier_says_its_own_probabilities() -> None:
    train, test = toy.examples(24, "x"), toy.examples(20, "y")
    expected = by_hand(train, np.empty((0, 2)), np.empty(0), np.empty(0), test)
    assert probability(learner(train), test).numpy() == pytest.approx(expected, rel=1e-5)


def test_nobody_is_certain() -> None:
    sure = learner(points([[0.0, 0.0], [1.0, 1.0]], [0, 1]), DecisionTreeClassifier(random_state=0))
    said = probability(sure, points([[0.0, 0.0], [1.0, 1.0]], [0, 1]))
    assert said.flatten().tolist() == pytest.approx([1 - SURE, SURE, SURE, 1 - SURE])


@pytest.mark.parametrize("only", [0, 1])
def test_a_classifier_with_one_class_expects_nothing_else(only: int) -> None:
    """Logistic regression cannot be fitted on one class."""
    from sklearn.linear_model import LogisticRegression

    said = probability(learner(points([[0.0, 0.0], [1.0, 1.0]], [only, only]), LogisticRegression()), toy.examples(3, "y"))
    assert said[:, only].tolist() == pytest.approx([1 - SURE] * 3)
    assert said[:, 1 - only].tolist() == pytest.approx([SURE] * 3)


def test_a_class_that_nobody_has_shown_it_is_improbable() -> None:
    task = Classification(("a", "b", "c"))
    model = bound(GaussianNB(), task, points([[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]], [0, 0, 2, 2]))
    said = probability(model, points([[0.0, 0.0], [5.0, 5.0]], [0, 2]))
    assert said.argmax(dim=1).tolist() == [0, 2]
    assert said[:, 1].tolist() == pytest.approx([SURE, SURE])


def test_examples_of_unknown_class_are_not_learned_from() -> None:
    known, test = toy.examples(12, "x"), toy.examples(20, "y")
    unknown = replace(toy.examples(12, "z"), target=torch.full((12,), -1))
    assert torch.equal(
        probability(learner(Examples.concat([known, unknown])), test), probability(learner(known), test)
    )  # fmt: skip


def test_a_missing_value_is_zero_and_so_is_an_absent_modality() -> None:
    train = toy.examples(24, "x")
    both = replace(train, inputs={"more": train.inputs["point"] - 1, **train.inputs})
    model = learner(both, public=None)
    x, nothing = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(5, 2)
    asked = [
        model({"point": x, "more": nothing}),
        model({"more": nothing, "point": x}),
        model({"point": x, "more": nothing * torch.nan}),
        model({"point": x}),
        model({"point": x, "unheard of": torch.ones(5, 9)}),
    ]
    assert all(torch.equal(output.logits, asked[0].logits) for output in asked)
    assert not torch.equal(model({"more": x}).logits, asked[0].logits)
    with pytest.raises(KeyError, match="none of more, point"):
        model({"unheard of": x})


def test_a_regressor_answers_in_scaled_units() -> None:
    task = Regression(mean=10.0, scale=4.0)
    train = numbers(torch.tensor([3.0, 5.0, 7.0, 9.0]))
    model = bound(LinearRegression(), task, train)
    output = predict(model, train)
    assert output.logits.tolist() == pytest.approx([-1.75, -1.25, -0.75, -0.25])
    assert task.metrics(output, train).values["RMSE"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2), (4, 2, 3)])
def test_a_regressor_answers_in_the_shape_of_the_target(shape: tuple[int, ...]) -> None:
    """A tree can repeat what it has seen."""
    from sklearn.tree import DecisionTreeRegressor

    train = numbers(torch.arange(float(np.prod(shape))).view(shape))
    model = bound(DecisionTreeRegressor(random_state=0), Regression(2.0, 3.0), train, train)
    output = predict(model, train)
    assert torch.allclose(output.logits * 3 + 2, train.target)
    model.distil(output.logits + 1, weight=1e6)
    assert torch.allclose(predict(model, train).logits, output.logits + 1, atol=1e-4)


def test_numbers_that_are_missing_are_not_learned_from() -> None:
    target = torch.tensor([3.0, torch.nan, 7.0, 9.0])
    found = predict(bound(LinearRegression(), Regression(), numbers(target)), numbers(target)).logits
    assert found.tolist() == pytest.approx([3.0, 5.1111, 7.0, 9.0], abs=0.3)
    assert found.isfinite().all()


def test_a_lesson_is_every_class_at_once_as_far_as_it_is_likely() -> None:
    train, test = toy.examples(24, "x"), toy.examples(20, "y")
    model, logits = learner(train), torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    model.distil(logits, weight=0.7)
    x = PUBLIC.inputs["point"].double().numpy()
    share = logits.double().softmax(dim=1).numpy()
    columns, target = np.concatenate([x, x]), np.repeat([0, 1], 10)
    expected = by_hand(train, columns, target, 0.7 * np.concatenate([share[:, 0], share[:, 1]]), test)
    assert probability(model, test).numpy() == pytest.approx(expected, rel=1e-4)


def test_a_lesson_teaches_a_class_that_the_client_has_never_seen() -> None:
    model = learner(points([[0.0, 0.0], [0.1, 0.1]], [0, 0]))
    before = probability(model, PUBLIC)
    model.distil(torch.tensor([[4.0, -4.0], [-4.0, 4.0]] * 5), weight=1.0)
    after = probability(model, PUBLIC)
    assert (before.argmax(dim=1) == 0).all()
    assert after.argmax(dim=1).tolist() == [0, 1] * 5


def test_a_lesson_without_weight_is_none() -> None:
    model, test = learner(), toy.examples(20, "y")
    before = probability(model, test)
    model.distil(torch.randn(10, 2), weight=0.0)
    assert torch.equal(probability(model, test), before)


def test_it_is_fitted_again_for_another_lesson_and_not_for_the_same() -> None:
    model, test = learner(estimator=RandomForestClassifier(20, random_state=3)), toy.examples(20, "y")
    states, said = [], []
    for lesson in (torch.zeros(10, 2), torch.eye(2).repeat(5, 1) * 9, torch.eye(2).flip(0).repeat(5, 1) * 9):
        model.distil(lesson, weight=1.0)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        said.append(probability(model, test))
        trees = model.fitted().estimators_
        assert model.fitted().estimators_ is trees
    assert not torch.equal(said[1], said[2])
    for state, expected in zip(states, said, strict=True):
        model.load_state_dict(state)
        assert torch.equal(probability(model, test), expected)


def test_its_state_is_two_tensors_from_which_another_process_fits_it_again() -> None:
    one, other = (learner(estimator=RandomForestClassifier(20, random_state=3)) for _ in range(2))
    one.distil(torch.eye(2).repeat(5, 1) * 9, weight=2.0)
    assert {name: tuple(tensor.shape) for name, tensor in one.state_dict().items()} == {"distilled": (10, 2), "weight": ()}
    assert list(one.parameters()) == []
    other.load_state_dict(load(save(one.state_dict())))
    test = toy.examples(20, "y")
    assert torch.equal(probability(one, test), probability(other, test))


def test_the_same_kind_on_other_data_knows_nothing_of_the_first() -> None:
    one, other, test = learner(), toy.examples(24, "z"), toy.examples(20, "y")
    one.distil(torch.eye(2).repeat(5, 1) * 9, weight=2.0)
    before = probability(one, test)
    assert torch.equal(probability(one.on(other), test), probability(learner(other), test))
    assert torch.equal(probability(one, test), before)


def test_only_classes_and_numbers_are_answered() -> None:
    task = Forecasting("km/h", 5, (5,), torch.zeros(1), torch.ones(1))
    with pytest.raises(TypeError, match="not Forecasting"):
        Learner(GaussianNB(), task, {"point": (2,)})


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_away_from_its_site_a_learner_answers_zeros_in_the_right_shape(shape: tuple[int, ...]) -> None:
    x = {"point": torch.ones(4, 2)}
    said = unbound(LinearRegression(), Regression(2.0, 3.0), numbers(torch.ones(4, *shape)))(x).logits
    assert torch.equal(said, torch.zeros(4, *shape))
    assert torch.equal(unbound(GaussianNB(), TASK, toy.examples(4, "x"))(x).logits, torch.zeros(4, 2))


def test_nothing_of_its_data_is_in_a_learner_that_a_profile_builds() -> None:
    """The profile is what everybody knows; only the client itself binds its model to its data."""
    client = forest("f")
    assert client.profile.module.train_on is None
    assert client.profile.module.public is None
    assert client.module.train_on is client.data.train
    assert client.module.public is client.public


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_networks_and_forests_teach_each_other(temperature: float) -> None:
    clients = [toy.client("net"), forest("forest")]
    composition = compose(LogitDistillation(temperature=temperature, weight=0.5, epochs=20))
    before, after, last = advanced(clients, composition, 2)
    mean = after.server["logit-distillation"]["logits"]
    lesson = last.clients["forest"].model
    assert torch.allclose(lesson["distilled"], mean / temperature)
    assert float(lesson["weight"]) == 0.5
    assert not before.clients["forest"].model["distilled"].any()
    # The forest is a part of what the network learns from, too.
    apart = advanced([toy.client("net"), toy.client("forest")], composition, 2)[-1]
    assert not toy.same(last.clients["net"].model, apart.clients["net"].model)


def test_what_travels_is_what_the_forest_says() -> None:
    state = advanced([forest("f")], fedmd(), 1)[-1]
    client = forest("f")
    client.module.load_state_dict(state.clients["f"].model)
    assert client.public is not None
    assert torch.equal(state.server["logit-distillation"]["logits"], predict(client.module, client.public).logits)


def test_a_checkpoint_goes_on_to_the_same_end(tmp_path: Any) -> None:
    clients = [toy.client("net"), forest("forest")]
    whole = advanced(clients, fedmd(), 3)
    save_state(whole[2], tmp_path / "x", "digest")
    state = load_state(tmp_path / "x", "digest")
    assert state is not None
    enrolment = enrol(fedmd(), [toy.client("net"), forest("forest")])
    end = run_round(Federation.of(enrolment.clients, enrolment.composition, 3, 0), state)
    for name in ("net", "forest"):
        assert toy.same(end.clients[name].model, whole[3].clients[name].model)
        assert toy.same(end.clients[name].best, whole[3].clients[name].best)


def test_alone_a_forest_is_what_it_was_from_the_first_round_on() -> None:
    before, first, second = advanced([forest("f")], alone(), 2)
    assert toy.same(before.clients["f"].model, second.clients["f"].model)
    rows = second.rows
    assert rows[0].validation == rows[1].validation
    assert all(np.isnan(row.train_loss) for row in rows)
    assert (first.clients["f"].best_round, second.clients["f"].best_round) == (1, 1)


def test_pooled_forests_are_fitted_on_everybody_s_data() -> None:
    clients = [forest("a"), forest("b", n=17), toy.client("net")]
    found = train_pooled(Federation.of(clients, alone(), 3, 0).server, clients, clients[:2])
    everybody = Examples.concat([client.data.train for client in clients])
    model = bound(clone(clients[0].module.estimator), TASK, everybody)
    for client in clients[:2]:
        output = predict(model, client.data.test)
        assert found[client.name].value == pytest.approx(TASK.metrics(output, client.data.test).values["AUROC"])
        assert found[client.name].round == 1


def test_who_cannot_be_read_by_the_pooled_forest_has_no_value() -> None:
    def renamed(examples: Examples) -> Examples:
        return replace(examples, inputs={"other": examples.inputs["point"]})

    far = forest("c")
    data = ClientData(*(renamed(part) for part in (far.data.train, far.data.validation, far.data.test)))
    far = replace(far, data=data, model_fn=lambda spec: Learner(GaussianNB(), TASK, {"other": (2,)}))
    clients = [forest("a"), forest("b"), far]
    found = train_pooled(Federation.of(clients, alone(), 1, 0).server, clients, clients)
    assert found["c"].note == "no other client's data fits its model"
    assert found["a"].value is not None


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"alone", "fedmd"}))
def test_where_predictions_are_not_enough_a_forest_is_left_out_with_the_reason(name: str) -> None:
    nets = [replace(toy.client(name), common_fn=lambda spec: toy.Net(2, 3)) for name in ("net", "other net")]
    enrolment = enrol(NAMED[name](), [*nets, forest("forest")])
    reasons = [reasons for reasons in enrolment.left_out.values() if "forest" in reasons]
    assert reasons
    assert all(set(left_out) == {"forest"} for left_out in reasons)


def test_what_an_estimator_is_nearly_certain_of_stays_in_its_order() -> None:
    x = torch.linspace(-1, 1, 41)[:, None]
    target = (x[:, 0] > 0).long()
    examples = Examples({"x": 40 * x}, target, [str(i) for i in range(41)])
    learner = Learner(LogisticRegression(C=100), Classification(("a", "b")), {"x": (1,)}).bind(examples)
    margin = learner({"x": 40 * x}).logits.diff(dim=1)[:, 0]
    probability = learner.fitted().predict_proba((40 * x).double().numpy())[:, 1]
    apart = np.diff(probability) > 1e-8
    assert (probability > 1 - SURE).sum() > 5
    assert (margin.diff().numpy()[apart] > 0).all()
