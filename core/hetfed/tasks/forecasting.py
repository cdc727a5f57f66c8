"""What will the sensors read, minutes from now?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import mean_absolute_percentage_error

from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics
from hetfed.tasks.regression import errors, masked_loss


@dataclass(frozen=True)
class Forecasting:
    """The next readings of every sensor; target and logits are (b, steps, sensors), one step every `interval` minutes.

    The target is in `unit`, NaN where a reading is missing; logits are (value - mean) / scale, with `mean` and `scale`
    (sensors,) or (1,) taken from training data. `horizons` are minutes, each a multiple of `interval`; the error at a
    horizon is the mean over all steps up to it (the protocol of T-GCN, Zhao et al. 2019).
    """

    unit: str
    interval: int
    horizons: tuple[int, ...]
    mean: Tensor
    scale: Tensor
    loss_kind: str = "huber"
    higher_is_better: bool = False
    class_count: int = 0

    @property
    def metric(self) -> str:
        """The mean absolute error at the nearest horizon."""
        return f"MAE {min(self.horizons)} min"

    @property
    def question(self) -> str:
        """The unit and the step of the forecast."""
        return f"readings ({self.unit}) every {self.interval} min?"

    @property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """That of the readings of each sensor."""
        return self.mean, self.scale

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean loss over known readings, in scaled units."""
        return masked_loss(self.loss_kind, output.logits, (batch.target - self.mean) / self.scale)

    def learnable(self, batch: Batch) -> Tensor:
        """The number of known readings."""
        return (~batch.target.isnan()).sum()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Squared distance in scaled units: a forecast distils as regression."""
        return F.mse_loss(student, teacher.detach())

    def classes(self, batch: Batch) -> Tensor | None:
        """None: readings have no classes."""
        return None

    def in_unit(self, logits: Tensor) -> Tensor:
        """Logits (..., sensors) as readings."""
        return logits * self.scale + self.mean

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """MAE, RMSE and MAPE at each horizon over known readings; `unmasked` takes a missing reading for a zero.

        MAPE is a percentage, over readings of at least one unit: a share of nearly nothing says nothing.
        """
        return self.metrics_of(self.in_unit(output.logits), examples.target)

    def metrics_of(self, forecast: Tensor, target: Tensor) -> Metrics:
        """The metrics of a `forecast` (n, steps, sensors) in `unit`, from whatever source."""
        values: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for minutes in self.horizons:
            steps = minutes // self.interval
            near, known = forecast[:, :steps], target[:, :steps]
            masked = errors(near, known)
            if masked is None:
                reasons |= dict.fromkeys([f"{m} {minutes} min" for m in ("MAE", "RMSE", "MAPE")], "every reading is missing")
            values |= {f"{name} {minutes} min": None if masked is None else masked[name] for name in ("MAE", "RMSE")}
            values[f"MAPE {minutes} min"] = percentage = _percentage_error(near, known)
            if percentage is None and masked is not None:
                reasons[f"MAPE {minutes} min"] = "every reading is zero"
            # Published results of T-GCN count a missing reading as a zero: these values are there to be held beside them.
            values |= {f"{n} {minutes} min unmasked": v for n, v in (errors(near, known.nan_to_num()) or {}).items()}
        return Metrics(values, reasons)

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per time and horizon, a target and a forecast column per sensor."""
        forecast = self.in_unit(output.logits)
        frames = []
        for minutes in self.horizons:
            step = minutes // self.interval - 1
            frame = pd.DataFrame({"id": list(examples.ids), "horizon": minutes})
            columns = torch.stack([examples.target[:, step], forecast[:, step]], dim=2).flatten(1)
            names = [f"{kind}:{sensor}" for sensor in range(forecast.shape[2]) for kind in ("target", "forecast")]
            frames.append(pd.concat([frame, pd.DataFrame(columns.numpy(), columns=names)], axis=1))
        return pd.concat(frames, ignore_index=True)


def _percentage_error(forecast: Tensor, target: Tensor) -> float | None:
    usable = target >= 1  # false for NaN
    return 100 * float(mean_absolute_percentage_error(forecast[usable], target[usable])) if usable.any() else None
