"""Survival: when?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed.chance import Resamples, Values, concordance
from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics, mean_logits


@dataclass(frozen=True)
class Survival:
    """The time until an event, which for some has not come by the end of observation (right-censored).

    The target is (b, 2): 1 where the event was seen, else 0, and the time of the event or of the end of observation, in `unit`.
    Logits are (b, 1), the logarithm of the risk, up to a constant.

    Args:
        event: as questions and tables name it.
        unit: of time.
        metric: by which models are selected.
        higher_is_better: whether a larger value of it is a better one.
        class_count: 0.

    >>> task = Survival(event="death", unit="days")
    >>> followed = torch.tensor([[1.0, 100.0], [1.0, 300.0], [0.0, 400.0]])  # the last one was alive after 400 days
    >>> task.metrics(Output(torch.tensor([[2.0], [1.0], [0.0]])), Examples({}, followed, ["a", "b", "c"])).values
    {'C-index': 1.0}
    """

    event: str = "death"
    unit: str = "days"
    metric: str = "C-index"
    higher_is_better: bool = True
    class_count: int = 0

    @property
    def label_space(self) -> str:
        """The event and the unit of time."""
        return f"when ({self.event}, {self.unit})?"

    @property
    def scaling(self) -> tuple[float, float]:
        """(0, 1): risks are not scaled."""
        return 0.0, 1.0

    @property
    def unscaled(self) -> Survival:
        """Itself: it holds no statistic of anybody's data."""
        return self

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The mean over the batch of the negative logarithm of Cox's partial likelihood (Cox 1972), ties after Breslow.

        0 where no event was seen: such a batch says nothing of who is at risk. NaN leaves a patient out.

        >>> both = torch.tensor([[1.0, 100.0], [0.0, 400.0]])
        >>> Survival().loss(Output(torch.zeros(2, 1)), Batch({}, both))  # one of two at risk had the event: log(2) / 2
        tensor(0.3466)
        """
        known = ~batch.target.isnan().any(dim=1)
        event, time = batch.target[:, 0], torch.where(known, batch.target[:, 1], -torch.inf)
        # From the latest time on, so that a running sum is one over those who are still at risk. Those left out come last, and
        # are at risk with nobody.
        order = torch.argsort(time, descending=True, stable=True)
        seen = torch.where(known, event, 0.0).gather(0, order)
        risk, time = output.logits[:, 0].gather(0, order), time.gather(0, order)
        # Everybody who is still observed at that time is at risk, those with the same time included.
        last = torch.searchsorted(-time, -time, right=True) - 1
        at_risk = torch.logcumsumexp(risk, dim=0).gather(0, last)
        # Over all patients and not over events: a batch with few events must not weigh as much as one with many.
        return ((at_risk - risk) * seen).sum() / known.sum().clamp(min=1)

    def learnable(self, batch: Batch) -> Tensor:
        """The number of events that were seen."""
        return ((batch.target[:, 0] > 0) & ~batch.target[:, 1].isnan()).sum()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Squared distance of the risks, each less its mean over the batch: a constant means nothing."""
        teacher = teacher.detach()
        return F.mse_loss(student - student.mean(dim=0), teacher - teacher.mean(dim=0))

    def classes(self, batch: Batch) -> Tensor | None:
        """None: times have no classes."""
        return None

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """Harrell's C-index (Harrell et al. 1982): how often, of two patients, the one with the higher risk has the event
        first.

        None where of no two patients it is known who had the event first.
        """
        (value,) = self.resampled(output, examples, Resamples.whole(len(examples)))
        if math.isnan(value):
            return Metrics({"C-index": None}, {"C-index": "of no two patients it is known who had the event first"})
        return Metrics({"C-index": float(value)})

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The mean of the logarithms of their risks."""
        return mean_logits(outputs, shares)

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """The C-index in each resample (resamples,)."""
        known = self.answered(examples).nonzero()[:, 0].numpy()
        event, time = examples.target.double().numpy()[known].T
        return concordance(output.logits[:, 0].numpy()[known], event > 0, time, drawn.at(known))

    def answered(self, examples: Examples) -> Tensor:
        """The patients who were followed."""
        return ~examples.target.isnan().any(dim=1)

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """The patients in whom the event was seen."""
        return {self.event: self.answered(examples) & (examples.target[:, 0] > 0)}

    @property
    def relative(self) -> bool:
        """Yes: a risk is known up to a constant, which differs from model to model."""
        return True

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per patient: whether and when the event was seen, and the logarithm of the risk."""
        event, time = examples.target.unbind(dim=1)
        columns = {"id": list(examples.ids), self.event: event.int().numpy(), self.unit: time.numpy()}
        return pd.DataFrame({**columns, "risk": output.logits[:, 0].numpy()})
