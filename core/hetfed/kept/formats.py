"""The formats of an exported model; apart, since the command line lists them without loading torch."""

from __future__ import annotations

from typing import Literal

Format = Literal["onnx", "torch-export", "torchscript"]
ENDINGS: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt"}
"""What the name of the file ends in."""
