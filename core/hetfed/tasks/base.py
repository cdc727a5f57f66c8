"""The contract of a task.

A task knows the loss, the metrics and the tables of one kind of question. Exchanges and training loops know tasks by this
contract alone, and never look at a target themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd
import torch
from torch import Tensor

from hetfed.chance import Resamples, Values
from hetfed.data import Batch, Examples
from hetfed.model import Output


@dataclass(frozen=True)
class Metrics:
    """Metric values by name; a metric that cannot be computed is None, and `reasons` says why.

    >>> Metrics({"AUROC": None, "accuracy": 1.0}, {"AUROC": "all 8 examples are of class 'ill'"}).values["accuracy"]
    1.0
    """

    values: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


def mean_logits(outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
    """The mean of the outputs' logits.

    >>> import torch
    >>> mean_logits([Output(torch.tensor([1.0])), Output(torch.tensor([3.0]))], [0.25, 0.75]).logits
    tensor([2.5000])
    """
    weighted = [share * output.logits for share, output in zip(shares or equal_shares(outputs), outputs, strict=True)]
    return Output(torch.stack(weighted).sum(dim=0))


def equal_shares(outputs: Sequence[Output]) -> list[float]:
    """The same share of 1 for each."""
    return [1 / len(outputs)] * len(outputs)


def loss_if_any(task: Task, output: Output, batch: Batch) -> Tensor | None:
    """The loss of `task`, or None where the batch holds nothing to learn from.

    It looks at the data, and so is for loops that train one client at a time.

    >>> import torch
    >>> from hetfed.tasks import Regression
    >>> loss_if_any(Regression(), Output(torch.zeros(1)), Batch({}, torch.tensor([torch.nan]))) is None
    True
    """
    return task.loss(output, batch) if task.learnable(batch) else None


class Task(Protocol):
    """The question that a model answers, and how its answer is judged.

    `metric` names the metric by which models are selected and compared. A task of one's own is a frozen dataclass with these
    members; `register_task` lets profiles name it.
    """

    @property
    def metric(self) -> str:
        """The name of one of `metrics`."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value of that metric is a better one."""
        ...

    @property
    def label_space(self) -> str:
        """The question in words: answers to different questions cannot be compared, averaged or pooled.

        It is compared as text, and so must say all that answers have in common: the classes in their order, or the unit and the
        interval.
        """
        ...

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The training loss, a scalar; 0 with gradients of 0 where the batch holds nothing to learn from.

        It must not branch on data, so that it runs under `torch.func.vmap` and compiles: what is missing is masked.
        """
        ...

    def learnable(self, batch: Batch) -> Tensor:
        """The number of targets of the batch that there are to learn from, an integer without dimensions.

        It needs no output: a training loop asks before a step, since an optimiser with momentum would step on a gradient of 0.
        """
        ...

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The distance of the student's logits from the teacher's, a scalar: a mean over examples. The teacher gets no
        gradient.

        Args:
            student: (b, ...).
            teacher: (b, ...), the same shape.
            temperature: where it is used, T divides both sides, and the mean is multiplied by T squared, so that the gradient
                keeps its size.
        """
        ...

    def classes(self, batch: Batch) -> Tensor | None:
        """The class of each example (b,), or None where the task has no classes."""
        ...

    @property
    def class_count(self) -> int:
        """The number of classes; 0 where the task has none."""
        ...

    @property
    def scaling(self) -> tuple[Tensor | float, Tensor | float]:
        """(mean, scale): the logits times the scale plus the mean are in the unit of the target; (0, 1) for classes."""
        ...

    @property
    def unscaled(self) -> Task:
        """The same question without any statistic of a client's data; itself where it holds none."""
        ...

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """Every metric of `output` on `examples`, in the units of the user.

        A metric that is not defined there is None, with its reason; nothing is raised for it.
        """
        ...

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The mean of several models' answers to the same examples: of probabilities where there are classes, else of logits.

        Args:
            outputs: alike in shape; features are no answer, and are left out.
            shares: of each; their sum is 1. All alike unless given.
        """

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """The value of `metric` in each resample of the examples (resamples,), NaN where it is undefined there."""
        ...

    def answered(self, examples: Examples) -> Tensor:
        """Which examples have a target (n,), as far as any of it is known: the others count in no metric."""
        ...

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """Of what few examples show little, by name: which examples are of a class, or saw an event (n,); empty for numbers."""
        ...

    @property
    def relative(self) -> bool:
        """Whether answers mean something beside other answers of the same model alone, as risks without a common zero do."""
        ...

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """Predictions beside targets, for a file that a person can open."""
        ...
