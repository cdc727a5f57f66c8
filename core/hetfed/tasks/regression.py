"""Regression: how much?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed.chance import Resamples, Values, ratio
from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics, mean_logits

ERRORS = ("MAE", "RMSE")


def masked_loss(kind: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the readings that are there (`target` is NaN where one is missing); 0 where all are missing.

    >>> masked_loss("mae", torch.tensor([1.0, 5.0]), torch.tensor([3.0, torch.nan]))
    tensor(2.)
    """
    known = ~target.isnan()
    functions = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
    # Both sides are masked, since a NaN times a gradient of zero is NaN. Flat, so that sums run in the order of the targets.
    prediction, target = (torch.where(known, values, 0.0).flatten() for values in (prediction, target))
    return functions[kind](prediction, target, reduction="sum") / known.sum().clamp(min=1)


def errors(prediction: Tensor, target: Tensor) -> dict[str, float] | None:
    """MAE and RMSE over the readings that are there; None where all are missing.

    >>> errors(torch.tensor([1.0, 5.0]), torch.tensor([3.0, torch.nan]))
    {'MAE': 2.0, 'RMSE': 2.0}
    """
    drawn = Resamples.whole(len(target))
    found = {name: float(resampled_error(name, prediction, target, drawn)[0]) for name in ERRORS}
    return None if math.isnan(found["MAE"]) else found


def resampled_error(name: str, prediction: Tensor, target: Tensor, drawn: Resamples) -> Values:
    """One of `ERRORS` in each resample (resamples,), over the readings that are there; NaN where all are missing.

    Args:
        name: "MAE" or "RMSE".
        prediction: (n, ...).
        target: the same shape, NaN where a reading is missing.
        drawn: of the n examples.
    """
    # In double precision: in single precision a sum over all readings of a city is off in the sixth figure.
    apart = _rows(prediction.double() - target.double()).numpy()
    known = ~np.isnan(_rows(target).numpy())
    size = np.where(known, np.abs(apart) if name == "MAE" else apart**2, 0)
    sums = drawn.sums(np.stack([size.sum(axis=1), known.sum(axis=1)], axis=1))
    mean = ratio(sums[:, 0], sums[:, 1])
    return mean if name == "MAE" else np.sqrt(mean)


def any_known(target: Tensor) -> Tensor:
    """Which examples (n,) have a target (n, ...) any number of which is known."""
    return ~_rows(target).isnan().all(dim=1)


def _rows(tensor: Tensor) -> Tensor:
    """A row of numbers for each example (n, numbers)."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]


@dataclass(frozen=True)
class Regression:
    """A number or several; target and logits are (b,) or (b, outputs); logits are (value - mean) / scale.

    Args:
        mean: of the training targets.
        scale: of the training targets, above 0.
        unit: of the target, for tables and reports.
        loss_kind: "mse", "mae" or "huber".
        metric: by which models are selected: "RMSE" or "MAE".
        higher_is_better: whether a larger error is better: it is not.
        class_count: 0.

    >>> task = Regression(mean=60.0, scale=12.0, unit="years")
    >>> task.metrics(Output(torch.tensor([1.0])), Examples({}, torch.tensor([70.0]), ["a"])).values
    {'MAE': 2.0, 'RMSE': 2.0}
    """

    mean: float = 0.0
    scale: float = 1.0
    unit: str = ""
    loss_kind: str = "mse"
    metric: str = "RMSE"
    higher_is_better: bool = False
    class_count: int = 0

    @property
    def label_space(self) -> str:
        """The unit of the answer, in words."""
        return f"how much ({self.unit})?"

    @property
    def scaling(self) -> tuple[float, float]:
        """The mean and the scale of the training targets."""
        return self.mean, self.scale

    @property
    def unscaled(self) -> Regression:
        """The same without the mean and the scale of the training targets."""
        return self if self.scaling == (0.0, 1.0) else replace(self, mean=0.0, scale=1.0)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean loss over known targets, in scaled units, so that clients with other units have losses of one size."""
        target = (batch.target - self.mean) / self.scale
        # view_as: between (b, 1) and (b,) broadcasting would make (b, b) without a word.
        return masked_loss(self.loss_kind, output.logits.view_as(target), target)

    def learnable(self, batch: Batch) -> Tensor:
        """The number of known targets."""
        return (~batch.target.isnan()).sum()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Squared distance; a temperature has no meaning for numbers."""
        return F.mse_loss(student, teacher.detach())

    def classes(self, batch: Batch) -> Tensor | None:
        """None: numbers have no classes."""
        return None

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """MAE and RMSE in the unit of the target, over known targets."""
        found = errors(self._values(output, examples), examples.target)
        if found is None:
            names = ("MAE", "RMSE")
            return Metrics(dict.fromkeys(names), dict.fromkeys(names, "every target is missing"))
        return Metrics(found)

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The mean of their logits."""
        return mean_logits(outputs, shares)

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """The metric by which models are compared, in each resample (resamples,)."""
        return resampled_error(self.metric, self._values(output, examples), examples.target, drawn)

    def answered(self, examples: Examples) -> Tensor:
        """The examples with a known target."""
        return any_known(examples.target)

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """Empty: numbers have no classes."""
        return {}

    @property
    def relative(self) -> bool:
        """No: an answer has a unit."""
        return False

    def _values(self, output: Output, examples: Examples) -> Tensor:
        return output.logits.view_as(examples.target) * self.scale + self.mean

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per example: its id, its target and the prediction, one column pair per output."""
        rows = len(examples)
        values, target = self._values(output, examples).view(rows, -1), examples.target.view(rows, -1)
        frame = pd.DataFrame({"id": list(examples.ids)})
        for index in range(target.shape[1]):
            frame[f"target:{index}"] = target[:, index].numpy()
            frame[f"prediction:{index}"] = values[:, index].numpy()
        return frame
