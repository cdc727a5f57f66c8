"""Numbers in units of their own: what a logit stands for at one client is not what it stands for at another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from torch import Tensor, nn
from whole import Federation, enrol

from hetfed.algorithms import alone, fedmd
from hetfed.client import Client
from hetfed.composition import compose
from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.evaluation import overall, predict
from hetfed.exchanges import DistilledParameters, LogitDistillation
from hetfed.learner import Learner
from hetfed.model import Output
from hetfed.payload import Payload
from hetfed.pooled import train_pooled
from hetfed.seeding import generator
from hetfed.tasks import Classification, Forecasting, Regression
from hetfed.training import Training


class Numbers(toy.Net):
    """Answers with one number."""

    def __init__(self) -> None:
        super().__init__(2, 6, classes=1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        output = super().forward(inputs)
        return Output(output.logits[:, 0], output.features)


def told(examples: Examples, mean: float = 100.0, scale: float = 5.0) -> Examples:
    """The same points, and of each a number that lies around `mean`."""
    point = examples.inputs["point"]
    return replace(examples, target=mean + scale * (point[:, 0] - point[:, 1]))


def numbers(name: str, task: Regression, training: Training | None = None) -> Client:
    client = toy.client(name, training=training)
    data = ClientData(told(client.data.train), told(client.data.validation), told(client.data.test), client.data.spec)
    return replace(client, data=data, task=task, model_fn=lambda spec: Numbers(), kind="numbers")


TASKS = {"a": Regression(mean=100.0, scale=5.0), "b": Regression(mean=90.0, scale=2.0), "c": Regression()}


def off(client: Client, by: float) -> Output:
    """Logits that stand for predictions which are off by so much in the unit of the target."""
    task = client.task
    assert isinstance(task, Regression | Forecasting)
    return Output((client.data.test.target + by - task.mean) / task.scale)


@pytest.mark.parametrize("names", ["ab", "ba", "abc", "cab", "bc"])
def test_all_test_data_together_are_judged_in_one_unit(names: str) -> None:
    clients = [numbers(name, TASKS[name]) for name in names]
    assert overall([off(client, 0.0) for client in clients], clients) == pytest.approx(0, abs=1e-4)
    outputs = [off(client, float(by)) for by, client in enumerate(clients, 1)]
    expected = (sum(by**2 for by in range(1, len(names) + 1)) / len(names)) ** 0.5
    assert overall(outputs, clients) == pytest.approx(expected, rel=1e-4)


def city(name: str, sensors: int, mean: float, scale: float) -> Client:
    """One whose forecasts are scaled sensor by sensor."""
    target = mean + scale * torch.randn(12, 2, sensors, generator=generator(name))
    examples = Examples({"x": torch.zeros(12, 1)}, target, [f"{name}-{i}" for i in range(12)])
    task = Forecasting("mph", 15, (15, 30), mean + torch.arange(sensors), torch.full((sensors,), scale))
    return replace(toy.client(name), data=ClientData(examples, examples, examples), task=task)


@pytest.mark.parametrize("sensors", [1, 3])
def test_forecasts_of_many_sensors_are_judged_in_one_unit(sensors: int) -> None:
    clients = [city("a", sensors, 50.0, 5.0), city("b", sensors, 40.0, 2.0)]
    assert overall([off(client, 1.0) for client in clients], clients) == pytest.approx(1, rel=1e-4)


def test_classes_have_no_scale() -> None:
    clients = [toy.client("a"), toy.client("b")]
    outputs = [predict(client.module, client.data.test) for client in clients]
    assert overall(outputs, clients) == overall(outputs[::-1], clients[::-1])


OTHER_SCALES = [Regression(mean=90.0, scale=5.0), Regression(mean=100.0, scale=2.0), TASKS["c"], TASKS["a"]]


@pytest.mark.parametrize("other", OTHER_SCALES, ids=lambda task: f"{task.mean} {task.scale}")
def test_answers_of_other_scales_are_distilled_in_the_unit_of_the_target(other: Regression) -> None:
    clients = [numbers("a", TASKS["a"]), numbers("b", other)]
    state, uploads = toy.federate(clients, compose(LogitDistillation()))
    said = []
    for client in clients:
        client.module.load_state_dict(state.clients[client.name].model)
        logits = predict(client.module, client.public).logits
        said.append(logits * client.task.scale + client.task.mean)
        (sent,) = [upload.contents for upload in uploads if upload.client == client.name]
        assert torch.allclose(sent.tensors["logits"], said[-1], rtol=1e-5)
    mean = torch.stack(said).mean(dim=0)
    assert torch.allclose(state.server["logit-distillation"]["logits"], mean, rtol=1e-5)


class Plane(nn.Module):
    """A linear answer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(inputs["point"] @ self.slope)


@pytest.mark.parametrize(("mean", "scale"), [(100.0, 5.0), (90.0, 2.0), (0.0, 1.0)])
def test_a_lesson_in_the_unit_of_the_target_is_learnt_as_the_client_scales_it(mean: float, scale: float) -> None:
    """One step of gradient descent on the mean squared distance to (lesson - mean) / scale, by hand."""
    client = numbers("a", Regression(mean=mean, scale=scale), Training(optimizer="sgd", lr=0.01))
    client = replace(client, model_fn=lambda spec: Plane())
    lesson, points = torch.linspace(80, 120, 10), PUBLIC.inputs["point"]
    slope = client.module.slope.detach().clone()
    apart = points @ slope - (lesson - mean) / scale
    LogitDistillation(batch_size=99).apply(toy.client_context(client), Payload({"logits": lesson}))
    assert torch.allclose(client.module.slope, slope - 0.01 * 2 * points.T @ apart / 10, atol=1e-5)


def test_who_scales_by_its_own_data_sits_out_what_is_distilled_at_the_server() -> None:
    """The server does not know by what: in its models and forecasts there would be no telling what an answer means."""
    scaled = [numbers("a", TASKS["a"]), numbers("b", TASKS["b"])]
    plain = [numbers(name, TASKS["c"]) for name in "cd"]
    enrolment = enrol(compose(DistilledParameters()), [*scaled, *plain])
    assert enrolment.composition.steps[0].clients == ("c", "d")
    reason = "its answers are scaled by its own data, which the server does not know"
    assert enrolment.left_out == {"distilled-parameters": dict.fromkeys("ab", reason)}
    with pytest.raises(PlanError, match=f"distilled-parameters: no client can take part.*a, b: {reason}"):
        enrol(compose(DistilledParameters()), scaled)


def test_a_pooled_model_is_judged_by_the_scale_that_it_was_trained_with() -> None:
    """Both tell numbers around 100; a's task scales them, and b's takes them as they are."""
    training = Training(lr=0.05, batch_size=8, epochs=8)
    clients = [numbers("a", TASKS["a"], training), numbers("b", TASKS["c"], training)]
    outcomes = train_pooled(Federation.of(clients, alone(), 6, 0).server, clients, clients)
    for client in clients:
        deviation = float(client.data.test.target.std())
        value = outcomes[client.name].value
        assert value is not None and value < deviation


def learner(task: Classification | Regression, train: Examples, estimator: object, public: Examples) -> Client:
    """A client whose model is a scikit-learn estimator."""
    client = toy.client("a")
    data = ClientData(train, train, train)
    shape = tuple(train.target.shape[1:])
    return replace(client, data=data, task=task, public=public,
                   model_fn=lambda spec: Learner(estimator, task, {"point": (2,)}, target=shape, public=len(public)))  # type: ignore[arg-type]  # fmt: skip


PUBLIC = toy.examples(10, "public")


def lesson(client: Client, logits: Tensor, temperature: float) -> Tensor:
    """What the client's learner makes of these logits."""
    LogitDistillation(temperature=temperature).apply(toy.client_context(client), Payload({"logits": logits}))
    assert isinstance(client.module, Learner)
    return client.module.distilled


def test_a_temperature_softens_classes_and_divides_no_numbers() -> None:
    task = Regression(mean=100.0, scale=5.0)
    train = told(toy.examples(24, "x"))
    client = learner(task, train, LinearRegression(), PUBLIC)
    said = torch.linspace(-2, 2, 10)
    assert torch.allclose(lesson(client, said * 5 + 100, 4.0).flatten(), said, atol=1e-5)
    # What it has been taught is what it says then, where the lesson outweighs its own examples by far.
    points = PUBLIC.inputs["point"]
    plane = (points[:, 0] - points[:, 1]) / 2
    LogitDistillation(temperature=4.0, weight=1e6).apply(toy.client_context(client), Payload({"logits": plane * 5 + 100}))
    assert torch.allclose(client.module({"point": points}).logits, plane, atol=1e-2)
    classes = learner(Classification(("low", "high")), toy.examples(24, "x"), GaussianNB(), PUBLIC)
    logits = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lesson(classes, logits, 4.0), logits / 4)


def test_a_temperature_changes_nothing_where_everybody_tells_numbers() -> None:
    def consensus(temperature: float) -> Tensor:
        task, train = Regression(mean=100.0, scale=5.0), told(toy.examples(24, "x"))
        clients = [learner(task, train, LinearRegression(), PUBLIC), numbers("b", task)]
        state, _ = toy.federate(clients, fedmd(temperature=temperature), 3)
        return state.server["logit-distillation"]["logits"]

    assert torch.equal(consensus(1.0), consensus(8.0))


def test_learners_built_around_one_estimator_do_not_answer_for_each_other() -> None:
    estimator, test = GaussianNB(), toy.examples(20, "test")
    task = Classification(("low", "high"))
    first = Learner(estimator, task, {"point": (2,)}).bind(toy.examples(24, "x"))
    before = predict(first, test).logits
    swapped = toy.examples(24, "y")
    second = Learner(estimator, task, {"point": (2,)}).bind(replace(swapped, target=1 - swapped.target))
    other = predict(second, test).logits
    assert torch.equal(predict(first, test).logits, before)
    assert torch.equal(predict(second, test).logits, other)
    assert not torch.equal(before, other)
    # And what was handed in stays unfitted.
    assert not hasattr(estimator, "classes_")


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_classes_of_every_sensor_are_distilled_one_by_one(temperature: float) -> None:
    """Logits are (b, s, classes): the mean over all b s answers of the divergence of each."""
    chance = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, 3, generator=chance) for _ in range(2))
    task = Classification(("a", "b", "c"))
    p = (teacher / temperature).softmax(dim=2).double().numpy()
    q = (student / temperature).softmax(dim=2).double().numpy()
    expected = temperature**2 * float((p * np.log(p / q)).sum(axis=2).mean())
    assert float(task.distillation_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-5)
    assert float(task.distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)
    # As if every answer were an example.
    flat = task.distillation_loss(student.view(20, 3), teacher.view(20, 3), temperature)
    assert torch.allclose(task.distillation_loss(student, teacher, temperature), flat)
