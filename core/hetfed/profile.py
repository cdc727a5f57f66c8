"""A profile: what everybody may know of a client. It holds no data, and no statistic of data."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from torch import nn

from hetfed.data import Examples, Spec
from hetfed.evaluation import predict
from hetfed.model import Output
from hetfed.participation import Presence
from hetfed.parts import Signature, TensorSpec
from hetfed.seeding import isolated
from hetfed.tasks import Task, task_from_json, task_to_json
from hetfed.training import Training

ModelFn = Callable[[Spec], nn.Module]
"""Builds a model from the sizes of a client's data. It draws weights from torch's default generator and from nothing else, so
that the same seed gives the same model."""
LIVE = 64
"""How many modules stay built at a time: what is a cache need not grow with the number of clients.

Who has lost its module pays for an initialisation when it is next needed."""
_live: deque[ref[Any]] = deque()


def keep_alive(owner: object) -> None:
    """Note that `owner` has just built its `module`, and drop the one built longest ago, with what was moved to its device."""
    # A weak reference: the queue must not keep the clients of an earlier federation alive.
    _live.append(ref(owner))
    if len(_live) > LIVE:
        oldest = _live.popleft()()
        if oldest is not None:
            for name in ("module", "_on_accelerator"):
                vars(oldest).pop(name, None)


@dataclass(frozen=True)
class PublicInputs:
    """The public inputs of a client, as others may know them.

    Args:
        count: how many there are; 0 where the client holds none.
        digest: of their ids in order: clients with the same one hold the same inputs in the same order.
        inputs: the shape and dtype of one example of each input.
        unread: why the client cannot read them, as what may follow "it"; empty where it can.
    """

    count: int = 0
    digest: str = ""
    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    unread: str = ""

    @staticmethod
    def of(examples: Examples | None, unread: str = "") -> PublicInputs:
        """The public inputs of a client that holds `examples`, or none.

        >>> PublicInputs.of(Examples({"x": torch.zeros(2, 3)}, torch.zeros(2), ["a", "b"])).inputs
        {'x': TensorSpec(shape=(3,), dtype=torch.float32)}
        """
        if examples is None:
            return PublicInputs(unread=unread)
        # Of ids and not of contents: a client may scale the same inputs by its own statistics.
        digest = hashlib.sha256("\x1f".join(examples.ids).encode()).hexdigest()[:16]
        return PublicInputs(len(examples), digest, specs_of(examples), unread)


# eq=False: a profile is the same as itself alone; a task may hold tensors, which do not compare to one truth value.
@dataclass(frozen=True, eq=False)
class Profile:
    """What everybody may know of one client.

    It travels as JSON, all but `model_fn` and `common_fn`: these are code, which whoever reads a profile has by itself.

    Args:
        name: unique among the clients of a federation; it seeds all that is random in a client's turns.
        task: what is asked of its model, without the statistics by which its own data are scaled.
        spec: the sizes that its model is built from.
        inputs: the shape and dtype of one example of each input, by the input's name.
        target: the shape of one example's target.
        examples: how many examples it trains on.
        model_fn: builds a model of its architecture.
        validation_examples: how many it selects its model by.
        test_examples: how many it tests it on.
        columns: the names of an input's columns (genes, sensors), in their order, where they have names.
        training: how it trains in each round.
        presence: how reliable and how fast it is.
        public: what is known of its public inputs.
        kind: the same text for clients whose architecture and training are the same.
        architecture: the name of the architecture and its settings, from which `model_fn` can be found again.
        scaled: whether its answers are scaled by its own data.
        about: what a report says of it.
        unit: of its metric, where the metric has one.
        synthetic: whether its data are made up.
        common_fn: builds a small model that every client can hold beside its own; None where there is no such model.

    >>> from hetfed.client import Client
    >>> from hetfed.data import ClientData
    >>> from hetfed.tasks import Classification
    >>> data = ClientData.of({"x": torch.zeros(10, 4)}, [0, 1] * 5)
    >>> client = Client("a", data, Classification(("ill", "well")), lambda spec: nn.Sequential(nn.Linear(4, 2)))
    >>> profile = Profile.from_json(client.profile.to_json(), client.model_fn)
    >>> profile.examples, profile.signature.parameters, profile.probe.logits.shape
    (6, ('0.weight', '0.bias'), torch.Size([2, 2]))
    """

    name: str
    task: Task
    spec: Spec
    inputs: Mapping[str, TensorSpec]
    target: tuple[int, ...]
    examples: int
    model_fn: ModelFn
    validation_examples: int = 0
    test_examples: int = 0
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    presence: Presence = field(default_factory=Presence)
    public: PublicInputs = field(default_factory=PublicInputs)
    kind: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = False
    about: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    synthetic: bool = False
    common_fn: ModelFn | None = None

    def new_model(self, *seed_path: object) -> nn.Module:
        """A freshly initialised model, the same for the same `seed_path`; torch's default generator is left as it was."""
        # Whoever looks at an architecture must not shift the random numbers of whoever trains.
        with isolated(*seed_path):
            return self.model_fn(self.spec)

    @cached_property
    def module(self) -> nn.Module:
        """A model of the client's architecture, to look at: its parameters are nobody's."""
        module = self.new_model("module", self.name)
        keep_alive(self)
        return module

    @cached_property
    def signature(self) -> Signature:
        """The names, shapes and dtypes of its model's tensors."""
        return Signature.of(self.module)

    @cached_property
    def probe(self) -> Output:
        """The model's output for two blank examples; the shapes are what matters."""
        return predict(self.module, self.blank(2))

    def blank(self, count: int) -> Examples:
        """So many examples of the shapes that the client has, all zeros."""
        return blank(self.inputs, count, self.target)

    def to_json(self) -> str:
        """All but the code, as text.

        Raises:
            TypeError: the task is of a kind that is not registered, or `spec` or `architecture` hold what JSON has not.
        """
        # Listed one by one: a field that is added must not travel before somebody has decided that it may.
        about = {key: getattr(self, key) for key in PLAIN}
        public = {**vars(self.public), "inputs": _specs_to_json(self.public.inputs)}
        own = {"task": task_to_json(self.task), "inputs": _specs_to_json(self.inputs), "target": self.target, "public": public}
        tables = {"training": self.training.model_dump(mode="json"), "presence": self.presence.model_dump(mode="json")}
        return json.dumps({**about, **own, **tables, "has_common": self.common_fn is not None}, allow_nan=False)

    @staticmethod
    def from_json(text: str, model_fn: ModelFn, common_fn: ModelFn | None = None) -> Profile:
        """The profile that `to_json` wrote, with the code that belongs to it.

        Args:
            text: as it travelled.
            model_fn: builds the client's architecture.
            common_fn: builds its small common model; not looked at where the client has none.

        Raises:
            KeyError: a field is missing, or the task is of a kind that is not registered.
        """
        # JSON and no pickle: a profile comes from another site, and reading it must run nothing.
        known = json.loads(text)
        has_common = known.pop("has_common")
        known["public"]["inputs"] = _specs_from_json(known["public"]["inputs"])
        found: dict[str, Any] = {
            "task": task_from_json(known.pop("task")),
            "inputs": _specs_from_json(known.pop("inputs")),
            "target": tuple(known.pop("target")),
            "public": PublicInputs(**known.pop("public")),
            "training": Training.model_validate(known.pop("training")),
            "presence": Presence.model_validate(known.pop("presence")),
            "columns": {name: tuple(names) for name, names in known.pop("columns").items()},
        }
        return Profile(**known, **found, model_fn=model_fn, common_fn=common_fn if has_common else None)


PLAIN = (
    "name",
    "spec",
    "examples",
    "validation_examples",
    "test_examples",
    "columns",
    "kind",
    "architecture",
    "scaled",
    "about",
    "unit",
    "synthetic",
)
"""The fields of a profile that are JSON as they are."""


def blank(inputs: Mapping[str, TensorSpec], count: int, target: Sequence[int] = ()) -> Examples:
    """So many examples of these shapes, all zeros.

    >>> blank({"x": TensorSpec((3,))}, 2).inputs["x"].shape
    torch.Size([2, 3])
    """
    zeros = {name: torch.zeros(count, *spec.shape, dtype=spec.dtype) for name, spec in inputs.items()}
    return Examples(zeros, torch.zeros(count, *target), [f"blank {i}" for i in range(count)])


def specs_of(examples: Examples) -> dict[str, TensorSpec]:
    """The shape and dtype of one example of each input."""
    return {name: TensorSpec(tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in examples.inputs.items()}


def _specs_to_json(specs: Mapping[str, TensorSpec]) -> dict[str, list[Any]]:
    # A dtype has no JSON of its own; reading looks it up in DTYPES and nowhere else.
    return {name: [list(spec.shape), str(spec.dtype).removeprefix("torch.")] for name, spec in specs.items()}


def _specs_from_json(found: Mapping[str, list[Any]]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(tuple(shape), DTYPES[dtype]) for name, (shape, dtype) in found.items()}


DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
}
