"""What every algorithm must keep to. One `Row` says how an algorithm is tried, and buys it all of `LAWS`."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from statistics import fmean

import torch
import toy
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils._pytree import tree_map
from whole import Engine, Federation, State, enrol, init, load_state, local, run_round, save_state

from hetfed import rounds
from hetfed.client import Client, Tensors
from hetfed.context import ClientContext, Work
from hetfed.data import Batch, Examples, Spec
from hetfed.engines.local import Failure, Order, Reply
from hetfed.evaluation import evaluate
from hetfed.participation import Participation
from hetfed.payload import Payload, Upload
from hetfed.plan import named_algorithm
from hetfed.results.ledger import Ledger
from hetfed.seeding import isolated
from hetfed.training import Training
from hetfed.turn import Job, Round, Turn, View, set_up, take_in, total_loss

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


def clients(row: Row, only: str = "abc") -> list[Client]:
    """Three of them, anew, or some of the three."""
    named = zip("abc", row.widths, strict=True)
    found = [toy.client(name, width=width, training=row.training) for name, width in named if name in only]
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


STACKED = 3
"""How many clients the loss is computed for at once."""
Given = tuple[Tensors, Tensors, Tensors, dict[str, Tensors], dict[str, Tensors]]
"""What a loss is a function of: tensors that learn, the rest, a batch, and by step label what was drawn and the memory."""


def the_loss_is_a_function_of_parameters(name: str, row: Row) -> None:
    """Its value and gradient are those of the plain loop under `functional_call`, and under `vmap` for several clients at once,
    each with parameters, a batch and a memory of its own. Dropout is off: it would draw other numbers."""
    done = undisturbed(name, row)
    for client in done.federation.clients:
        context, views = third_turn(done, client)
        for module in context.model.modules():
            module.train(not isinstance(module, nn.Dropout))
        given = [given_to(client, context, views, i) for i in range(STACKED)]
        plain = [plain_loss(context, views, one) for one in given]
        function = grad_and_value(partial(loss_function, context, views))
        singly = [function(*copied(one)) for one in given]
        gradients, values = vmap(function)(*tree_map(lambda *leaves: torch.stack(leaves), *map(copied, given)))
        for i, (expected, value) in enumerate(plain):
            for found in (singly[i], ({key: gradient[i] for key, gradient in gradients.items()}, values[i])):
                assert torch.allclose(found[1], value, rtol=1e-5, atol=1e-6)
                assert all(torch.allclose(found[0][key], g, rtol=1e-4, atol=1e-5) for key, g in expected.items())


def given_to(client: Client, context: ClientContext, views: Sequence[View], number: int) -> Given:
    """Parameters near the client's own, a batch of its data, what is drawn for it, and memories near its own."""
    batch = client.data.train.batch(torch.arange(number, number + 8))
    tensors = moved({key: tensor.detach() for key, tensor in context.tensors.items()}, number)
    learning = {key for key, tensor in context.tensors.items() if tensor.requires_grad}
    return (
        {key: tensor for key, tensor in tensors.items() if key in learning},
        {key: tensor for key, tensor in tensors.items() if key not in learning},
        {"point": batch.inputs["point"], "target": batch.target},
        {view.step.label: view.exchange.draw(view.context, batch) for view in views},
        {view.step.label: moved(view.context.memory, number) for view in views},
    )


def loss_function(context: ClientContext, views: Sequence[View], *given: *Given) -> Tensor:
    """The loss as a function."""
    parameters, seen, batch, drawn = {**given[0], **given[1]}, *seen_by(views, given)
    output = functional_call(context.model, parameters, (batch.inputs,))
    return total_loss(context, seen, parameters, batch, drawn=drawn, output=output)


def seen_by(views: Sequence[View], given: Given) -> tuple[list[View], Batch, dict[str, Batch]]:
    """The views with the memories that are given, the batch, and the batch with what was drawn for each step."""
    batch = Batch({"point": given[2]["point"]}, given[2]["target"])
    drawn = {label: replace(batch, drawn=found) for label, found in given[3].items()}
    return [replace(v, context=replace(v.context, memory=given[4][v.step.label])) for v in views], batch, drawn


def plain_loss(context: ClientContext, views: Sequence[View], given: Given) -> tuple[Tensors, Tensor]:
    """Gradients and value as the plain loop has them: in the live module, with its own tensors."""
    with torch.no_grad():
        for key, tensor in {**given[0], **given[1]}.items():
            context.tensors[key].copy_(tensor)
    seen, batch, drawn = seen_by(views, given)
    context.model.zero_grad()
    value = total_loss(context, seen, context.tensors, batch, drawn=drawn, output=context.model(batch.inputs))
    torch.autograd.backward(value)
    found = {key: context.tensors[key].grad for key in given[0]}
    return {key: torch.zeros_like(given[0][key]) if g is None else g.clone() for key, g in found.items()}, value.detach()


def third_turn(done: Run, client: Client) -> tuple[ClientContext, list[View]]:
    """A client in its third turn, when it has taken in what arrived and training is to begin."""
    server, state = done.federation.server, done.states[2]
    inboxes: dict[str, dict[str, bytes]] = {}

    def keep(orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply]]:
        inboxes.update({order.client: dict(order.inbox) for order in orders})
        yield from ()

    rounds.run_round(server, state.at_server(), keep)
    job, this = Job(client, state.clients[client.name], inboxes[client.name]), server.round(3)
    memories = {label: dict(memory) for label, memory in job.state.exchanges.items()}
    context, views = set_up(job, this, this.composition.of(client.name), memories, Work())
    with isolated("third turn"):
        take_in(views, job.inbox)
    return context, views


def moved(tensors: Mapping[str, Tensor], by: int) -> Tensors:
    """Copies, a little further on where they are numbers."""
    return {key: tensor * (1 + 0.05 * by) if tensor.is_floating_point() else tensor.clone() for key, tensor in tensors.items()}


def copied(given: Given) -> Given:
    """So that running statistics, which a loss moves on, are the same for all who compute it."""
    return tree_map(torch.clone, given)


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
    the_loss_is_a_function_of_parameters,
]
