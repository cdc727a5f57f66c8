"""Control variates: what the server holds is the mean of what its members hold, whatever became of their uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import goldens
import pytest
import torch
import toy
from conformance import without
from torch import Tensor
from whole import Engine, Federation, State, enrol, init, local, run_round

from hetfed.algorithms import scaffold
from hetfed.client import Client, Tensors
from hetfed.composition import Composition, Step, compose
from hetfed.compression import Compression
from hetfed.errors import PlanError
from hetfed.exchanges import ControlVariates, SharedParameters
from hetfed.participation import Participation, Presence
from hetfed.parts import of_group
from hetfed.payload import Upload
from hetfed.training import Phase, Training

LABEL = "control-variates"


def lines(epochs: int = 2) -> list[Client]:
    """Three lines, each of another slope."""
    c = goldens.line("c", [2.0, 1.0], [6.0, -1.0], epochs)
    return [*goldens.a_and_b(epochs), c]


def run(
    clients: list[Client],
    rounds: int,
    composition: Composition | None = None,
    *,
    engine: Engine = local,
    quorum: int = 1,
    participation: Participation | None = None,
) -> tuple[list[State], list[Upload]]:
    """The states after each round, the first one before all of them, and every upload."""
    enrolment = enrol(composition or scaffold(), clients)
    federation = Federation.of(
        enrolment.clients, enrolment.composition, rounds, 0, quorum=quorum, participation=participation or Participation()
    )
    states, uploads = [init(federation)], list[Upload]()
    for _ in range(rounds):
        states.append(run_round(federation, states[-1], engine, on_upload=uploads.append))
    return states, uploads


def of_server(state: State) -> Tensors:
    """c, everybody's usual gradient."""
    groups = {key.rpartition("/")[0] for key in state.server[LABEL] if "/" in key}
    (group,) = groups
    return of_group(group, state.server[LABEL])


def of_members(state: State) -> Tensors:
    """The mean of the clients' own."""
    own = [of_group("own", client.exchanges[LABEL]) for client in state.clients.values()]
    return {name: torch.stack([found[name] for found in own]).mean(dim=0) for name in own[0]}


def apart(state: State) -> float:
    """How far c is from the mean of the clients' own, at most."""
    c, mean = of_server(state), of_members(state)
    assert set(c) == set(mean)
    return max(float((c[name] - mean[name]).abs().max()) for name in c)


def test_c_is_the_mean_of_all_though_a_quorum_was_missed() -> None:
    """In round 2 only a and b are there, which are too few: in round 3 all is as it should be again."""
    states, _ = run(lines(), 4, engine=without({2: "c"}, after_the_turn=False), quorum=3)
    assert toy.same(of_server(states[2]), of_server(states[1]))
    assert apart(states[2]) > 0.1
    assert [apart(states[n]) < 1e-5 for n in (1, 3, 4)] == [True] * 3
    assert all(float(tensor.abs().max()) > 0.1 for tensor in of_server(states[3]).values())


def test_c_is_the_mean_of_all_though_uploads_were_lost_twice_in_a_row() -> None:
    states, _ = run(lines(), 5, engine=without({2: "c", 3: "a"}, after_the_turn=False), quorum=3)
    assert [apart(states[n]) < 1e-5 for n in (1, 4, 5)] == [True] * 3


def test_c_is_the_mean_of_all_though_an_upload_was_late() -> None:
    """In the first two rounds there is too much to do for b, which is slow."""
    phases = (Phase(epochs=6, until=2), Phase(epochs=1, after=2))
    a, b, c = lines()
    b = replace(b, presence=Presence(speed=0.5))
    states, uploads = run([a, b, c], 4, replace(scaffold(), phases=phases), participation=Participation(time_limit=0.02))
    assert {(u.round, u.client) for u in uploads if u.refused} == {(1, "b"), (2, "b")}
    assert apart(states[2]) > 0.1
    assert [apart(states[n]) < 1e-5 for n in (3, 4)] == [True] * 2


def test_c_is_the_mean_of_all_of_a_toy_whoever_is_absent() -> None:
    """Those who are not there count with what they held; option I, since momentum is no plain step."""
    training = Training(optimizer="sgd", lr=0.05, momentum=0.5, batch_size=8)
    clients = [toy.client(name, training=training) for name in "abc"]
    states, _ = run(clients, 5, engine=without({2: "c", 4: "ab"}, after_the_turn=False), quorum=2)
    assert [apart(states[n]) < 1e-5 for n in (1, 2, 3, 5)] == [True] * 4


@pytest.mark.parametrize("kind", ["top-k", "low-rank"])
def test_a_change_is_not_cut_down_further(kind: str) -> None:
    """What were left out of a change would be lost, and c no mean any more."""
    compression = Compression(kind="top-k") if kind == "top-k" else Compression(kind="low-rank")
    composition = compose(SharedParameters(), Step(ControlVariates(), compression=compression))
    with pytest.raises(PlanError, match=rf'control-variates\.compression: .*{kind}.*Set compression = "8-bit"') as raised:
        enrol(composition, [toy.client("a"), toy.client("b")])
    assert raised.value.value == kind


def test_eight_bits_are_enough_for_a_change() -> None:
    training = Training(optimizer="sgd", lr=0.05, batch_size=8)
    clients = [toy.client(name, width=24, training=training) for name in "ab"]
    rounded = compose(SharedParameters(), Step(ControlVariates(), compression=Compression("8-bit")))
    states, uploads = run(clients, 3, rounded)
    plain, exact = run(clients, 3, scaffold())
    assert not [upload for upload in uploads if upload.refused]
    sizes = [sum(len(u.encoded) for u in found if u.exchange == LABEL) for found in (uploads, exact)]
    assert sizes[0] < sizes[1]
    largest = max(float(tensor.abs().max()) for tensor in of_server(states[3]).values())
    assert apart(states[3]) < 0.02 * largest
    assert apart(plain[3]) < 1e-6


def gradient(client: Client, at: Mapping[str, Tensor]) -> Tensors:
    """The gradient of a small client's loss on its data."""
    p = {name: tensor.clone().requires_grad_() for name, tensor in at.items()}
    found = torch.autograd.grad(goldens.own_loss(client)(p), list(p.values()))
    return dict(zip(p, found, strict=True))


PARTS = (Phase(only=("head",)), Phase(frozen=("head",)))


@pytest.mark.parametrize("whose", ["composition", "training"])
def test_where_a_phase_trains_a_part_the_variate_is_measured(whose: str) -> None:
    """Not estimated from how far the model has moved: its parts have moved by different numbers of steps."""
    clients, composition = goldens.pair(), compose(SharedParameters(), ControlVariates())
    if whose == "composition":
        composition = replace(composition, phases=PARTS)
    else:
        clients = [replace(c, training=c.training.model_copy(update={"phases": PARTS})) for c in clients]
    states, _ = run(clients, 1, composition)
    sent = goldens.held(states[0])
    for client in clients:
        own = of_group("own", states[1].clients[client.name].exchanges[LABEL])
        goldens.assert_near(own, gradient(client, {**states[0].clients[client.name].model, **sent}))
    assert apart(states[1]) < 1e-6


def test_where_all_of_it_trains_in_plain_steps_the_variate_is_how_far_it_moved() -> None:
    clients = goldens.pair()
    states, _ = run(clients, 1, compose(SharedParameters(), ControlVariates(), phases=(Phase(epochs=2), Phase(epochs=1))))
    sent = goldens.held(states[0])
    for client in clients:
        own = of_group("own", states[1].clients[client.name].exchanges[LABEL])
        after = states[1].clients[client.name].model
        goldens.assert_near(own, {name: (sent[name] - after[name]) / (3 * goldens.LR) for name in sent})
        first = gradient(client, {**states[0].clients[client.name].model, **sent})
        assert not torch.allclose(own["head.weight"], first["head.weight"], rtol=0.01)
