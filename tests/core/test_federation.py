"""Rounds: who sends what when, what the server refuses, and what changes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from whole import Engine, Federation, State, enrol, init, local, run_round

from hetfed.aggregation import weighted_mean
from hetfed.algorithms import alone, fedavg, fedper
from hetfed.client import Client, Tensors
from hetfed.composition import Composition, Step, compose, every
from hetfed.context import ClientContext, ServerContext
from hetfed.errors import PlanError, RunError
from hetfed.exchanges import Exchange, LogitDistillation, Prototypes, SharedParameters, TeacherDistillation
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.profile import Profile
from hetfed.seeding import INITIAL, generator, isolated
from hetfed.training import Training
from hetfed.turn import Job, Round, Turn, take_turn

EVERYTHING = compose(SharedParameters("head"), every(2, Prototypes()), LogitDistillation(), TeacherDistillation(("a",)))


def three() -> list[Client]:
    return [toy.client("a"), toy.client("b", width=6), toy.client("c", n=17)]


def same_state(one: State, other: State) -> bool:
    """Whether two states agree to the last bit, the clock aside."""
    agree = set(one.server) == set(other.server) and set(one.clients) == set(other.clients)
    agree = agree and all(toy.same(one.server[label], other.server[label]) for label in one.server)
    for name, mine in one.clients.items():
        theirs = other.clients[name]
        agree = agree and toy.same(mine.model, theirs.model) and toy.same(mine.optimizer, theirs.optimizer)
        agree = agree and toy.same(mine.best, theirs.best) and mine.exchanges.keys() == theirs.exchanges.keys()
        agree = agree and all(toy.same(mine.exchanges[label], theirs.exchanges[label]) for label in mine.exchanges)
        agree = agree and (mine.score, mine.best_round) == (theirs.score, theirs.best_round)
    return agree and [replace(row, seconds=0) for row in one.rows] == [replace(row, seconds=0) for row in other.rows]


@settings(max_examples=4)
@given(st.permutations([0, 1, 2]), st.permutations([0, 1, 2]))
def test_the_order_of_clients_changes_nothing(listed: list[int], run: list[int]) -> None:
    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        listed_jobs = list(jobs)
        return local([listed_jobs[i] for i in run], this)

    clients = three()
    expected, sent = toy.federate(clients, EVERYTHING, 3)
    found, sent_too = toy.federate([clients[i] for i in listed], EVERYTHING, 3, engine=engine)
    assert same_state(expected, found)
    assert sorted(upload.encoded for upload in sent) == sorted(upload.encoded for upload in sent_too)


def test_a_round_depends_on_nothing_but_the_state() -> None:
    """Neither on what the live modules hold between turns, nor on the default generator, which is left as it was."""

    def forgetting(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for job in jobs:
            torch.rand(this.number)
            with torch.no_grad():
                for tensor in job.client.module.state_dict().values():
                    tensor.fill_(77)
            yield from local([job], this)

    expected, _ = toy.federate(three(), EVERYTHING, 3)
    found, _ = toy.federate(three(), EVERYTHING, 3, engine=forgetting)
    assert same_state(expected, found)
    before = torch.get_rng_state()
    other, _ = toy.federate(three(), EVERYTHING, 1, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not toy.same(other.clients["a"].model, toy.federate(three(), EVERYTHING, 1)[0].clients["a"].model)


def test_a_round_leaves_the_state_before_it_as_it_was() -> None:
    federation = Federation.of(three(), enrol(EVERYTHING, three()).composition, 3, 0)
    first = run_round(federation, init(federation))
    model, server = dict(first.clients["a"].model), {k: dict(v) for k, v in first.server.items()}
    kept = {name: tensor.clone() for name, tensor in model.items()}
    run_round(federation, first)
    assert first.round == 1
    assert len(first.rows) == 3
    assert toy.same(first.clients["a"].model, kept)
    assert all(toy.same(first.server[label], server[label]) for label in server)
    assert same_state(run_round(federation, first), run_round(federation, first))


@dataclass
class Recorder:
    """An engine that keeps what travels: (round, client, label) -> bytes."""

    down: dict[tuple[int, str, str], bytes]
    up: dict[tuple[int, str, str], bytes]

    def __call__(self, jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        jobs = list(jobs)
        self.down |= {(this.number, job.client.name, label): sent for job in jobs for label, sent in job.inbox.items()}
        for name, turn in local(jobs, this):
            self.up |= {(this.number, name, label): sent for label, sent in turn.outbox.items()}
            yield name, turn


def test_each_exchange_keeps_its_own_cadence() -> None:
    composition = compose(
        SharedParameters("head"),
        every(2, SharedParameters("encoder")),
        every(3, Prototypes()),
        Step(LogitDistillation(), 2, until=5),
    )
    recorder = Recorder({}, {})
    toy.federate([toy.client("a")], composition, 7, engine=recorder)

    def rounds(travelled: Mapping[tuple[int, str, str], bytes], label: str) -> list[int]:
        return [number for number, _, name in travelled if name == label]

    assert rounds(recorder.up, "shared-parameters-1") == [1, 2, 3, 4, 5, 6, 7]
    assert rounds(recorder.up, "shared-parameters-2") == [2, 4, 6]
    assert rounds(recorder.up, "prototypes") == [3, 6]
    assert rounds(recorder.down, "shared-parameters-1") == [1, 2, 3, 4, 5, 6, 7]
    assert rounds(recorder.down, "shared-parameters-2") == [1, 3, 5, 7]
    assert rounds(recorder.down, "prototypes") == [4, 7]
    assert rounds(recorder.up, "logit-distillation") == [2, 4]
    assert rounds(recorder.down, "logit-distillation") == [3, 5]


def test_what_the_server_made_goes_out_at_the_start_of_the_next_round() -> None:
    recorder = Recorder({}, {})
    toy.federate([toy.client("a"), toy.client("b")], fedavg(), 2, engine=recorder)
    sent = [Payload.decode(recorder.up[1, name, "shared-parameters"]) for name in "ab"]
    received = Payload.decode(recorder.down[2, "b", "shared-parameters"])
    assert toy.same(received.tensors, weighted_mean(sent))


def test_every_byte_is_counted() -> None:
    recorder = Recorder({}, {})
    state, uploads = toy.federate(three(), EVERYTHING, 3, engine=recorder)
    for row in state.rows:
        mine = row.round, row.client
        assert row.bytes_up == sum(len(sent) for key, sent in recorder.up.items() if key[:2] == mine)
        assert row.bytes_down == sum(len(sent) for key, sent in recorder.down.items() if key[:2] == mine)
        assert row.refused == 0
    assert {(u.round, u.client, u.exchange): u.encoded for u in uploads} == recorder.up
    assert sum(row.bytes_up for row in state.rows) > 0 < sum(row.bytes_down for row in state.rows)


def tampering(name: str, change: Callable[[bytes], bytes]) -> Engine:
    """An engine in which what one client uploads is something else than what its turn made."""

    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for client, turn in local(jobs, this):
            outbox = {label: change(sent) for label, sent in turn.outbox.items()} if client == name else turn.outbox
            yield client, replace(turn, outbox=outbox)

    return engine


def changed(**tensors: Callable[[Tensor], Tensor]) -> Callable[[bytes], bytes]:
    """The payload with a tensor called `head.bias` (and so on) replaced; an underscore stands for the dot."""

    def change(encoded: bytes) -> bytes:
        payload = Payload.decode(encoded)
        found = {name.replace("_", "."): make(payload.tensors["head.bias"]) for name, make in tensors.items()}
        return Payload({**payload.tensors, **found}, payload.weight).encoded

    return change


def without_bias(encoded: bytes) -> bytes:
    payload = Payload.decode(encoded)
    tensors = {name: tensor for name, tensor in payload.tensors.items() if name != "head.bias"}
    return Payload(tensors, payload.weight).encoded


def with_weight(weight: float) -> Callable[[bytes], bytes]:
    return lambda encoded: Payload(Payload.decode(encoded).tensors, weight).encoded


BAD = {
    "shape": (changed(head_bias=lambda bias: bias[:1]), r"shape \(1,\), declared \(2,\)"),
    "more axes": (changed(head_bias=lambda bias: bias[None]), r"shape \(1, 2\)"),
    "name": (changed(tail_bias=lambda bias: bias + 1), "unknown name 'tail.bias'"),
    "absent": (without_bias, "'head.bias' is missing"),
    "dtype": (changed(head_bias=lambda bias: bias.double()), "float64"),
    "not a number": (changed(head_bias=lambda bias: bias * math.nan), "NaN"),
    "infinity": (changed(head_bias=lambda bias: bias + math.inf), "infinity"),
    "huge": (changed(head_bias=lambda bias: bias + 1e30), "above the limit"),
    "negative weight": (with_weight(-1), "weight -1"),
    "no weight": (with_weight(math.nan), "weight nan"),
    "another weight": (with_weight(25), "weight 25.0 is not the 24.0 that was declared"),
    "more bytes": (changed(tail_bias=lambda bias: bias.repeat(9999)), "bytes, declared at most"),
    "noise": (lambda encoded: b"\x00" * 40, "not a payload"),
    "cut": (lambda encoded: encoded[:-4], "not a payload"),
}


@pytest.mark.parametrize(("change", "reason"), BAD.values(), ids=BAD)
def test_a_bad_upload_is_refused_and_the_others_are_merged(change: Callable[[bytes], bytes], reason: str) -> None:
    clients, composition = [toy.client(name) for name in "abc"], compose(SharedParameters("head"))
    state, uploads = toy.federate(clients, composition, 2, engine=tampering("b", change))
    assert state.round == 2
    for number in (1, 2):
        arrived = {upload.client: upload for upload in uploads if upload.round == number}
        assert re.search(reason, arrived["b"].refused)
        assert arrived["a"].refused is arrived["c"].refused is None
    merged = {key.split("/")[1]: tensor for key, tensor in state.server["shared-parameters"].items()}
    # Added up before it was known who is missing, and scaled in the end: it is their mean but for rounding.
    expected = weighted_mean([arrived["a"].contents, arrived["c"].contents])
    assert merged.keys() == expected.keys()
    assert all(torch.allclose(merged[name], expected[name], rtol=1e-6, atol=1e-7) for name in expected)
    assert [row.refused for row in state.rows] == [0, 1, 0] * 2
    assert all(tensor.isfinite().all() for client in state.clients.values() for tensor in client.model.values())
    assert all(math.isfinite(row.validation_loss) for row in state.rows)


def test_a_refused_upload_is_on_record_with_its_bytes() -> None:
    noise = b"\x00" * 40
    state, uploads = toy.federate([toy.client("a"), toy.client("b")], fedavg(), engine=tampering("b", lambda encoded: noise))
    (bad,) = [upload for upload in uploads if upload.refused]
    assert (bad.round, bad.client, bad.exchange, bad.encoded, bad.contents) == (1, "b", "shared-parameters", noise, None)
    assert [row.bytes_up for row in state.rows if row.client == "b"] == [len(noise)]


@pytest.mark.parametrize(("quorum", "merged"), [(1, True), (2, True), (3, False)])
def test_below_the_quorum_the_server_keeps_what_it_had(quorum: int, merged: bool) -> None:
    clients = [toy.client(name) for name in "abc"]
    federation = Federation.of(clients, enrol(fedavg(), clients).composition, 2, 0, quorum=quorum)
    before = init(federation)
    after = run_round(federation, before, tampering("b", BAD["huge"][0]))
    assert toy.same(before.server["shared-parameters"], after.server["shared-parameters"]) != merged
    assert run_round(federation, after).round == 2


def test_when_every_upload_is_refused_the_server_keeps_what_it_had() -> None:
    federation = Federation.of([toy.client("a")], enrol(fedavg(), [toy.client("a")]).composition, 1, 0)
    before = init(federation)
    after = run_round(federation, before, tampering("a", BAD["noise"][0]))
    assert toy.same(before.server["shared-parameters"], after.server["shared-parameters"])


def test_an_upload_that_is_not_due_is_refused() -> None:
    """Else a client that sends in every round would be merged alone in the rounds between."""

    def eager(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        jobs = list(jobs)
        for client, turn in local(jobs, this):
            head = {f"head.{name}": tensor + 1 for name, tensor in jobs[0].client.module.head.state_dict().items()}
            unasked = {"shared-parameters": Payload(head).encoded} if client == "a" else {}
            yield client, replace(turn, outbox={**unasked, **turn.outbox})

    clients, composition = [toy.client("a"), toy.client("b")], compose(every(2, SharedParameters("head")))
    expected, _ = toy.federate(clients, composition, 3)
    found, uploads = toy.federate(clients, composition, 3, engine=eager)
    assert [(u.round, u.refused) for u in uploads if u.refused] == [(n, "nothing is due in this round") for n in (1, 3)]
    assert toy.same(found.server["shared-parameters"], expected.server["shared-parameters"])


def test_what_nobody_asked_for_is_recorded_and_refused() -> None:
    def chatty(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for client, turn in local(jobs, this):
            yield client, replace(turn, outbox={**turn.outbox, "gossip": b"x"})

    state, uploads = toy.federate(three(), EVERYTHING, 2, engine=chatty)
    gossip = [upload for upload in uploads if upload.exchange == "gossip"]
    assert len(gossip) == 6
    assert all("nothing is due" in upload.refused for upload in gossip)
    expected = toy.federate(three(), EVERYTHING, 2)[0]
    assert all(toy.same(state.clients[name].model, expected.clients[name].model) for name in "abc")
    assert all(toy.same(state.server[label], expected.server[label]) for label in expected.server)


def test_clients_with_next_to_nothing_take_part() -> None:
    sgd = Training(optimizer="sgd", lr=0.1, batch_size=1)
    clients = [
        toy.client("one", n=1),
        toy.client("one class", one_class=True),
        toy.client("one class, one example", n=1, one_class=True),
        toy.client("one left over", n=9),
        toy.client("one at a time", n=3, training=sgd),
        toy.client("plenty"),
    ]
    composition = compose(SharedParameters(), Prototypes(), LogitDistillation(), TeacherDistillation(("one",)))
    state, uploads = toy.federate(clients, composition, 3)
    assert not [upload for upload in uploads if upload.refused]
    assert all(math.isfinite(row.train_loss) and math.isfinite(row.validation_loss) for row in state.rows)
    for name, client in state.clients.items():
        assert all(tensor.isfinite().all() for tensor in client.model.values()), name
    before = init(Federation.of(clients, alone(), 3, 0))
    assert not any(toy.same(client.model, before.clients[name].model) for name, client in state.clients.items())


def test_personal_tensors_are_in_no_upload() -> None:
    """Not by name, and not by value either."""
    clients = [toy.client("a"), toy.client("b")]
    for rounds in (1, 2, 3):
        state, uploads = toy.federate(clients, fedper(), rounds)
        last = [upload for upload in uploads if upload.round == rounds]
        assert len(last) == 2
        for client in state.clients.values():
            for name in ("head.weight", "head.bias"):
                secret = client.model[name].numpy().tobytes()
                assert not [upload for upload in last if secret in upload.encoded or name.encode() in upload.encoded]
            body = client.model["encoder.0.weight"].numpy().tobytes()
            assert [upload for upload in last if body in upload.encoded]  # the search would find it


def plain_pytorch(client: Client, rounds: int, optimizer_of: Callable[[object], torch.optim.Optimizer], keep: bool) -> Tensors:
    """What a lone client's training comes to, written out."""
    points, target = client.data.train.inputs["point"], client.data.train.target
    with isolated(5, INITIAL):
        model = toy.Net(2, 4)
    optimizer = optimizer_of(model.parameters())
    for number in range(1, rounds + 1):
        optimizer = optimizer if keep else optimizer_of(model.parameters())
        with isolated(5, client.name, number, "turn"):
            for epoch in range(2):
                order = torch.randperm(len(target), generator=generator(5, client.name, number, "order", epoch))
                for index in order.split(8):
                    optimizer.zero_grad()
                    F.cross_entropy(model({"point": points[index]}).logits, target[index]).backward()
                    optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("training", "optimizer_of"),
    [
        ({}, lambda parameters: torch.optim.Adam(parameters, lr=0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        ({"optimizer": "sgd", "momentum": 0.9}, lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9)),
        ({"optimizer": "rmsprop"}, lambda parameters: torch.optim.RMSprop(parameters, lr=0.01)),
    ],
    ids=["adam", "adamw", "sgd", "rmsprop"],
)
def test_a_lone_client_is_plain_pytorch_to_the_last_bit(training: dict[str, object], optimizer_of: object, keep: bool) -> None:
    client = toy.client("a", training=Training(lr=0.01, epochs=2, batch_size=8, keep_optimizer=keep, **training))
    state, _ = toy.federate([client], alone(), 3, seed=5)
    assert toy.same(state.clients["a"].model, plain_pytorch(client, 3, optimizer_of, keep))
    assert bool(state.clients["a"].optimizer) == keep


def test_who_is_in_no_exchange_is_as_alone() -> None:
    composition = compose(Step(SharedParameters(), clients=("a", "b")), Step(LogitDistillation(), clients=("a", "b")))
    clients = [toy.client(name) for name in "abc"]
    together, by_themselves = toy.federate(clients, composition, 3)[0], toy.federate(clients, alone(), 3)[0]
    assert toy.same(together.clients["c"].model, by_themselves.clients["c"].model)
    assert toy.same(together.clients["c"].best, by_themselves.clients["c"].best)
    assert together.clients["c"].score == by_themselves.clients["c"].score
    rows = [[replace(r, seconds=0) for r in state.rows if r.client == "c"] for state in (together, by_themselves)]
    assert rows[0] == rows[1]
    assert not toy.same(together.clients["a"].model, by_themselves.clients["a"].model)


def test_the_model_is_judged_as_it_arrives_too() -> None:
    """Where training only spoils what arrived, what arrived is kept."""
    good, wild = toy.client("a", n=64), Training(optimizer="sgd", lr=1e4, batch_size=8)
    state, _ = toy.federate([good], fedavg(), 6)
    spoiler = toy.client("b", training=wild)
    model = {name: tensor for name, tensor in state.clients["a"].model.items() if tensor.is_floating_point()}
    # It has trained before: at first, all that arrives is what was drawn.
    before = replace(init(Federation.of([spoiler], alone(), 1, 0)).clients["b"], score=(0.0, -9.0), best_round=1)
    this = Round(2, 2, 0, enrol(fedavg(), [spoiler]).composition, {"b": spoiler.profile})
    turn = take_turn(Job(spoiler, before, {"shared-parameters": Payload(model).encoded}), this)
    assert toy.same({name: turn.state.best[name] for name in model}, model)
    assert turn.state.best_round == 2 and turn.report.received == turn.state.score[0]
    assert not toy.same(turn.state.model, turn.state.best)
    assert -turn.state.score[1] < turn.report.validation_loss  # the report is of the model after training


def test_the_best_model_is_the_first_of_the_highest_score() -> None:
    client = toy.client("a")
    federation = Federation.of([client], alone(), 8, 0)
    state, scores, models = init(federation), [], []
    for _ in range(8):
        state = run_round(federation, state)
        row = state.rows[-1]
        scores.append((row.validation, -row.validation_loss))
        models.append(state.clients["a"].model)
    best = scores.index(max(scores))
    assert state.clients["a"].best_round == best + 1
    assert state.clients["a"].score == scores[best]
    assert toy.same(state.clients["a"].best, models[best])


def test_what_was_drawn_and_never_trained_is_no_candidate() -> None:
    state, _ = toy.federate([toy.client("a", training=Training(epochs=0))], alone(), 3)
    assert not state.clients["a"].best and state.clients["a"].best_round == 0


def test_a_client_s_steps_are_clipped() -> None:
    training = Training(optimizer="sgd", lr=1.0, batch_size=99, clip_norm=1e-3)
    client = toy.client("a", training=training)
    state, _ = toy.federate([client], alone(), 1)
    before = client.new_model(0, INITIAL)
    moved = [(state.clients["a"].model[name] - parameter).detach().norm() for name, parameter in before.named_parameters()]
    assert float(torch.stack(moved).norm()) == pytest.approx(1e-3, rel=1e-3)


@dataclass(frozen=True)
class Failing(Exchange):
    """Raises at client b in round 2."""

    error: Exception

    def declare(self, profile: Profile) -> Declaration:
        return Declaration({"x": TensorRule((1,))}, weight=1.0)

    def upload(self, context: ClientContext) -> Payload | None:
        if context.name == "b" and context.round == 2:
            raise self.error
        return Payload({"x": torch.zeros(1)})

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        return {}


@pytest.mark.parametrize("error", [RuntimeError("boom"), ValueError("boom"), KeyError("boom"), ZeroDivisionError("boom")])
def test_an_exception_in_a_turn_names_client_round_stage_and_exchange(error: Exception) -> None:
    with pytest.raises(RunError, match=r"^client 'b' failed in round 2, in the upload of Failing: .*boom") as raised:
        toy.federate([toy.client("a"), toy.client("b")], compose(Failing(error)), 3)
    assert raised.value.__cause__ is error


def test_an_error_that_speaks_for_itself_is_passed_on() -> None:
    error = PlanError("cannot be", remedy="Mend it.")
    with pytest.raises(PlanError) as raised:
        toy.federate([toy.client("a"), toy.client("b")], compose(Failing(error)), 2)
    assert raised.value is error


def test_the_listener_hears_of_every_upload_and_there_is_a_row_for_every_turn() -> None:
    clients = three()
    federation = Federation.of(clients, enrol(compose(SharedParameters("head")), clients).composition, 1, 0)
    uploads: list[str] = []
    state = run_round(federation, init(federation), on_upload=lambda upload: uploads.append(upload.client))
    assert uploads == ["a", "b", "c"]
    assert [(row.round, row.client) for row in state.rows] == [(1, "a"), (1, "b"), (1, "c")]
    assert all(row.seconds > 0 for row in state.rows)


def test_only_members_are_at_the_server() -> None:
    composition: Composition = compose(Step(SharedParameters("head"), clients=("c", "a")))
    federation = Federation.of(three()[::-1], composition, 1, 0)
    assert [client.name for client in federation.clients] == ["a", "b", "c"]
    context = federation.server.server_context(composition.steps[0], 4)
    assert list(context.members) == list(context.groups) == ["a", "c"]
    assert context.round == 4


def test_chance_at_the_server_and_at_a_client_is_of_one_place_round_and_purpose() -> None:
    a, b = toy.client("a"), toy.client("b")
    places = [
        toy.server_context(),
        toy.server_context(round_number=2),
        toy.server_context(seed=1),
        toy.client_context(a),
        toy.client_context(b),
        toy.client_context(a, round_number=2),
    ]
    drawn = [torch.rand(1, generator=place.generator(purpose)).item() for place in places for purpose in ("x", "y")]
    assert len(set(drawn)) == len(drawn)
    assert torch.rand(1, generator=toy.client_context(a).generator("x")).item() == drawn[6]


def test_a_client_whose_training_diverges_goes_on_from_what_it_was_sent() -> None:
    wild = toy.client("wild", training=Training(optimizer="sgd", lr=1e30, batch_size=8))
    federation = Federation.of([wild, toy.client("tame")], enrol(fedper(), [wild, toy.client("tame")]).composition, 3, 0)
    before = init(federation)
    after = run_round(federation, before)
    (step,) = federation.composition
    context = federation.server.server_context(step, 1)
    sent = step.exchange.broadcast(context, before.server["shared-parameters"], wild.profile).tensors
    assert toy.same(after.clients["wild"].model, {**before.clients["wild"].model, **sent})
    assert after.clients["wild"].optimizer == {}
    assert [row.refused for row in after.rows if row.client == "wild"] == [1]
    assert all(tensor.isfinite().all() for tensor in run_round(federation, after).clients["wild"].model.values())
