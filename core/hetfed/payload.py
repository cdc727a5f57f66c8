"""What travels: named tensors and a weight, declared up front, checked on arrival, as safetensors bytes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

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

    def to(self, device: torch.device) -> Payload:
        """The same with its tensors on a device; itself where they are there already."""
        if all(tensor.device == device for tensor in self.tensors.values()):
            return self
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

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


def _metadata(encoded: bytes) -> dict[str, str]:
    """The free-text part of a safetensors header: eight bytes of length, then JSON."""
    # By hand, since safetensors reads metadata from files only, not from bytes.
    length = int.from_bytes(encoded[:8], "little")
    metadata: dict[str, str] = json.loads(encoded[8 : 8 + length])["__metadata__"]
    return metadata


@dataclass(frozen=True)
class InFlight:
    """An upload on its way: who sent it by which exchange, when it was sent, and when it arrives.

    `base` is what the server had sent to the client, where the client's payload is a change of it.
    """

    client: str
    exchange: str
    encoded: bytes
    sent: int
    due: int
    base: bytes = b""


@dataclass(frozen=True)
class Upload:
    """One payload that left a client: what the ledger records.

    `travelled` is what the bytes decode to, None where they do not; `contents` is the payload that the exchange gets,
    decompressed, None where it was refused; `refused` is the reason, or None if it was accepted. `round` is the round in which
    it arrived, `sent` the one in which it was sent.
    """

    round: int
    client: str
    exchange: str
    encoded: bytes
    travelled: Payload | None = None
    contents: Payload | None = None
    refused: str | None = None
    sent: int = 0


@dataclass(frozen=True)
class Merged:
    """What the uploads of one group of clients came to in a round.

    Args:
        tensors: the mean or the sum; empty where the exchange asks for `each` upload.
        names: the clients whose uploads are in it, sorted.
        size: how many clients the group has, absent ones included.
        share: how much the mean counts beside what the server held before; below 1 in asynchronous rounds only.
        uploads: every upload by client name, where the exchange asks for each.
    """

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    size: int
    share: float = 1.0
    uploads: Mapping[str, Payload] = field(default_factory=dict)

    def into(self, held: Tensor, mean: Tensor) -> Tensor:
        """What the server holds after a `mean`, having `held` before."""
        return (held + self.share * (mean - held)).to(mean.dtype) if self.share < 1 else mean


Relative = Literal["nothing", "broadcast", "change", "moving"]
"""What an upload is relative to.

"nothing": it stands by itself (predictions, class means). "broadcast": it goes on from what the server sent, so that what
compression leaves out of it is still owed. "change": it is a change already, of which no change can be taken. "moving": it
goes on from another part of the server's tensors each time, so that moments and what is owed mean nothing for the next.
"""
CLASS_COUNTS = "how many examples of each class it has"
"""What an exchange reveals that counts classes."""
HEADER = 4096
"""Bytes that a payload's header may take, besides those for each tensor's name and shape."""
PER_TENSOR = 512
"""Bytes of the header for each tensor, and for the parts that compression makes of it."""


@dataclass(frozen=True)
class TensorRule:
    """What a tensor of an upload must be: its shape, its dtype, the range of its values, and whether these are whole numbers.

    >>> TensorRule((3,), low=0, high=20, whole=True)  # how many of 20 examples are of each of three classes
    TensorRule(shape=(3,), dtype=torch.float32, low=0, high=20, whole=True)
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def check(self, name: str, tensor: Tensor) -> None:
        """Raise `PayloadRefused`, with the reason, unless `tensor` keeps the rule."""
        if tuple(tensor.shape) != self.shape:
            raise PayloadRefused(f"{name!r} has shape {tuple(tensor.shape)}, declared {self.shape}")
        if tensor.dtype != self.dtype:
            raise PayloadRefused(f"{name!r} is {tensor.dtype}, declared {self.dtype}")
        self._check_norm(name, tensor)
        if tensor.numel() and (float(tensor.min()) < self.low or float(tensor.max()) > self.high):
            lowest, highest = float(tensor.min()), float(tensor.max())
            raise PayloadRefused(
                f"{name!r} goes from {lowest:.6g} to {highest:.6g}, declared {self.low:.6g} to {self.high:.6g}"
            )
        if self.whole and not bool((tensor == tensor.round()).all()):
            raise PayloadRefused(f"{name!r} is declared to hold whole numbers")

    def _check_norm(self, name: str, tensor: Tensor) -> None:
        # One pass over the data: the norm of a tensor that holds a NaN or an infinity is itself not finite.
        # In double precision: in single precision the square of a number above 1.8e19 overflows, and a finite tensor would be
        # called infinite.
        norm = float(torch.linalg.vector_norm(tensor.double()))
        if not math.isfinite(norm):
            raise PayloadRefused(f"{name!r} holds a NaN or an infinity")
        if norm > MAX_NORM:
            raise PayloadRefused(f"{name!r} has norm {norm:.3g}, above the limit {MAX_NORM:.3g}")


@dataclass(frozen=True)
class Declaration:
    """What an exchange says in advance of every upload of a client; an upload that differs is refused, and the report tells it.

    Args:
        tensors: what each tensor must be, by name.
        weight: what the payload must weigh; None leaves it at anything up to the client's number of examples.
        relative: what the upload is relative to.
        lasting: whether what comes back becomes part of the client's model, so that the last broadcast is worth sending.
        reveals: what the upload tells of a client's data beyond a model's parameters, in words.
        question: what the tensors answer; only those that answer the same can be merged. Empty where they answer nothing.
        columns: the names of the columns that the tensors stand on, in their order, by input.
    """

    tensors: Mapping[str, TensorRule]
    weight: float | None = None
    relative: Relative = "nothing"
    lasting: bool = False
    reveals: tuple[str, ...] = ()
    question: str = ""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: rule.shape for name, rule in self.tensors.items()}

    @cached_property
    def group(self) -> str:
        """A short name for all whose tensors agree in name and shape, in what they answer, and in the columns they stand on."""
        columns = repr(sorted(self.columns.items())) if self.columns else ""
        return short_name(repr(sorted(self.shapes.items())), self.question, columns)

    @cached_property
    def max_bytes(self) -> int:
        """The most bytes that such an upload has."""
        values = sum(math.prod(rule.shape) * rule.dtype.itemsize for rule in self.tensors.values())
        return values + HEADER + sum(PER_TENSOR + 4 * len(name) for name in self.tensors)

    def check_size(self, encoded: bytes) -> None:
        """Raise `PayloadRefused` where these are more bytes than such an upload has: they are not even decoded."""
        if len(encoded) > self.max_bytes:
            raise PayloadRefused(f"{len(encoded)} bytes, declared at most {self.max_bytes}")

    def check(self, payload: Payload, examples: int = int(MAX_WEIGHT)) -> None:
        """Raise `PayloadRefused`, with the reason, unless `payload` of a client with so many examples is what was declared."""
        unknown = sorted(set(payload.tensors) - set(self.tensors))
        absent = sorted(set(self.tensors) - set(payload.tensors))
        if unknown:
            raise PayloadRefused(f"unknown name {unknown[0]!r}")
        if absent:
            raise PayloadRefused(f"tensor {absent[0]!r} is missing")
        self._check_weight(payload.weight, examples)
        for name, tensor in payload.tensors.items():
            self.tensors[name].check(name, tensor)

    def _check_weight(self, weight: float, examples: int) -> None:
        if self.weight is not None and weight != self.weight:
            raise PayloadRefused(f"weight {weight} is not the {self.weight} that was declared")
        # Written so that a NaN does not pass either.
        if not 0 <= weight <= max(examples, 1):
            raise PayloadRefused(f"weight {weight} is not a number of examples")


def short_name(*parts: str) -> str:
    """Twelve hexadecimal digits that tell things apart: short enough to stand in the names of tensors."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
