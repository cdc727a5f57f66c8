"""What the core asks of a model: features and logits; its parts are ordinary submodules, named by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """What a model says of a batch.

    `logits` is the prediction before any squashing: (b, classes) in classification, (b,) or (b, outputs) in regression and (b,
    steps, sensors) in forecasting, both in scaled units, (b, 1) in survival. `features`, where the model has such a thing, is
    the representation that `head` turns into logits: (b, f), or (b, sensors, f) where there is one for each sensor. `further`
    holds what further heads say (b, ...), by the head's name.
    """

    logits: Tensor
    features: Tensor | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)


class Model(Protocol):
    """A torch.nn.Module whose forward takes the inputs of a batch by name and returns an `Output`.

    The submodule that turns features into logits is called `head`; what stands before it carries names of its own
    (`encoder`, `encoders.image`, ...), which are the paths that exchanges use. A model may set `local_parts`, the paths of
    the submodules that belong to the client's own world (a city's sensors) and mean nothing at another client.
    """

    def __call__(self, inputs: Mapping[str, Tensor]) -> Output: ...
