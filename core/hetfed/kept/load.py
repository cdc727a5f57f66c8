"""Reading of the model that a client keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetfed.errors import RunFolderError
from hetfed.kept.description import Architecture
from hetfed.kept.estimators import read_estimator
from hetfed.kept.folder import ABOUT, AGAIN, ESTIMATOR, PROGRAM, STATISTICS, WEIGHTS, Kept
from hetfed.kept.mean import MeanModel
from hetfed.kept.model import KeptModel
from hetfed.kept.program import Program
from hetfed.kept.rebuild import ModelFn, Part, rebuilt, unpack_extension
from hetfed.kept.registry import Blank
from hetfed.kept.values import task_of, unpack
from hetfed.learner import Learner
from hetfed.parts import write_tensors
from hetfed.tasks import Task


def load_model(
    folder: Path | str, *, model_fn: ModelFn | None = None, common_fn: ModelFn | None = None, task: Task | None = None
) -> KeptModel:
    """The model that a client keeps, from its folder `models/<client>/` alone.

    Nothing in the folder is run: weights are safetensors, an estimator holds trusted types only, and code is found by entry
    points, by name.

    Args:
        folder: as a run leaves it, or a copy.
        model_fn: builds the model from its data spec, for a model that no registered builder makes.
        common_fn: builds the small common model beside it, likewise, where the predictions are made with it.
        task: what the model answers, for a task of a class of one's own.

    Raises:
        RunFolderError: a file is missing, damaged or of a later version; or nothing builds the model.

    >>> load_model("no such folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.RunFolderError: no such folder/model.json: no kept model here. Give the folder of one model: ...
    """
    kept = Kept.open(Path(folder))
    try:
        return _loaded(kept, model_fn, common_fn, task)
    except RunFolderError as error:
        raise error.seen_from(file=kept.path / ABOUT) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"damaged: {type(error).__name__} {error}"
        raise RunFolderError(problem, file=kept.path / ABOUT, remedy=AGAIN) from error


def _loaded(kept: Kept, model_fn: ModelFn | None, common_fn: ModelFn | None, task: Task | None) -> KeptModel:
    about, statistics = kept.about, kept.tensors(STATISTICS)
    if about.get("refused") and model_fn is None:
        remedy = "Give the model yourself: load_model(folder, model_fn=...)."
        raise RunFolderError(f"the run could not keep this model: {about['refused']}", key="refused", remedy=remedy)
    found, part = task or task_of(about["task"], statistics), _unpack_part(about)
    # Folders of models before this version hold one model, and no such key.
    build = _mean if about.get("mean") else _module
    return KeptModel(
        about,
        build(kept, part, found, model_fn, common_fn).eval(),
        part,
        found,
        about["form"],
        about["preprocessing"],
        {name.removeprefix("inputs."): tensor for name, tensor in statistics.items() if name.startswith("inputs.")},
        tuple(about["names"]),
    )


def _mean(kept: Kept, part: Part, task: Task | None, model_fn: ModelFn | None, common_fn: ModelFn | None) -> MeanModel:
    if task is None:
        raise RunFolderError("a mean of models needs its task", key="task", remedy="Give it: load_model(folder, task=...).")
    shares = kept.about["mean"]
    for name in shares:
        kept.read(f"{name}/{ABOUT}")
    members = [load_model(kept.path / name, model_fn=model_fn, common_fn=common_fn, task=task) for name in shares]
    return MeanModel([member.module for member in members], list(shares.values()), task)


def _module(kept: Kept, part: Part, task: Task | None, model_fn: ModelFn | None, common_fn: ModelFn | None) -> nn.Module:
    about = kept.about
    if about["learner"] is not None:
        if task is None:
            raise RunFolderError("an estimator needs its task", key="task", remedy="Give it: load_model(folder, task=...).")
        only = about["learner"]["only"]
        return Learner.kept(None if only is not None else _estimator(kept), task, part.examples(1), only)
    if model_fn is None and part.architecture is None and PROGRAM in kept:
        return Program(kept.read(PROGRAM))
    parts = {name: _unpack_part(one) for name, one in about["members"].items()}
    extensions = [unpack_extension(one) for one in about["extensions"]]
    module = rebuilt(
        about["client"], {**parts, about["client"]: part}, extensions, task, model_fn=model_fn, common_fn=common_fn
    )
    _load_weights(module, kept)
    return module


def _estimator(kept: Kept) -> Any:
    try:
        return read_estimator(kept.read(ESTIMATOR))
    except RunFolderError as error:
        raise error.seen_from(file=kept.path / ESTIMATOR) from error


def _load_weights(module: nn.Module, kept: Kept) -> None:
    """What exchanges added and no prediction needs stays in the file."""
    weights = kept.tensors(WEIGHTS)
    for name, tensor in module.state_dict().items():
        found = weights.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            shown = "absent" if found is None else f"{tuple(found.shape)} {found.dtype}"
            problem = f"the weights are not those of this model, which has {tuple(tensor.shape)} {tensor.dtype} here"
            remedy = "Give the function that built the model, or take the folder from the run again."
            raise RunFolderError(problem, file=kept.path / WEIGHTS, key=name, value=shown, remedy=remedy)
    # All have been compared: no model is left half old, half new.
    write_tensors(module, {name: weights[name] for name in module.state_dict()})


def _unpack_part(value: Mapping[str, Any]) -> Part:
    def architecture(one: Any) -> Architecture | None:
        """The architecture that JSON describes; None where none is."""
        return one and Architecture(one["builder"], unpack(one["settings"], {}))

    return Part(
        architecture(value["architecture"]),
        unpack(value["spec"], {}),
        {name: _blank(one) for name, one in value["inputs"].items()},
        _blank(value["target"]),
        architecture(value["common"]),
        unpack(value["common_spec"], {}),
    )


def _blank(value: Mapping[str, Any]) -> Blank:
    if not isinstance(getattr(torch, value["dtype"], None), torch.dtype):
        raise ValueError(f"no dtype {value['dtype']!r}")
    return Blank(tuple(value["shape"]), value["dtype"])
