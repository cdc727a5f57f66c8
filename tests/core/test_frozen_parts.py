"""What does not learn: parts that a model_fn freezes, and parts that a phase leaves out for as long as it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
import toy
from conformance import flat, without
from torch import Tensor, nn
from whole import Engine, Federation, State, enrol, init, local, run_round

from hetfed.algorithms import alone, fedmd
from hetfed.client import Client, Tensors, new_state
from hetfed.composition import Composition, compose
from hetfed.data import Spec
from hetfed.engines.local import Failure
from hetfed.errors import PlanError
from hetfed.exchanges import LogitDistillation, MutualLearning, SharedParameters
from hetfed.model import Output
from hetfed.participation import Participation
from hetfed.pooled import train_pooled
from hetfed.training import Phase, Training
from hetfed.turn import Job, Round, Turn

FIRST = ("encoder.0.weight", "encoder.0.bias")


def frozen(spec: Spec) -> nn.Module:
    """A model that comes with a first layer that does not learn."""
    model = toy.Net(spec["inputs"], 4)
    model.encoder[0].requires_grad_(False)
    return model


def half_frozen(name: str, **training: object) -> Client:
    settings = {"lr": 0.05, "batch_size": 8, **training}
    return replace(toy.client(name, training=Training.model_validate(settings)), model_fn=frozen)


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The floating-point tensors that are not what they were."""
    return {name for name in before if before[name].is_floating_point() and not torch.equal(before[name], after[name])}


PHASES: list[tuple[Phase, ...]] = [(), (Phase(only=("head",)), Phase(frozen=("head",)))]


@pytest.mark.parametrize("phases", PHASES, ids=["all at once", "part by part"])
def test_what_a_model_fn_freezes_stays_as_it_is_in_local_training(phases: tuple[Phase, ...]) -> None:
    client = half_frozen("a", phases=phases)
    state, _ = toy.federate([client], alone(), 2)
    changed = moved(new_state(client, 0).model, state.clients["a"].model)
    assert changed >= {"head.weight", "encoder.4.weight"}
    assert not changed & set(FIRST)


def test_what_a_model_fn_freezes_stays_as_it_is_when_a_lesson_is_digested() -> None:
    """Without local training of its own, a client learns from nothing but the consensus."""
    clients = [half_frozen(name, epochs=0) for name in "ab"]
    state, _ = toy.federate(clients, fedmd(), 3)
    for client in clients:
        changed = moved(new_state(client, 0).model, state.clients[client.name].model)
        assert changed >= {"head.weight", "encoder.4.weight"}
        assert not changed & set(FIRST)


class Built:
    """Every model that a model_fn has built, beside what was in it then."""

    def __init__(self, model_fn: Callable[[Spec], nn.Module]) -> None:
        self.model_fn = model_fn
        self.models: list[tuple[nn.Module, Tensors]] = []

    def __call__(self, spec: Spec) -> nn.Module:
        model = self.model_fn(spec)
        self.models.append((model, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        return model

    def learnt(self) -> set[str]:
        """The parameters that are not what they were in any of the models."""
        changed = set().union(*(moved(before, model.state_dict()) for model, before in self.models))
        return {name for name in changed if "running" not in name}


def pooled(model_fn: Callable[[Spec], nn.Module], phases: tuple[Phase, ...], rounds: int = 2) -> set[str]:
    """What two clients' pooled training changes in their model."""
    built, training = Built(model_fn), Training(lr=0.05, batch_size=8, phases=phases)
    clients = [replace(toy.client(name, training=training), model_fn=built) for name in "ab"]
    outcomes = train_pooled(Federation.of(clients, alone(), rounds, 0, select="last").server, clients, clients)
    assert all(outcome.value is not None for outcome in outcomes.values())
    return built.learnt()


def plain(spec: Spec) -> nn.Module:
    return toy.Net(spec["inputs"], 4)


def test_phases_hold_for_the_pooled_arm() -> None:
    everything = pooled(plain, ())
    assert {"head.weight", "head.bias", *FIRST} <= everything
    assert pooled(plain, (Phase(only=("head",)),)) == {"head.weight", "head.bias"}
    assert pooled(plain, (Phase(frozen=("head",)),)) == everything - {"head.weight", "head.bias"}
    assert pooled(plain, (Phase(only=("head",), until=1), Phase(frozen=("head",), after=1))) == everything
    assert pooled(plain, (Phase(after=2),)) == set()


def test_what_a_model_fn_freezes_stays_as_it_is_in_the_pooled_arm() -> None:
    everything = pooled(frozen, ())
    assert everything == pooled(plain, ()) - set(FIRST)
    assert pooled(frozen, (Phase(frozen=("head",)),)) == everything - {"head.weight", "head.bias"}
    assert pooled(frozen, (Phase(only=("head",)), Phase(frozen=("head",)))) == everything


def test_as_many_steps_are_pooled_as_the_phases_have_epochs() -> None:
    """Of 48 examples in batches of 8, two epochs of one phase are as one epoch of each of two that are alike."""

    def values(**training: object) -> list[tuple[float | None, float | None]]:
        settings = Training.model_validate({"lr": 0.05, "batch_size": 8, **training})
        clients = [toy.client(name, training=settings) for name in "ab"]
        found = train_pooled(Federation.of(clients, alone(), 2, 0, select="last").server, clients, clients)
        return [(outcome.value, outcome.validation_loss) for outcome in found.values()]

    assert values(phases=(Phase(), Phase())) == values(epochs=2)
    assert values(phases=(Phase(epochs=3),)) == values(epochs=3) != values()


def with_common(name: str, **training: object) -> Client:
    settings = Training.model_validate({"lr": 0.05, "batch_size": 8, **training})
    return replace(toy.client(name, training=settings), common_fn=lambda spec: toy.Net(spec["inputs"], 3))


BESIDE = [MutualLearning(), SharedParameters("companion")]


def test_a_phase_of_a_client_may_not_name_what_it_lacks_when_alone() -> None:
    clients = [with_common(name, phases=(Phase(only=("companion",)),)) for name in "ab"]
    with pytest.raises(PlanError, match=r"training\.phases: the model of 'a' has no such part"):
        enrol(compose(*BESIDE), clients)


def test_a_phase_may_name_what_an_exchange_adds() -> None:
    clients = [with_common(name) for name in "ab"]
    enrolment = enrol(compose(*BESIDE, phases=(Phase(only=("companion",)),)), clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, 1, 0)
    before = init(federation)
    after = run_round(federation, before)
    for name in "ab":
        changed = moved(before.clients[name].model, after.clients[name].model)
        learnt = {key for key in changed if "running" not in key}
        assert "companion.head.weight" in learnt
        assert all(key.startswith("companion.") for key in learnt)


class Fragile(toy.Net):
    """Breaks as soon as it trains in part while its fuse is lit."""

    def __init__(self, fuse: list[str]) -> None:
        super().__init__(2, 4)
        self.fuse = fuse

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        if self.fuse and self.training and not self.encoder[0].weight.requires_grad:
            raise RuntimeError("out of memory")
        return super().forward(inputs)


def run(engine: Engine, fuse: list[str], composition: Composition) -> State:
    clients = [toy.client("a"), replace(toy.client("b"), model_fn=lambda spec: Fragile(fuse)), toy.client("c")]
    enrolment = enrol(composition, clients)
    tolerant = Participation(tolerate_failures=True)
    federation = Federation.of(enrolment.clients, enrolment.composition, 4, 0, participation=tolerant)
    state = init(federation)
    for _ in range(4):
        state = run_round(federation, state, engine)
    return state


PARTS = (Phase(only=("head",)), Phase(frozen=("head",)))
SHARED: list[Composition] = [
    compose(LogitDistillation(), phases=PARTS),
    compose(SharedParameters("head"), LogitDistillation(), phases=PARTS),
]


@pytest.mark.parametrize("composition", SHARED, ids=lambda composition: f"{len(composition.steps)} exchanges")
def test_a_turn_that_fails_in_a_phase_leaves_no_trace(composition: Composition) -> None:
    """b's second turn fails while its body is frozen: its third is as if it had not been asked for the second."""
    fuse: list[str] = []

    def breaking(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for job in jobs:
            fuse[:] = ["lit"] if (job.client.name, this.number) == ("b", 2) else []
            yield from local([job], this)

    failed, absent = run(breaking, fuse, composition), run(without({2: "b"}, after_the_turn=False), [], composition)
    assert [(row.round, row.client) for row in failed.rows if row.failed] == [(2, "b")]
    assert toy.same(flat(failed), flat(absent))
