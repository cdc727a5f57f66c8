"""Which of several classes?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as tm

from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics

MISSING = -1
"""The target of an example whose class is not known."""


@dataclass(frozen=True)
class Classification:
    """One of `names`; the target is (b, ...) integers, MISSING where unknown, the logits are (b, ..., classes).

    With `balanced` each class weighs the same in the training loss of a batch, whatever its share there.
    """

    names: tuple[str, ...]
    balanced: bool = False
    metric: str = "AUROC"
    higher_is_better: bool = True

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def question(self) -> str:
        """The names of the classes."""
        return " or ".join(self.names) + "?"

    @property
    def scaling(self) -> tuple[float, float]:
        """None."""
        return 0.0, 1.0

    @property
    def unscaled(self) -> Classification:
        """Itself: it holds no statistic of anybody's data."""
        return self

    def loss(self, output: Output, batch: Batch) -> Tensor | None:
        """Cross-entropy over the examples whose class is known."""
        known = batch.target != MISSING
        if known.all():
            # To choose all of them costs a copy forward and a scatter backward, in every step of nearly every client.
            logits, target = output.logits.flatten(0, -2), batch.target.flatten()
        elif known.any():
            logits, target = output.logits[known], batch.target[known]
        else:
            return None
        return F.cross_entropy(logits, target, weight=self._class_weights(target) if self.balanced else None)

    def _class_weights(self, target: Tensor) -> Tensor:
        counts = torch.bincount(target, minlength=len(self.names)).clamp(min=1)
        return len(target) / (len(self.names) * counts.float())

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence of softened predictions, times T squared (Hinton et al. 2015)."""
        log_student = F.log_softmax(student.flatten(0, -2) / temperature, dim=1)
        softened = F.softmax(teacher.detach().flatten(0, -2) / temperature, dim=1)
        return F.kl_div(log_student, softened, reduction="batchmean") * temperature**2

    def classes(self, batch: Batch) -> Tensor | None:
        """The target itself."""
        return batch.target

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """AUROC (one against the rest, mean over the classes that occur), accuracy, balanced accuracy, F1 (macro)."""
        known = examples.target != MISSING
        probability, target = output.logits[known].softmax(dim=1), examples.target[known]
        if not known.any():
            names = ("AUROC", "accuracy", "balanced accuracy", "F1")
            return Metrics(dict.fromkeys(names), dict.fromkeys(names, "no example has a known class"))
        # Classes that do not occur in the test data have neither a curve nor a recall, and would enter a mean as zeros.
        count, present = len(self.names), torch.bincount(target).nonzero().flatten()
        per_class = tm.multiclass_accuracy(probability, target, count, average="none", validate_args=False)
        values: dict[str, float | None] = {
            "accuracy": float(tm.multiclass_accuracy(probability, target, count, average="micro", validate_args=False)),
            "balanced accuracy": float(per_class[present].mean()),
            "F1": float(tm.multiclass_f1_score(probability, target, count, average="macro", validate_args=False)),
        }
        if len(present) < 2:
            reason = f"all {len(target)} examples are of class {self.names[int(present[0])]!r}"
            return Metrics({"AUROC": None, **values}, {"AUROC": reason})
        one_against_rest = [
            float(tm.binary_auroc(probability[:, c], (target == c).long(), validate_args=False)) for c in self._judged(present)
        ]
        return Metrics({"AUROC": sum(one_against_rest) / len(one_against_rest), **values})

    def _judged(self, present: Tensor) -> list[int]:
        """With two classes, one curve says it all."""
        return [1] if len(self.names) == 2 else [int(c) for c in present]

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per example: its id, its class, and the probability of each class."""
        probability = output.logits.softmax(dim=-1)
        frame = pd.DataFrame(
            {"id": list(examples.ids), "target": [self.names[t] if t != MISSING else "" for t in examples.target.tolist()]}
        )
        for index, name in enumerate(self.names):
            frame[f"probability:{name}"] = probability[:, index].numpy()
        return frame
