"""What models and tasks must keep to: the same as functions of their parameters, stacked with other clients, and exported."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from hetfed.data import Batch
from hetfed.export import exportable
from hetfed.tasks import Task, loss_if_any

Tensors = dict[str, Tensor]
Inputs = Mapping[str, Tensor]
EXPORTED_WITH = 4
SIZES = (1, 2, 7)
"""Batches on which an exported model is held against the model itself; it is exported with another size."""
# torch warns of its own code.
TORCH_WARNS = (
    "ignore:.torch.jit.trace.* is deprecated:DeprecationWarning",
    "ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning",
    "ignore:.*The axis name:UserWarning",
    "ignore:.*The tensor attributes self.model.encoder.gru._flat_weights:UserWarning",
)


@dataclass(frozen=True)
class Pass:
    """Loss, gradients and buffers after one forward and backward pass, of one client or of several stacked."""

    loss: Tensor
    gradients: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]

    def of(self, client: int) -> Pass:
        """That of one client of a stack."""
        gradients, buffers = ({name: x[client] for name, x in part.items()} for part in (self.gradients, self.buffers))
        return Pass(self.loss[client], gradients, buffers)

    def agrees_with(self, other: Pass, tolerance: float) -> None:
        """Relative to the largest gradient: one that is nearly 0 is all rounding."""
        largest = max(float(gradient.abs().max()) for gradient in other.gradients.values())
        assert torch.allclose(self.loss, other.loss, rtol=tolerance, atol=tolerance)
        for name, gradient in other.gradients.items():
            assert torch.allclose(self.gradients[name], gradient, rtol=0, atol=tolerance * largest), name
        for name, buffer in other.buffers.items():
            assert torch.allclose(self.buffers[name], buffer, rtol=tolerance, atol=tolerance), name


def check_functional(models: Sequence[nn.Module], batches: Sequence[Batch], task: Task, tolerance: float = 1e-9) -> list[Pass]:
    """A client by itself in a plain loop, by `functional_call`, and in a stack by `vmap` come to the same; returns the first.

    In double precision, where a wrong term shows and rounding does not.
    """
    models, batches = [model.double() for model in models], [_double(batch) for batch in batches]

    def loss(parameters: Tensors, buffers: Tensors, inputs: Inputs, target: Tensor, further: Inputs) -> Tensor:
        output = functional_call(models[0], (parameters, buffers), (inputs,))
        return task.loss(output, Batch(inputs, target, further))

    def passed(step: Callable[..., tuple[Tensors, Tensor]], parameters: Tensors, buffers: Tensors, batch: Batch) -> Pass:
        # Copied, since normalisation writes into them.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        gradients, value = step(parameters, buffers, batch.inputs, batch.target, batch.further)
        return Pass(value, gradients, buffers)

    step, (parameters, buffers) = grad_and_value(loss), stack_module_state(list(models))
    stack = passed(vmap(step), parameters, buffers, _stacked(batches))
    called = [
        passed(step, dict(m.named_parameters()), dict(m.named_buffers()), b) for m, b in zip(models, batches, strict=True)
    ]
    alone = [_alone(model, batch, task) for model, batch in zip(models, batches, strict=True)]
    for index, expected in enumerate(alone):
        called[index].agrees_with(expected, tolerance)
        stack.of(index).agrees_with(expected, tolerance)
    return alone


def without_dropout(model: nn.Module) -> nn.Module:
    """`model`, which from now on draws nothing in training."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.AlphaDropout):
            module.p = 0.0
    return model


def check_exports(model: nn.Module, inputs: Callable[[int], Inputs], form: str) -> None:
    """`model`, exported in this form with one size of batch, predicts for others what it predicts itself."""
    names = sorted(inputs(1))
    exported = FORMS[form](exportable(model, names), [inputs(EXPORTED_WITH)[name] for name in names])
    for size in SIZES:
        batch = inputs(size)
        with torch.no_grad():
            expected, found = model.eval()(batch).logits, exported(*(batch[name] for name in names))
        assert found.shape == expected.shape and expected.isfinite().all()
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _any_batch(examples: Sequence[Tensor]) -> tuple[tuple[dict[int, object], ...]]:
    return (tuple({0: torch.export.Dim("batch", min=1)} for _ in examples),)


def _by_torch_export(module: nn.Module, examples: Sequence[Tensor]) -> Callable[..., Tensor]:
    return torch.export.export(module, tuple(examples), dynamic_shapes=_any_batch(examples)).module()


def _by_tracing(module: nn.Module, examples: Sequence[Tensor]) -> Callable[..., Tensor]:
    return torch.jit.trace(module, tuple(examples))


def _by_compiling(module: nn.Module, examples: Sequence[Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()
    # Without a break in the graph. The back end that needs no compiler on the machine.
    return torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)


def _by_onnx(module: nn.Module, examples: Sequence[Tensor]) -> Callable[..., Tensor]:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    program = torch.onnx.export(module, tuple(examples), dynamo=True, dynamic_shapes=_any_batch(examples), verbose=False)
    program.save(file)
    session = runtime.InferenceSession(file.getvalue())
    names = [given.name for given in session.get_inputs()]
    return lambda *given: torch.from_numpy(session.run(None, {n: x.numpy() for n, x in zip(names, given, strict=True)})[0])


FORMS = {"torch.export": _by_torch_export, "torch.jit.trace": _by_tracing, "torch.compile": _by_compiling, "onnx": _by_onnx}


def _alone(model: nn.Module, batch: Batch, task: Task) -> Pass:
    """As a client's own training does it."""
    model.zero_grad()
    loss = loss_if_any(task, model(batch.inputs), batch)
    if loss is not None:
        torch.autograd.backward(loss)
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    value = torch.zeros((), dtype=torch.float64) if loss is None else loss.detach()
    return Pass(value, gradients, dict(model.named_buffers()))


def _double(batch: Batch) -> Batch:
    def double(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    inputs, further = ({name: double(x) for name, x in part.items()} for part in (batch.inputs, batch.further))
    return Batch(inputs, double(batch.target), further)


def _stacked(batches: Sequence[Batch]) -> Batch:
    """(clients, batch, ...)"""
    first = batches[0]
    return Batch(
        {name: torch.stack([b.inputs[name] for b in batches]) for name in first.inputs},
        torch.stack([b.target for b in batches]),
        {name: torch.stack([b.further[name] for b in batches]) for name in first.further},
    )
