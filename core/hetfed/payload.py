"""What travels: named tensors and a weight, declared up front, checked on arrival, as safetensors bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hetfed.errors import PayloadRefused

MAX_WEIGHT = 1e9
"""No client trains on more examples; one that claims so would make the mean its own."""
MAX_NORM = 1e6
"""No tensor of a model that trains comes near this Euclidean norm; one that does would drown every other upload."""


@dataclass(frozen=True)
class Payload:
    """Named tensors, and the weight that a mean gives them (a number of training examples, usually).

    `discount` is what the server makes of that weight where the payload is late; it does not travel.
    """

    tensors: Mapping[str, Tensor]
    weight: float = 1.0
    discount: float = 1.0

    @property
    def pull(self) -> float:
        """What the payload weighs in a mean: its weight, discounted."""
        return self.weight * self.discount

    @cached_property
    def encoded(self) -> bytes:
        """The safetensors bytes that travel; the weight stands in their header."""
        # safetensors writes memory as it lies, and refuses a view that is laid out in another way than it reads.
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.tensors.items()}
        # Metadata are strings, and repr keeps every digit.
        return save(tensors, metadata={"weight": repr(float(self.weight))})

    @staticmethod
    def decode(encoded: bytes) -> Payload:
        """The payload that `encoded` holds, its tensors by name in sorted order (safetensors keeps none).

        Raises:
            PayloadRefused: the bytes are no payload.
        """
        try:
            return Payload(dict(sorted(load(encoded).items())), float(_metadata(encoded)["weight"]))
        except (SafetensorError, KeyError, ValueError) as error:
            raise PayloadRefused(f"not a payload: {error!r}") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.encoded).hexdigest()


def _metadata(encoded: bytes) -> dict[str, str]:
    """The free-text part of a safetensors header: eight bytes of length, then JSON."""
    # By hand, since safetensors reads metadata from files only, not from bytes.
    length = int.from_bytes(encoded[:8], "little")
    metadata: dict[str, str] = json.loads(encoded[8 : 8 + length])["__metadata__"]
    return metadata


@dataclass(frozen=True)
class Declaration:
    """What an upload will look like: the shape and dtype of every tensor, and a bound on each one's norm."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    max_norm: float = MAX_NORM

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Declaration:
        """The declaration that `tensors` keep."""
        return Declaration({n: tuple(t.shape) for n, t in tensors.items()}, {n: t.dtype for n, t in tensors.items()})

    def check(self, payload: Payload) -> None:
        """Raise `PayloadRefused`, with the reason, unless `payload` is what was declared."""
        unknown = sorted(set(payload.tensors) - set(self.shapes))
        absent = sorted(set(self.shapes) - set(payload.tensors))
        if unknown:
            raise PayloadRefused(f"unknown name {unknown[0]!r}")
        if absent:
            raise PayloadRefused(f"tensor {absent[0]!r} is missing")
        # Written so that a NaN does not pass either.
        if not 0 <= payload.weight <= MAX_WEIGHT:
            raise PayloadRefused(f"weight {payload.weight} is not a number of examples")
        for name, tensor in payload.tensors.items():
            self._check_tensor(name, tensor)

    def _check_tensor(self, name: str, tensor: Tensor) -> None:
        dtype = self.dtypes.get(name, torch.float32)
        if tuple(tensor.shape) != self.shapes[name]:
            raise PayloadRefused(f"{name!r} has shape {tuple(tensor.shape)}, declared {self.shapes[name]}")
        if tensor.dtype != dtype:
            raise PayloadRefused(f"{name!r} is {tensor.dtype}, declared {dtype}")
        # One pass over the data: the norm of a tensor that holds a NaN or an infinity is itself not finite.
        # In double precision: in single precision the square of a number above 1.8e19 overflows, and a finite tensor would be
        # called infinite.
        norm = float(torch.linalg.vector_norm(tensor.double()))
        if not math.isfinite(norm):
            raise PayloadRefused(f"{name!r} holds a NaN or an infinity")
        if norm > self.max_norm:
            raise PayloadRefused(f"{name!r} has norm {norm:.3g}, above the limit {self.max_norm:.3g}")
