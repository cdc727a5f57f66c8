"""What the core asks of a model: features and logits; its parts are ordinary submodules, named by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch  # noqa: F401 (the doctest)
from torch import Tensor, nn


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
    """A torch.nn.Module whose forward takes the inputs of a batch by name and returns an `Output`, or the logits alone.

    The submodule that turns features into logits is called `head`; what stands before it carries names of its own
    (`encoder`, `encoders.image`, ...), which are the paths that exchanges use. A model may set `local_parts`, the paths of
    the submodules that belong to the client's own world (a city's sensors) and mean nothing at another client.
    """

    def __call__(self, inputs: Mapping[str, Tensor]) -> Output: ...


def answering(module: nn.Module) -> nn.Module:
    """The module itself, which from now on gives an `Output` where its forward returns the logits alone.

    A module of torch's own, such as `nn.Sequential`, takes a tensor and knows no names: it is given the only input there is.

    >>> answering(nn.Sequential(nn.Linear(2, 3)))({"x": torch.zeros(1, 2)}).logits.shape
    torch.Size([1, 3])
    """
    # Once: what an exchange adds to a client's model must not show as a hook that adds nothing.
    if _as_output in module._forward_hooks.values():
        return module
    if type(module).__module__.startswith("torch.nn."):
        module.register_forward_pre_hook(_only_input)
    module.register_forward_hook(_as_output)
    return module


def _only_input(module: nn.Module, arguments: tuple[object, ...]) -> object:
    (inputs,) = arguments
    if not isinstance(inputs, Mapping):
        return arguments
    if len(inputs) != 1:
        raise TypeError(
            f"a {type(module).__name__} takes one input, not {', '.join(inputs)}: write a forward that takes a mapping"
        )
    return next(iter(inputs.values()))


def _as_output(module: nn.Module, arguments: object, answer: object) -> Output:
    if isinstance(answer, Output):
        return answer
    if isinstance(answer, Tensor):
        return Output(answer)
    raise TypeError(f"a model returns a tensor of logits or hetfed.Output, not {type(answer).__name__}")
