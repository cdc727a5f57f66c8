"""What every algorithm must keep to. One `Row` says how an algorithm is tried, and buys it all of `LAWS`."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from statistics import fmean

import toy
from torch import Tensor
from whole import Engine, Federation, State, enrol, init, load_state, local, run_round, save_state

from hetfed.client import Client, Tensors
from hetfed.data import Examples, Spec
from hetfed.engines.local import Failure
from hetfed.evaluation import evaluate
from hetfed.federation import Upload
from hetfed.participation import Participation
from hetfed.payload import Payload
from hetfed.plan import named_algorithm
from hetfed.results.ledger import Ledger
from hetfed.training import Training
from hetfed.turn import Job, Round, Turn

ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Row:
    """How one algorithm is tried.

    Args:
        golden: recomputes a round or two by hand, and compares.
        settings: the algorithm's own.
        widths: of the toy clients a, b and c; where they differ, so do the models.
        training: of each of them.
        rounds: after which it must have learnt.
        private: patterns of tensors, by their names in a client's model, that must never leave it.
        shares: whether what one client holds changes what another one learns.
        trap: fails where the code makes the mistake that published code of this algorithm is known for.
    """

    golden: Callable[[], None]
    settings: Mapping[str, object] = field(default_factory=dict)
    widths: tuple[int, int, int] = (4, 4, 4)
    training: Training = field(default_factory=lambda: Training(lr=0.05, batch_size=8))
    rounds: int = 8
    private: tuple[str, ...] = ()
    shares: bool = True
    trap: Callable[[], None] | None = None


def common(spec: Spec) -> toy.Net:
    """A model small enough for everybody."""
    return toy.Net(spec["inputs"], 3)


def clients(row: Row) -> list[Client]:
    """Three of them, anew."""
    found = [toy.client(n, width=w, training=row.training) for n, w in zip("abc", row.widths, strict=True)]
    return [replace(client, common_fn=common) for client in found]


def begin(name: str, row: Row, members: Sequence[Client], rounds: int) -> Federation:
    """A federation of `members` by this algorithm."""
    composition = named_algorithm(name, row.settings).over(rounds)
    enrolment, tolerant = enrol(composition, members), Participation(tolerate_failures=True)
    return Federation.of(enrolment.clients, enrolment.composition, rounds, 0, participation=tolerant)


@dataclass(frozen=True)
class Run:
    """The states after each round, the first one before all of them, and every upload."""

    federation: Federation
    states: list[State]
    uploads: list[Upload]


def run(name: str, row: Row, members: Sequence[Client] | None = None, rounds: int = ROUNDS, engine: Engine = local) -> Run:
    """So many rounds."""
    federation = begin(name, row, clients(row) if members is None else members, rounds)
    states, uploads = [init(federation)], []
    for _ in range(rounds):
        states.append(run_round(federation, states[-1], engine, on_upload=uploads.append))
    return Run(federation, states, uploads)


@cache
def undisturbed(name: str, row: Row) -> Run:
    """What the disturbed ones are held against."""
    return run(name, row)


def flat(state: State) -> Tensors:
    """Every tensor of a state, under a name of its own."""
    tensors = {f"server {label} {key}": t for label, server in state.server.items() for key, t in server.items()}
    for name, client in state.clients.items():
        parts = {"model": client.model, "best": client.best, "optimizer": client.optimizer, **client.exchanges}
        tensors |= {f"{name} {part} {key}": t for part, found in parts.items() for key, t in found.items()}
    return tensors


def same(one: State, other: State) -> bool:
    """Whether two states agree to the last bit, the clock aside."""
    rows = [[replace(row, seconds=0) for row in state.rows] for state in (one, other)]
    scores = [{name: (c.score, c.best_round) for name, c in state.clients.items()} for state in (one, other)]
    return toy.same(flat(one), flat(other)) and rows[0] == rows[1] and scores[0] == scores[1]


def finite(state: State) -> bool:
    """Whether there is no NaN and no infinity anywhere."""
    numbers = [number for row in state.rows for number in (row.train_loss, row.validation_loss)]
    return all(map(math.isfinite, numbers)) and all(t.isfinite().all() for t in flat(state).values() if t.is_floating_point())


def a_round_is_as_computed_by_hand(name: str, row: Row) -> None:
    row.golden()


def its_trap_is_avoided(name: str, row: Row) -> None:
    assert row.trap
    row.trap()


def it_learns(name: str, row: Row) -> None:
    done = run(name, row, rounds=row.rounds)
    losses, aurocs = [], []
    for client in done.federation.clients:
        first, last = done.states[0].clients[client.name], done.states[-1].clients[client.name]
        client.module.load_state_dict(first.model)
        before = evaluate(client.module, client.task, client.data.validation).loss
        after = next(r.validation_loss for r in done.states[-1].rows if (r.round, r.client) == (row.rounds, client.name))
        losses.append(after / before)
        client.module.load_state_dict(last.best)
        aurocs.append(evaluate(client.module, client.task, client.data.test).value)
    assert fmean(losses) < 0.8
    assert fmean(aurocs) > 0.8
    assert min(aurocs) > 0.6


def what_one_client_holds_reaches_the_others(name: str, row: Row) -> None:
    members = clients(row)
    data = replace(members[1].data, train=toy.examples(24, "something else"))
    other = run(name, row, [members[0], replace(members[1], data=data), members[2]], 3)
    models = [found.states[3].clients["a"].model for found in (undisturbed(name, row), other)]
    assert toy.same(*models) != row.shares


def the_order_of_clients_changes_nothing(name: str, row: Row) -> None:
    def backwards(jobs: Iterator[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        return local(list(jobs)[::-1], this)

    other = run(name, row, clients(row)[::-1], engine=backwards)
    expected = undisturbed(name, row)
    assert same(other.states[-1], expected.states[-1])

    def sent(found: Run) -> list[tuple[int, str, str, bytes]]:
        return sorted((u.round, u.client, u.exchange, u.encoded) for u in found.uploads)

    assert sent(other) == sent(expected)


def an_interrupted_run_ends_with_the_same_bits(name: str, row: Row) -> None:
    expected = undisturbed(name, row)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        save_state(expected.states[2], file, "digest")
        state = load_state(file, "digest")
    assert same(state, expected.states[2])
    # As a process of its own would: clients and federation anew.
    federation = begin(name, row, clients(row), ROUNDS)
    for _ in range(ROUNDS - 2):
        state = run_round(federation, state)
    assert same(state, expected.states[-1])


def clients_with_next_to_nothing_take_part(name: str, row: Row) -> None:
    one = replace(toy.client("one example", n=1, width=row.widths[1], training=row.training), common_fn=common)
    poor = replace(toy.client("one class", one_class=True, width=row.widths[2], training=row.training), common_fn=common)
    done = run(name, row, [*clients(row)[:2], one, poor], 3)
    assert [upload.refused for upload in done.uploads if upload.refused] == []
    assert {upload.client for upload in done.uploads} in ({"a", "b", "one example", "one class"}, set())
    assert finite(done.states[-1])
    for client in done.federation.clients:
        first, last = done.states[0].clients[client.name].model, done.states[-1].clients[client.name].model
        assert not toy.same(first, last), client.name


def without(absent: Mapping[int, str], *, after_the_turn: bool) -> Engine:
    """An engine in which some do not answer in a round, or fail when all of their turn is done."""

    def engine(jobs: Iterator[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for job in jobs:
            gone = job.client.name in absent.get(this.number, "")
            if after_the_turn or not gone:
                ((name, turn),) = local([job], this)
                yield name, Failure(RuntimeError("out of memory")) if gone else turn

    return engine


def absent_and_failing_clients_are_survived(name: str, row: Row) -> None:
    """b joins in the second round, c misses one, and in the third nobody is there; what a failed turn did is forgotten."""
    gone = {1: "b", 2: "c", 3: "abc"}
    absent, failed = (run(name, row, engine=without(gone, after_the_turn=late)) for late in (False, True))
    assert finite(absent.states[-1])
    assert toy.same(flat(absent.states[-1]), flat(failed.states[-1]))
    assert [(r.round, r.client) for r in failed.states[-1].rows if r.failed] == [(n, c) for n in gone for c in gone[n]]
    for number, names in gone.items():
        before, after = absent.states[number - 1 : number + 1]
        assert all(after.clients[client] is before.clients[client] for client in names)
    assert toy.same(*({f"{k}/{n}": t for k, s in s.server.items() for n, t in s.items()} for s in absent.states[2:4]))
    assert [upload.refused for upload in absent.uploads if upload.refused] == []
    expected = {(u.round, u.client, u.exchange) for u in undisturbed(name, row).uploads}
    assert {(u.round, u.client, u.exchange) for u in absent.uploads} == {
        key for key in expected if key[1] not in gone.get(key[0], "")
    }
    assert not any(toy.same(absent.states[0].clients[c].model, absent.states[4].clients[c].model) for c in "abc")


def failing(change: Callable[[bytes], bytes] | None) -> Engine:
    """An engine in which what b uploads in round 2 is lost, or becomes something else."""

    def engine(jobs: Iterator[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for client, turn in local(jobs, this):
            hit = (client, this.number) == ("b", 2) and isinstance(turn, Turn)
            outbox = {label: change(encoded) for label, encoded in turn.outbox.items()} if hit and change else {}
            yield client, replace(turn, outbox=outbox) if hit else turn

    return engine


def spoilt(encoded: bytes) -> bytes:
    payload = Payload.decode(encoded)
    return Payload({name: tensor * math.nan for name, tensor in payload.tensors.items()}, payload.weight).encoded


def an_upload_that_is_lost_or_spoilt_is_survived(name: str, row: Row) -> None:
    lost, refused = run(name, row, engine=failing(None)), run(name, row, engine=failing(spoilt))
    assert finite(lost.states[-1])
    assert toy.same(flat(lost.states[-1]), flat(refused.states[-1]))
    assert {(u.round, u.client) for u in refused.uploads if u.refused} in ({(2, "b")}, set())
    arrived = {(u.round, u.client, u.exchange) for u in lost.uploads if u.refused is None}
    expected = {(u.round, u.client, u.exchange) for u in undisturbed(name, row).uploads}
    assert arrived == {key for key in expected if key[:2] != (2, "b")}
    for number in (2, 4):
        kept = [found.states[number].clients["a"].model for found in (lost, undisturbed(name, row))]
        gone = row.shares and number > 2
        assert toy.same(*kept) != gone


def private_tensors_never_leave(name: str, row: Row) -> None:
    done = undisturbed(name, row)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.jsonl")
        for upload in done.uploads:
            ledger.write(upload)
        lines = [json.dumps(entry) for entry in ledger.entries()]
    for upload, line in zip(done.uploads, lines, strict=True):
        secret = {key for key in done.states[0].clients[upload.client].model if any(fnmatch(key, p) for p in row.private)}
        assert row.private == () or secret
        names = {key.rpartition("~")[0] or key for key in upload.travelled.tensors}
        assert not names & secret
        assert not [key for key in secret if f'"{key}"' in line]
        # Neither as they are now, nor as they were before this round.
        for state in done.states[upload.round - 1 : upload.round + 1]:
            client = state.clients[upload.client]
            for tensor in (*(client.model[key] for key in secret), *client.optimizer.values()):
                assert not telling(tensor) or tensor.numpy().tobytes() not in upload.encoded
        # The search finds what is there.
        assert all(tensor.numpy().tobytes() in upload.encoded for tensor in upload.travelled.tensors.values())


class Locked(Examples):
    """Another client's examples: how many there are is known, and nothing else."""

    def __getattribute__(self, name: str) -> object:
        if name in {"inputs", "target", "further", "ids"}:
            raise AssertionError("somebody else's data were looked at")
        return super().__getattribute__(name)

    def __len__(self) -> int:
        return len(object.__getattribute__(self, "target"))


def nobody_looks_at_the_data_of_others(name: str, row: Row) -> None:
    """Neither a client in its turn nor the server in between: on real sites they would not be there."""
    federation = begin(name, row, clients(row), ROUNDS)
    held = {client.name: client.data for client in federation.clients}
    for client in federation.clients:
        assert client.profile.probe is not None and client.profile.signature.size  # shapes, which everybody may know

    def only(*names: str) -> None:
        for client in federation.clients:
            data = held[client.name]
            if client.name not in names:
                train, validation, test = (Locked({}, e.target, e.ids) for e in (data.train, data.validation, data.test))
                data = replace(data, train=train, validation=validation, test=test)
            object.__setattr__(client, "data", data)

    def apart(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn | Failure]]:
        for job in jobs:
            only(job.client.name)
            turn = list(local([job], this))
            only()
            yield from turn

    state = init(federation)
    only()
    uploads: list[Upload] = []
    for _ in range(ROUNDS):
        state = run_round(federation, state, apart, on_upload=uploads.append)
    only(*held)
    assert toy.same(flat(state), flat(undisturbed(name, row).states[-1]))
    assert not [upload.refused for upload in uploads if upload.refused]


def telling(tensor: Tensor) -> bool:
    """Whether its bytes could not as well be something else's."""
    return tensor.numel() > 1 and bool((tensor != tensor.flatten()[0]).any())


LAWS: list[Callable[[str, Row], None]] = [
    a_round_is_as_computed_by_hand,
    its_trap_is_avoided,
    it_learns,
    what_one_client_holds_reaches_the_others,
    the_order_of_clients_changes_nothing,
    an_interrupted_run_ends_with_the_same_bits,
    clients_with_next_to_nothing_take_part,
    absent_and_failing_clients_are_survived,
    an_upload_that_is_lost_or_spoilt_is_survived,
    private_tensors_never_leave,
    nobody_looks_at_the_data_of_others,
]
