"""A kept model in a form that other programs run: ONNX, torch.export, TorchScript.

A format is a function to bytes, a reader of these bytes, and a row in FORMATS and READERS. What is written is read back and
compared before it is left in a file.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from hetfed.errors import PlanError, RunError
from hetfed.export import exportable
from hetfed.kept.formats import Format
from hetfed.kept.model import KeptModel
from hetfed.kept.program import INSTALL, run, session
from hetfed.learner import Learner
from hetfed.results.writing import write_bytes
from hetfed.seeding import generator

TOLERANCE = 1e-4
"""Logits of the exported model may differ by so much, or by so much of the largest: other kernels round otherwise."""
SIZES = (5, 1, 2)
"""Numbers of examples on which an exported model is tried, to see that it takes any: the first is what it is traced with."""


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Args:
        file: where it lies.
        difference: the largest difference of its logits from the model's own.
    """

    file: Path
    difference: float


def export(kept: KeptModel, file: Path, kind: Format, examples: Mapping[str, Tensor] | None = None) -> Exported:
    """Write the model to `file`, and check that what is written gives the same logits for one and for several examples.

    It takes one tensor (n, ...) per modality, in the sorted order of their names, for any n, and gives logits (n, ...). The
    inputs are those of `KeptModel.output`: already scaled.

    Args:
        kept: the model.
        file: is replaced where it is there.
        kind: the format.
        examples: inputs to compare by, as the model reads them; made-up ones without.

    Returns:
        The file, and the largest difference that was seen.

    Raises:
        PlanError: the model is an estimator, or a package is not installed.
        RunError: the model cannot be exported, or what is exported says something else: no file is left.
    """
    if any(isinstance(module, Learner) for module in kept.module.modules()):
        remedy = "Its folder holds it as a skops file already; load it with hetfed or skops."
        raise PlanError("a model of scikit-learn is no network", key="--format", value=kind, remedy=remedy)
    tried = dict(examples or kept.inputs.trial(kept.part.inputs, max(SIZES), generator("export", kept.client)))
    with _quiet():
        content = FORMATS[kind](kept.module, tried)
        difference = _difference(kept, READERS[kind](content), tried)
    # Last: a model that differs leaves no file behind, and the one that was there stays.
    write_bytes(file, content)
    return Exported(file, difference)


def as_onnx(module: nn.Module, examples: Mapping[str, Tensor]) -> bytes:
    """The model in ONNX, weights included; its inputs have the names of the modalities.

    Raises:
        PlanError: a package is not installed.
        RunError: it cannot be exported.
    """
    names = sorted(examples)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise PlanError(f"export to ONNX needs {error.name}", key="--format", value="onnx", remedy=INSTALL) from None
    with _exporting("ONNX"), _quiet():
        # By name and open in the number of examples: other programs know neither torch nor the order of a dictionary.
        named: dict[str, Any] = {"input_names": names, "output_names": ["logits"], "dynamic_shapes": _any_number(names)}
        program = torch.onnx.export(exportable(module, names), _of(examples), dynamo=True, verbose=False, **named)
        assert program is not None
        return bytes(program.model_proto.SerializeToString())


def as_program(module: nn.Module, examples: Mapping[str, Tensor]) -> bytes:
    """The model as an archive of torch.export.

    Raises:
        RunError: it cannot be exported.
    """
    buffer = io.BytesIO()
    with _exporting("torch.export"):
        wrapped, shapes = exportable(module, sorted(examples)), _any_number(sorted(examples))
        program = torch.export.export(wrapped, _of(examples), dynamic_shapes=shapes)
        # An archive would hold them, and they may be somebody's data.
        program.example_inputs = None
        torch.export.save(program, buffer)
    return buffer.getvalue()


def as_script(module: nn.Module, examples: Mapping[str, Tensor]) -> bytes:
    """The model as a TorchScript trace.

    Raises:
        RunError: it cannot be exported.
    """
    buffer = io.BytesIO()
    with _exporting("TorchScript"), torch.no_grad():
        torch.jit.save(torch.jit.trace(exportable(module, sorted(examples)), _of(examples)), buffer)
    return buffer.getvalue()


def _run_onnx(content: bytes) -> Any:
    opened = session(content)
    return lambda inputs: run(opened, inputs)


def _run_program(content: bytes) -> Any:
    # Made a moment ago by this process: an archive from elsewhere is not to be loaded (see `program`).
    module = torch.export.load(io.BytesIO(content)).module()
    return lambda inputs: module(*(inputs[name] for name in sorted(inputs)))


def _run_script(content: bytes) -> Any:
    module = torch.jit.load(io.BytesIO(content))
    return lambda inputs: module(*(inputs[name] for name in sorted(inputs)))


FORMATS = {"onnx": as_onnx, "torch-export": as_program, "torchscript": as_script}
READERS = {"onnx": _run_onnx, "torch-export": _run_program, "torchscript": _run_script}
assert set(FORMATS) == set(get_args(Format))


@torch.no_grad()
def _difference(kept: KeptModel, again: Any, examples: Mapping[str, Tensor]) -> float:
    """The largest difference of logits, for several numbers of examples.

    Raises:
        RunError: it is too large.
    """
    largest = 0.0
    for size in SIZES:
        some = {name: tensor[:size] for name, tensor in examples.items()}
        # One example and several: a size that was baked in when the model was traced shows here.
        own = kept.output(some).logits
        found = again(some)
        if found.shape != own.shape or not torch.allclose(found, own, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            problem = f"for {size} examples the exported model says something else than the model itself"
            raise RunError(f"{problem}: shape {tuple(found.shape)}, the model's {tuple(own.shape)}; nothing is written")
        largest = max(largest, float((found - own).nan_to_num().abs().max()))
    return largest


def _of(examples: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(examples[name] for name in sorted(examples))


def _any_number(names: list[str]) -> Any:
    """That the number of examples is open, the same for every input."""
    batch = torch.export.Dim("n", min=1)
    return {"inputs": tuple({0: batch} for _ in names)}


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Every way in which torch says that it cannot export a model is one error."""
    try:
        yield
    # torch's exporters have dozens of exception types, private ones among them.
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise RunError(f"the model cannot be exported to {what}: {type(error).__name__} {first}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say about themselves: deprecations, and operators that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
