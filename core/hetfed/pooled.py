"""The comparison nobody can have in practice: the same model trained on everybody's data together.

Clients of the same kind (model and training) share one pooled training. Data of another client that asks the same question
joins as it is, a modality that it lacks being NaN. Data of another shape or question (a city with other sensors) joins
through a model of the same kind built for it, whose parameters are tied to the first one's but for the head and the local
parts. Whoever joins keeps its own augmentation and its own loss, weights of classes included, and is judged by its own metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn

from hetfed.client import Client, ClientState, Tensors
from hetfed.data import Batch, Examples
from hetfed.device import CPU, device_of, moved, on_device
from hetfed.evaluation import UNREADABLE, Outcome, judge, outcome_of, predict, rescaled
from hetfed.federation import Federation
from hetfed.learner import Learner
from hetfed.model import Output
from hetfed.parts import WHOLE, Signature, copy_of, inside, local_parts, write_tensors
from hetfed.seeding import INITIAL, generator, isolated
from hetfed.selection import Select, consider, predict_mean, selected, selected_round
from hetfed.tasks import Task, loss_if_any
from hetfed.training import Augment, Loss, Phase, Training, set_training_mode, shuffled, train_steps, training_only

OnEpoch = Callable[[int], None]


@dataclass
class DataPool:
    """Data that one model reads and one loss fits: the clients in it, their training examples together, and the model.

    Args:
        model: of the members' kind. It may be that of another pool whose clients train by another loss or augmentation, and its
            parameters may be those of another pool's model.
        examples: training examples of all its clients, one after the other.
        task: of the first client, whose loss is that of all.
        augment: that of all its clients.
        clients: those whose examples these are.
        scaled_as: the task by which the model's logits are scaled: that of the first client whose data it read.
    """

    model: nn.Module
    examples: Examples
    task: Task
    augment: Augment | None
    clients: list[Client]
    scaled_as: Task

    def gather(self) -> None:
        """Move what is trained on to where the model is; the clients' own data stay where they are."""
        there = device_of(self.model)
        self.examples = moved(self.examples, there)
        self.task, self.scaled_as = moved(self.task, there), moved(self.scaled_as, there)

    def said(self, client: Client, models: Sequence[Tensors], examples: Examples) -> Output:
        """What states of the model say of a client's examples in the mean, scaled by the client's own task."""
        output = predict_mean(self.model, models, client.task, examples)
        return replace(output, logits=rescaled(output.logits, moved(self.scaled_as, CPU), client.task))


def kinds_of(clients: Sequence[Client]) -> list[list[Client]]:
    """Clients grouped by kind; a client without a kind stands alone, and so does one whose training differs.

    >>> from hetfed.data import ClientData
    >>> from hetfed.tasks import Classification
    >>> data, task = ClientData.of({"x": [[0.0], [1.0], [2.0], [3.0], [4.0]]}, [0, 1, 0, 1, 0]), Classification(("ill", "well"))
    >>> kinds = {"a": "mlp", "b": "snn", "c": "mlp"}
    >>> a, b, c = (Client(name, data, task, lambda spec: nn.Linear(1, 2), kind=kind) for name, kind in kinds.items())
    >>> [[client.name for client in group] for group in kinds_of([a, b, c])]
    [['a', 'c'], ['b']]
    """
    groups: dict[tuple[str, str], list[Client]] = {}
    for client in clients:
        groups.setdefault((client.kind or client.name, client.training.model_dump_json()), []).append(client)
    return list(groups.values())


def train_pooled(
    federation: Federation,
    clients: Sequence[Client],
    members: Sequence[Client],
    on_epoch: OnEpoch = lambda epoch: None,
) -> dict[str, Outcome]:
    """Train the kind of `members` on the data of all `clients`, for as many rounds as the federation has.

    The batches of all pools are mixed in random order; each member keeps the model that does best on its own validation
    data. Returns what came out for each member, by name.

    Args:
        federation: gives rounds, seed, the rule of selection and, in its composition, the phases of training.
        clients: everybody whose data may join.
        members: clients of one kind, whose model and training are used.
        on_epoch: called with the number of each round that has ended.

    Returns:
        By member; an outcome without a value, and a note, where nobody else's data fit the model.
    """
    # The order in which a plan lists its clients changes nothing.
    clients, members = (sorted(given, key=lambda client: client.name) for given in (clients, members))
    name = f"pooled {members[0].name}"
    # A note and no figure: "pooled" on one client's data would be training alone.
    nobody = Outcome(note="no other client's data fits its model")
    with isolated(federation.seed, INITIAL):
        pools = build_pools(members, clients)
    # By itself in its pool, a client would only train alone once more.
    if sum(len(pool.clients) for pool in pools) == 1:
        return {member.name: nobody for member in members}
    # A client's data are in one pool alone, whose model can read its test data, too.
    homes = {client.name: pool for pool in pools for client in pool.clients}
    if isinstance(pools[0].model, Learner):
        return _fitted(pools[0].model, pools, members, nobody)
    states = {member.name: ClientState({}) for member in members}
    training = members[0].training
    # By identity: tied parameters occur in several pools, and must take one step.
    for pool in pools:
        pool.gather()
    parameters = {id(p): p for pool in pools for p in pool.model.parameters()}
    optimizer = training.new_optimizer(parameters.values(), training.lr)
    for round_number in range(1, federation.rounds + 1):
        for group in optimizer.param_groups:
            group["lr"] = training.lr_at(round_number, federation.rounds)
        phases = federation.composition.phases_of(members[0].profile, round_number, federation.rounds)
        with isolated(federation.seed, name, round_number, device=device_of(pools[0].model)):
            passes = (_mixed(pools, generator(federation.seed, name, round_number, n), training) for n in count())
            for phase in phases:
                _train_phase(pools, optimizer, training.enough(passes, phase), phase, training)
        _consider(pools, states, round_number, federation.select)
        on_epoch(round_number)
    return {
        member.name: _outcome(homes[member.name], member, states[member.name], federation.select)
        if member.name in homes
        else nobody
        for member in members
    }


def _fitted(learner: Learner, pools: Sequence[DataPool], members: Sequence[Client], nobody: Outcome) -> dict[str, Outcome]:
    """What comes of a model that is fitted at once, not round by round; it has no use for a loss or for augmentation."""
    alike = [pool for pool in pools if pool.model is learner]
    model = learner.on(Examples.concat([pool.examples for pool in alike]))
    found, outcomes = (
        ClientState({}, best=model.state_dict(), best_round=1),
        dict.fromkeys((member.name for member in members), nobody),
    )
    for pool in alike:
        pool.model = model
        outcomes |= {client.name: _outcome(pool, client, found, "last") for client in pool.clients if client in members}
    return outcomes


def _train_phase(
    pools: Sequence[DataPool],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[DataPool, Batch]],
    phase: Phase,
    training: Training,
) -> None:
    with ExitStack() as frozen:
        for pool in pools:
            frozen.enter_context(training_only(pool.model, phase))
        for pool, batch in batches:
            train_steps(optimizer, [batch], _loss_of(pool), training.clip_norm)


def build_pools(members: Sequence[Client], everybody: Sequence[Client]) -> list[DataPool]:
    """The data of everybody as models of the kind of `members` can read it, the members' own first.

    Returns:
        One pool for each kind of data and way to train on it. The models of further pools are that of the first, or tied to
        it. A client whose data fit no such model is in none.
    """
    pools: list[DataPool] = []
    # Members first: theirs is the model that the others are tied to, and the first client of a pool sets its modalities.
    for client in [*members, *(c for c in everybody if c not in members)]:
        fitting = [pool for pool in pools if fits(client, pool)]
        home = next((pool for pool in fitting if _trains_as(client, pool)), None)
        if home is not None:
            home.clients.append(client)
            home.examples = Examples.concat([home.examples, _with_all_inputs(client.data.train, home.examples)])
        elif fitting:
            # Its own loss and augmentation, the same model.
            first = fitting[0]
            examples = _with_all_inputs(client.data.train, first.examples)
            pools.append(DataPool(first.model, examples, client.task, client.augment, [client], first.scaled_as))
        else:
            model = _tied_model(members[0], client, pools)
            if model is not None:
                pools.append(DataPool(model, client.data.train, client.task, client.augment, [client], client.task))
    return pools


def _trains_as(client: Client, pool: DataPool) -> bool:
    """Whether the client's examples may stand in one batch with those of `pool`."""
    return client.augment == pool.augment and client.task.unscaled == pool.task.unscaled


def fits(client: Client, pool: DataPool) -> bool:
    """Whether the client's examples can stand among those of `pool`: same question, a modality in common, no shape and no
    column differs.

    Where the model has local parts (a city's sensors), each client is a pool of its own.
    """
    mine, theirs = client.data.train, pool.examples
    # One modality in common is enough: those that a client lacks are NaN.
    common = set(mine.inputs) & set(theirs.inputs)
    same_inputs = all(mine.inputs[name].shape[1:] == theirs.inputs[name].shape[1:] for name in common)
    same_target = mine.target.shape[1:] == theirs.target.shape[1:] and set(mine.further) == set(theirs.further)
    same_question = client.task.label_space == pool.task.label_space and not local_parts(pool.model)
    return bool(common) and same_inputs and same_target and same_question and not _columns_apart(client, pool.clients[0])


def _columns_apart(client: Client, other: Client) -> set[str]:
    """The inputs whose columns have other names, or another order, at the one than at the other."""
    return {name for name in set(client.columns) & set(other.columns) if client.columns[name] != other.columns[name]}


def _with_all_inputs(examples: Examples, like: Examples) -> Examples:
    """`examples` with exactly the modalities of `like`, NaN where they have none."""
    inputs: dict[str, Tensor] = {}
    for name, tensor in like.inputs.items():
        absent = torch.full((len(examples), *tensor.shape[1:]), torch.nan)
        inputs[name] = examples.inputs.get(name, absent)
    return Examples(inputs, examples.target, examples.ids, examples.further)


def _tied_model(kind: Client, client: Client, pools: Sequence[DataPool]) -> nn.Module | None:
    """A model of `kind` for the data of `client`, tied to the first pool's; None where it cannot be built or read the data."""
    if not pools:
        # Without a try: where a model does not fit its own kind's data, that is an error to be seen.
        return _model_for(kind, client)
    try:
        model = _model_for(kind, client)
        predict(model, client.data.train.take(torch.arange(1)))
    # A model fails in its own way on data that are not for it, and whatever it raises says that it cannot be built for these.
    except UNREADABLE:
        return None
    return model if tie(model, pools[0].model, _columns_apart(client, kind)) else None


def _model_for(kind: Client, client: Client) -> nn.Module:
    """A model of `kind` for the data of `client`, with the statistics of these data, on the device of the kind."""
    model = kind.model_fn(client.data.spec)
    write_tensors(model, client.statistics)
    # Before it is tied to another: to move a model may give it parameters of its own.
    return on_device(model, kind.training.device)


def tie(model: nn.Module, to: nn.Module, apart: Collection[str] = ()) -> bool:
    """Let `model` use the parameters of `to` wherever both have one of that name and shape, but for head and local parts.

    Returns whether anything was tied.

    Args:
        model: loses parameters of its own.
        to: whose parameters are used from now on.
        apart: inputs whose columns mean something else at the one than at the other: what reads them stays apart.

    >>> one, other = nn.ModuleDict({"body": nn.Linear(2, 3), "head": nn.Linear(3, 2)}), nn.ModuleDict({"body": nn.Linear(2, 3)})
    >>> tie(one, other), one["body"].weight is other["body"].weight
    (True, True)
    """
    # Heads answer questions of their own, and local parts belong to one client's sensors.
    signature = Signature.of(to)
    # A model that does not say what reads which input stands on all of them.
    reading = [path for path, name in signature.reads.items() if name in apart] if signature.reads else [WHOLE] * bool(apart)
    kept = ("head", *signature.local, *reading)
    shared = {name: p for name, p in to.named_parameters() if not any(inside(name, part) for part in kept)}
    matching = [name for name, p in model.named_parameters() if name in shared and shared[name].shape == p.shape]
    for name in matching:
        path, _, leaf = name.rpartition(".")
        # This replaces the Parameter itself: both models then share one tensor and one gradient.
        setattr(model.get_submodule(path), leaf, shared[name])
    return bool(matching)


def _mixed(pools: Sequence[DataPool], chance: torch.Generator, training: Training) -> Iterator[tuple[DataPool, Batch]]:
    """One pass over everybody's batches, the pools mixed."""
    streams = [iter(shuffled(pool.examples, training.batch_size, chance, pool.augment)) for pool in pools]
    counts = [_batch_count(len(pool.examples), training.batch_size) for pool in pools]
    # Turns are drawn among all batches, so that no pool is trained last in every pass, nor a small one as often as a large
    # one.
    turns = torch.repeat_interleave(torch.arange(len(pools)), torch.tensor(counts))
    for index in turns[torch.randperm(len(turns), generator=chance)].tolist():
        pool = pools[index]
        # Before each batch: pools of one model may differ in size, and one of a single example trains no statistics.
        set_training_mode(pool.model, min(len(pool.examples), training.batch_size))
        yield pool, next(streams[index])


def _batch_count(examples: int, size: int) -> int:
    """How many batches `Examples.batches` makes."""
    # No examples at all make one empty batch, and a last one by itself is joined to the batch before it.
    count = max(math.ceil(examples / size), 1)
    last = examples - (count - 1) * size
    return count - (count > 1 and last == 1)


def _loss_of(pool: DataPool) -> Loss:
    def loss(batch: Batch) -> Tensor | None:
        """The task's loss on a batch; None where no target is known."""
        output = pool.model(batch.inputs)
        return loss_if_any(pool.task, replace(output, logits=rescaled(output.logits, pool.scaled_as, pool.task)), batch)

    return loss


def _consider(pools: Sequence[DataPool], states: dict[str, ClientState], round_number: int, select: Select) -> None:
    """The model of this round is a candidate of each member, as if it were that client's own."""
    for pool in pools:
        # Taken once, and before it is looked at: all members of a pool hold the same.
        model = copy_of(pool.model)
        for client in (c for c in pool.clients if c.name in states):
            validation = client.data.validation
            found = judge(pool.said(client, [model], validation), client.task, validation)
            state, of = states[client.name], round_number
            states[client.name] = consider(state, lambda: model, found, select=select, seen=of, of=of)  # noqa: B023


def _outcome(pool: DataPool, client: Client, state: ClientState, select: Select) -> Outcome:
    """How a member's selected models do on its test data.

    To load them changes the tensors that the other pools are tied to: each member must be judged right after its load.
    """
    data, models = client.data, selected(state, select)
    validation, test = (pool.said(client, models, part) for part in (data.validation, data.test))
    return outcome_of(validation, test, client.task, data, selected_round(state, select))
