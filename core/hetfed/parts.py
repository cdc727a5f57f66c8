"""Parts of a model, named by path: which tensors of a model an exchange moves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation of every dimension
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)

WHOLE = ""
"""The path of the whole model."""
HEAD = "head"
"""The path of what turns features into answers."""
COMPANION = "companion"
"""The path of a second model that trains beside the client's own."""
INNER_HEAD = "inner_head"
"""What answers from a companion's share of fused features, in place of the companion's own head."""


@dataclass(frozen=True)
class TensorSpec:
    """The shape and the dtype of a tensor; of an input, those of one example."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @staticmethod
    def of(tensor: Tensor) -> TensorSpec:
        """That of a tensor."""
        return TensorSpec(tuple(tensor.shape), tensor.dtype)

    @property
    def size(self) -> int:
        """How many bytes such a tensor has."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Signature:
    """What everybody may know of a model: its tensors by name, and what they are; none of their values.

    Args:
        tensors: those of `state_dict()`, parameters and buffers.
        parameters: the names of those that are parameters.
        norms: the paths of normalisation layers, found by their type.
        local: the paths that mean nothing at another client, as the model and the models inside it say (`local_parts`).
        reads: which input the submodule at a path reads, where the model says so (`reads_input`).
        gradients: whether the model learns by gradients.
    """

    tensors: Mapping[str, TensorSpec]
    parameters: tuple[str, ...]
    norms: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    reads: Mapping[str, str] = field(default_factory=dict)
    gradients: bool = True

    @staticmethod
    def of(model: nn.Module) -> Signature:
        """That of a model.

        >>> Signature.of(nn.Linear(2, 1)).parameters
        ('weight', 'bias')
        """
        return Signature(
            {name: TensorSpec.of(tensor) for name, tensor in model.state_dict().items()},
            tuple(name for name, _ in model.named_parameters()),
            tuple(path for path, module in model.named_modules() if isinstance(module, NORM_LAYERS)),
            local_parts(model),
            _reads(model),
            getattr(model, "learns_by_gradients", True),
        )

    @property
    def size(self) -> int:
        """How many numbers its parameters hold."""
        return sum(math.prod(self.tensors[name].shape) for name in self.parameters if name in self.tensors)

    def has(self, path: str) -> bool:
        """Whether `path` names a submodule that has parameters."""
        return any(inside(name, path) for name in self.parameters)

    def near(self, path: str) -> list[str]:
        """The paths of the parts that there are where `path` leads to none: beside its first wrong word."""
        above = WHOLE
        for word in path.split("."):
            if not self.has(f"{above}{word}"):
                break
            above += f"{word}."
        names = [name for name in self.parameters if name.startswith(above)]
        return sorted({above + name.removeprefix(above).partition(".")[0] for name in names})

    def without(self, path: str) -> str:
        """In words, that there is nothing to share under `path`, and what there is instead."""
        if self.has(path):
            return f"everything in {part_words(path)} of its model is excluded or stays local"
        return f"its model has no part {path!r} (it has: {', '.join(self.near(path)) or 'none'})"

    def names(self, path: str, *, exclude: Collection[str] = (), with_norm: bool = True, buffers: bool = True) -> list[str]:
        """Sorted names of the floating-point tensors (parameters and, unless told otherwise, buffers) under `path`.

        Left out are what lies under a path of `exclude`, the model's own local parts and, unless `with_norm`, the normalisation
        layers. Integer buffers (the step counts of batch normalisation) are never in: they have no mean. Where there is no
        parameter under `path` there is nothing: buffers alone are the memory of a model that learns in another way.
        """
        if not self.has(path):
            return []
        # A local part stays out unless it is asked for by a path of its own or one inside of it.
        left_out = [*exclude, *(local for local in self.local if not inside(path, local))]
        if not with_norm:
            left_out += self.norms
        chosen = self.tensors if buffers else self.parameters
        return sorted(
            name
            for name in chosen
            if inside(name, path)
            and self.tensors[name].dtype.is_floating_point
            and not any(inside(name, out) for out in left_out)
        )

    def answers(self, names: Collection[str]) -> bool:
        """Whether these tensors turn features into answers: some are a head's; or the model names none, and they are all of it.

        All but normalisation, that is: who leaves out only that, as FedBN does, still shares every answer.
        """
        if self.has(HEAD):
            heads = (HEAD, f"{COMPANION}.{HEAD}", f"{COMPANION}.{INNER_HEAD}")
            return any(inside(name, head) for name in names for head in heads)
        return set(self.names(WHOLE, with_norm=False)) <= set(names)

    def inputs_under(self, names: Collection[str]) -> set[str]:
        """The inputs that these tensors stand on, where the model says what reads which (`reads_input`)."""
        return {read for path, read in self.reads.items() if any(inside(name, path) for name in names)}


def inside(name: str, path: str) -> bool:
    """Whether the tensor or submodule `name` is `path` or lies under it.

    >>> inside("encoder.0.weight", "encoder"), inside("encoders.image", "encoder")
    (True, False)
    """
    return path in (WHOLE, name) or name.startswith(path + ".")


def below(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `path`, by their names within it."""
    return {name.removeprefix(f"{path}."): tensor for name, tensor in tensors.items() if name.startswith(f"{path}.")}


def part_words(path: str) -> str:
    """What a path stands for, in words."""
    return f"part {path!r}" if path else "the whole model"


def local_parts(model: nn.Module) -> tuple[str, ...]:
    """The paths that mean nothing at another client, as the model and the models inside it say."""
    return tuple(
        f"{path}.{part}" if path else part
        for path, module in model.named_modules()
        for part in getattr(module, "local_parts", ())
    )


def _reads(model: nn.Module) -> dict[str, str]:
    """Which input is read at which path, as the model and the models inside it say."""
    return {
        f"{path}.{part}" if path else part: read
        for path, module in model.named_modules()
        for part, read in getattr(module, "reads_input", {}).items()
    }


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of `model` on the CPU, which its further training does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of `model` themselves, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def read_tensors(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Copies of the named tensors of `model`."""
    state = model.state_dict()
    return {name: state[name].detach().clone() for name in names}


@torch.no_grad()
def write_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the tensors of `model` that carry their names."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        # In place: closures, hooks and tied models hold on to the tensors that the model has now.
        state[name].copy_(tensor)


def within(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names by which the server's state, or a client's memory, keeps them."""
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def of_group(group: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is kept for a group, under the names it had."""
    return {key.removeprefix(f"{group}/"): tensor for key, tensor in state.items() if key.startswith(f"{group}/")}
