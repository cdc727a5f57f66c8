"""Classification: which of several classes?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hetfed.chance import Resamples, Values, auroc, ratio
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

    @property
    def relative(self) -> bool:
        """No: a class means the same everywhere."""
        return False

    def metrics(self, output: Output, examples: Examples) -> Metrics:
        """AUROC (one against the rest, mean over the classes that occur), accuracy, balanced accuracy, F1 (macro).

        Examples whose class is not known count nowhere. AUROC is None where all are of one class.
        """
        _, target = self._known(output, examples)
        if not len(target):
            return Metrics(dict.fromkeys(self.METRICS), dict.fromkeys(self.METRICS, "no example has a known class"))
        once = Resamples.whole(len(examples))
        values = {name: float(self._measured(name, output, examples, once)[0]) for name in self.METRICS}
        if math.isnan(values["AUROC"]):
            reason = f"all {len(target)} examples are of class {self.names[int(target[0])]!r}"
            return Metrics({**values, "AUROC": None}, {"AUROC": reason})
        return Metrics(values)

    def resampled(self, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """The metric by which models are compared, in each resample (resamples,)."""
        return self._measured(self.metric, output, examples, drawn)

    def answered(self, examples: Examples) -> Tensor:
        """The examples of a known class."""
        return (self._rows(examples) != MISSING).any(dim=1)

    def cases(self, examples: Examples) -> Mapping[str, Tensor]:
        """The examples of each class."""
        return {name: (self._rows(examples) == c).any(dim=1) for c, name in enumerate(self.names)}

    def _rows(self, examples: Examples) -> Tensor:
        """The classes of each example (n, ...) in a row."""
        return examples.target.flatten(1) if examples.target.ndim > 1 else examples.target[:, None]

    def _known(self, output: Output, examples: Examples) -> tuple[Tensor, Tensor]:
        """Logits (k, classes) in double precision and classes (k,), of the k targets that are known."""
        known = examples.target != MISSING
        return output.logits[known].double(), examples.target[known]

    def _measured(self, name: str, output: Output, examples: Examples, drawn: Resamples) -> Values:
        """A metric by its name in each resample (resamples,)."""
        logits, target = self._known(output, examples)
        drawn = drawn.at((examples.target != MISSING).nonzero()[:, 0].numpy())
        truth, count = target.numpy(), len(self.names)
        if name == "AUROC":
            # With two classes, one curve says it all. A class that does not occur has no curve.
            judged = [1] if count == 2 else np.unique(truth).tolist()
            scores = margins(logits).numpy()
            return _mean([auroc(scores[:, c], truth == c, drawn) for c in judged])
        # By logits: in single precision a softmax makes equal what is not.
        said = logits.argmax(dim=1).numpy()
        right = np.flatnonzero(said == truth)
        hits, there = drawn.at(right).tally(truth[right], count), drawn.tally(truth, count)
        if name == "accuracy":
            return ratio(hits.sum(axis=1), there.sum(axis=1))
        # Classes that do not occur have no recall, and would enter a mean as zeros.
        whole = there if name == "balanced accuracy" else (there + drawn.tally(said, count)) / 2
        return _mean([ratio(hits[:, c], whole[:, c]) for c in range(count)])

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
        probability = output.logits.double().softmax(dim=-1)
        frame = pd.DataFrame(
            {"id": list(examples.ids), "target": [self.names[t] if t != MISSING else "" for t in examples.target.tolist()]}
        )
        for index, name in enumerate(self.names):
            frame[f"probability:{name}"] = probability[:, index].numpy()
        return frame


def margins(logits: Tensor) -> Tensor:
    """How far each class is ahead of all others together (n, classes): the logarithm of its odds.

    Its order is that of the softmax, which however makes 1 of every large one.

    >>> margins(torch.tensor([[0.0, 20.0], [0.0, 35.0]]))
    tensor([[-20.,  20.],
            [-35.,  35.]])
    """
    others = [torch.cat([logits[:, :c], logits[:, c + 1 :]], dim=1) for c in range(logits.shape[1])]
    return torch.stack([logits[:, c] - rest.logsumexp(dim=1) for c, rest in enumerate(others)], dim=1)


def _mean(values: Sequence[Values]) -> Values:
    """The mean over those classes that have a value in a resample (resamples,)."""
    known = np.isfinite(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _weight_in_all(target: Tensor, weights: Tensor) -> Tensor:
    """The sum of the `weights` (classes,) of the known classes of `target` (n,); 1 where none is known."""
    # Known ones first, and summed as the loss sums: so the quotient has the bits of a mean over the known ones alone.
    known_first = target.gather(0, (target == MISSING).int().argsort(stable=True))
    ones = weights.new_full((len(target), len(weights)), -1.0)
    total = F.nll_loss(ones, known_first, weight=weights, reduction="sum", ignore_index=MISSING)
    return torch.where(total > 0, total, 1.0)
