"""Classification: which of several classes?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as tm

from hetfed.data import Batch, Examples
from hetfed.model import Output
from hetfed.tasks.base import Metrics, equal_shares

MISSING = -1
"""The target of an example whose class is not known."""


@dataclass(frozen=True)
class Classification:
    """One of `names`; the target is (b, ...) integers, MISSING where unknown, the logits are (b, ..., classes).

    Args:
        names: of the classes, in the order of the logits.
        balanced: whether each class weighs the same in the training loss of a batch, whatever its share there.
        metric: by which models are selected: "AUROC", "accuracy", "balanced accuracy" or "F1".
        higher_is_better: whether a larger value of it is a better one.

    >>> task = Classification(("benign", "malignant"))
    >>> task.label_space
    'benign or malignant?'
    >>> output = Output(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]))
    >>> task.metrics(output, Examples({}, torch.tensor([0, 0, 1]), ["a", "b", "c"])).values["balanced accuracy"]
    0.75
    """

    METRICS: ClassVar[tuple[str, ...]] = ("AUROC", "accuracy", "balanced accuracy", "F1")

    names: tuple[str, ...]
    balanced: bool = False
    metric: str = "AUROC"
    higher_is_better: bool = True

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def label_space(self) -> str:
        """The names of the classes, in their order."""
        return " or ".join(self.names) + "?"

    @property
    def scaling(self) -> tuple[float, float]:
        """(0, 1): classes are not scaled."""
        return 0.0, 1.0

    @property
    def unscaled(self) -> Classification:
        """Itself: it holds no statistic of anybody's data."""
        return self

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy over the examples whose class is known.

        >>> from hetfed.data import Batch
        >>> from hetfed.model import Output
        >>> task, output = Classification(("ill", "well")), Output(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> task.loss(output, Batch({}, torch.tensor([0, -1]))), task.loss(output, Batch({}, torch.tensor([-1, -1])))
        (tensor(0.1269), tensor(0.))
        """
        logits, target = output.logits.flatten(0, -2), batch.target.flatten()
        # The weights follow from the batch alone, so that the loss stays a function of its arguments.
        if self.balanced:
            weights = self._class_weights(target).to(logits.dtype)
            total = F.cross_entropy(logits, target, weight=weights, reduction="sum", ignore_index=MISSING)
            return total / _weight_in_all(target, weights)
        # The mean over no known class is 0/0; no gradient of an unknown class is more than 0.
        return F.cross_entropy(logits, target, ignore_index=MISSING).masked_fill((target == MISSING).all(), 0.0)

    def learnable(self, batch: Batch) -> Tensor:
        """The number of known classes."""
        return (batch.target != MISSING).sum()

    def _class_weights(self, target: Tensor) -> Tensor:
        # Not bincount, which vmap does not know; an unknown class is equal to none.
        counts = (target[:, None] == torch.arange(len(self.names), device=target.device)).sum(dim=0)
        return (len(self.names) * counts.clamp(min=1).float()).reciprocal() * counts.sum()

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence of softened predictions, times T squared (Hinton et al. 2015).

        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> Classification(("ill", "well")).distillation_loss(logits, logits, temperature=2.0)
        tensor(0.)
        """
        log_student = F.log_softmax(student.flatten(0, -2) / temperature, dim=1)
        softened = F.softmax(teacher.detach().flatten(0, -2) / temperature, dim=1)
        return F.kl_div(log_student, softened, reduction="batchmean") * temperature**2

    def classes(self, batch: Batch) -> Tensor | None:
        """The target itself."""
        return batch.target

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """AUROC (one against the rest, mean over the classes that occur), accuracy, balanced accuracy, F1 (macro).

        Examples whose class is not known count nowhere. AUROC is None where all are of one class.
        """
        known = examples.target != MISSING
        probability, target = output.logits[known].softmax(dim=1), examples.target[known]
        if not known.any():
            return Metrics(dict.fromkeys(self.METRICS), dict.fromkeys(self.METRICS, "no example has a known class"))
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

    def average(self, outputs: Sequence[Output], shares: Sequence[float] | None = None) -> Output:
        """The logarithm of the mean of their probabilities, by logarithms throughout, so that none of them vanishes.

        >>> sure, unsure = Output(torch.tensor([[9.0, 0.0]]).log()), Output(torch.tensor([[1.0, 1.0]]).log())
        >>> Classification(("ill", "well")).average([sure, unsure]).logits.exp()
        tensor([[0.7500, 0.2500]])
        """
        weighted = [
            output.logits.log_softmax(dim=-1) + math.log(share)
            for share, output in zip(shares or equal_shares(outputs), outputs, strict=True)
        ]
        return Output(torch.stack(weighted).logsumexp(dim=0))

    def table(self, output: Output, examples: Examples) -> pd.DataFrame:
        """One row per example: its id, its class, and the probability of each class."""
        probability = output.logits.softmax(dim=-1)
        frame = pd.DataFrame(
            {"id": list(examples.ids), "target": [self.names[t] if t != MISSING else "" for t in examples.target.tolist()]}
        )
        for index, name in enumerate(self.names):
            frame[f"probability:{name}"] = probability[:, index].numpy()
        return frame


def _weight_in_all(target: Tensor, weights: Tensor) -> Tensor:
    """The sum of the `weights` (classes,) of the known classes of `target` (n,); 1 where none is known."""
    # Known ones first, and summed as the loss sums: so the quotient has the bits of a mean over the known ones alone.
    known_first = target.gather(0, (target == MISSING).int().argsort(stable=True))
    ones = weights.new_full((len(target), len(weights)), -1.0)
    total = F.nll_loss(ones, known_first, weight=weights, reduction="sum", ignore_index=MISSING)
    return torch.where(total > 0, total, 1.0)
