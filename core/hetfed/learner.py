"""Clients whose models learn without gradients: any scikit-learn classifier or regressor.

Such a client gives predictions and nothing else, and takes part in logit distillation both ways: what it says of the public
inputs travels, and the consensus that comes back becomes further examples to fit. The fitted estimator is a cache: a learner's
state is the lesson it was last given, from which, with the client's own data and a seed, it is fitted again to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hetfed.data import Examples
from hetfed.model import Output
from hetfed.tasks import Classification, Regression, Task

SURE = 1e-3
"""Probabilities are kept so far from 0 and 1: one client's certainty must not outweigh everybody else's logits."""


class Estimator(Protocol):
    """The methods of a scikit-learn estimator that are called here."""

    def fit(self, x: NDArray[np.float64], y: NDArray[np.generic], sample_weight: NDArray[np.float64]) -> object:
        """Fit it to examples `x` (n, columns), their targets `y` (n, ...) and their weights (n,)."""
        ...


class _Unfitted:
    """Stands for an estimator until there is a fitted one."""

    def fit(self, x: NDArray[np.float64], y: NDArray[np.generic], sample_weight: NDArray[np.float64]) -> object:
        """Nothing."""
        return self

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """None."""
        return {}


class Learner(nn.Module):
    """A scikit-learn estimator as a model.

    What it is fitted on comes later, by `bind`, and at its own site only: elsewhere it answers zeros, in the right shape. A
    missing value, and all values of an input that is absent, are 0 to the estimator.

    Args:
        estimator: an unfitted classifier that knows probabilities, or a regressor; it takes sample weights.
        task: a classification or a regression.
        inputs: the shape of one example of each input; they are flattened side by side into the estimator's columns.
        target: the shape of one example's target.
        public: the number of public inputs, for which it may be given distillation targets.

    Raises:
        TypeError: the task is neither a classification nor a regression.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> train = Examples({"x": torch.tensor([[0.0], [1.0]])}, torch.tensor([0, 1]), ["a", "b"])
    >>> learner = Learner(DecisionTreeClassifier(random_state=0), Classification(("ill", "well")), {"x": (1,)}).bind(train)
    >>> learner({"x": torch.tensor([[0.9]])}).logits.argmax(dim=1)
    tensor([1])
    """

    learns_by_gradients = False
    distilled: Tensor
    weight: Tensor

    def __init__(
        self,
        estimator: Estimator,
        task: Task,
        inputs: Mapping[str, Sequence[int]],
        *,
        target: Sequence[int] = (),
        public: int = 0,
    ) -> None:
        from sklearn.base import clone

        super().__init__()
        if not isinstance(task, Classification | Regression):
            raise TypeError(f"a learner without gradients answers classes or numbers, not {type(task).__name__}")
        # A copy: what is fitted for this client must not answer for another that was built around the same object.
        self.estimator, self.task, self.target = clone(estimator), task, tuple(target)
        self.inputs = {name: math.prod(shape) for name, shape in inputs.items()}
        self.train_on: Examples | None = None
        self.public: Examples | None = None
        # Buffers, so that a learner's state travels through state_dict() like that of any model.
        self.register_buffer("distilled", torch.zeros(public, task.class_count or math.prod(target)))
        self.register_buffer("weight", torch.zeros(()))
        self._fitted: tuple[Tensor, Tensor] | None = None
        # The only class that there is in the training data, where there is but one.
        self._only: int | None = None

    def bind(self, train: Examples, public: Examples | None = None) -> Learner:
        """Let it be fitted on these examples, and take distillation targets for these public inputs; returns itself."""
        self.train_on, self.public, self._fitted = train, public, None
        return self

    def on(self, examples: Examples) -> Learner:
        """The same kind of learner for other training data, without distillation targets."""
        shapes = {name: (size,) for name, size in self.inputs.items()}
        return Learner(self.estimator, self.task, shapes, target=self.target).bind(examples)

    @staticmethod
    def kept(fitted: Estimator | None, task: Task, like: Examples, only: int | None = None) -> Learner:
        """A learner that has learnt: `fitted` predicts, and needs no data but the shapes of `like`.

        Args:
            fitted: the estimator; None where there was but one class.
            task: what it answers.
            like: examples of the shapes that it reads and answers.
            only: the one class of the training data where there was but one, for which nothing is fitted.
        """
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in like.inputs.items()}
        learner = Learner(_Unfitted(), task, shapes, target=tuple(like.target.shape[1:]))
        # Past the constructor, which would clone the estimator and lose what it has learnt.
        learner.estimator, learner._only = fitted, only
        learner._fitted = (learner.distilled.clone(), learner.weight.clone())
        return learner

    @property
    def only(self) -> int | None:
        """The one class of the training data; None where there are several."""
        self.fitted()
        return self._only

    def distil(self, logits: Tensor, weight: float, temperature: float = 1.0) -> None:
        """Take logits on the public inputs for a lesson, by which it is fitted anew when it next predicts.

        Args:
            logits: (public inputs, ...), as the task scales them.
            weight: of each public input beside an own example, which weighs 1.
            temperature: softens classes; numbers are taken as they are.
        """
        # Divided here and not at every fit: the lesson as it is stored is what the state holds and resumes from.
        soft = logits / temperature if isinstance(self.task, Classification) else logits
        self.distilled = soft.reshape(self.distilled.shape).clone()
        self.weight = torch.tensor(float(weight))

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """Logits (b, classes), or shaped as the targets are (b, ...); no features, no gradients.

        Raises:
            KeyError: none of the modalities that it was fitted on is there.
        """
        columns = self._columns(inputs)
        # At the server and at other sites there is nothing to fit; they look at shapes alone.
        if self.train_on is None and self._fitted is None:
            return Output(
                torch.zeros(len(columns), *(self.target if isinstance(self.task, Regression) else (self.task.class_count,)))
            )
        if isinstance(self.task, Regression):
            # An estimator is fitted in the unit of the target, whereas logits are scaled, as every model's are.
            values = torch.from_numpy(np.asarray(self.fitted().predict(columns), dtype=np.float32))
            return Output(((values - self.task.mean) / self.task.scale).view(len(columns), *self.target))
        # Logarithms of probabilities are logits, whose softmax gives the probabilities back.
        return Output(_unsure(self._probability(columns)).log().float())

    def _probability(self, columns: NDArray[np.float64]) -> Tensor:
        """The probability of each class (n, classes)."""
        # In double precision, which tells apart what is nearly certain.
        estimator, probability = self.fitted(), torch.zeros(len(columns), self.task.class_count, dtype=torch.float64)
        if self._only is not None:
            probability[:, self._only] = 1.0
            return probability
        # An estimator has a column for each class that it was fitted on; the others have probability 0.
        classes = torch.from_numpy(np.asarray(estimator.classes_, dtype=np.int64))
        probability[:, classes] = torch.from_numpy(np.asarray(estimator.predict_proba(columns), dtype=np.float64))
        return probability

    def fitted(self) -> Any:
        """The estimator, fitted on the client's own examples and the lesson.

        It is fitted when it is first asked for, and again when the lesson has changed.
        """
        # Compared, not flagged as old: load_state_dict() copies another lesson into the buffers without a word.
        if self._fitted is None or not (torch.equal(self._fitted[0], self.distilled) and self._fitted[1] == self.weight):
            columns, target, weight = self._examples()
            # Not every classifier can be fitted on one class; and there is nothing to tell apart.
            one_class = isinstance(self.task, Classification) and len(np.unique(target)) == 1
            self._only = int(target[0]) if one_class else None
            if not one_class:
                self.estimator.fit(columns, target, sample_weight=weight)
            self._fitted = (self.distilled.clone(), self.weight.clone())
        return self.estimator

    def _examples(self) -> tuple[NDArray[np.float64], NDArray[np.generic], NDArray[np.float64]]:
        """Columns, targets and weights: the client's own examples whose target is known, then the lesson's."""
        assert self.train_on is not None  # `forward` saw to it
        target = self.train_on.target
        known = target >= 0 if isinstance(self.task, Classification) else ~target.view(len(target), -1).isnan().any(dim=1)
        # scikit-learn refuses a NaN among targets, whereas the rest of the project masks it.
        columns, answers = [self._columns(self.train_on.inputs)[known.numpy()]], [target[known].numpy()]
        weights = [np.ones(len(answers[0]))]
        if self.public is not None and self.weight > 0:
            taught = self._columns(self.public.inputs)
            if isinstance(self.task, Regression):
                columns.append(taught)
                answers.append((self.distilled * self.task.scale + self.task.mean).view(len(taught), *target.shape[1:]).numpy())
                weights.append(np.full(len(taught), float(self.weight)))
            else:
                # A soft label is every class at once, each weighing as much as it is likely.
                for c, share in enumerate(self.distilled.softmax(dim=1).double().numpy().T):
                    columns.append(taught)
                    answers.append(np.full(len(taught), c))
                    weights.append(share * float(self.weight))
        # One number an example is a row of them to scikit-learn, several are a table.
        flat = np.concatenate(answers)
        flat = flat.reshape(len(flat), -1) if flat[:1].size > 1 else flat.ravel()
        return np.concatenate(columns), flat, np.concatenate(weights)

    def _columns(self, inputs: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """The modalities side by side (n, columns)."""
        present = [tensor for name, tensor in inputs.items() if name in self.inputs]
        if not present:
            raise KeyError(f"none of {', '.join(self.inputs)}")
        absent = {name: torch.zeros(len(present[0]), size) for name, size in self.inputs.items()}
        # In the order of the modalities' names, so that the order in a plan changes nothing.
        flat = torch.cat([inputs.get(name, absent[name]).flatten(1) for name in sorted(self.inputs)], dim=1)
        return cast("NDArray[np.float64]", flat.nan_to_num().double().numpy())


def _unsure(probability: Tensor) -> Tensor:
    """Probabilities at least SURE from 0 and 1; those nearer than twice that are moved, and stay in their order.

    >>> _unsure(torch.tensor([0.0, 1e-4, 0.3, 0.9999, 1.0], dtype=torch.float64))
    tensor([0.0010, 0.0010, 0.3000, 0.9990, 0.9990], dtype=torch.float64)
    """
    # Not by clamp: what it makes equal can no longer be ranked.
    low = torch.where(probability < 2 * SURE, SURE + probability / 2, probability)
    return torch.where(low > 1 - 2 * SURE, 1 - SURE - (1 - low) / 2, low)
