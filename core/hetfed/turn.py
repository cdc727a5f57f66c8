"""A client's turn: a pure step (client, its state, inbox, round) -> (its state, outbox, report)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Literal

from torch import Tensor

from hetfed import codecs
from hetfed.client import Client, ClientState, Tensors
from hetfed.codecs import Codec
from hetfed.composition import Composition, Step
from hetfed.context import ClientContext, Work
from hetfed.data import Batch
from hetfed.device import CPU, moved
from hetfed.evaluation import Evaluation, Outcome, judge, outcome_of, predict
from hetfed.exchanges import Exchange
from hetfed.learner import Learner
from hetfed.model import Output
from hetfed.parts import copy_of, live_tensors
from hetfed.payload import Declaration, Payload
from hetfed.profile import Profile
from hetfed.seeding import isolated
from hetfed.selection import Select, chosen_by_all, consider, predict_mean, selected, selected_round
from hetfed.training import (
    Loss,
    Phase,
    Steps,
    load_optimizer_tensors,
    optimizer_tensors,
    set_training_mode,
    shuffled,
    train_steps,
    training_only,
)

Stage = Literal["train", "final", "adopt", "test"]
"""What a client is to do in its turn.

"train": take in what arrived, train, upload. "final": take in what arrived, after the last round, and judge it. "adopt": go on
from the model as it stands, as if nothing had been shared, before fine-tuning. "test": judge the selected model on test data;
figures are all that leaves the client.
"""


@dataclass(frozen=True)
class Round:
    """What is the same for every turn of a round: its number (1, 2, ...) of how many, the seed, the composition, the clients.

    `peers` are the profiles of all clients by name. `select` says which model of a client counts; by everybody's figures it is
    that of the round `chosen`, 0 where no round is. `stage` is what clients are to do.
    """

    number: int
    rounds: int
    seed: int
    composition: Composition
    peers: Mapping[str, Profile]
    select: Select = "validation"
    chosen: int = 0
    stage: Stage = "train"


@dataclass(frozen=True)
class Job:
    """One client's turn, to be taken: its state, and payload bytes by step label."""

    client: Client
    state: ClientState
    inbox: Mapping[str, bytes]


@dataclass(frozen=True)
class Report:
    """What a turn tells the run: the mean training loss, the state of the model after training on validation data, seconds.

    `received` is the metric of the model as it arrived, on the same data; None where nothing arrived. `outcome` is how the
    selected model does on test data, where that was asked.
    """

    train_loss: float = math.nan
    received: float | None = None
    validation: float | None = None
    validation_loss: float = math.nan
    seconds: float = 0.0
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Turn:
    """The outcome of a turn; `outbox` holds payload bytes by step label."""

    state: ClientState
    outbox: Mapping[str, bytes]
    report: Report


@dataclass(frozen=True)
class View:
    """One step as its exchange sees it in a turn; `declared` is what it has said of its uploads."""

    step: Step
    context: ClientContext
    declared: Declaration

    @property
    def exchange(self) -> Exchange:
        """The exchange."""
        return self.step.exchange

    def at(self, stage: str) -> ClientContext:
        """The context, once it is noted where the turn stands."""
        self.context.work.stage = f"{stage} of {self.step.label}"
        return self.context


def take_turn(job: Job, this: Round) -> Turn:
    """Apply what arrived, train with the summed losses, upload; keep the models that are candidates.

    The model is judged as it arrived, where somebody has trained what arrived, and as it is after training. A client whose
    training diverged goes on from where it stood before it trained: its upload shows what happened, and is refused. What a turn
    does in the other stages of a run, `Stage` says.

    An error that a turn ends in carries a note of the stage and the exchange that it occurred in.
    """
    work = Work()
    try:
        return TURNS[this.stage](job, this, work)
    except Exception as error:
        if work.stage:
            error.add_note(f"in the {work.stage}")
        raise


def _whole_turn(job: Job, this: Round, work: Work) -> Turn:
    began = time.perf_counter()
    # Memories are copied, and the state is replaced as a whole at the end: a turn that fails or diverges must leave what the
    # client held as it was.
    state, memories = _up_to_date(job.state, this), _memories(job)
    context, views = set_up(job, this, this.composition.of(job.client.name), memories, work)
    # Dropout and the like draw from torch's default generator. It is seeded here, so that a turn does not depend on which
    # client ran before it.
    with isolated(this.seed, job.client.name, this.number, "turn", device=context.device):
        received = take_in(views, job.inbox)
        arrived, state = _judged_on_arrival(job, context, received, state, this)
        train_loss, optimizer = _train(context, views, state.optimizer, this)
        outbox = _upload(views, received, memories, this)
    trained = copy_of(context.model)
    after = _judged(job.client, context)
    # Who has nothing to learn from, and gets nothing that others have learnt, still has the model that was drawn.
    if work.steps or isinstance(context.model, Learner) or (received and this.number > 1):
        state = consider(state, lambda: trained, after, select=this.select, seen=this.number, of=this.number)
    if not all(tensor.isfinite().all() for tensor in trained.values()):
        # What the server sends but once must not be lost with the rest.
        (trained, memories), optimizer = _received(job, this), {}
    state = replace(state, model=trained, optimizer=optimizer, exchanges=moved(memories, CPU))
    return Turn(state, outbox, _report(began, arrived, after, train_loss))


def _final_turn(job: Job, this: Round, work: Work) -> Turn:
    """Apply what arrived, and judge it."""
    began = time.perf_counter()
    memories = _memories(job)
    steps = [step for step in this.composition.of(job.client.name) if step.label in job.inbox]
    context, views = set_up(job, this, steps, memories, work)
    with isolated(this.seed, job.client.name, this.number, "turn", device=context.device):
        received = take_in(views, job.inbox)
    arrived, state = _judged_on_arrival(job, context, received, _up_to_date(job.state, this), this)
    after = arrived or _judged(job.client, context)
    state = replace(state, model=copy_of(context.model), exchanges=moved(memories, CPU))
    return Turn(state, {}, _report(began, arrived, after, math.nan))


def _adopting_turn(job: Job, this: Round, work: Work) -> Turn:
    """Start from the model as it stands, with no moments, no memories and no candidates."""
    return Turn(ClientState(dict(job.state.model)), {}, Report())


def _testing_turn(job: Job, this: Round, work: Work) -> Turn:
    """Judge the selected model on test data, and on the validation data that it was selected by."""
    client, state, work.stage = job.client, _up_to_date(job.state, this), "test"
    models = selected(state, this.select)
    if not models:
        return Turn(state, {}, Report(outcome=Outcome(note="nobody has trained it")))
    data, task = client.data, client.task
    validation, test = (predict_mean(client.module, models, task, part) for part in (data.validation, data.test))
    return Turn(state, {}, Report(outcome=outcome_of(validation, test, task, data, selected_round(state, this.select))))


TURNS: dict[Stage, Callable[[Job, Round, Work], Turn]] = {
    "train": _whole_turn,
    "final": _final_turn,
    "adopt": _adopting_turn,
    "test": _testing_turn,
}
"""What a client does in each stage."""


def _memories(job: Job) -> dict[str, Tensors]:
    """The private memories of the client's exchanges, to be changed."""
    return {label: dict(memory) for label, memory in job.state.exchanges.items()}


def set_up(
    job: Job, this: Round, steps: Sequence[Step], memories: dict[str, Tensors], work: Work
) -> tuple[ClientContext, list[View]]:
    """The client's context with its model as it was left, and the same as each of `steps` sees it."""
    client = job.client
    profile = this.peers.get(client.name, client.profile)
    # The live module is a cache. It may have been built anew, or be left over from another round or run: the state decides what
    # is in it.
    model, placed = client.module, client.placed
    model.load_state_dict(job.state.model)
    work.lr = profile.training.lr_at(this.number, this.rounds)
    phases = this.composition.phases_of(profile, this.number, this.rounds)
    work.in_part = any(phase.only or phase.frozen for phase in phases)
    context = ClientContext(
        profile,
        placed.task,
        placed.train,
        model,
        live_tensors(model),
        this.seed,
        this.number,
        {},
        this.peers,
        public=placed.public,
        augment=client.augment,
        work=work,
        device=placed.device,
    )
    for step in steps:
        # What is owed stands beside them and stays on the CPU: codecs work on what travels.
        memories[step.label] = moved(memories.get(step.label, {}), placed.device)
    views = [View(step, context.of(memories[step.label]), step.exchange.declare(profile)) for step in steps]
    return context, views


def take_in(views: Sequence[View], inbox: Mapping[str, bytes]) -> dict[str, Payload]:
    """Take in what arrived, and let every exchange begin; returns what arrived by step label."""
    # All payloads are decoded before any is applied, and all are applied before any exchange begins: where an exchange starts
    # from includes what the others have brought.
    received = {
        view.step.label: codecs.at_client(view.step.chain, inbox[view.step.label]) for view in views if view.step.label in inbox
    }
    for view in views:
        if view.step.label in received:
            context = view.at("apply")
            view.exchange.apply(context, received[view.step.label].to(context.device))
    for view in views:
        view.exchange.begin(view.at("begin"))
    return received


def _received(job: Job, this: Round) -> tuple[Tensors, dict[str, Tensors]]:
    """The model and the memories as they were when what arrived had been taken in, and training had not begun."""
    memories = _memories(job)
    context, views = set_up(job, this, this.composition.of(job.client.name), memories, Work())
    with isolated(this.seed, job.client.name, this.number, "turn", device=context.device):
        take_in(views, job.inbox)
    return copy_of(context.model), memories


def _up_to_date(state: ClientState, this: Round) -> ClientState:
    return chosen_by_all(state, this.chosen) if this.select == "everybody" and this.chosen else state


def _judged(client: Client, context: ClientContext) -> Evaluation:
    """How the model as it stands does on validation data."""
    context.work.stage = "validation"
    return judge(predict(context.model, client.placed.validation), client.task, client.data.validation)


def _judged_on_arrival(
    job: Job, context: ClientContext, received: Mapping[str, Payload], state: ClientState, this: Round
) -> tuple[Evaluation | None, ClientState]:
    """How the model as it arrived does, and the state with it as a candidate; it may be better than what training on a few
    examples makes of it.

    None, and the state as it was, where nothing arrived, or where some of the model would be one that nobody has trained.
    """
    names = {name for payload in received.values() for name in payload.tensors}
    whole = names.issuperset(context.profile.signature.parameters)
    if not received or this.number == 1 or not (whole or state.score is not None):
        return None, state
    evaluation = _judged(job.client, context)
    model = partial(copy_of, context.model)
    return evaluation, consider(state, model, evaluation, select=this.select, seen=this.number, of=this.number - 1)


def _report(began: float, arrived: Evaluation | None, after: Evaluation, train_loss: float) -> Report:
    received = None if arrived is None else arrived.value
    return Report(train_loss, received, after.value, after.loss, time.perf_counter() - began)


def _train(context: ClientContext, views: Sequence[View], moments: Tensors, this: Round) -> tuple[float, Tensors]:
    """The local epochs of one round: the mean loss, and the optimiser's moments afterwards."""
    model, training, work = context.model, context.profile.training, context.work
    work.stage = "training"
    if isinstance(model, Learner):
        # It would be fitted anyway when first asked for a prediction; here, its time and its failures belong to this turn.
        model.fitted()
        return math.nan, {}
    optimizer = training.new_optimizer(model.parameters(), work.lr)
    # Moments of one channel mean nothing for the next one that stands in its place.
    keep_optimizer = training.keep_optimizer and all(view.declared.relative != "moving" for view in views)
    if keep_optimizer:
        load_optimizer_tensors(optimizer, model, moments)
    set_training_mode(model, min(len(context.train), training.batch_size))
    loss = loss_of(context, views)
    # One counter for all phases: else the passes of the second phase would have the same orders as those of the first.
    done, epochs = Steps(0, 0.0), count()
    for phase in this.composition.phases_of(context.profile, this.number, this.rounds):
        with training_only(model, phase):
            done += train_steps(optimizer, _batches(context, phase, epochs), loss, training.clip_norm)
    work.steps = done.steps
    return done.loss, optimizer_tensors(optimizer, model) if keep_optimizer else {}


def loss_of(context: ClientContext, views: Sequence[View]) -> Loss:
    """The loss of a batch in the plain loop, which trains the live module; None where no term has anything to learn from."""
    drawing = [view for view in views if type(view.exchange).draw is not Exchange.draw]

    def loss(batch: Batch) -> Tensor | None:
        """The sum of all terms, over the live module."""
        # Asked outside of the losses, which never branch on data: an optimiser with momentum would step on a gradient of 0.
        context.work.learnable = bool(context.task.learnable(batch))
        drawn = {view.step.label: replace(batch, drawn=view.exchange.draw(view.at("draw"), batch)) for view in drawing}
        context.work.stage = "training"
        return total_loss(context, views, context.tensors, batch, drawn=drawn, output=context.model(batch.inputs))

    return loss


def total_loss(
    context: ClientContext,
    views: Sequence[View],
    parameters: Mapping[str, Tensor],
    batch: Batch,
    *,
    drawn: Mapping[str, Batch],
    output: Output,
) -> Tensor | None:
    """The task's loss and the terms of every exchange, as a function of the model's `parameters` and buffers.

    `output` is what a model with these parameters says of `batch`; `drawn` holds, by step label, the batch with what an
    exchange has drawn for it.
    """
    terms = [context.task.loss(output, batch) if context.work.learnable else None]
    for view in views:
        own = drawn.get(view.step.label, batch)
        terms.append(view.exchange.loss(view.at("loss"), parameters, own, output))
    known = [term for term in terms if term is not None]
    return sum(known[1:], start=known[0]) if known else None


def _batches(context: ClientContext, phase: Phase, epochs: Iterator[int]) -> Iterator[Batch]:
    """The batches of a phase, each of its `epochs` in an order of its own."""
    training, train = context.profile.training, context.train
    passes = (shuffled(train, training.batch_size, context.generator("order", n), context.augment) for n in epochs)
    return training.enough(passes, phase)


def _upload(
    views: Sequence[View], received: Mapping[str, Payload], memories: dict[str, Tensors], this: Round
) -> dict[str, bytes]:
    """What goes to the server, as bytes by step label."""
    outbox = {}
    for view in views:
        step = view.step
        payload = view.exchange.upload(view.at("upload")) if step.uploads(this.number) else None
        if payload is None:
            continue
        base = codecs.base_of(received.get(step.label), view.declared)
        # What a codec leaves out is owed: that stands among the exchanges' memories, and so is saved and resumed with them.
        owed = [_owed(memories, view, codec, place) for place, codec in enumerate(step.chain)]
        outbox[step.label] = codecs.to_server(step.chain, payload.to(CPU), base, owed)
    return outbox


def _owed(memories: dict[str, Tensors], view: View, codec: Codec, place: int) -> Tensors | None:
    """Where a client remembers what a codec has left out, if the next upload goes on from this one."""
    if not codec.owes or view.declared.relative != "broadcast":
        return None
    return memories.setdefault(f"{view.step.label} owed{f' {place}' if place else ''}", {})
