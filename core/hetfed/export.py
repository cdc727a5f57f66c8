"""A model in the form that exporters ask for: tensors in, a tensor out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from hetfed.model import Output


def exportable(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A module in evaluation mode that takes one tensor (batch, ...) per input and returns logits (batch, ...).

    The tensors come in the sorted order of `names`, those of the inputs that `module` reads. Its parameters are those of
    `module` itself. `torch.export.export`, `torch.jit.trace` and `torch.onnx.export` take it as it is.

    Args:
        module: takes a mapping of tensors, and returns an `Output` or logits.
        names: of the inputs that it reads.

    >>> import torch
    >>> class Sum(nn.Module):
    ...     def forward(self, inputs):
    ...         return Output(inputs["a"] + 10 * inputs["b"])
    >>> exportable(Sum(), ["b", "a"])(torch.ones(2), torch.zeros(2))
    tensor([1., 1.])
    """
    return _Positional(module, sorted(names)).eval()


class _Positional(nn.Module):
    """`model` with its inputs by position."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        """One tensor per name -> logits (batch, ...)."""
        answer: object = self.model(dict(zip(self.names, inputs, strict=True)))
        # A plain module may answer with its logits alone.
        return answer.logits if isinstance(answer, Output) else cast("Tensor", answer)
