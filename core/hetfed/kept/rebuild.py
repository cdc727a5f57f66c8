"""Builds a kept model's module again: from a registered builder or a function, with what exchanges added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from hetfed.client import Client
from hetfed.composition import Composition, extended
from hetfed.data import Examples
from hetfed.errors import RunFolderError
from hetfed.exchanges import KINDS, Exchange, kind_of
from hetfed.kept.description import Architecture
from hetfed.kept.registry import Blank, builder
from hetfed.model import answering
from hetfed.parts import TensorSpec
from hetfed.profile import DTYPES, Profile
from hetfed.seeding import isolated
from hetfed.tasks import Classification, Task

ModelFn = Callable[[Mapping[str, Any]], nn.Module]
"""data spec -> a model."""


@dataclass(frozen=True)
class Part:
    """All that a model is built from, of the client itself or of one that an exchange looks at: JSON and no data."""

    architecture: Architecture | None
    spec: Mapping[str, Any]
    inputs: Mapping[str, Blank]
    target: Blank
    common: Architecture | None = None
    common_spec: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(client: Client) -> Part:
        """What is known of a client, its models as they are before any exchange."""
        about, train = client.description, client.data.train
        inputs = {name: Blank.of(tensor) for name, tensor in train.inputs.items()}
        return Part(about.architecture, client.data.spec, inputs, Blank.of(train.target), about.common, about.common_spec)

    def examples(self, count: int, ids: Sequence[str] = ()) -> Examples:
        """So many examples that say nothing, to learn the sizes of a model by."""
        # A class that is not known, where targets are classes.
        target = self.target.tensor(count, 0 if self.target.dtype.startswith("float") else -1)
        blank = {name: one.tensor(count) for name, one in self.inputs.items()}
        return Examples(blank, target, list(ids) or [str(i) for i in range(count)])


@dataclass(frozen=True)
class Extension:
    """A step whose exchange changes how a model predicts: its settings, and its members by name."""

    exchange: Exchange
    members: tuple[str, ...]


def build(architecture: Architecture | None, spec: Mapping[str, Any], model_fn: ModelFn | None = None) -> nn.Module:
    """A module with any weights, built without touching torch's default generator.

    Raises:
        RunFolderError: no installed builder, and no function, builds it.
    """
    if model_fn is None and architecture is None:
        raise RunFolderError(
            "the model's class is that of a script, and no registered builder",
            key="architecture",
            remedy="Give what built it: load_model(folder, model_fn=...), a function of the data spec.",
        )
    with isolated("kept"):
        if model_fn is not None:
            return answering(model_fn(spec))
        assert architecture is not None
        return _built(architecture, spec)


def _built(architecture: Architecture, spec: Mapping[str, Any]) -> nn.Module:
    make = builder(architecture.builder)
    try:
        return answering(make(architecture.settings, spec))
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        problem = f"no model can be built from these settings: {type(error).__name__} {error}"
        remedy = "Take the folder from the run again, or the version of hetfed that it names."
        raise RunFolderError(problem, key="architecture", remedy=remedy) from error


def rebuilt(
    name: str,
    parts: Mapping[str, Part],
    extensions: Sequence[Extension],
    task: Task | None,
    model_fn: ModelFn | None = None,
) -> nn.Module:
    """The module of the client `name`, with what the extensions add.

    The exchanges see profiles, as they do in a federation: what `extend` does follows from them.
    """
    if not extensions:
        return build(parts[name].architecture, parts[name].spec, model_fn)
    profiles = {one: _profile(one, part, task, model_fn if one == name else None) for one, part in parts.items()}
    for extension in extensions:
        members = [profiles[member] for member in extension.members]
        profiles |= {member.name: extended(member, extension.exchange, members) for member in members}
    return profiles[name].new_model("kept")


def _profile(name: str, part: Part, task: Task | None, model_fn: ModelFn | None) -> Profile:
    # An exchange asks a task for its classes at most; where it cannot be described, two will do.
    task = task or Classification(("no", "yes"))
    inputs = {key: TensorSpec(blank.shape, DTYPES[blank.dtype]) for key, blank in part.inputs.items()}
    own, common = (lambda _: build(part.architecture, part.spec, model_fn)), (lambda _: _common(part))
    return Profile(name, task, part.spec, inputs, part.target.shape, 2, own, common_fn=common)


def _common(part: Part) -> nn.Module:
    if part.common is None:
        remedy = "Name a registered builder in the client's description, or keep a program: save_model(..., program=True)."
        raise RunFolderError("nothing builds the small common model beside it", key="common", remedy=remedy)
    return build(part.common, part.common_spec)


def extensions_of(client: Client, composition: Composition) -> list[Extension]:
    """The steps of a settled composition that add something to the client's model."""
    return [
        Extension(step.exchange, step.clients or ())
        for step in composition.of(client.name)
        if type(step.exchange).extend is not Exchange.extend
    ]


def predicts_alike(base: nn.Module, model: nn.Module) -> bool:
    """Whether `model` is `base` with submodules that take no part in its predictions, as far as its structure tells."""
    theirs = dict(model.named_modules())
    return all(path in theirs and _unchanged(module, theirs[path]) for path, module in base.named_modules())


def _unchanged(one: nn.Module, other: nn.Module) -> bool:
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (one, other)]
    return type(one) is type(other) and hooks[0] == hooks[1] and ("forward" in vars(one)) == ("forward" in vars(other))


def pack_extension(extension: Extension) -> dict[str, Any]:
    """An extension as JSON."""
    exchange = extension.exchange
    settings = TypeAdapter(type(exchange)).dump_python(exchange, mode="json")
    return {"kind": kind_of(exchange), "settings": settings, "members": list(extension.members)}


def unpack_extension(value: Mapping[str, Any]) -> Extension:
    """The extension that JSON describes.

    Raises:
        RunFolderError: an exchange that is not installed.
    """
    if value["kind"] not in KINDS:
        remedy = "Install the package that registers it."
        raise RunFolderError("no such exchange is installed", key="extensions", value=value["kind"], remedy=remedy)
    return Extension(KINDS[value["kind"]](**value["settings"]), tuple(value["members"]))
