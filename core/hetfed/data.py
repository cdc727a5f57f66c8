"""What a client holds: examples in memory, split by patient or by time before they come here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Spec = Mapping[str, Any]
"""The sizes that a model is built from: channels, number of classes, number of sensors ... As JSON has them, and no statistic of data:
a spec is part of a client's profile."""


@dataclass(frozen=True)
class Examples:
    """A set of examples, batched by indexing.

    `inputs` maps the name of a modality to a tensor (n, ...); `target` is (n, ...); `ids` names each example (a patient,
    a slice, a time). A missing modality of an example is a row that is NaN throughout; a missing reading of a regression
    or forecasting target is NaN. `further` holds the targets of further heads (n, ...) by the head's name.
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    ids: Sequence[str]
    further: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: Tensor) -> Examples:
        """The examples at `index` (k,), in that order."""
        batch = self.batch(index)
        return Examples(batch.inputs, batch.target, [self.ids[i] for i in index.tolist()], batch.further)

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
        order = torch.arange(len(self)) if order is None else order
        parts = list(torch.split(order, size))
        # With a size of 1 the last batch has two. `set_training_mode` has put the normalisation layers into evaluation mode by
        # then, so that this changes no statistics.
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        yield from (self.batch(index) for index in parts)

    @staticmethod
    def concat(parts: Sequence[Examples]) -> Examples:
        """All examples of `parts`, which must have the same modalities and shapes."""
        first = parts[0]
        return Examples(
            {name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs},
            torch.cat([part.target for part in parts]),
            [identity for part in parts for identity in part.ids],
            {name: torch.cat([part.further[name] for part in parts]) for name in first.further},
        )


@dataclass(frozen=True)
class Batch:
    """A few examples: `inputs` maps a modality to (b, ...), `target` is (b, ...), `further` maps a head to (b, ...).

    `drawn` is what an exchange has drawn at random for this batch, so that its loss is a function (`Exchange.draw`).
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict)
    drawn: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class ClientData:
    """Everything that one client holds: three disjoint splits, and the sizes that its model is built from."""

    train: Examples
    validation: Examples
    test: Examples
    spec: Spec = field(default_factory=dict)
