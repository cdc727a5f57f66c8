"""A second device of this process, for machines without an accelerator: it computes on the CPU, and is as strict as a real one.

Its tensors are no CPU tensors: an operation that mixes the two fails, as does one that draws on the device from a generator of
the CPU, or that reads memory through numpy. Its default generator is its own. So a tensor that was left behind shows on any
machine; and since its arithmetic is the CPU's, its results must be, to the last bit. Once registered it stays: use it in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "strict"
DEVICE = "privateuseone"
CROSSING = {
    "aten::copy_",
    "aten::_copy_from",
    "aten::_to_copy",
    "aten::index.Tensor",
    "aten::index_put_",
    "aten::_index_put_impl_",
}
"""What a real accelerator also takes with tensors of the CPU: copies, and indices."""
_kept: list[object] = []


class There(Tensor):
    """A tensor on the device; `data_there` are its numbers."""

    data_there: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, data.shape, strides=data.stride(), dtype=data.dtype, device=torch.device(DEVICE, 0)
        )
        made.data_there = data
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _check(func, args, kwargs)
        goes = kwargs.get("device")
        kwargs |= {} if goes is None else {"device": torch.device("cpu")}
        found = _drawn(func, tree_map(_inside, args), tree_map(_inside, kwargs))
        # In place: what is given back is what was given.
        if str(func._schema.name).endswith("_"):
            return args[0] if isinstance(args[0], Tensor) else None
        return found if goes is not None and torch.device(goes).type == "cpu" else tree_map(_outside, found)


def _inside(value: object) -> object:
    return value.data_there if isinstance(value, There) else value


def _outside(value: object) -> object:
    return There(value) if isinstance(value, Tensor) and not isinstance(value, There) else value


def _check(func: Any, args: object, kwargs: Mapping[str, Any]) -> None:
    """Refuse what an accelerator refuses."""
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{func}: a generator of the CPU draws on the device")
    if func._schema.name in CROSSING:
        return
    strangers = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not isinstance(leaf, There)]
    # A number in a sum, or the step count of an optimiser, may be a tensor of the CPU without dimensions.
    for stranger in strangers:
        if stranger.ndim:
            raise RuntimeError(f"{func}: expected all tensors on the same device, found {tuple(stranger.shape)} on the CPU")


class _Module:
    """What torch asks of the module of a device, and its default generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def manual_seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: object = None) -> Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        self.generator.set_state(state)


MODULE = _Module()


def _drawn(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation; where it draws, it draws from the device's own generator."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(MODULE.generator.get_state())
    try:
        return func(*args, **kwargs)
    finally:
        MODULE.generator.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


def _factories() -> Iterator[tuple[str, Any]]:
    """What makes tensors from no tensors."""
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::"):
            continue
        base, _, overload = name.removeprefix("aten::").partition(".")
        op = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
        arguments: Iterable[Any] = op._schema.arguments if op is not None else ()
        kinds = [str(argument.type) for argument in arguments]
        if any(argument.name == "device" for argument in arguments) and not any("Tensor" in kind for kind in kinds):
            yield name.removeprefix("aten::"), op


def register() -> torch.device:
    """Make the device known to torch as its accelerator."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=MODULE)
    library = torch.library.Library("aten", "IMPL")
    for name, op in _factories():

        def make(*args: Any, op: Any = op, **kwargs: Any) -> Tensor:
            return There(_drawn(op, args, {**kwargs, "device": torch.device("cpu")}))

        library.impl(name, make, "PrivateUse1")
    _kept.append(library)
    return torch.device(NAME, 0)
