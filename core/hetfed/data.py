"""What a client holds: examples in memory, split by patient or by time before they come here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hetfed.errors import DataError

Spec = Mapping[str, Any]
"""The sizes that a model is built from: channels, number of classes, number of sensors ... As JSON has them, and no statistic
of data: a spec is part of a client's profile."""


@dataclass(frozen=True)
class Examples:
    """A set of examples, batched by indexing.

    Args:
        inputs: the name of a modality to a tensor (n, ...). A missing modality of an example is a row that is NaN throughout.
        target: (n, ...); a missing class is -1, a missing reading of a regression or forecasting target is NaN.
        ids: names each example (a patient, a slice, a time).
        further: the targets of further heads (n, ...) by the head's name.
        owners: whose each example is: a patient, a day. Chance draws owners, and not single examples.

    >>> some = Examples({"x": torch.arange(4.0)[:, None]}, torch.tensor([0, 1, 0, 1]), list("abcd"))
    >>> some.take(torch.tensor([3, 0])).ids
    ['d', 'a']
    >>> [len(batch) for batch in some.batches(3)]  # none of one example alone
    [4]
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    ids: Sequence[str]
    further: Mapping[str, Tensor] = field(default_factory=dict)
    owners: Sequence[str] = ()

    @property
    def whose(self) -> Sequence[str]:
        """The owner of each example (n,); each is its own where none is named."""
        return self.owners or self.ids

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: Tensor) -> Examples:
        """The examples at `index` (k,), in that order."""
        batch = self.batch(index)
        ids, owners = ([names[i] for i in index.tolist()] if names else [] for names in (self.ids, self.owners))
        return Examples(batch.inputs, batch.target, ids, batch.further, owners)

    def batch(self, index: Tensor) -> Batch:
        """The examples at `index` (k,) as one batch."""
        return Batch(
            {name: tensor[index] for name, tensor in self.inputs.items()},
            self.target[index],
            {name: tensor[index] for name, tensor in self.further.items()},
        )

    def whole(self) -> Batch:
        """All examples as one batch."""
        return Batch(self.inputs, self.target, self.further)

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of `size` examples in the given order (n,), the last one smaller.

        A last batch of a single example is joined to the one before it: batch normalisation cannot train on one.
        """
        # Moved as a whole: an index elsewhere than the data would be moved batch by batch.
        order = (torch.arange(len(self)) if order is None else order).to(self.target.device)
        # By index: examples stay where they are in memory, and only a batch is copied.
        parts = list(torch.split(order, size))
        # With a size of 1 the last batch has two. `set_training_mode` has put the normalisation layers into evaluation mode by
        # then, so that this changes no statistics.
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        yield from (self.batch(index) for index in parts)

    @staticmethod
    def concat(parts: Sequence[Examples]) -> Examples:
        """All examples of `parts`, which must have the same modalities and shapes, in the order of the parts."""
        first = parts[0]
        return Examples(
            {name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs},
            torch.cat([part.target for part in parts]),
            [identity for part in parts for identity in part.ids],
            {name: torch.cat([part.further[name] for part in parts]) for name in first.further},
            [owner for part in parts for owner in part.whose],
        )


@dataclass(frozen=True)
class Batch:
    """A few examples, in the order in which they train.

    Args:
        inputs: a modality to (b, ...).
        target: (b, ...).
        further: the targets of further heads (b, ...).
        drawn: what an exchange has drawn at random for this batch, so that its loss is a function (`Exchange.draw`).
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class ClientData:
    """Everything that one client holds: three disjoint splits, and the sizes that its model is built from.

    Args:
        train: its model learns from these.
        validation: they choose which of its models a client keeps.
        test: they judge the model that is kept, and nothing else.
        spec: the sizes that a model is built from, as JSON has them.
        owned_by: what the owners of its examples are called: "patients", "days".
    """

    train: Examples
    validation: Examples
    test: Examples
    spec: Spec = field(default_factory=dict)
    owned_by: str = "examples"

    @staticmethod
    def of(
        inputs: Mapping[str, ArrayLike],
        target: ArrayLike,
        *,
        patients: Sequence[object] | None = None,
        spec: Spec | None = None,
        shares: tuple[float, float] = (0.6, 0.2),
        seed: int = 0,
    ) -> ClientData:
        """Arrays split at random into training, validation and test data.

        Args:
            inputs: (n, ...) by name; floating-point numbers become float32.
            target: (n, ...): whole numbers for classes, else numbers.
            patients: whose each example is (n,); all of a patient's examples stay together. Each its own, unless it is given.
            spec: the sizes that a model is built from.
            shares: of training and of validation; the rest is for testing.
            seed: of the split.

        >>> data = ClientData.of({"x": [[0.0], [1.0], [2.0], [3.0], [4.0]]}, [0, 1, 0, 1, 0])
        >>> len(data.train), len(data.validation), len(data.test)
        (3, 1, 1)
        """
        arrays = {name: _tensor(array) for name, array in inputs.items()}
        lengths = {"target": len(_tensor(target)), **{name: len(array) for name, array in arrays.items()}}
        if len(set(lengths.values())) > 1:
            remedy = "Give every array a row for each example."
            raise DataError("the arrays differ in length", key="ClientData.of", value=lengths, remedy=remedy)
        whose = np.asarray(range(len(_tensor(target))) if patients is None else patients).astype(str)
        ids = [f"{owner}/{row}" for row, owner in enumerate(whose.tolist())]
        whole = Examples(arrays, _tensor(target), ids, owners=whose.tolist())
        owners = np.unique(whose)
        # By owner and not by example: a patient on both sides of a split would be recognised, not diagnosed.
        order = torch.randperm(len(owners), generator=torch.Generator().manual_seed(seed)).numpy()
        first, second = (round(sum(shares[:count]) * len(owners)) for count in (1, 2))
        chosen = (np.isin(whose, owners[part]) for part in (order[:first], order[first:second], order[second:]))
        train, validation, test = (whole.take(torch.from_numpy(np.flatnonzero(mask))) for mask in chosen)
        return ClientData(train, validation, test, spec or {}, "examples" if patients is None else "patients")


def _tensor(array: ArrayLike) -> Tensor:
    """An array as a tensor, floating-point numbers in single precision, whole numbers as int64."""
    tensor = torch.as_tensor(np.asarray(array))
    # A model's weights are in single precision, and classes are indices.
    return tensor.float() if tensor.is_floating_point() else tensor.long()
