"""A client's turn: a pure step (client, its state, inbox, round) -> (its state, outbox, report)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetfed.bench import Bench
from hetfed.client import Client, ClientState, Tensors
from hetfed.composition import Composition, Step
from hetfed.data import Batch
from hetfed.evaluation import Evaluation, evaluate
from hetfed.payload import Payload
from hetfed.seeding import isolated
from hetfed.training import descend, load_optimizer_tensors, optimizer_tensors, set_training_mode, shuffled


@dataclass(frozen=True)
class Round:
    """What is the same for every turn of a round: its number (1, 2, ...) of how many, the seed, the composition, the clients.

    `peers` are the clients by name: the architecture of another client is no secret, its data and parameters are.
    """

    number: int
    rounds: int
    seed: int
    composition: Composition
    peers: Mapping[str, Client]


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


def take_turn(job: Job, this: Round) -> Turn:
    """Apply what arrived, train with the summed losses, upload; keep the model that does best on validation data.

    The model is judged both as it arrived, where anything arrived, and as it is after training.
    """
    began = time.perf_counter()
    client, state, steps = job.client, job.state, this.composition.of(job.client)
    model = client.module
    model.load_state_dict(state.model)
    memories = {step.label: dict(state.exchanges.get(step.label, {})) for step in steps}
    bench = Bench(client, model, this.seed, this.number, {}, this.peers)
    seats = [(step, bench.of(memories[step.label])) for step in steps]
    candidates: list[tuple[Evaluation, Tensors]] = []
    with isolated(this.seed, client.name, this.number, "turn"):
        _apply(seats, job.inbox)
        if job.inbox:
            candidates.append(_candidate(bench))
        train_loss, optimizer = _train(bench, seats, state.optimizer, this)
        outbox = _upload(seats, this)
    candidates.append(_candidate(bench))
    after = candidates[-1][0]
    state = ClientState(candidates[-1][1], optimizer, memories, state.best, state.score, state.best_round)
    for evaluation, tensors in candidates:
        if state.score is None or evaluation.score > state.score:
            state = replace(state, best=tensors, score=evaluation.score, best_round=this.number)
    return Turn(state, outbox, Report(train_loss, after.value, after.loss, time.perf_counter() - began))


def _apply(seats: list[tuple[Step, Bench]], inbox: Mapping[str, bytes]) -> None:
    for step, bench in seats:
        if step.label in inbox:
            step.exchange.apply(bench, Payload.decode(inbox[step.label]))


def _candidate(bench: Bench) -> tuple[Evaluation, Tensors]:
    """The model as it stands, and how it does on validation data."""
    evaluation = evaluate(bench.model, bench.client.task, bench.client.data.validation)
    return evaluation, {name: tensor.detach().clone() for name, tensor in bench.model.state_dict().items()}


def _train(bench: Bench, seats: list[tuple[Step, Bench]], moments: Tensors, this: Round) -> tuple[float, Tensors]:
    """The local epochs of one round: the mean loss, and the optimiser's moments afterwards."""
    client, model, training = bench.client, bench.model, bench.client.training
    optimizer = training.new_optimizer(model.parameters(), training.lr_at(this.number, this.rounds))
    if training.keep_optimizer:
        load_optimizer_tensors(optimizer, model, moments)

    def loss(batch: Batch) -> Tensor | None:
        output = model(batch.inputs)
        terms = [client.task.loss(output, batch), *(step.exchange.loss(seat, batch, output) for step, seat in seats)]
        known = [term for term in terms if term is not None]
        return torch.stack(known).sum() if known else None

    set_training_mode(model, min(len(client.data.train), training.batch_size))
    losses = []
    for epoch in range(training.epochs):
        batches = shuffled(client.data.train, training.batch_size, bench.generator("order", epoch), client.augment)
        losses.append(descend(optimizer, batches, loss, training.clip_norm))
    mean = sum(losses) / len(losses) if losses else float("nan")
    return mean, optimizer_tensors(optimizer, model) if training.keep_optimizer else {}


def _upload(seats: list[tuple[Step, Bench]], this: Round) -> dict[str, bytes]:
    payloads = {step.label: step.exchange.upload(bench) for step, bench in seats if step.uploads(this.number)}
    return {label: payload.encoded for label, payload in payloads.items() if payload is not None}
