"""A task with further heads beside its main one (multi-task learning, Caruana 1997)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from hetfed.chance import Resamples, Values
from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics, Task


@dataclass(frozen=True)
class MultiTask:
    """A main task with further heads; each further task adds its weighted loss and its metrics.

    A further task named `level` reads `output.further["level"]` and `batch.further["level"]`; its metrics are called
    `level AUROC` and so on.

    Args:
        main: decides selection, comparison and distillation.
        further: by the head's name, its task and the weight of its loss.

    >>> from hetfed.tasks import Regression
    >>> task = MultiTask(Regression(unit="years"), {"dose": (Regression(unit="mg"), 0.5)})
    >>> output = Output(torch.tensor([1.0]), further={"dose": torch.tensor([2.0])})
    >>> task.loss(output, Batch({}, torch.tensor([0.0]), {"dose": torch.tensor([0.0])}))  # 1 + 0.5 * 4
    tensor(3.)
    """

    main: Task
    further: Mapping[str, tuple[Task, float]]

    @property
    def metric(self) -> str:
        """The metric of the main task."""
        return self.main.metric

    @property
    def higher_is_better(self) -> bool:
        """As in the main task."""
        return self.main.higher_is_better

    @property
    def class_count(self) -> int:
        """As in the main task."""
        return self.main.class_count

    @property
    def label_space(self) -> str:
        """As in the main task."""
        return self.main.label_space

    @property
    def scaling(self) -> tuple[Tensor | float, Tensor | float]:
        """As in the main task."""
        return self.main.scaling

    @property
    def unscaled(self) -> MultiTask:
        """The same, no task of which holds a statistic of anybody's data."""
        main, further = self.main.unscaled, {name: (task.unscaled, weight) for name, (task, weight) in self.further.items()}
        same = main is self.main and all(further[name][0] is task for name, (task, _) in self.further.items())
        return self if same else MultiTask(main, further)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The main loss plus the weighted losses of the further heads; a head with nothing to learn adds 0."""
        further = [
            # To a further task its head is the whole model, so that any task can be one.
            weight * task.loss(Output(output.further[name]), Batch({}, batch.further[name]))
            for name, (task, weight) in self.further.items()
        ]
        return torch.stack([self.main.loss(output, batch), *further]).sum()

    def learnable(self, batch: Batch) -> Tensor:
        """The number of targets to learn from in all heads together."""
        further = [task.learnable(Batch({}, batch.further[name])) for name, (task, _) in self.further.items()]
        return torch.stack([self.main.learnable(batch), *further]).sum()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """As in the main task."""
        return self.main.distillation_loss(student, teacher, temperature)

    def classes(self, batch: Batch) -> Tensor | None:
        """As in the main task."""
        return self.main.classes(batch)

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """The main metrics, then those of each further head with its name in front."""
        main = self.main.metrics(output, examples)
        values, reasons = dict(main.values), dict(main.reasons)
        for name, (task, _) in self.further.items():
            # To a further task, its head's logits and its targets are all that there is.
            found = task.metrics(Output(output.further[name]), Examples({}, examples.further[name], examples.ids))
            values |= {f"{name} {metric}": value for metric, value in found.values.items()}
            reasons |= {f"{name} {metric}": reason for metric, reason in found.reasons.items()}
        return Metrics(values, reasons)

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The mean of their answers to each question."""
        further = {
            name: task.average([Output(output.further[name]) for output in outputs], shares).logits
            for name, (task, _) in self.further.items()
        }
        return replace(self.main.average(outputs, shares), further=further)

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """As in the main task."""
        return self.main.resampled(output, examples, drawn)

    def answered(self, examples: Examples) -> Tensor:
        """As in the main task."""
        return self.main.answered(examples)

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """As in the main task."""
        return self.main.cases(examples)

    @property
    def relative(self) -> bool:
        """As in the main task."""
        return self.main.relative

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """The predictions of the main task."""
        return self.main.table(output, examples)
