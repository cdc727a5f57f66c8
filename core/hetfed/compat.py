"""torchvision beside a CPU build of torch.

The torchvision of the registry is built for CUDA on x86-64. Beside a CPU torch its native operators are missing, and its
import fails with "operator torchvision::nms does not exist". With the schemas of the two operators that it looks up
registered first, models, transforms and feature extraction work; the operators themselves stay unavailable.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: torch.library.Library | None = None


def prepare_torchvision() -> None:
    """Make `import torchvision` work; call before importing it or anything that does (MONAI).

    Does nothing where torchvision is absent or its native operators load.

    >>> prepare_torchvision()
    >>> from torchvision.models import resnet18  # works beside a CPU build of torch, too
    """
    global _library  # noqa: PLW0603 (a registration lasts as long as its library object)
    # Once a process: a second definition of the same operator is an error of torch.
    if _library is not None or find_spec("torchvision") is None or _native_operators_load():
        return
    _library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        _library.define(schema)


def _native_operators_load() -> bool:
    """Whether torchvision's extension library fits this torch."""
    spec = find_spec("torchvision")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for extension in Path(location).glob("_C.*"):
            try:
                # Loading registers the operators that the extension holds. One that was built for another torch fails in it.
                torch.ops.load_library(extension)
            except OSError:
                return False
            return hasattr(torch.ops.torchvision, "nms")
    return False
