"""Values that hold tensors, as JSON and named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from hetfed.tasks import Classification, Forecasting, MultiTask, Regression, Survival, Task

TASKS: dict[str, type[Any]] = {
    "classification": Classification,
    "forecasting": Forecasting,
    "regression": Regression,
    "survival": Survival,
    "several heads": MultiTask,
}
"""The tasks that a kept model can describe."""
TENSOR = "$tensor"
TASK = "$task"


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; a tensor goes to `tensors` under its path, and a task is named.

    Args:
        value: numbers, words, tensors and tasks, in lists and mappings.
        path: of the value, for the names of its tensors.
        tensors: takes up the tensors; it is changed in place.

    Raises:
        TypeError: it holds something else.

    >>> import torch
    >>> tensors = {}
    >>> packed = pack({"mean": torch.tensor([1.0])}, "task", tensors)
    >>> packed, tensors
    ({'mean': {'$tensor': 'task.mean'}}, {'task.mean': tensor([1.])})
    >>> unpack(packed, tensors)
    {'mean': tensor([1.])}
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().clone()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        return {str(key): pack(one, f"{path}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [pack(one, f"{path}.{index}", tensors) for index, one in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return _pack_task(value, path, tensors)


def _pack_task(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    for word, kind in TASKS.items():
        # Not isinstance: a class that extends one of these may judge and predict in another way.
        if type(value) is kind:
            # Fields only: what a task computes from them is computed again.
            settings = {one.name: getattr(value, one.name) for one in fields(value)}
            return {TASK: word, **pack(settings, path, tensors)}
    raise TypeError(f"{path}: a {type(value).__name__} cannot be described in JSON")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` was given; a list comes back as a tuple.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    if isinstance(value, list):
        return tuple(unpack(one, tensors) for one in value)
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    settings = {key: unpack(one, tensors) for key, one in value.items() if key != TASK}
    return TASKS[value[TASK]](**settings) if TASK in value else settings


def task_of(value: Any, tensors: Mapping[str, Tensor]) -> Task | None:
    """The task that is described; None where none is.

    >>> task_of(pack(Regression(unit="years"), "task", {}), {}).unit
    'years'
    """
    task: Task | None = unpack(value, tensors)
    return task
