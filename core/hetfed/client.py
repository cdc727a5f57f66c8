"""A client: what one site holds, its data, its model and its state between rounds. Others see its profile, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hetfed.data import ClientData, Examples, Spec
from hetfed.device import CPU, device_of, moved, on_device
from hetfed.holding import Holding
from hetfed.kept.description import Description
from hetfed.model import Output, answering
from hetfed.participation import Presence
from hetfed.parts import copy_of, write_tensors
from hetfed.profile import ModelFn, Profile, PublicInputs, keep_alive, specs_of
from hetfed.seeding import INITIAL, isolated
from hetfed.tasks import Task
from hetfed.training import Augment, Training

Tensors = dict[str, Tensor]
References = Callable[[Examples], Mapping[str, Output]]
"""Simple methods: what each says of some examples, by its name."""


def _none(examples: Examples) -> Mapping[str, Output]:
    """No simple methods."""
    return {}


@runtime_checkable
class Bound(Protocol):
    """A module that needs the client's own data: a learner without gradients, a mask of absent classes."""

    def bind(self, train: Examples, public: Examples | None) -> object:
        """Look at the training data and the public inputs of the site that the model is built at."""
        ...


# eq=False: a client is the same as itself alone. Tensors do not compare to one truth value, and dictionaries have no hash.
@dataclass(frozen=True, eq=False)
class Client:
    """One participant, as its own site holds it; `profile` is what everybody else may know.

    Args:
        name: unique among the clients of a federation; it seeds all that is random in a client's turns.
        data: the examples, in three splits, and the sizes that a model is built from.
        task: the loss, the metrics, and the question that is asked.
        model_fn: builds a model for data of the given sizes. It draws weights from torch's default generator and from nothing
            else, so that the same seed gives the same model.
        training: how the client trains in each round.
        public: inputs that all clients hold in the same order; their targets are never read.
        unread: where there are public inputs that this client cannot read, why, as what may follow "it".
        augment: changes the training batches at random; None for none.
        kind: the same text for clients whose model and training are the same; pooled training trains them as one.
        about: what a report says of the client.
        references: what simple methods, by name, say of some examples, to be held beside the model.
        common_fn: builds a small model that every client can hold beside its own; None where there is no such model.
        presence: how reliable and how fast the client is.
        statistics: tensors of the model that come from the client's own data (a city's scale and road graph). They are put in
            place whenever the model is built here, and are part of no profile.
        columns: the names of an input's columns (genes, sensors), in their order, where they have names.
        unit: of its metric, where the metric has one.
        synthetic: whether its data are made up.
        description: how its model is built again, and how its inputs are made, without its data.
        holding: what identifies its records; no other client may hold one of them.
        public_holding: what identifies those of its public inputs.
        notes: what is odd in its data, a sentence each.
    """

    name: str
    data: ClientData
    task: Task
    model_fn: ModelFn
    training: Training = field(default_factory=Training)
    public: Examples | None = None
    unread: str = ""
    augment: Augment | None = None
    kind: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    references: References = _none
    common_fn: ModelFn | None = None
    presence: Presence = field(default_factory=Presence)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = ""
    synthetic: bool = False
    description: Description = field(default_factory=Description)
    holding: Holding = field(default_factory=Holding)
    public_holding: Holding = field(default_factory=Holding)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Here, so that whoever builds a model of the client gets one that answers with an `Output`.
        object.__setattr__(self, "model_fn", _answering(self.model_fn))
        object.__setattr__(self, "common_fn", self.common_fn and _answering(self.common_fn))

    @cached_property
    def profile(self) -> Profile:
        """What everybody may know of the client."""
        train = self.data.train
        return Profile(
            self.name,
            self.task.unscaled,
            self.data.spec,
            specs_of(train),
            tuple(train.target.shape[1:]),
            len(train),
            self.model_fn,
            len(self.data.validation),
            len(self.data.test),
            columns=self.columns,
            training=self.training,
            presence=self.presence,
            public=PublicInputs.of(self.public, self.unread),
            kind=self.kind,
            architecture=asdict(self.description.architecture) if self.description.architecture else {},
            scaled=self.task.unscaled is not self.task,
            about=self.about,
            unit=self.unit,
            synthetic=self.synthetic,
            common_fn=self.common_fn,
        )

    def settled(self, profile: Profile) -> Client:
        """The client with what the exchanges of a federation add to its model, as its settled profile has it."""
        # Who gets nothing new stays the same object, with its live module.
        return self if profile.model_fn is self.model_fn else replace(self, model_fn=profile.model_fn)

    def new_model(self, *seed_path: object) -> nn.Module:
        """A freshly initialised model of the client's own, the same for the same `seed_path`."""
        with isolated(*seed_path):
            model = self.model_fn(self.data.spec)
        # Also in the models that exchanges add beside the client's own: they read the same data.
        places = {name: key for name in model.state_dict() for key in self.statistics if f".{name}".endswith(f".{key}")}
        write_tensors(model, {name: self.statistics[key] for name, key in places.items()})
        for module in model.modules():
            if isinstance(module, Bound):
                module.bind(self.data.train, self.public)
        return model

    @cached_property
    def module(self) -> nn.Module:
        """The live module that a turn works with, on the client's device; between turns its tensors mean nothing, and it may be
        built anew."""
        # Any weights do: whoever cares for them loads a state first.
        module = self.new_model("module", self.name)
        keep_alive(self)
        return on_device(module, self.training.device)

    @property
    def placed(self) -> Placed:
        """What a turn reads, where the live module is."""
        held = Placed(self.data.train, self.data.validation, self.public, self.task, device_of(self.module))
        return held if held.device == CPU else self._on_accelerator

    @cached_property
    def _on_accelerator(self) -> Placed:
        """The same, moved once, and dropped with the live module."""
        held = Placed(self.data.train, self.data.validation, self.public, self.task, device_of(self.module))
        return moved(held, held.device)


@dataclass(frozen=True, eq=False)
class Placed:
    """What a turn reads of a client, on the `device` that it works on. Test data are not among it: they are read but once."""

    train: Examples
    validation: Examples
    public: Examples | None
    task: Task
    device: torch.device


@dataclass(frozen=True)
class _Answering:
    """Builds what `model_fn` builds, and sees to it that it answers with an `Output`."""

    model_fn: ModelFn

    def __call__(self, spec: Spec) -> nn.Module:
        return answering(self.model_fn(spec))


def _answering(model_fn: ModelFn) -> ModelFn:
    return model_fn if isinstance(model_fn, _Answering) else _Answering(model_fn)


@dataclass
class ClientState:
    """All that a client carries from round to round; nothing of it is ever part of a payload by itself.

    `model` is the module's whole state_dict(). `optimizer` holds the moments as `<parameter>/<moment>`; it is empty where they
    are not kept. `exchanges` is the private memory of each exchange, by label, and under `<label> owed` what compression has
    left out of its uploads so far. `best` is the model that did best on validation data, `score` its (metric, minus loss), so
    that larger is better, and `best_round` when it was. `recent` holds the models of the last rounds, by round, where the rule
    of selection asks for them.
    """

    model: Tensors
    optimizer: Tensors = field(default_factory=dict)
    exchanges: dict[str, Tensors] = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    score: tuple[float, float] | None = None
    best_round: int = 0
    recent: dict[int, Tensors] = field(default_factory=dict)


def new_state(client: Client, seed: int) -> ClientState:
    """The state before the first round."""
    return ClientState(copy_of(client.new_model(seed, INITIAL)))
