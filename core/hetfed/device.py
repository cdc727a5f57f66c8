"""Where a client trains: on the CPU or on an accelerator. What is at rest, and what travels, lies on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from hetfed.errors import PlanError

T = TypeVar("T")

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""The `device` of a client's training; "auto" is the machine's accelerator, and the CPU where there is none."""
CPU = torch.device("cpu")


def resolve(name: DeviceName) -> torch.device:
    """The device of that name.

    Raises:
        PlanError: this machine has none.

    >>> resolve("cpu")
    device(type='cpu')
    """
    if name == "cpu":
        return CPU
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found or CPU
    if found is None or found.type != name:
        there = f"cpu and {found.type}" if found else "cpu only"
        problem = f"this machine, or its installation of torch, has no such device (it has: {there})"
        raise PlanError(problem, key="training.device", value=name, remedy='Set "cpu", or "auto" for the best that is there.')
    return found


def on_device(module: nn.Module, name: DeviceName) -> nn.Module:
    """The module itself, moved; what learns without gradients is no work for an accelerator, and stays."""
    return module.to(resolve(name)) if getattr(module, "learns_by_gradients", True) else module


def device_of(module: nn.Module) -> torch.device:
    """Where the tensors of a module are; the CPU where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return CPU if first is None else first.device


def moved(value: T, device: torch.device) -> T:
    """`value` with every tensor in it on `device`: a tensor, a mapping, a tuple, or a dataclass such as examples or a task.

    Where nothing has to be moved, it is `value` itself.

    >>> from hetfed.data import Batch
    >>> batch = Batch({"x": torch.zeros(2)}, torch.ones(2))
    >>> moved(batch, CPU) is batch
    True
    """
    return cast("T", _moved(value, device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        parts = {key: _moved(part, device) for key, part in value.items()}
        return parts if any(parts[key] is not part for key, part in value.items()) else value
    if type(value) is tuple:
        found = tuple(_moved(part, device) for part in value)
        return found if any(new is not part for new, part in zip(found, value, strict=True)) else value
    if is_dataclass(value) and not isinstance(value, type):
        known = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        changes = {name: new for name, part in known.items() if (new := _moved(part, device)) is not part}
        return replace(value, **changes) if changes else value
    return value
