"""What installed packages can build and read, by name.

A folder names a builder or a form of inputs; only entry points turn the name into code, so that no folder can make anything run
that its reader has not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from hetfed.errors import RunFolderError, among

MODELS, INPUTS = "hetfed.models", "hetfed.inputs"
Builder = Callable[[Mapping[str, Any], Mapping[str, Any]], nn.Module]
"""(settings of the architecture, data spec) -> a model."""


@dataclass(frozen=True)
class Prepared:
    """Inputs as a model reads them.

    Args:
        inputs: (n, ...) by modality.
        ids: a name for each of the n examples.
    """

    inputs: Mapping[str, Tensor]
    ids: Sequence[str]


@dataclass(frozen=True)
class Blank:
    """The shape (without the number of examples) and the dtype of a tensor of examples, as JSON has them.

    >>> Blank.of(torch.zeros(5, 3)).tensor(2)
    tensor([[0., 0., 0.],
            [0., 0., 0.]])
    """

    shape: tuple[int, ...]
    dtype: str

    @staticmethod
    def of(tensor: Tensor) -> Blank:
        """The shape and the dtype of one example of `tensor` (n, ...)."""
        return Blank(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))

    def tensor(self, count: int, fill: float = 0) -> Tensor:
        """A tensor (count, *shape) full of `fill`: examples that say nothing."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return torch.full((count, *self.shape), fill, dtype=dtype)

    def random(self, count: int, chance: torch.Generator) -> Tensor:
        """A tensor (count, *shape) of standard normal numbers, drawn from `chance`."""
        return torch.randn(count, *self.shape, generator=chance)


class InputForm(Protocol):
    """A way of turning the raw form of a data set into a model's inputs; packages name theirs in the group `hetfed.inputs`."""

    def prepare(self, settings: Mapping[str, Any], statistics: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Prepared:
        """The model's inputs of raw `inputs` by modality.

        Args:
            settings: of the form, as the client's description has them.
            statistics: tensors from the client's training data, by which inputs are scaled.
            inputs: as a user has them.

        Raises:
            DataError: a modality, a column or a shape is not what the model was trained on.
        """
        ...

    def trial(self, inputs: Mapping[str, Blank], count: int, chance: torch.Generator) -> dict[str, Tensor]:
        """So many made-up examples as a model reads them, by which an exported model is tried.

        Args:
            inputs: the shape and dtype of one example of each.
            count: how many.
            chance: the only source of chance.
        """
        ...

    def read(self, settings: Mapping[str, Any], files: Sequence[Path]) -> Mapping[str, Any]:
        """Raw inputs by modality from the files that a user names on the command line.

        Raises:
            DataError: a file that cannot be read.
        """
        ...


def builder(name: str) -> Builder:
    """The installed builder of that name, from the entry point group `hetfed.models`.

    Raises:
        RunFolderError: there is none.
    """
    remedy = "Install the package that has it, or give the model yourself: load_model(folder, model_fn=...)."
    return cast("Builder", _named(MODELS, name, "no installed package builds this architecture", remedy))


def input_form(name: str) -> InputForm:
    """The installed form of that name, from the entry point group `hetfed.inputs`.

    Raises:
        RunFolderError: there is none.
    """
    remedy = "Install the package that has it, or give preprocessed tensors to KeptModel.output."
    return cast("InputForm", _named(INPUTS, name, "no installed package reads this form of inputs", remedy))


def _named(group: str, name: str, problem: str, remedy: str) -> Any:
    # Looked up for each name: a notebook may have installed a package a moment ago.
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise RunFolderError(problem, key=group, value=name, remedy=f"{among(name, sorted(found), 'Installed')} {remedy}")
    return found[name].load()
