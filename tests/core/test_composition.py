"""Who takes part in what, how often, and under which label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from whole import enrol

from hetfed.algorithms import alone, fedavg, fedper, fedprox
from hetfed.client import Client
from hetfed.composition import Composition, Step, compose, every
from hetfed.errors import PlanError
from hetfed.exchanges import (
    ControlVariates,
    DistilledParameters,
    Exchange,
    LogitDistillation,
    Prototypes,
    SharedParameters,
    Slices,
)
from hetfed.tasks import Regression
from hetfed.training import Phase


def labels(composition: Composition) -> list[str]:
    return [step.label for step in composition]


def without_classes(name: str) -> Client:
    return replace(toy.client(name), task=Regression())


def test_a_label_is_the_kind_numbered_where_it_occurs_twice() -> None:
    composition = compose(SharedParameters("head"), Prototypes(), every(3, SharedParameters("encoder")))
    assert labels(composition) == ["shared-parameters-1", "prototypes", "shared-parameters-2"]
    assert [step.every for step in composition] == [1, 1, 3]


def test_a_label_of_its_own_is_kept() -> None:
    composition = compose(Step(Prototypes(), label="classes"), Prototypes())
    assert labels(composition) == ["classes", "prototypes-2"]
    assert labels(compose(*composition)) == labels(composition)


def test_an_exchange_of_no_known_kind_goes_by_its_class() -> None:
    @dataclass(frozen=True)
    class Gossip(Prototypes):
        pass

    assert labels(compose(Gossip())) == ["Gossip"]


def test_two_exchanges_of_the_same_label_are_an_error() -> None:
    with pytest.raises(PlanError, match=r"exchange.label: two exchanges have the same label \(value: 'prototypes'\)"):
        compose(Step(SharedParameters(), label="prototypes"), Prototypes())


@given(st.lists(st.sampled_from([SharedParameters(), Prototypes(), LogitDistillation()]), max_size=6))
def test_labels_of_unnamed_steps_never_clash(exchanges: list[object]) -> None:
    composition = compose(*exchanges)
    assert len(set(labels(composition))) == len(exchanges)
    assert [step.exchange for step in composition] == exchanges


@given(st.integers(1, 12), st.integers(1, 60))
def test_the_server_sends_in_the_round_after_clients_have(cadence: int, number: int) -> None:
    step = every(cadence, Prototypes())
    assert step.last_broadcast(1) == 1
    assert (step.last_broadcast(number + 1) == number + 1) == step.uploads(number) == (number % cadence == 0)


@given(st.integers(1, 4), st.integers(0, 20), st.integers(1, 60))
def test_after_the_last_upload_its_outcome_goes_out_and_then_nothing(cadence: int, until: int, number: int) -> None:
    step = Step(SharedParameters(), cadence, until=until)
    assert step.last_broadcast(1) == 1
    assert (step.last_broadcast(number + 1) == number + 1) == step.uploads(number)
    assert step.last_broadcast(number + 1) == max([n + 1 for n in range(1, number + 1) if step.uploads(n)], default=1)
    assert not (step.uploads(number) and number > until)


def test_a_common_start_and_no_more() -> None:
    clients = [toy.client("a"), toy.client("b")]
    state, uploads = toy.federate(clients, compose(Step(SharedParameters(), until=0)), 2)
    assert uploads == []
    assert [row.bytes_down > 0 for row in state.rows] == [True, True, False, False]
    # Alone, too, an architecture starts from this one draw.
    assert toy.same(state.clients["a"].model, toy.federate(clients, alone(), 2)[0].clients["a"].model)


def test_a_step_has_the_clients_it_names_or_all() -> None:
    some, all_of_them = Step(Prototypes(), clients=("a",), label="some"), Step(Prototypes(), label="all")
    composition = Composition((some, all_of_them))
    assert composition.of("a") == [some, all_of_them]
    assert composition.of("b") == [all_of_them]


def test_a_seated_step_names_its_clients_and_who_is_left_out_and_why() -> None:
    clients = [
        toy.client("a"),
        replace(without_classes("b"), public=None),
        replace(toy.client("c"), public=None),
        toy.client("d"),
    ]
    enrolment = enrol(compose(Prototypes(), SharedParameters("encoder"), LogitDistillation(), name="mix"), clients)
    assert enrolment.composition.name == "mix"
    assert [step.clients for step in enrolment.composition] == [("a", "c", "d"), ("a", "b", "c", "d"), ("a", "d")]
    assert enrolment.left_out == {
        "prototypes": {"b": "its task has no classes"},
        "logit-distillation": dict.fromkeys("bc", "it holds no public inputs"),
    }
    assert enrol(enrolment.composition, clients).composition == enrolment.composition


def test_who_is_not_named_is_not_left_out() -> None:
    clients = [toy.client("a"), without_classes("b"), toy.client("c")]
    enrolment = enrol(compose(Step(Prototypes(), clients=("a", "c"))), clients)
    assert enrolment.left_out == {}
    assert enrolment.composition.steps[0].clients == ("a", "c")


MEANS = [
    SharedParameters(),
    SharedParameters(among="same-shape"),
    ControlVariates(),
    Slices(),
    Prototypes(),
    LogitDistillation(),
    DistilledParameters(),
]


@pytest.mark.parametrize("exchange", MEANS, ids=lambda exchange: type(exchange).__name__)
def test_nobody_among_others_shares_with_nobody_but_itself(exchange: Exchange) -> None:
    """A mean of one is no exchange, and would only look like a gain."""
    with pytest.raises(PlanError, match=r"no client can take part.*a: nobody else"):
        enrol(compose(Step(exchange, clients=("a",))), [toy.client(name) for name in "abc"])
    assert enrol(compose(exchange), [toy.client("a")]).composition.steps[0].clients == ("a",)


def test_who_is_left_because_the_others_cannot_sends_nothing_either() -> None:
    clients = [toy.client("a"), replace(toy.client("b"), public=None)]
    with pytest.raises(PlanError, match=r"a: nobody else can take part; b: it holds no public inputs\."):
        enrol(compose(LogitDistillation()), clients)


def test_a_composition_of_nothing_seats_nobody() -> None:
    assert enrol(alone(), [toy.client("a")]).composition == Composition()


def test_a_named_client_that_cannot_take_part_is_an_error_that_says_what_it_lacks() -> None:
    composition = compose(Step(Prototypes(), clients=("a", "b")))
    with pytest.raises(PlanError) as raised:
        enrol(composition, [toy.client("a"), without_classes("b")])
    assert raised.value.key == "prototypes.clients"
    assert "client 'b' cannot take part: its task has no classes" in str(raised.value)
    assert raised.value.remedy


def test_a_named_client_that_does_not_exist_is_an_error_with_the_names_that_do() -> None:
    with pytest.raises(PlanError, match=r"prototypes.clients: no such client \(value: 'x'\). There are: a, b"):
        enrol(compose(Step(Prototypes(), clients=("a", "x"))), [toy.client("a"), toy.client("b")])


@pytest.mark.parametrize(
    ("step", "remedy"),
    [
        (Step(Prototypes()), "a, b: its task has no classes."),
        (Step(Prototypes(), clients=()), "Name at least one under `clients`, or leave that key out."),
    ],
)
def test_an_exchange_of_nobody_is_an_error(step: Step, remedy: str) -> None:
    with pytest.raises(PlanError, match="prototypes: no client can take part") as raised:
        enrol(compose(step), [without_classes("b"), without_classes("a")])
    assert raised.value.remedy == remedy


def test_those_who_do_not_fit_together_are_an_error_under_the_label_of_the_step() -> None:
    clients = [toy.client("a"), toy.client("b", width=5)]
    with pytest.raises(PlanError) as raised:
        enrol(compose(Step(SharedParameters(), label="body")), clients)
    assert raised.value.key == "body"
    assert isinstance(raised.value.__cause__, PlanError)


def test_a_part_that_is_to_stay_personal_and_does_not_exist_is_an_error() -> None:
    """Else the head, under another name, would leave the client."""
    with pytest.raises(PlanError, match=r"shared-parameters.exclude: no client's model has this part.*: encoder, head\."):
        enrol(fedper("classifier"), [toy.client("a"), toy.client("b")])


@pytest.mark.parametrize(
    ("path", "remedy"), [("tail", "Name a submodule: encoder, head."), ("head.2", "Name a submodule: head.bias, head.weight.")]
)
def test_a_phase_of_a_part_that_does_not_exist_is_an_error_that_names_those_that_do(path: str, remedy: str) -> None:
    with pytest.raises(PlanError, match="phase: no client's model has this part") as raised:
        enrol(compose(SharedParameters(), phases=[Phase(only=(path,))]), [toy.client("a"), toy.client("b")])
    assert raised.value.remedy == remedy


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (fedavg, SharedParameters(among="same-shape")),
        (lambda: fedprox(0.2, "all"), SharedParameters(proximal=0.2)),
    ],
)
def test_algorithms_are_compositions(algorithm: Callable[[], Composition], settings: SharedParameters) -> None:
    assert algorithm() == compose(settings)
