"""Writing of the model that a client keeps."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetfed import __version__
from hetfed.client import Client
from hetfed.composition import Composition
from hetfed.data import Examples
from hetfed.device import CPU, device_of
from hetfed.errors import HetfedError
from hetfed.evaluation import predict
from hetfed.kept.estimators import NotKept, write_estimator
from hetfed.kept.folder import ABOUT, ESTIMATOR, FORMAT, PROGRAM, STATISTICS, WEIGHTS, packed, write_folder
from hetfed.kept.load import load_model
from hetfed.kept.rebuild import Extension, Part, extensions_of, pack_extension, predicts_alike
from hetfed.kept.values import pack
from hetfed.learner import Learner

TRIED = 8
"""On so many validation examples a model that is built again must say what the client's own says."""


def save_model(
    folder: Path,
    client: Client,
    state: Mapping[str, Tensor],
    *,
    composition: Composition | None = None,
    before: Sequence[Client] = (),
    about: Mapping[str, Any] | None = None,
    program: bool = False,
) -> None:
    """Leave a client's model in a folder from which it predicts by itself.

    What is written is read back at once: where it predicts otherwise than the client's own model, model.json says so, and
    `load_model` asks for the function that built it.

    Args:
        folder: is made where it is not there; a model in it is replaced.
        client: whose model it is, as the composition has extended it.
        state: the module's state_dict().
        composition: the settled one under which the client trained; None where nothing was shared.
        before: every client as it was before the composition extended it.
        about: what else model.json says, as the arm and its validation metrics.
        program: keep a program in ONNX too where no registered builder makes the model; it takes some seconds.
    """
    # Held, as it is a cache of the client, which may drop it when models of others are built.
    module = client.module
    if device_of(module) != CPU:
        # What is kept answers on any machine, and is held against a model on the CPU.
        module = client.new_model("kept")
    module.load_state_dict(state)
    extensions = _needed(client, module, composition, before) if composition else []
    told, statistics = _told(client, extensions, before)
    contents = {WEIGHTS: packed(state)}
    try:
        if isinstance(module, Learner):
            told["learner"] = {"only": module.only}
            # Where there was but one class, nothing is fitted.
            contents |= {} if module.only is not None else {ESTIMATOR: write_estimator(module.fitted())}
        elif program and client.description.architecture is None:
            contents[PROGRAM] = _program(module, _some(client))
    except NotKept as error:
        told["refused"] = str(error)
    # Apart from the weights: statistics belong to the inputs, and a model without gradients has them too.
    contents[STATISTICS] = packed(statistics)
    whole = {**client.about, **(about or {}), **told}
    write_folder(folder, whole, contents)
    # A model that is refused is kept all the same: its folder says why, and a run must not fail over it.
    if not told["refused"] and (reason := _differs(folder, client, module)):
        write_folder(folder, {**whole, "refused": reason}, contents)


@dataclass(frozen=True, eq=False)
class Member:
    """An arm's part in what a client keeps.

    Args:
        client: as the arm's composition has extended it.
        models: the state_dict() of each model whose predictions are averaged; mostly one.
        composition: the settled one under which it trained.
    """

    client: Client
    models: Sequence[Mapping[str, Tensor]]
    composition: Composition


def save_mean(
    folder: Path,
    members: Mapping[str, Member],
    shares: Mapping[str, float],
    *,
    before: Sequence[Client],
    about: Mapping[str, Any],
) -> None:
    """Leave what a client keeps: a model, or a folder of the models whose predictions are averaged, each in one of its own.

    Args:
        folder: is made where it is not there; what was kept in it is replaced.
        members: by arm.
        shares: of each arm; their sum is 1.
        before: every client as it was before compositions extended it.
        about: what else model.json says.
    """
    found = [
        (f"{arm} {number}" if len(member.models) > 1 else arm, shares[arm] / len(member.models), member, model)
        for arm, member in members.items()
        for number, model in enumerate(member.models, start=1)
    ]
    # A model before may have been a mean: its parts would stand beside this one and belong to nothing.
    shutil.rmtree(folder, ignore_errors=True)
    if len(found) == 1:
        [(_, _, member, model)] = found
        save_model(folder, member.client, model, composition=member.composition, before=before, about=about)
        return
    for name, _, member, model in found:
        save_model(folder / name, member.client, model, composition=member.composition, before=before)
    first = found[0][2].client
    told, statistics = _told(first, [], before)
    whole = {**first.about, **about, **told, "mean": {name: share for name, share, _, _ in found}}
    # Their digests are in their own model.json, and the digests of these here.
    parts = {f"{name}/{ABOUT}": (folder / name / ABOUT).read_bytes() for name, *_ in found}
    write_folder(folder, whole, {STATISTICS: packed(statistics), **parts})


def _needed(client: Client, module: nn.Module, composition: Composition, before: Sequence[Client]) -> list[Extension]:
    """The steps without which the model would predict otherwise; often none, and then no other client need be described."""
    extensions = extensions_of(client, composition)
    base = next((one for one in before if one.name == client.name), client)
    return [] if not extensions or predicts_alike(base.new_model("kept"), module) else extensions


def _told(
    client: Client, extensions: Sequence[Extension], before: Sequence[Client]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What model.json says of a client's model, and the tensors that go with it."""
    description, tensors = client.description, {f"inputs.{n}": t for n, t in client.description.statistics.items()}
    members = {name for extension in extensions for name in extension.members} - {client.name}
    others = _distinct({one.name: _pack_part(Part.of(one)) for one in before if one.name in members})
    shown = {client.name, *others}
    told: dict[str, Any] = {
        "format": FORMAT,
        "hetfed": __version__,
        "client": client.name,
        "metric": client.task.metric,
        "task": None,
        "refused": None,
        **_pack_part(Part.of(client)),
        "extensions": [pack_extension(Extension(one.exchange, _among(one.members, shown))) for one in extensions],
        "members": others,
        "learner": None,
        "form": description.form,
        "preprocessing": dict(description.preprocessing),
        "names": list(description.names),
    }
    # Not of a task of a script's own class: `load_model` takes it as an argument.
    with suppress(TypeError):
        told["task"] = pack(client.task, "task", tensors)
    return told, tensors


def _pack_part(part: Part) -> dict[str, Any]:
    try:
        spec = pack(part.spec, "spec", {})
    except TypeError:
        spec = {}
    return {
        "architecture": part.architecture and asdict(part.architecture),
        "spec": spec,
        "inputs": {name: asdict(one) for name, one in part.inputs.items()},
        "target": asdict(part.target),
        "common": part.common and asdict(part.common),
        "common_spec": pack(part.common_spec, "common", {}),
    }


def _distinct(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Of clients with equal parts the first alone: what an exchange adds follows from sizes, and many clients have few."""
    found: dict[str, Any] = {}
    for name, part in sorted(parts.items()):
        if part not in found.values():
            found[name] = part
    return found


def _among(names: Sequence[str], shown: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in shown)


def _program(module: nn.Module, some: Examples) -> bytes:
    # torch's exporter takes seconds to import.
    from hetfed.kept.export import as_onnx

    return as_onnx(module, some.inputs)


def _some(client: Client) -> Examples:
    return client.data.validation.take(torch.arange(min(TRIED, len(client.data.validation))))


def _differs(folder: Path, client: Client, module: nn.Module) -> str:
    """Why the folder does not give the client's own predictions to the last bit; empty where it does or needs a function to."""
    # A script's own class cannot be found again by name: only its function could build it here.
    if client.description.architecture is None and not isinstance(module, Learner):
        return ""
    some = _some(client)
    try:
        again = load_model(folder).output(some.inputs).logits
    except HetfedError as error:
        return str(error)
    same = torch.equal(again.nan_to_num(), predict(module, some).logits.nan_to_num())
    return "" if same else "built again, it predicts otherwise than the model that was trained"
