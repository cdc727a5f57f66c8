"""Forecasting: what will the sensors read, minutes from now?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed.chance import Resamples, Values
from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics, mean_logits
from hetfed.tasks.regression import any_known, errors, masked_loss, resampled_error


@dataclass(frozen=True)
class Forecasting:
    """The next readings of every sensor; target and logits are (b, steps, sensors), one step every `interval` minutes.

    The error up to a horizon is the mean over all steps up to it (the protocol of T-GCN, Zhao et al. 2019).

    Args:
        unit: of the readings; the target is in it, NaN where a reading is missing.
        interval: minutes from one step to the next.
        horizons: minutes, each a multiple of `interval`.
        mean: (sensors,) or (1,), of training data; logits are (value - mean) / scale.
        scale: (sensors,) or (1,), likewise.
        loss_kind: "huber", "mae" or "mse".
        low: below which no reading can lie; forecasts are cut off there, and training sees them as they are.
        higher_is_better: whether a larger error is better: it is not.
        class_count: 0.

    >>> task = Forecasting("km/h", interval=15, horizons=(15, 30))
    >>> task.metric, task.label_space
    ('MAE up to 15 min', 'readings (km/h) every 15 min?')
    >>> readings = torch.tensor([[[50.0], [60.0]]])  # one time, two steps, one sensor
    >>> task.metrics_of(readings + 2, readings).values["MAE up to 30 min"]
    2.0
    """

    unit: str
    interval: int
    horizons: tuple[int, ...]
    mean: Tensor = field(default_factory=lambda: torch.zeros(1))
    scale: Tensor = field(default_factory=lambda: torch.ones(1))
    loss_kind: str = "huber"
    low: float | None = None
    higher_is_better: bool = False
    class_count: int = 0

    @property
    def metric(self) -> str:
        """The mean absolute error up to the nearest horizon."""
        return f"MAE up to {min(self.horizons)} min"

    @property
    def label_space(self) -> str:
        """The unit and the step of the forecast."""
        return f"readings ({self.unit}) every {self.interval} min?"

    @property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """The mean and the scale of the readings of each sensor."""
        return self.mean, self.scale

    @property
    def unscaled(self) -> Forecasting:
        """The same without the mean and the scale of the readings."""
        return replace(self, mean=torch.zeros(1), scale=torch.ones(1))

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
        """Logits (..., sensors) as readings in `unit`, none below `low`."""
        # Where an answer is given and nowhere else: a loss that was cut off would have no gradient below.
        return (
            (logits * self.scale + self.mean).clamp(min=self.low) if self.low is not None else logits * self.scale + self.mean
        )

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """MAE, RMSE and MAPE up to each horizon over known readings; `unmasked` takes a missing reading for a zero.

        MAPE is a percentage, over readings of at least one unit: a share of nearly nothing says nothing.
        """
        return self.metrics_of(self.in_unit(output.logits), examples.target)

    def metrics_of(self, forecast: Tensor, target: Tensor) -> Metrics:
        """The metrics of a `forecast` (n, steps, sensors) in `unit`, from whatever source: a model, or a simple method beside
        it.

        Args:
            forecast: (n, steps, sensors).
            target: the same shape, NaN where a reading is missing.
        """
        values: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for minutes in self.horizons:
            # All steps up to the horizon, as published results of T-GCN are.
            steps, until = minutes // self.interval, f"up to {minutes} min"
            near, known = forecast[:, :steps], target[:, :steps]
            masked = errors(near, known)
            if masked is None:
                reasons |= dict.fromkeys([f"{m} {until}" for m in ("MAE", "RMSE", "MAPE")], "every reading is missing")
            values |= {f"{name} {until}": None if masked is None else masked[name] for name in ("MAE", "RMSE")}
            values[f"MAPE {until}"] = percentage = _percentage_error(near, known)
            if percentage is None and masked is not None:
                reasons[f"MAPE {until}"] = "no reading reaches one unit"
            # Published results of T-GCN count a missing reading as a zero: these values are there to be held beside them.
            values |= {f"{n} {until} unmasked": v for n, v in (errors(near, known.nan_to_num()) or {}).items()}
        return Metrics(values, reasons)

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The mean of their forecasts."""
        return mean_logits(outputs, shares)

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """The mean absolute error at the nearest horizon in each resample (resamples,)."""
        steps = min(self.horizons) // self.interval
        # Cut first: a city's forecasts are many.
        forecast = self.in_unit(output.logits[:, :steps])
        return resampled_error("MAE", forecast, examples.target[:, :steps], drawn)

    def answered(self, examples: Examples) -> Tensor:
        """The times with a known reading."""
        return any_known(examples.target)

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """Empty: readings have no classes."""
        return {}

    @property
    def relative(self) -> bool:
        """No: a reading has a unit."""
        return False

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per time and horizon, a target and a forecast column per sensor.

        The row of a horizon holds the step at that horizon alone, and not the mean up to it.
        """
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
    forecast, target = forecast[usable].double(), target[usable].double()
    return 100 * float(((forecast - target).abs() / target).mean()) if usable.any() else None
