"""Who was not there when something was sent: what it missed reaches it at its next turn, and nobody is sent anything twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import torch
import toy
from whole import Federation, State, enrol, init, local, run_round

from hetfed.client import Client
from hetfed.composition import Composition, Step, compose
from hetfed.engines.local import Failure
from hetfed.exchanges import SharedParameters, TeacherDistillation
from hetfed.participation import Participation
from hetfed.payload import Payload, Upload
from hetfed.turn import Job, Round, Turn

LABEL = "shared-parameters"
TEACHERS = "teacher-distillation"


@dataclass
class Post:
    """An engine in which some are not there in a round, or fail in it, and which keeps what the others were sent.

    `down` holds bytes by (round, client, label).
    """

    absent: Mapping[int, str] = field(default_factory=dict)
    failing: bool = False
    down: dict[tuple[int, str, str], bytes] = field(default_factory=dict)

    def __call__(self, jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for job in jobs:
            name = job.client.name
            if name not in self.absent.get(this.number, ""):
                self.down |= {(this.number, name, label): sent for label, sent in job.inbox.items()}
                yield from local([job], this)
            elif self.failing:
                yield name, Failure(RuntimeError("out of memory"))

    def rounds(self, client: str, label: str) -> list[int]:
        """When a client was sent something."""
        return [number for number, name, step in self.down if (name, step) == (client, label)]

    def teachers(self, client: str) -> dict[int, list[str]]:
        """Whose models a student was sent, by round."""
        return {
            number: sorted({key.split("/")[0] for key in Payload.decode(sent).tensors})
            for (number, name, label), sent in self.down.items()
            if (name, label) == (client, TEACHERS)
        }


def run(
    clients: list[Client], composition: Composition, rounds: int, post: Post, quorum: int = 1
) -> tuple[State, list[Upload]]:
    """So many rounds; what a failed turn did is tolerated."""
    enrolment = enrol(composition.over(rounds), clients)
    tolerant = Participation(tolerate_failures=True)
    federation = Federation.of(enrolment.clients, enrolment.composition, rounds, 0, quorum=quorum, participation=tolerant)
    uploads: list[Upload] = []
    state = init(federation)
    for _ in range(rounds):
        state = run_round(federation, state, post, on_upload=uploads.append)
    return state, uploads


def three() -> list[Client]:
    return [toy.client(name) for name in "abc"]


@pytest.mark.parametrize("failing", [False, True], ids=["absent", "failing"])
def test_who_missed_a_broadcast_is_sent_it_at_its_next_turn(failing: bool) -> None:
    """With uploads in every second round, the server sends at the start of rounds 1, 3, 5 and 7."""
    post = Post({3: "b", 4: "b", 7: "c"}, failing)
    run(three(), compose(Step(SharedParameters("head"), every=2)), 8, post)
    assert post.rounds("a", LABEL) == [1, 3, 5, 7]
    assert post.rounds("b", LABEL) == [1, 5, 7]
    assert post.rounds("c", LABEL) == [1, 3, 5, 8]
    assert post.down[8, "c", LABEL] == post.down[7, "a", LABEL]
    late = Post({3: "b"}, failing)
    run(three(), compose(Step(SharedParameters("head"), every=2)), 4, late)
    assert late.rounds("b", LABEL) == [1, 4]
    assert late.down[4, "b", LABEL] == late.down[3, "a", LABEL]


def test_the_last_broadcast_reaches_who_was_not_there() -> None:
    """Uploads end in round 2, and what came of them goes out in round 3."""
    post = Post({3: "b", 4: "b", 1: "c", 2: "c", 5: "c"})
    state, _ = run(three(), compose(Step(SharedParameters("head"), until=2)), 6, post)
    assert post.rounds("a", LABEL) == [1, 2, 3]
    assert post.rounds("b", LABEL) == [1, 2, 5]
    assert post.rounds("c", LABEL) == [3]
    last = post.down[3, "a", LABEL]
    assert post.down[5, "b", LABEL] == post.down[3, "c", LABEL] == last
    assert [row.bytes_down for row in state.rows if row.round == 5 and row.client == "b"] == [len(last)]


def test_a_common_start_reaches_who_joins_late_and_is_sent_once() -> None:
    post = Post({1: "b", 2: "b"})
    run(three(), compose(Step(SharedParameters("head"), until=0)), 4, post)
    assert {name: post.rounds(name, LABEL) for name in "abc"} == {"a": [1], "b": [3], "c": [1]}
    assert post.down[3, "b", LABEL] == post.down[1, "a", LABEL]


@pytest.mark.parametrize("failing", [False, True], ids=["absent", "failing"])
def test_a_group_from_which_nothing_comes_keeps_what_it_had(failing: bool) -> None:
    """c and d hold another encoder, and average by themselves; neither is there in round 2."""
    clients = [toy.client(name, width=width) for name, width in (("a", 4), ("b", 4), ("c", 5), ("d", 5))]
    shared = compose(SharedParameters("encoder", among="same-shape"))
    states = [run(clients, shared, rounds, Post({2: "cd"}, failing))[0].server[LABEL] for rounds in (1, 2)]
    moved = {states[0][key].shape[0]: not torch.equal(states[0][key], states[1][key]) for key in states[0] if "0.weight" in key}
    assert moved == {4: True, 5: False}


def taught(*names: str) -> list[Client]:
    return [toy.client(name) for name in names]


ONCE = compose(TeacherDistillation(("t", "u"), after=2))


def test_teachers_that_are_frozen_are_sent_once() -> None:
    post = Post()
    state, uploads = run(taught("a", "t", "u"), ONCE, 6, post)
    assert [(upload.round, upload.client) for upload in uploads] == [(2, "t"), (2, "u")]
    assert post.teachers("a") == {3: ["t", "u"]}
    # What teachers are told is that they have arrived.
    assert post.rounds("t", TEACHERS) == post.rounds("u", TEACHERS) == [3]
    assert [(row.round, row.client) for row in state.rows if row.bytes_down] == [(3, "a"), (3, "t"), (3, "u")]


def test_a_teacher_that_falls_short_of_a_quorum_sends_again() -> None:
    post = Post({2: {"u"}})
    _, uploads = run(taught("a", "t", "u"), ONCE, 6, post, quorum=2)
    assert [(upload.round, upload.client) for upload in uploads] == [(2, "t"), (3, "t"), (3, "u")]
    assert post.teachers("a") == {4: ["t", "u"]}


@pytest.mark.parametrize("failing", [False, True], ids=["absent", "failing"])
def test_a_student_that_was_not_there_is_sent_its_teachers_later(failing: bool) -> None:
    post = Post({3: "b", 4: "b"}, failing)
    state, _ = run(taught("a", "b", "t", "u"), ONCE, 7, post)
    assert post.teachers("a") == {3: ["t", "u"]}
    assert post.teachers("b") == {5: ["t", "u"]}
    learnt = [state.clients[name].exchanges[TEACHERS] for name in "ab"]
    assert toy.same(*learnt)
    assert {key.split("/")[0] for key in learnt[0]} == {"t", "u"}


@pytest.mark.parametrize("failing", [False, True], ids=["absent", "failing"])
def test_a_teacher_that_was_not_there_sends_at_its_next_turn(failing: bool) -> None:
    """Its students are sent that one then, and not the other one again."""
    post = Post({2: "u", 3: "u"}, failing)
    state, uploads = run(taught("a", "t", "u"), ONCE, 7, post)
    assert [(upload.round, upload.client) for upload in uploads] == [(2, "t"), (4, "u")]
    assert post.teachers("a") == {3: ["t"], 5: ["u"]}
    assert {key.split("/")[0] for key in state.clients["a"].exchanges[TEACHERS]} == {"t", "u"}


def test_student_and_teacher_may_both_be_late() -> None:
    post = Post({2: "u", 4: "a"})
    run(taught("a", "b", "t", "u"), ONCE, 6, post)
    assert post.teachers("b") == {3: ["t"], 4: ["u"]}
    assert post.teachers("a") == {3: ["t"], 5: ["u"]}
    both = Post({2: "u", 3: "a"})
    run(taught("a", "t", "u"), ONCE, 6, both)
    assert both.teachers("a") == {4: ["t", "u"]}


def test_teachers_that_go_on_learning_are_sent_anew() -> None:
    """Everybody teaches everybody else after every second round; a missed lesson comes with the next turn."""
    post = Post({3: "b"})
    run(three(), compose(Step(TeacherDistillation(), every=2)), 6, post)
    assert post.teachers("a") == {3: ["b", "c"], 5: ["b", "c"]}
    assert post.teachers("b") == {4: ["a", "c"], 5: ["a", "c"]}
