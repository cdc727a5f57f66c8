"""What the core asks of a model: features and logits; its parts are ordinary submodules, named by path."""

from __future__ import annotations

from collections import OrderedDict  # noqa: F401 (the doctest)
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Protocol

import torch
from torch import Tensor, nn

from hetfed.parts import HEAD

_GIVES = "_hetfed_gives_output"
"""Where a module notes that its own forward gives an `Output`."""
_LAYERS = "_hetfed_layers"
"""Where a module of torch's own has the names of its layers; None where it is a single one."""


@dataclass(frozen=True)
class Output:
    """A model's answer for a batch.

    Args:
        logits: the prediction before any squashing: (b, classes) in classification, (b,) or (b, outputs) in regression and (b,
            steps, sensors) in forecasting, both in scaled units, (b, 1) in survival.
        features: where the model has such a thing, the representation that `head` turns into logits: (b, f), or (b, sensors, f)
            where there is one for each sensor.
        further: the logits of further heads (b, ...), by the head's name.

    >>> Output(torch.zeros(8, 2), features=torch.zeros(8, 16)).logits.shape
    torch.Size([8, 2])
    """

    logits: Tensor
    features: Tensor | None = None
    further: Mapping[str, Tensor] = field(default_factory=dict)


class Model(Protocol):
    """A torch.nn.Module whose forward takes the inputs of a batch by name and returns an `Output`, or the logits alone.

    The submodule that turns features into logits is called `head`; what stands before it carries names of its own
    (`encoder`, `encoders.image`, ...), which are the paths that exchanges use. A model may set `local_parts`, the paths of
    the submodules that belong to the client's own world (a city's sensors) and mean nothing at another client.

    >>> class Small(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
    ...     def forward(self, inputs):
    ...         features = self.encoder(inputs["genes"]).relu()
    ...         return Output(self.head(features), features)
    >>> Small()({"genes": torch.zeros(3, 4)}).features.shape
    torch.Size([3, 8])
    """

    def __call__(self, inputs: Mapping[str, Tensor]) -> Output: ...


def answering(module: nn.Module) -> nn.Module:
    """The module itself, which from now on gives an `Output` where its forward returns the logits alone.

    A module of torch's own, such as `nn.Sequential`, takes a tensor and knows no names: it is given the only input there is.
    Where a submodule is called `head`, the tensor that enters it is the features.

    >>> model = nn.Sequential(OrderedDict(encoder=nn.Linear(2, 3), head=nn.Linear(3, 4)))
    >>> output = answering(model)({"x": torch.zeros(5, 2)})
    >>> output.logits.shape, output.features.shape
    (torch.Size([5, 4]), torch.Size([5, 3]))

    Raises:
        TypeError: when it is called, where it answers neither a tensor nor an `Output`, or torch's own gets several inputs.
    """
    replaced = vars(module).get("forward")
    if replaced is not None:
        # By an earlier call, or by an exchange that adds to the model; or by the script.
        if getattr(replaced, "__func__", None) is not _answer:
            module.register_forward_hook(_as_output)
        return module
    if type(module).forward.__module__.startswith("torch.nn."):
        vars(module)[_LAYERS] = tuple(module._modules) if isinstance(module, nn.Sequential) else None
    # A bound method, which a deep copy of the module binds to the copy.
    vars(module)["forward"] = MethodType(_answer, module)
    return module


def _answer(module: nn.Module, inputs: Mapping[str, Tensor]) -> Output:
    """What stands in place of the module's own `forward`: exchanges that call it by this name get an `Output` too."""
    entered: list[tuple[object, ...]] = []
    # A model that has answered with an Output does so again: its features are its own to give.
    head = None if _GIVES in vars(module) else getattr(module, HEAD, None)
    # For this call alone: the head may be another one by the next, and nothing of a batch stays in the model.
    hook = head.register_forward_pre_hook(lambda _, given: entered.append(given)) if isinstance(head, nn.Module) else None
    try:
        answer = _of_torch(module, inputs) if _LAYERS in vars(module) else type(module).forward(module, inputs)
    finally:
        if hook is not None:
            hook.remove()
    if isinstance(answer, Output):
        # An exporter takes no model that changes while it runs.
        if not torch.compiler.is_compiling():
            vars(module)[_GIVES] = True
        return answer
    features = entered[-1][0] if entered and len(entered[-1]) == 1 else None
    return _as_output(module, inputs, answer, features if isinstance(features, Tensor) else None)


def _of_torch(module: nn.Module, inputs: Mapping[str, Tensor]) -> object:
    """The answer of a module that takes a tensor."""
    if len(inputs) != 1:
        kind = type(module).__name__
        raise TypeError(f"a {kind} takes one input, not {', '.join(inputs)}: write a forward that takes a mapping")
    (tensor,) = inputs.values()
    if vars(module)[_LAYERS] is None:
        return type(module).forward(module, tensor)
    # By name: what an exchange adds beside the layers is none of them, whereas torch's own forward would run it last.
    for name in vars(module)[_LAYERS]:
        tensor = module.get_submodule(name)(tensor)
    return tensor


def _as_output(module: nn.Module, arguments: object, answer: object, features: Tensor | None = None) -> Output:
    if isinstance(answer, Output):
        return answer
    if isinstance(answer, Tensor):
        return Output(answer, features)
    raise TypeError(f"a model returns a tensor of logits or hetfed.Output, not {type(answer).__name__}")
