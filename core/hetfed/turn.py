"""A client's turn: a pure step (client, its state, inbox, round) -> (its state, outbox, report)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor

from hetfed.client import Client, ClientState, Tensors
from hetfed.composition import Composition, Step
from hetfed.context import ClientContext, Work
from hetfed.data import Batch
from hetfed.evaluation import DIVERGED, Evaluation, evaluate
from hetfed.learner import Learner
from hetfed.parts import copy_of
from hetfed.payload import Payload
from hetfed.seeding import isolated
from hetfed.tasks import loss_if_any
from hetfed.training import (
    Descent,
    Phase,
    Select,
    descend,
    load_optimizer_tensors,
    optimizer_tensors,
    set_training_mode,
    shuffled,
    training_only,
)


@dataclass(frozen=True)
class Round:
    """What is the same for every turn of a round: its number (1, 2, ...) of how many, the seed, the composition, the clients.

    `peers` are the clients by name: the architecture of another client is no secret, its data and parameters are. `select` says
    which model a client keeps: the one that did best on its validation data, or the last one.
    """

    number: int
    rounds: int
    seed: int
    composition: Composition
    peers: Mapping[str, Client]
    select: Select = "validation"


@dataclass(frozen=True)
class Job:
    """One client's turn, to be taken: its state, and payload bytes by step label."""

    client: Client
    state: ClientState
    inbox: Mapping[str, bytes]


@dataclass(frozen=True)
class Report:
    """What a turn tells the run: the mean training loss, the state of the model after training on validation data, seconds."""

    train_loss: float
    validation: float | None
    validation_loss: float
    seconds: float


@dataclass(frozen=True)
class Turn:
    """The outcome of a turn; `outbox` holds payload bytes by step label."""

    state: ClientState
    outbox: Mapping[str, bytes]
    report: Report


@dataclass(frozen=True)
class Failure:
    """A turn that came to nothing, and why."""

    error: Exception


def take_turn(job: Job, this: Round) -> Turn:
    """Apply what arrived, train with the summed losses, upload; keep the model that does best on validation data.

    The model is judged both as it arrived, where anything arrived, and as it is after training. A client whose training
    diverged goes on from where it stood before it trained: its upload shows what happened, and is refused.
    """
    began = time.perf_counter()
    # Memories are copied, and the state is replaced as a whole at the end: a turn that fails or diverges must leave what the
    # client held as it was.
    state, memories = job.state, _memories(job)
    context, views = _set_up(job, this, this.composition.of(job.client), memories)
    # Dropout and the like draw from torch's default generator. It is seeded here, so that a turn does not depend on which
    # client ran before it.
    with isolated(this.seed, job.client.name, this.number, "turn"):
        received = _apply(views, job.inbox)
        # What arrived may be better than what training on a few examples makes of it, and only a model that has been judged can
        # be kept.
        if job.inbox:
            _, state = _judged(context, state, this)
        train_loss, optimizer = _train(context, views, state.optimizer, this)
        outbox = _upload(views, received, memories, this)
    after, state = _judged(context, state, this)
    trained = copy_of(context.model)
    if not all(tensor.isfinite().all() for tensor in trained.values()):
        # What the server sends but once must not be lost with the rest.
        (trained, memories), optimizer = _received(job, this), {}
    state = replace(state, model=trained, optimizer=optimizer, exchanges=memories)
    return Turn(state, outbox, Report(train_loss, after.value, after.loss, time.perf_counter() - began))


def take_in(job: Job, this: Round) -> Turn:
    """A turn without training, after the last round: apply what arrived and judge it."""
    began = time.perf_counter()
    memories = _memories(job)
    steps = [step for step in this.composition.of(job.client) if step.label in job.inbox]
    context, views = _set_up(job, this, steps, memories)
    with isolated(this.seed, job.client.name, this.number, "turn"):
        _apply(views, job.inbox)
    after, state = _judged(context, job.state, this)
    state = replace(state, model=copy_of(context.model), exchanges=memories)
    return Turn(state, {}, Report(math.nan, after.value, after.loss, time.perf_counter() - began))


def _memories(job: Job) -> dict[str, Tensors]:
    """The private memories of the client's exchanges, to be changed."""
    return {label: dict(memory) for label, memory in job.state.exchanges.items()}


def _set_up(
    job: Job, this: Round, steps: Sequence[Step], memories: dict[str, Tensors]
) -> tuple[ClientContext, list[tuple[Step, ClientContext]]]:
    """The client's context with its model as it was left, and the same as each of `steps` sees it."""
    # The live module is a cache. It may have been built anew, or be left over from another round or run: the state decides what
    # is in it.
    model = job.client.module
    model.load_state_dict(job.state.model)
    lr = job.client.training.lr_at(this.number, this.rounds)
    in_part = any(phase.only or phase.frozen for phase in this.composition.phases_of(job.client, this.number, this.rounds))
    context = ClientContext(job.client, model, this.seed, this.number, {}, this.peers, work=Work(lr=lr, in_part=in_part))
    return context, [(step, context.of(memories.setdefault(step.label, {}))) for step in steps]


def _apply(views: list[tuple[Step, ClientContext]], inbox: Mapping[str, bytes]) -> dict[str, Payload]:
    """Take in what arrived, and let every exchange begin; returns what arrived by step label."""
    # All payloads are decoded before any is applied, and all are applied before any exchange begins: where an exchange starts
    # from includes what the others have brought.
    received = {step.label: step.read(inbox[step.label]) for step, _ in views if step.label in inbox}
    for step, context in views:
        if step.label in received:
            step.exchange.apply(context, received[step.label])
    for step, context in views:
        step.exchange.begin(context)
    return received


def _received(job: Job, this: Round) -> tuple[Tensors, dict[str, Tensors]]:
    """The model and the memories as they were when what arrived had been taken in, and training had not begun."""
    memories = _memories(job)
    context, views = _set_up(job, this, this.composition.of(job.client), memories)
    with isolated(this.seed, job.client.name, this.number, "turn"):
        _apply(views, job.inbox)
    return copy_of(context.model), memories


def _judged(context: ClientContext, state: ClientState, this: Round) -> tuple[Evaluation, ClientState]:
    """How the model as it stands does on validation data, and the state that keeps it if it is to be kept: of models that do
    equally well, the earliest."""
    evaluation = evaluate(context.model, context.client.task, context.client.data.validation)
    if state.score is None or evaluation.score > state.score or (this.select == "last" and evaluation.score > DIVERGED):
        state = replace(state, best=copy_of(context.model), score=evaluation.score, best_round=context.round)
    return evaluation, state


def _train(
    context: ClientContext, views: list[tuple[Step, ClientContext]], moments: Tensors, this: Round
) -> tuple[float, Tensors]:
    """The local epochs of one round: the mean loss, and the optimiser's moments afterwards."""
    client, model, training = context.client, context.model, context.client.training
    if isinstance(model, Learner):
        # It would be fitted anyway when first asked for a prediction; here, its time and its failures belong to this turn.
        model.fitted()
        return math.nan, {}
    optimizer = training.new_optimizer(model.parameters(), context.work.lr)
    # Moments of one channel mean nothing for the next one that stands in its place.
    keep_optimizer = training.keep_optimizer and all(step.exchange.keeps_place for step, _ in views)
    if keep_optimizer:
        load_optimizer_tensors(optimizer, model, moments)

    def loss(batch: Batch) -> Tensor | None:
        output = model(batch.inputs)
        terms = [loss_if_any(client.task, output, batch), *(step.exchange.loss(view, batch, output) for step, view in views)]
        known = [term for term in terms if term is not None]
        return sum(known[1:], start=known[0]) if known else None

    set_training_mode(model, min(len(client.data.train), training.batch_size))
    # One counter for all phases: else the passes of the second phase would have the same orders as those of the first.
    done, epochs = Descent(0, 0.0), count()
    for phase in this.composition.phases_of(client, this.number, this.rounds):
        with training_only(model, phase):
            done += descend(optimizer, _batches(context, phase, epochs), loss, training.clip_norm)
    context.work.steps = done.steps
    return done.loss, optimizer_tensors(optimizer, model) if keep_optimizer else {}


def _batches(context: ClientContext, phase: Phase, epochs: Iterator[int]) -> Iterator[Batch]:
    """The batches of a phase, each of its `epochs` in an order of its own."""
    client, training = context.client, context.client.training
    passes = (shuffled(client.data.train, training.batch_size, context.generator("order", n), client.augment) for n in epochs)
    return training.enough(passes, phase)


def _upload(
    views: list[tuple[Step, ClientContext]], received: Mapping[str, Payload], memories: dict[str, Tensors], this: Round
) -> dict[str, bytes]:
    """What goes to the server, as bytes by step label."""
    outbox = {}
    for step, context in views:
        payload = step.exchange.upload(context) if step.uploads(this.number) else None
        if payload is None:
            continue
        if step.compression:
            sent = step.base(received.get(step.label))
            owed = memories.setdefault(f"{step.label} owed", {}) if step.exchange.continues else None
            # What it leaves out is owed: that stands among the exchanges' memories, and so is saved and resumed with them.
            payload = step.compression.up(payload, sent, owed)
        outbox[step.label] = payload.encoded
    return outbox
