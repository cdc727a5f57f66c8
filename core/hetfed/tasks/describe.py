"""Tasks as JSON, by the names of their kinds; and answers in the unit of the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from hetfed.tasks.base import Task
from hetfed.tasks.classification import Classification
from hetfed.tasks.forecasting import Forecasting
from hetfed.tasks.further import MultiTask
from hetfed.tasks.regression import Regression
from hetfed.tasks.survival import Survival

KINDS: dict[str, type[Any]] = {
    "classification": Classification,
    "regression": Regression,
    "forecasting": Forecasting,
    "survival": Survival,
}
"""The kinds of tasks by name; a task of one's own that is to be known to other processes gets a row here by `register_task`."""
STATISTICS = ("mean", "scale")
"""The fields of a task that come from a client's own data: they stay out of what is told."""


def register_task(name: str, kind: type[Any]) -> None:
    """Let profiles name a dataclass of one's own that keeps to the contract of `Task`.

    Its fields are told as JSON, all but those of STATISTICS.

    Raises:
        ValueError: the name is taken by another class.
    """
    if KINDS.setdefault(name, kind) is not kind:
        raise ValueError(f"the task {name!r} is {KINDS[name].__qualname__}, and cannot be {kind.__qualname__} too")


def task_to_json(task: Task) -> dict[str, Any]:
    """What is asked, as JSON has it, without the statistics of anybody's data.

    >>> task_to_json(Classification(("benign", "malignant")))["names"]
    ['benign', 'malignant']

    Raises:
        TypeError: the kind of the task is not registered.
    """
    if isinstance(task, MultiTask):
        further = {name: [task_to_json(one), weight] for name, (one, weight) in task.further.items()}
        return {"kind": "multi-task", "main": task_to_json(task.main), "further": further}
    names = {kind: name for name, kind in KINDS.items()}
    # By exact type: a class that extends a kind would come back as that kind, without what it adds.
    if type(task) not in names:
        raise TypeError(f"{type(task).__name__} is no registered kind of task: name it with register_task")
    told = {field.name: getattr(task, field.name) for field in fields(task) if field.name not in STATISTICS}  # type: ignore[arg-type]
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
    return {"kind": names[type(task)], **plain}


def task_from_json(known: Mapping[str, Any]) -> Task:
    """The task that `task_to_json` wrote, with the statistics of nobody's data.

    Raises:
        KeyError: its kind is not registered here.

    >>> task_from_json(task_to_json(Regression(mean=60.0, scale=12.0, unit="years")))
    Regression(mean=0.0, scale=1.0, unit='years', loss_kind='mse', metric='RMSE', higher_is_better=False, class_count=0)
    """
    rest = {key: value for key, value in known.items() if key != "kind"}
    if known["kind"] == "multi-task":
        further = {name: (task_from_json(one), weight) for name, (one, weight) in rest["further"].items()}
        return MultiTask(task_from_json(rest["main"]), further)
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
    task: Task = KINDS[known["kind"]](**settings)
    return task


def in_unit(logits: Tensor, task: Task) -> Tensor:
    """Logits (b, ...) in the unit of the target: what they mean at any client that asks the same.

    >>> import torch
    >>> in_unit(torch.tensor([1.0]), Regression(mean=60.0, scale=12.0, unit="years"))
    tensor([72.])
    """
    mean, scale = task.scaling
    return logits if _plain(mean, scale) else logits * scale + mean


def scaled(values: Tensor, task: Task) -> Tensor:
    """Values (b, ...) in the unit of the target, as this task scales its logits; the inverse of `in_unit`.

    >>> import torch
    >>> scaled(torch.tensor([72.0]), Regression(mean=60.0, scale=12.0, unit="years"))
    tensor([1.])
    """
    mean, scale = task.scaling
    return values if _plain(mean, scale) else (values - mean) / scale


def _plain(mean: Tensor | float, scale: Tensor | float) -> bool:
    """Whether nothing is scaled."""
    return isinstance(mean, float) and isinstance(scale, float) and (mean, scale) == (0.0, 1.0)
