"""Frozen teachers: what students learn from them, when, and what travels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
import toy
from torch import Tensor, nn
from torch.nn import functional as F
from whole import Engine, enrol, local

from hetfed.algorithms import alone
from hetfed.client import Client
from hetfed.composition import Step, compose
from hetfed.context import ClientContext
from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError
from hetfed.evaluation import predict
from hetfed.exchanges import TeacherDistillation
from hetfed.exchanges.teacher_distillation import _losses
from hetfed.model import Output
from hetfed.payload import Payload
from hetfed.tasks import Classification, Regression
from hetfed.turn import Job, Round, Turn

LABEL = "teacher-distillation"


def sent_by(*teachers: Client) -> dict[str, Tensor]:
    """The parameters of the teachers as students remember them."""
    return {f"{t.name}/{key}": tensor.clone() for t in teachers for key, tensor in t.module.state_dict().items()}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("names", [("t",), ("t", "u")])
def test_the_loss_is_the_softened_divergence_from_the_mean_of_the_teachers(temperature: float, names: tuple[str, ...]) -> None:
    teachers, student = [toy.client(name, width=6) for name in names], toy.client("a", width=3)
    exchange = TeacherDistillation(names, temperature=temperature, weight=0.3)
    context = toy.client_context(student, memory=sent_by(*teachers), peers=teachers)
    batch = student.data.train.batch(torch.arange(7))
    output = student.module.train()(batch.inputs)
    output.logits.retain_grad()
    loss = exchange.loss(context, context.tensors, batch, output)

    taught = torch.stack([teacher.module.eval()(batch.inputs).logits.detach() for teacher in teachers]).mean(dim=0)
    softened = F.softmax(taught / temperature, dim=1)
    expected = F.kl_div(F.log_softmax(output.logits / temperature, dim=1), softened, reduction="batchmean") * temperature**2
    assert torch.allclose(loss, 0.3 * expected, atol=1e-6)

    torch.autograd.backward(loss)
    own = F.softmax(output.logits.detach() / temperature, dim=1)
    assert torch.allclose(output.logits.grad, 0.3 * temperature * (own - softened) / 7, atol=1e-6)
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.module.parameters())
    assert not [p for teacher in exchange._teachers(context).modules.values() for p in teacher.parameters() if p.requires_grad]


def test_numbers_are_taught_by_the_squared_distance() -> None:
    teacher, student = (replace(toy.client(name, width=w), task=Regression()) for name, w in (("t", 4), ("a", 5)))
    context = toy.client_context(student, memory=sent_by(teacher), peers=[teacher])
    batch = student.data.train.batch(torch.arange(5))
    output = student.module.eval()(batch.inputs)
    loss = TeacherDistillation(("t",), temperature=9.0).loss(context, context.tensors, batch, output)
    assert torch.allclose(loss, (output.logits - teacher.module.eval()(batch.inputs).logits).square().mean(), atol=1e-6)


def test_teachers_are_sent_once_and_stay_as_they_were_when_sent() -> None:
    clients, composition = [toy.client("t"), toy.client("a", width=7)], compose(TeacherDistillation(("t",), after=2))
    then, _ = toy.federate(clients, composition, 2)
    now, uploads = toy.federate(clients, composition, 5)
    assert [(upload.round, upload.client) for upload in uploads] == [(2, "t")]
    frozen = {f"t/{key}": tensor for key, tensor in then.clients["t"].model.items()}
    assert toy.same(now.clients["a"].exchanges[LABEL], frozen)
    assert not toy.same(now.clients["t"].model, then.clients["t"].model)
    assert [(row.round, row.client) for row in now.rows if row.bytes_down] == [(3, "a"), (3, "t")]
    assert now.clients["t"].exchanges == {LABEL: {"sent": torch.ones(1)}}


def test_only_the_students_are_taught_and_only_after_the_teachers_have_trained() -> None:
    clients, composition = [toy.client("t"), toy.client("a", width=7)], compose(TeacherDistillation(("t",), after=2))
    for rounds, differs in ((2, False), (3, True)):
        taught, lonely = (toy.federate(clients, c, rounds)[0].clients for c in (composition, alone()))
        assert toy.same(taught["t"].model, lonely["t"].model)
        assert toy.same(taught["a"].model, lonely["a"].model) != differs


def test_a_student_comes_closer_to_its_teacher() -> None:
    clients = [toy.client("t"), toy.client("a", width=7)]

    def distance(weight: float) -> float:
        state, _ = toy.federate(clients, compose(TeacherDistillation(("t",), weight=weight)), 8)
        student, teacher = clients[1], clients[0]
        teacher.module.load_state_dict({k.removeprefix("t/"): v for k, v in state.clients["a"].exchanges[LABEL].items()})
        student.module.load_state_dict(state.clients["a"].model)
        logits = [toy.client_context(c).predict(student.data.train).logits for c in (student, teacher)]
        return float(student.task.distillation_loss(*logits, 2.0))

    assert distance(20.0) < 0.5 * distance(1e-6)


def spoiling(*teachers: str) -> Engine:
    """An engine in which what these clients upload is not finite."""

    def spoil(encoded: bytes) -> bytes:
        payload = Payload.decode(encoded)
        return Payload({name: tensor * torch.nan for name, tensor in payload.tensors.items()}).encoded

    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for name, turn in local(jobs, this):
            outbox = {k: spoil(v) for k, v in turn.outbox.items()} if name in teachers else turn.outbox
            yield name, replace(turn, outbox=outbox)

    return engine


def test_without_its_refused_teacher_a_student_learns_from_the_other() -> None:
    clients = [toy.client(name) for name in "atu"]
    state, uploads = toy.federate(clients, compose(TeacherDistillation(("t", "u"))), 2, engine=spoiling("u"))
    assert {upload.client: upload.refused is None for upload in uploads} == {"t": True, "u": False}
    only, _ = toy.federate(clients, compose(TeacherDistillation(("t",))), 2)
    assert toy.same(state.clients["a"].model, only.clients["a"].model)


def test_without_any_accepted_teacher_a_student_goes_on_alone() -> None:
    clients = [toy.client("a"), toy.client("t")]
    state, _ = toy.federate(clients, compose(TeacherDistillation(("t",))), 2, engine=spoiling("t"))
    lonely, _ = toy.federate(clients, alone(), 2)
    assert toy.same(state.clients["a"].model, lonely.clients["a"].model)


def test_a_student_declares_nothing_and_a_teacher_all_of_its_model() -> None:
    exchange, student, teacher = TeacherDistillation(("t",)), toy.client("a"), toy.client("t")
    assert exchange.declare(student.profile).shapes == {}
    assert set(exchange.declare(teacher.profile).shapes) == {f"t/{name}" for name in teacher.module.state_dict()}
    assert exchange.upload(toy.client_context(student)) is None
    exchange.declare(teacher.profile).check(Payload.decode(exchange.upload(toy.client_context(teacher)).encoded))


class Picture(nn.Module):
    """Reads an input of one shape, and no other."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
        self.name, self.norm, self.head = name, norm(shape[0]), nn.Linear(math.prod(shape), 2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(self.norm(inputs[self.name]).flatten(1)))


def with_picture(client: Client, name: str, shape: tuple[int, ...]) -> Client:
    """The client with another input, and a model that reads it."""

    def other(examples: Examples) -> Examples:
        return replace(examples, inputs={name: torch.zeros(len(examples), *shape)})

    parts = (other(part) for part in (client.data.train, client.data.validation, client.data.test))
    return replace(client, data=ClientData(*parts, client.data.spec), model_fn=lambda spec: Picture(name, shape))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("image", (2,)), ("point", (7,)), ("point", (2, 1, 1))],
    ids=["no such modality", "another width", "another number of axes"],
)
def test_a_teacher_that_cannot_read_its_students_data_is_refused(name: str, shape: tuple[int, ...]) -> None:
    teacher = with_picture(toy.client("t"), name, shape)
    with pytest.raises(PlanError, match=r"teacher 't' cannot read the data of student 'a'.*Choose a teacher"):
        enrol(compose(TeacherDistillation(("t",))), [teacher, toy.client("a")])


def test_a_teacher_that_answers_in_another_shape_is_refused() -> None:
    task = Classification(("x", "y", "z"))
    teacher = replace(toy.client("t"), task=task, model_fn=lambda spec: toy.Net(2, 4, classes=3))
    with pytest.raises(PlanError, match=r"teacher 't' and student 'a' answer in different shapes: \(3,\) and \(2,\)"):
        enrol(compose(TeacherDistillation(("t",))), [teacher, toy.client("a")])


def test_a_teacher_needs_to_read_its_students_only() -> None:
    picture = with_picture(toy.client("p"), "image", (2,))
    exchange = TeacherDistillation(("t",))
    clients = [toy.client("a"), picture, toy.client("t")]
    assert enrol(compose(Step(exchange, clients=("t", "a"))), clients).composition.steps[0].clients == ("a", "t")


def test_a_teacher_that_does_not_exist_is_an_error_with_the_names_that_do() -> None:
    with pytest.raises(PlanError, match=r"teacher-distillation.teachers: no client of this name.*'x'.*Name some of: a, t"):
        enrol(compose(TeacherDistillation(("t", "x"))), [toy.client("t"), toy.client("a")])


def test_without_named_teachers_everybody_teaches_everybody_else_and_is_sent_anew() -> None:
    clients = [toy.client("a"), toy.client("b", width=7), toy.client("c", width=3)]
    state, uploads = toy.federate(clients, compose(Step(TeacherDistillation(), every=2)), 4)
    assert [(u.round, u.client) for u in uploads] == [(r, name) for r in (2, 4) for name in "abc"]
    second, _ = toy.federate(clients, compose(Step(TeacherDistillation(), every=2)), 2)
    remembered = state.clients["a"].exchanges[LABEL]
    assert {key.split("/")[0] for key in remembered} == {"b", "c"}
    assert toy.same(remembered, {f"{n}/{k}": t for n in "bc" for k, t in second.clients[n].model.items()})


def test_teachers_that_know_the_students_labels_weigh_more() -> None:
    good, bad, student = (toy.client(name) for name in ("good", "bad", "a"))
    with torch.no_grad():
        good.module.head.weight.copy_(torch.zeros(2, 3))
        bad.module.head.bias.copy_(torch.tensor([50.0, 0.0]))
    one_class = replace(student, data=replace(student.data, train=toy.examples(8, "x", one_class=True)))
    one_class.data.train.target.fill_(1)
    context = toy.client_context(one_class, memory=sent_by(good, bad), peers=[good, bad])
    weights = TeacherDistillation(weighting="fit")._teachers(context)
    assert list(weights.modules) == ["bad", "good"]
    assert weights.weights[1] > 0.99
    assert TeacherDistillation()._teachers(replace(context, scratch={})).weights.tolist() == [0.5, 0.5]


def test_the_hint_pulls_features_towards_the_teachers_and_the_projector_stays_at_home() -> None:
    clients = [toy.client("t"), toy.client("a.b", width=7)]
    enrolment = enrol(compose(TeacherDistillation(("t",), hint=5.0)), clients)
    student = enrolment.clients[1]
    assert [name for name, _ in student.module.named_parameters() if "projectors" in name] == [
        "projectors.t.weight",
        "projectors.t.bias",
    ]
    state, uploads = toy.federate(clients, compose(TeacherDistillation(("t",), hint=5.0)), 6)
    assert not [name for upload in uploads for name in upload.contents.tensors if "projector" in name]
    client = enrolment.clients[1]
    client.module.load_state_dict(state.clients["a.b"].model)
    context = toy.client_context(client, memory=state.clients["a.b"].exchanges[LABEL], peers=[enrolment.clients[0]])
    batch = client.data.train.batch(torch.arange(24))
    output = client.module.eval()(batch.inputs)
    teacher = TeacherDistillation(("t",))._teachers(context).modules["t"]
    plain = TeacherDistillation(("t",)).loss(context, context.tensors, batch, output)
    hinted = TeacherDistillation(("t",), hint=5.0).loss(replace(context, scratch={}), context.tensors, batch, output)
    projected = client.module.projectors["t"](output.features)
    assert torch.allclose(hinted - plain, 5.0 * (projected - teacher(batch.inputs).features).square().mean(), atol=1e-5)


def number(name: str, mean: float, scale: float) -> Client:
    """A client that answers in the same unit as others, and scales its answers by its own targets."""
    one = toy.client(name)
    data = ClientData(
        *(replace(part, target=part.target[:, None].float()) for part in (one.data.train, one.data.validation, one.data.test))
    )
    task = Regression(mean=mean, scale=scale, unit="years")
    return replace(one, data=data, task=task, model_fn=lambda spec: toy.Net(2, 4, classes=1))


def told(teacher: Client, student: Client) -> ClientContext:
    """The student's context after the teacher's upload has arrived."""
    payload = TeacherDistillation(("t",)).upload(toy.client_context(teacher))
    assert payload is not None
    TeacherDistillation(("t",)).declare(teacher.profile).check(payload)
    return toy.client_context(student, memory=dict(payload.tensors), peers=[teacher])


def test_what_a_teacher_says_is_taken_in_the_unit_of_the_target() -> None:
    """0 is the mean of a teacher's targets, 60 years; to the student, whose mean is 40 and scale 5, that is 4."""
    teacher, student = number("t", 60.0, 12.0), number("a", 40.0, 5.0)
    context = told(teacher, student)
    batch = student.data.train.batch(torch.arange(5))
    output = student.module.eval()(batch.inputs)
    loss = TeacherDistillation(("t",)).loss(context, context.tensors, batch, output)
    years = teacher.module.eval()(batch.inputs).logits * 12 + 60
    assert torch.allclose(loss, (output.logits - (years - 40) / 5).square().mean(), rtol=1e-4)


def test_a_teacher_is_judged_by_what_it_says_in_the_unit_of_the_target() -> None:
    teacher, student = number("t", 60.0, 12.0), number("a", 40.0, 5.0)
    context = told(teacher, student)
    train = student.data.train
    years = predict(teacher.module, train).logits * 12 + 60
    expected = student.task.loss(Output((years - 40) / 5), train.whole())
    assert torch.allclose(_losses(context, {"t": teacher.module}), expected, rtol=1e-4)


def test_a_teacher_tells_what_its_answers_are_scaled_by_and_says_so() -> None:
    exchange = TeacherDistillation(("t",))
    scaled, plain = exchange.declare(number("t", 60.0, 12.0).profile), exchange.declare(toy.client("t").profile)
    assert scaled.reveals == ("the mean and the scale of its targets",) and plain.reveals == ()
    assert set(scaled.tensors) - set(plain.tensors) == {"t/target mean", "t/target scale"}
    assert exchange.declare(number("a", 0.0, 2.0).profile).tensors == {}
