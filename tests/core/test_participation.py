"""Who takes part in a round, who is late, and what becomes of late uploads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from whole import Federation, State, enrol, init, load_state, local, run_round, save_state

from hetfed.algorithms import NAMED, fedavg
from hetfed.client import Client
from hetfed.composition import Composition, compose
from hetfed.engines.local import Failure
from hetfed.errors import PlanError, RunError
from hetfed.exchanges import LogitDistillation, Prototypes, SharedParameters
from hetfed.participation import Participation, Presence, duration
from hetfed.payload import Upload
from hetfed.plan import read_plan
from hetfed.turn import Job, Round, Turn

EVERYTHING = compose(SharedParameters("head"), Prototypes(), LogitDistillation())


def clients(count: int = 6, **presence: float) -> list[Client]:
    return [replace(toy.client(f"c{i}"), presence=Presence(**presence)) for i in range(count)]


def fast_and_slow() -> list[Client]:
    return [replace(toy.client(name), presence=Presence(speed=speed)) for name, speed in (("fast", 1.0), ("slow", 0.1))]


def run(
    members: list[Client], participation: Participation, rounds: int = 4, composition: Composition | None = None
) -> tuple[State, list[Upload]]:
    enrolment = enrol(composition or fedavg(), members)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0, participation=participation)
    state, uploads = init(federation), []
    for _ in range(rounds):
        state = run_round(federation, state, on_upload=uploads.append)
    return state, uploads


@given(st.floats(0.01, 1), st.integers(1, 8), st.floats(0, 1), st.integers(0, 99))
def test_as_many_as_wanted_are_drawn_from_those_that_are_there(fraction: float, minimum: int, there: float, seed: int) -> None:
    members = clients(6, availability=there)
    everyone = Participation().choose(members, seed, 1, of=len(members))
    chosen = Participation(fraction=fraction, minimum=minimum).choose(members, seed, 1, of=len(members))
    assert len(chosen) == min(max(minimum, -int(-fraction * 6 // 1)), len(everyone))
    assert [c.name for c in chosen] == sorted(c.name for c in chosen)
    assert {c.name for c in chosen} <= {c.name for c in everyone}


def test_availability_is_a_probability_and_rounds_differ() -> None:
    members = clients(1, availability=0.3)
    there = [len(Participation().choose(members, 0, number, of=len(members))) for number in range(1, 2001)]
    assert 0.26 < sum(there) / 2000 < 0.34
    assert not Participation().choose(clients(3, availability=0.0), 0, 1, of=3)
    chosen = [
        tuple(c.name for c in Participation(fraction=0.5).choose(clients(), 0, n, of=len(clients()))) for n in range(1, 30)
    ]
    assert len(set(chosen)) > 5
    assert {name for names in chosen for name in names} == {f"c{i}" for i in range(6)}


def test_absent_clients_stay_as_they_were_and_present_ones_do_not_notice() -> None:
    members = clients()
    before, _ = run(members, Participation(fraction=0.5), rounds=1)
    after, uploads = run(members, Participation(fraction=0.5), rounds=2)
    present = {upload.client for upload in uploads if upload.round == 2}
    assert len(present) == 3
    for name in before.clients:
        assert toy.same(before.clients[name].model, after.clients[name].model) == (name not in present)
    assert [(row.round, row.client) for row in after.rows] == sorted((u.round, u.client) for u in uploads)


def test_the_order_of_clients_does_not_decide_who_is_asked() -> None:
    one, _ = run(clients(), Participation(fraction=0.4), composition=EVERYTHING)
    other, _ = run(clients()[::-1], Participation(fraction=0.4), composition=EVERYTHING)
    assert all(toy.same(one.clients[name].model, other.clients[name].model) for name in one.clients)


@pytest.mark.parametrize("name", NAMED)
def test_every_algorithm_survives_absent_clients(name: str) -> None:
    members = [replace(c, common_fn=lambda spec: toy.Net(spec["inputs"], 2)) for c in clients(4, availability=0.6)]
    state, uploads = run(members, Participation(fraction=0.5), rounds=6, composition=NAMED[name]())
    assert not [upload.refused for upload in uploads if upload.refused]
    assert {row.client for row in state.rows} == {f"c{i}" for i in range(4)}
    assert all(tensor.isfinite().all() for client in state.clients.values() for tensor in client.model.values())


def test_a_round_without_anybody_changes_nothing_but_its_number() -> None:
    members = clients(2, availability=0.0)
    state, uploads = run(members, Participation(), rounds=2)
    assert (state.round, uploads, state.rows) == (2, [], [])


def test_who_takes_longer_than_the_limit_is_refused_as_late() -> None:
    fast, slow = fast_and_slow()
    assert duration(slow, 24) == pytest.approx(0.24)
    state, uploads = run([fast, slow], Participation(time_limit=0.1), rounds=2)
    assert {u.client: u.refused for u in uploads if u.round == 2} == {
        "fast": None,
        "slow": "late: it took 0.24, the time limit is 0.1",
    }
    assert [row.refused for row in state.rows] == [0, 1, 0, 1]
    alone, _ = run([fast], Participation(), rounds=2)
    assert all(
        torch.equal(tensor, state.server["shared-parameters"][key]) for key, tensor in alone.server["shared-parameters"].items()
    )


def test_phases_with_more_epochs_take_longer() -> None:
    member = replace(toy.client("a"), presence=Presence(speed=0.1))
    _, uploads = run([member], Participation(time_limit=0.5), rounds=1, composition=NAMED["fedrep"](head_epochs=2))
    assert "it took 0.72" in uploads[0].refused


def test_asynchronous_uploads_arrive_later_with_less_weight() -> None:
    fast, slow = fast_and_slow()
    limits = Participation(time_limit=0.1, asynchronous=True, staleness_exponent=1.0)
    state, uploads = run([fast, slow], limits, rounds=4)
    assert [(u.client, u.sent, u.round) for u in uploads] == [
        ("fast", 1, 1), ("fast", 2, 2), ("fast", 3, 3), ("slow", 1, 3), ("fast", 4, 4),
    ]  # fmt: skip
    late = next(u for u in uploads if u.client == "slow")
    assert late.contents.discount == pytest.approx(1 / 3)
    assert [(row.round, row.client) for row in state.rows] == [
        (1, "fast"),
        (1, "slow"),
        (2, "fast"),
        (3, "fast"),
        (4, "fast"),
        (4, "slow"),
    ]
    assert [(p.client, p.sent, p.due) for p in state.pending] == [("slow", 4, 6)]


def test_in_asynchronous_rounds_one_client_does_not_speak_for_all() -> None:
    members = [replace(toy.client(f"c{i}"), presence=Presence(speed=1.0 if i == 0 else 0.01)) for i in range(4)]
    limits = Participation(time_limit=0.1, asynchronous=True)
    first = init(Federation.of(members, enrol(fedavg(), members).composition, 1, 0)).server["shared-parameters"]
    state, uploads = run(members, limits, rounds=1)
    (upload,) = uploads
    for key, tensor in state.server["shared-parameters"].items():
        expected = 0.75 * first[key] + 0.25 * upload.contents.tensors[key.partition("/")[2]]
        assert torch.allclose(tensor, expected, atol=1e-6)


def test_what_is_on_its_way_survives_a_checkpoint(tmp_path: Path) -> None:
    members = [replace(toy.client(f"c{i}"), presence=Presence(speed=0.05 * (i + 1), availability=0.8)) for i in range(4)]
    limits = Participation(time_limit=0.2, asynchronous=True, fraction=0.8)
    enrolment = enrol(EVERYTHING, members)
    federation = Federation.of(enrolment.clients, enrolment.composition, 6, 0, participation=limits)
    straight, resumed, uploads = init(federation), init(federation), {0: [], 1: []}
    for _ in range(6):
        straight = run_round(federation, straight, on_upload=uploads[0].append)
        resumed = run_round(federation, resumed, on_upload=uploads[1].append)
        save_state(resumed, tmp_path / "state", "digest")
        resumed = load_state(tmp_path / "state", "digest")
    assert [u.encoded for u in uploads[0]] == [u.encoded for u in uploads[1]]
    assert any(u.sent < u.round for u in uploads[0])
    assert all(toy.same(straight.clients[name].model, resumed.clients[name].model) for name in straight.clients)
    assert straight.pending == resumed.pending


def failing(*names: str, round_number: int = 1) -> object:
    """An engine in which these clients' turns come to nothing in one round."""

    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for name, turn in local(jobs, this):
            fails = name in names and this.number == round_number
            yield name, Failure(RuntimeError("out of memory")) if fails else turn

    return engine


def test_a_failed_turn_ends_the_run_unless_failures_are_tolerated() -> None:
    members = clients(3)
    federation = Federation.of(members, enrol(fedavg(), members).composition, 2, 0)
    with pytest.raises(RunError, match="client 'c1' failed in round 1: out of memory"):
        run_round(federation, init(federation), failing("c1"))
    patient = replace(federation, server=replace(federation.server, participation=Participation(tolerate_failures=True)))
    before = init(patient)
    after = run_round(patient, before, failing("c1"))
    assert toy.same(before.clients["c1"].model, after.clients["c1"].model)
    assert [row.failed for row in after.rows] == ["", "out of memory", ""]
    again = run_round(patient, after, failing("c1"))
    assert not toy.same(again.clients["c1"].model, after.clients["c1"].model)


def test_a_plan_says_how_clients_take_part() -> None:
    plan = read_plan(
        """
        [participation]
        fraction = 0.5
        time_limit = 2.0
        asynchronous = true
        [defaults.presence]
        availability = 0.9
        [[client]]
        name = "a"
        presence = { speed = 0.5 }
        """,
        "x",
    )
    assert plan.participation == Participation(fraction=0.5, time_limit=2.0, asynchronous=True)
    assert plan.client[0].presence == Presence(availability=0.9, speed=0.5)


def test_changes_of_what_was_sent_long_ago_cannot_be_undone() -> None:
    text = """
        [participation]
        time_limit = 2.0
        asynchronous = true
        [[exchange]]
        kind = "shared-parameters"
        compression = "8-bit"
        [[client]]
        name = "a"
        """
    with pytest.raises(PlanError, match=r"participation.asynchronous: compressed uploads are changes of what was sent"):
        read_plan(text, "x").composition()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("fraction = 0", "participation.fraction: input should be greater than 0 (value: 0)"),
        ("fraction = 1.5", "participation.fraction: input should be less than or equal to 1 (value: 1.5)"),
        ("time_limit = -1", "participation.time_limit: input should be greater than 0"),
        ("asynchronous = true", "participation: "),
        ("speed = 1", "participation.speed: unknown key"),
    ],
)
def test_a_participation_that_makes_no_sense_is_refused(table: str, said: str) -> None:
    with pytest.raises(PlanError) as raised:
        read_plan(f'[participation]\n{table}\n[[client]]\nname = "a"\n', "x")
    assert said in str(raised.value)
