"""Parts of a model, named by path: which tensors of a model an exchange moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def inside(name: str, path: str) -> bool:
    """Whether the tensor or submodule `name` is `path` or lies under it."""
    return path in (WHOLE, name) or name.startswith(path + ".")


def has_part(model: nn.Module, path: str) -> bool:
    """Whether `path` names a submodule of `model` that has parameters."""
    return any(inside(name, path) for name, _ in model.named_parameters())


def parts_near(model: nn.Module, path: str) -> list[str]:
    """The paths of the parts that `model` has where `path` leads to none: beside its first wrong word."""
    above = WHOLE
    for word in path.split("."):
        if not has_part(model, f"{above}{word}"):
            break
        above += f"{word}."
    names = [name for name, _ in model.named_parameters() if name.startswith(above)]
    return sorted({above + name.removeprefix(above).partition(".")[0] for name in names})


def part_words(path: str) -> str:
    """What a path stands for, in words."""
    return f"part {path!r}" if path else "the whole model"


def without_part(model: nn.Module, path: str) -> str:
    """In words, that there is nothing to share under `path`, and what there is instead."""
    if has_part(model, path):
        return f"everything in {part_words(path)} of its model is excluded or stays local"
    return f"its model has no part {path!r} (it has: {', '.join(parts_near(model, path)) or 'none'})"


def answers(model: nn.Module, names: Collection[str]) -> bool:
    """Whether these tensors turn features into answers: some are a head's; or the model names none, and they are all of it.

    All but normalisation, that is: who leaves out only that, as FedBN does, still shares every answer.
    """
    if has_part(model, HEAD):
        heads = (HEAD, f"{COMPANION}.{HEAD}", f"{COMPANION}.{INNER_HEAD}")
        return any(inside(name, head) for name in names for head in heads)
    return set(part_names(model, WHOLE, with_norm=False)) <= set(names)


def local_parts(model: nn.Module) -> tuple[str, ...]:
    """The paths that mean nothing at another client, as the model and the models inside it say."""
    return tuple(
        f"{path}.{part}" if path else part
        for path, module in model.named_modules()
        for part in getattr(module, "local_parts", ())
    )


def part_names(
    model: nn.Module, path: str, *, exclude: Collection[str] = (), with_norm: bool = True, buffers: bool = True
) -> list[str]:
    """Sorted names of the floating-point tensors (parameters and, unless told otherwise, buffers) under `path`.

    Left out are what lies under a path of `exclude`, the model's own local parts and, unless `with_norm`, the normalisation
    layers, found by their type. Integer buffers (the step counts of batch normalisation) are never in: they have no mean. Where
    there is no parameter under `path` there is nothing: buffers alone are the memory of a model that learns in another way.
    """
    if not has_part(model, path):
        return []
    # A local part stays out unless it is asked for by a path of its own or one inside of it.
    left_out = [*exclude, *(local for local in local_parts(model) if not inside(path, local))]
    if not with_norm:
        left_out += [name for name, module in model.named_modules() if isinstance(module, NORM_LAYERS)]
    tensors = model.state_dict() if buffers else dict(model.named_parameters())
    return sorted(
        name
        for name, tensor in tensors.items()
        if inside(name, path) and tensor.is_floating_point() and not any(inside(name, out) for out in left_out)
    )


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of `model`, which its further training does not change."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


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
