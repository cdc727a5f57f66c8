"""A kept model that is the mean of several: a folder whose sub-folders are kept models themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from hetfed.model import Output
from hetfed.tasks import Task


class MeanModel(nn.Module):
    """Several models of one client whose answers are averaged.

    Args:
        members: they read the same inputs, and answer the same question.
        shares: of each; their sum is 1.
        task: says what a mean of answers is.

    >>> import torch
    >>> from hetfed.tasks import Regression
    >>> class Says(nn.Module):
    ...     def __init__(self, value):
    ...         super().__init__()
    ...         self.value = value
    ...     def forward(self, inputs):
    ...         return Output(torch.full((len(inputs["x"]),), self.value))
    >>> MeanModel([Says(1.0), Says(3.0)], [0.5, 0.5], Regression())({"x": torch.zeros(2, 1)}).logits
    tensor([2., 2.])
    """

    def __init__(self, members: Sequence[nn.Module], shares: Sequence[float], task: Task) -> None:
        super().__init__()
        self.members, self.shares, self.task = nn.ModuleList(members), list(shares), task

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """The mean answer; it has no features."""
        return self.task.average([member(inputs) for member in self.members], self.shares)
