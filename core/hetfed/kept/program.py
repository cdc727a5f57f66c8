"""A model as an ONNX program: what is kept of a model that no registered builder makes.

An archive of torch.export will not do: to load one unpickles its example inputs and constants, and evaluates its symbolic sizes
as text (torch 2.13). An ONNX program is a graph of known operators, and its runtime runs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hetfed.errors import RunFolderError
from hetfed.model import Output

INSTALL = "Install it: pip install 'hetfed[export]'."


class Program(nn.Module):
    """An ONNX program as a model: logits alone, no features, no gradients."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._session = session(content)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """Inputs (b, ...) by modality to logits (b, ...)."""
        return Output(run(self._session, inputs))


def session(content: bytes) -> Any:
    """A runtime for the program, on the CPU.

    Raises:
        RunFolderError: it is damaged, reads other files, or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise RunFolderError(f"a program in ONNX needs {error.name}", remedy=INSTALL) from None
    try:
        # A tensor may say that it lies in another file, which would be read wherever it leads.
        if any(one.data_location == onnx.TensorProto.EXTERNAL for one in onnx.load_from_string(content).graph.initializer):
            raise ValueError("it reads other files")
        options = onnxruntime.SessionOptions()
        # Errors only: its warnings are about optimisations, and would land in the user's terminal.
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    # onnxruntime and protobuf have errors of their own for every way of being damaged.
    except Exception as error:
        raise RunFolderError(f"not an ONNX program: {error}", remedy="Take the folder from the run again.") from error


def run(opened: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The first output of the program for `inputs`: logits (n, ...)."""
    found = opened.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(found[0])
