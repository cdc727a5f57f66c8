"""Parts of a model, named by path: which tensors of a model an exchange moves.

A path is the dotted name of a submodule, as `nn.Module.get_submodule` takes it ("head", "encoders.image"); the empty path is
the whole model. A tensor goes by its name in `state_dict()`.
"""

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
    """The shape and the dtype of a tensor; of an input, those of one example.

    >>> TensorSpec((3, 32, 32)).size  # bytes of an image in single precision
    12288
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @staticmethod
    def of(tensor: Tensor) -> TensorSpec:
        """The shape and the dtype of `tensor`, all its dimensions included.

        >>> TensorSpec.of(torch.zeros(2, 3))
        TensorSpec(shape=(2, 3), dtype=torch.float32)
        """
        return TensorSpec(tuple(tensor.shape), tensor.dtype)

    @property
    def size(self) -> int:
        """The number of bytes of such a tensor."""
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
        """The signature of `model`.

        >>> Signature.of(nn.Linear(2, 1)).parameters
        ('weight', 'bias')
        """
        return Signature(
            {name: TensorSpec.of(tensor) for name, tensor in model.state_dict().items()},
            tuple(name for name, _ in model.named_parameters()),
            # By type and not by name: "bn1" is called otherwise in every library.
            tuple(path for path, module in model.named_modules() if isinstance(module, NORM_LAYERS)),
            local_parts(model),
            _reads(model),
            getattr(model, "learns_by_gradients", True),
        )

    @property
    def size(self) -> int:
        """The number of the parameters' elements; buffers, such as running statistics, are not counted.

        >>> Signature.of(nn.Linear(2, 1)).size
        3
        """
        return sum(math.prod(self.tensors[name].shape) for name in self.parameters if name in self.tensors)

    def has(self, path: str) -> bool:
        """Whether `path` names a submodule that has parameters."""
        # By parameters and not by modules: a ReLU is a submodule too, and there is nothing of it to share.
        return any(inside(name, path) for name in self.parameters)

    def near(self, path: str) -> list[str]:
        """The paths that exist where `path` leads to nothing: the parts beside its first wrong word.

        >>> Signature.of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))).near("head")
        ['0', '1']
        """
        # Word by word, so that of "encoder.convs.0" the wrong word is named and not the whole path.
        above = WHOLE
        for word in path.split("."):
            if not self.has(f"{above}{word}"):
                break
            above += f"{word}."
        names = [name for name in self.parameters if name.startswith(above)]
        return sorted({above + name.removeprefix(above).partition(".")[0] for name in names})

    def without(self, path: str) -> str:
        """A reason why there is nothing to share under `path`, and the parts that the model has instead, for a message.

        >>> Signature.of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))).without("head")
        "its model has no part 'head' (it has: 0, 1)"
        """
        if self.has(path):
            return f"everything in {part_words(path)} of its model is excluded or stays local"
        return f"its model has no part {path!r} (it has: {', '.join(self.near(path)) or 'none'})"

    def names(self, path: str, *, exclude: Collection[str] = (), with_norm: bool = True, buffers: bool = True) -> list[str]:
        """Sorted names of the floating-point tensors (parameters and, unless told otherwise, buffers) under `path`.

        Integer buffers (the step counts of batch normalisation) are never in: they have no mean. Where there is no parameter
        under `path` there is nothing: buffers alone are the memory of a model that learns in another way.

        Args:
            path: of the submodule; empty for the whole model. The model's own local parts (`local_parts`) stay out of it,
                unless `path` leads to one of them or inside one.
            exclude: paths of what is left out.
            with_norm: False leaves out normalisation layers, as FedBN does (Li et al. 2021).
            buffers: False leaves out running statistics and other buffers.

        >>> signature = Signature.of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1)))
        >>> signature.names("", exclude=["2"], with_norm=False)
        ['0.bias', '0.weight']
        >>> signature.names("1", buffers=False)
        ['1.bias', '1.weight']
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
        # A companion answers as well: its head travels in the place of the client's own.
        if self.has(HEAD):
            heads = (HEAD, f"{COMPANION}.{HEAD}", f"{COMPANION}.{INNER_HEAD}")
            return any(inside(name, head) for name in names for head in heads)
        # Part of a model without a named head may be the encoder alone; nothing tells, and it is taken for one.
        return set(self.names(WHOLE, with_norm=False)) <= set(names)

    def inputs_under(self, names: Collection[str]) -> set[str]:
        """The inputs that these tensors stand on, where the model says which submodule reads which input (`reads_input`)."""
        return {read for path, read in self.reads.items() if any(inside(name, path) for name in names)}


def inside(name: str, path: str) -> bool:
    """Whether the tensor or submodule `name` is `path` or lies under it.

    >>> inside("encoder.0.weight", "encoder"), inside("encoders.image", "encoder")
    (True, False)
    """
    return path in (WHOLE, name) or name.startswith(path + ".")


def below(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `path`, by their names within it.

    >>> below("head", {"head.bias": torch.zeros(2), "encoder.bias": torch.zeros(3)})
    {'bias': tensor([0., 0.])}
    """
    return {name.removeprefix(f"{path}."): tensor for name, tensor in tensors.items() if name.startswith(f"{path}.")}


def part_words(path: str) -> str:
    """The part at `path`, in words for a message.

    >>> part_words("head"), part_words("")
    ("part 'head'", 'the whole model')
    """
    return f"part {path!r}" if path else "the whole model"


def local_parts(model: nn.Module) -> tuple[str, ...]:
    """The paths that mean nothing at another client (a city's sensors), as the model and the models inside it say.

    >>> class Sensors(nn.Linear):
    ...     local_parts = ("bias",)
    >>> local_parts(nn.Sequential(Sensors(2, 2)))
    ('0.bias',)
    """
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
    """The parameters and buffers of `model` themselves, by name: a change of one changes the model."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def read_tensors(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Copies of the named tensors of `model`.

    >>> model = nn.Linear(1, 1)
    >>> write_tensors(model, {"bias": torch.tensor([7.0])})
    >>> read_tensors(model, ["bias"])
    {'bias': tensor([7.])}
    """
    state = model.state_dict()
    # Cloned, since local training goes on in the same memory.
    return {name: state[name].detach().clone() for name in names}


@torch.no_grad()
def write_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the tensors of `model` that carry their names.

    Raises:
        KeyError: the model has no tensor of that name.
        RuntimeError: a shape does not fit.
    """
    state = model.state_dict()
    for name, tensor in tensors.items():
        # In place: closures, hooks and tied models hold on to the tensors that the model has now.
        state[name].copy_(tensor)


def within(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names by which the server's state, or a client's memory, keeps them for a group.

    >>> within("a", {"w": torch.ones(1)})
    {'a/w': tensor([1.])}
    """
    # A state is flat, tensors by name, so that a safetensors file can hold it.
    return {f"{group}/{name}": tensor for name, tensor in tensors.items()}


def of_group(group: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are kept for a group, under the names they had before `within`.

    >>> of_group("a", {"a/w": torch.ones(1), "b/w": torch.zeros(1)})
    {'w': tensor([1.])}
    """
    return {key.removeprefix(f"{group}/"): tensor for key, tensor in state.items() if key.startswith(f"{group}/")}
