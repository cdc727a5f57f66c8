"""Training that leads nowhere, and turns that break: what is kept of them, and how the run goes on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pytest
import torch
import toy
from torch import Tensor
from whole import Engine, Federation, State, enrol, finalize, init, local, run_round

from hetfed.algorithms import alone, fedavg, fedbabu
from hetfed.client import Client, Tensors
from hetfed.composition import Composition, compose
from hetfed.data import Batch
from hetfed.engines.local import Failure
from hetfed.errors import RunError
from hetfed.exchanges import TeacherDistillation
from hetfed.model import Output
from hetfed.participation import Participation
from hetfed.payload import Upload
from hetfed.pooled import train_pooled
from hetfed.training import Training
from hetfed.turn import Job, Round, Turn

WILD = Training(optimizer="sgd", lr=1e30, batch_size=8)
TOLERANT = Participation(tolerate_failures=True)


def finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_who_diverges_at_once_keeps_what_was_sent_but_once() -> None:
    """The head that stays frozen at the same values everywhere, also at a client whose first turn came to nothing."""
    clients = [toy.client("a"), toy.client("b", training=WILD), toy.client("c")]
    enrolment = enrol(fedbabu(finetune=0).over(3), clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, 3, 0)
    state = init(federation)
    sent = {key.partition("/")[2]: tensor for key, tensor in state.server["first head"].items()}
    # Else it would hold by chance what it was sent: an architecture starts from one draw.
    state.clients["b"].model |= {name: torch.zeros_like(tensor) for name, tensor in sent.items()}
    uploads: list[Upload] = []
    for _ in range(3):
        state = run_round(federation, state, on_upload=uploads.append)
        for client in state.clients.values():
            assert toy.same({name: client.model[name] for name in sent}, sent)
            assert finite(client.model)
    assert {(u.round, u.client) for u in uploads if u.refused} == {(n, "b") for n in (1, 2, 3)}


def test_who_diverges_keeps_the_teachers_that_were_sent_but_once() -> None:
    wild = toy.client("a", training=WILD)
    state, _ = toy.federate([wild, toy.client("t")], compose(TeacherDistillation(("t",), after=1)), 4)
    remembered = state.clients["a"].exchanges["teacher-distillation"]
    assert remembered
    assert {key.split("/")[0] for key in remembered} == {"t"}
    assert finite(remembered) and finite(state.clients["a"].model)
    assert state.clients["a"].optimizer == {}


class Poison:
    """Augments the batches of training with what no model survives, as long as there is any left."""

    def __init__(self) -> None:
        self.left = False

    def __call__(self, batch: Batch, chance: torch.Generator) -> Batch:
        if not self.left:
            return batch
        return replace(batch, inputs={name: tensor * torch.inf for name, tensor in batch.inputs.items()})


def rounds(composition: Composition, poison: Poison, poisoned: set[int]) -> list[State]:
    """Four rounds of two clients who keep the last model; a is poisoned in some."""
    clients = [replace(toy.client("a"), augment=poison), toy.client("b")]
    enrolment = enrol(composition, clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, 4, 0, select="last")
    states = [init(federation)]
    for number in range(1, 5):
        poison.left = number in poisoned
        states.append(run_round(federation, states[-1]))
    return states


def test_of_models_the_last_one_is_kept_that_is_any_good() -> None:
    states = rounds(alone(), Poison(), {3, 4})
    for number in (3, 4):
        state = states[number].clients["a"]
        assert toy.same(state.best, states[2].clients["a"].model)
        assert toy.same(state.model, states[2].clients["a"].model)
        assert state.best_round == 2
    assert states[4].clients["b"].best_round == 4
    again = rounds(alone(), Poison(), {2})[4].clients["a"]
    assert again.best_round == 4
    assert toy.same(again.best, again.model) and finite(again.best)


def test_what_arrived_is_kept_where_training_spoils_it() -> None:
    states = rounds(fedavg(), Poison(), {4})
    mean = {key.partition("/")[2]: tensor for key, tensor in states[3].server["shared-parameters"].items()}
    best = states[4].clients["a"]
    assert best.best_round == 4
    assert toy.same({name: best.best[name] for name in mean}, mean)
    assert toy.same({name: best.model[name] for name in mean}, mean)


def test_a_pooled_model_that_diverges_last_is_not_the_one_that_is_kept() -> None:
    poison = Poison()
    clients = [replace(toy.client(name), augment=poison) for name in "ab"]
    federation = Federation.of(clients, alone(), 3, 0, select="last")

    def after(number: int) -> None:
        poison.left = number == 2

    outcomes = train_pooled(federation.server, clients, clients, after)
    assert {outcome.round for outcome in outcomes.values()} == {2}
    assert all(outcome.value is not None for outcome in outcomes.values())


class Fragile(toy.Net):
    """Breaks in the way that is asked for."""

    def __init__(self, breaks: list[Exception], *, only_in_training: bool = False) -> None:
        super().__init__(2, 4)
        self.breaks, self.only_in_training = breaks, only_in_training

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        if self.breaks and (self.training or not self.only_in_training):
            raise self.breaks[0]
        return super().forward(inputs)


def ended(breaks: list[Exception], participation: Participation) -> tuple[Federation, State]:
    """A federation after its last round, in which b breaks from now on."""
    clients = [toy.client("a"), replace(toy.client("b"), model_fn=lambda spec: Fragile(breaks)), toy.client("c")]
    enrolment = enrol(fedavg(), clients)
    federation = Federation.of(enrolment.clients, enrolment.composition, 2, 0, participation=participation)
    state = run_round(federation, run_round(federation, init(federation)))
    return federation, state


def test_who_breaks_in_the_end_is_an_absence_where_that_is_tolerated() -> None:
    breaks: list[Exception] = []
    federation, state = ended(breaks, TOLERANT)
    _, undisturbed = ended([], TOLERANT)
    undisturbed = finalize(federation, undisturbed)
    before: Tensors = dict(state.clients["b"].model)
    breaks.append(RuntimeError("out of memory"))
    state = finalize(federation, state)
    rows = {row.client: row for row in state.rows if row.round == 3}
    assert {name: row.failed for name, row in rows.items()} == {"a": "", "b": "out of memory, in the validation", "c": ""}
    assert rows["b"].bytes_down == rows["a"].bytes_down > 0
    assert toy.same(state.clients["b"].model, before)
    for name in "ac":
        assert toy.same(state.clients[name].model, undisturbed.clients[name].model)
        assert toy.same(state.clients[name].best, undisturbed.clients[name].best)


def test_who_breaks_in_the_end_ends_the_run_where_that_is_not_tolerated() -> None:
    breaks: list[Exception] = []
    federation, state = ended(breaks, Participation())
    breaks.append(RuntimeError("out of memory"))
    with pytest.raises(RunError, match="client 'b' failed in round 3, in the validation: out of memory"):
        finalize(federation, state)


ERRORS = [
    TypeError("no such argument"),
    AttributeError("no such attribute"),
    MemoryError("no room"),
    RuntimeError("out of memory"),
    NotImplementedError("not on this device"),
    OSError("too many open files"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_breaks_a_turn_is_its_failure(error: Exception) -> None:
    breaks: list[Exception] = []

    def breaking(found: Exception) -> Engine:
        def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
            breaks[:] = [found] if this.number == 2 else []
            return local(jobs, this)

        return engine

    def client(name: str) -> Client:
        fragile = replace(toy.client(name), model_fn=lambda spec: Fragile(breaks, only_in_training=True))
        return fragile if name == "b" else toy.client(name)

    clients = [client(name) for name in "abc"]
    federation = Federation.of(clients, enrol(fedavg(), clients).composition, 3, 0, participation=TOLERANT)
    state = init(federation)
    for _ in range(3):
        state = run_round(federation, state, breaking(error))
    assert {(row.round, row.client): row.failed for row in state.rows if row.failed} == {(2, "b"): f"{error}, in the training"}
    strict = replace(federation, server=replace(federation.server, participation=Participation()))
    # Another one: an error keeps the notes of the turn that it has ended.
    another = type(error)(*error.args)
    first = run_round(strict, init(strict), breaking(another))
    with pytest.raises(RunError, match=re.escape(f"client 'b' failed in round 2, in the training: {error}")) as raised:
        run_round(strict, first, breaking(another))
    assert raised.value.__cause__ is another


def test_who_interrupts_a_run_is_not_a_failed_turn() -> None:
    def breaking(spec: object) -> Fragile:
        model = Fragile([])
        model.forward = interrupt  # type: ignore[method-assign]
        return model

    def interrupt(inputs: Mapping[str, Tensor]) -> Output:
        raise KeyboardInterrupt

    clients = [toy.client("a"), replace(toy.client("b"), model_fn=breaking)]
    federation = Federation.of(clients, alone(), 1, 0, participation=TOLERANT)
    with pytest.raises(KeyboardInterrupt):
        run_round(federation, init(federation))
