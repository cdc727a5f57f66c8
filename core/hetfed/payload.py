"""What travels: named tensors and a weight, declared up front, checked on arrival, as safetensors bytes.

Nothing here is pickled. Whoever reads bytes from elsewhere trusts neither their size, nor their shapes, nor their numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from hetfed import wire
from hetfed.errors import PayloadRefused

MAX_WEIGHT = 1e9
"""No client trains on more examples; one that claims so would make the mean its own."""
MAX_NORM = 1e6
"""No tensor of a model that trains comes near this Euclidean norm; one that does would drown every other upload."""


@dataclass(frozen=True)
class Payload:
    """Named tensors, and the weight that a mean gives them.

    Args:
        tensors: by name, of any shape, in one of the dtypes that travel (`wire.DTYPES`).
        weight: usually the number of the client's training examples. It travels.
        discount: what the server leaves of the weight where the payload is late, from 0 to 1. It does not travel: a client
            cannot say how late its own upload is.

    >>> payload = Payload({"w": torch.tensor([1.0, 2.0])}, weight=20)
    >>> again = Payload.decode(payload.encoded)
    >>> again.tensors, again.weight
    ({'w': tensor([1., 2.])}, 20.0)
    """

    tensors: Mapping[str, Tensor]
    weight: float = 1.0
    discount: float = 1.0

    @property
    def pull(self) -> float:
        """The weight of the payload in a mean: its own weight, discounted."""
        return self.weight * self.discount

    def to(self, device: torch.device) -> Payload:
        """The same with its tensors on a device; itself where they are there already."""
        if all(tensor.device == device for tensor in self.tensors.values()):
            return self
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    @cached_property
    def encoded(self) -> bytes:
        """The safetensors bytes that travel; the weight stands in their header."""
        return wire.write(self.tensors, self.weight)

    @staticmethod
    def decode(encoded: bytes) -> Payload:
        """The payload that `encoded` holds, its tensors by name in sorted order (safetensors keeps none).

        Raises:
            PayloadRefused: the bytes are no payload.

        >>> Payload.decode(b"")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hetfed.errors.PayloadRefused: not a payload: ...
        """
        return Payload(*wire.read(encoded))


@dataclass(frozen=True)
class InFlight:
    """An upload on its way: its sender and exchange, the round in which it was sent, and the round in which it arrives.

    Args:
        client: the name of the sender.
        exchange: the label of the step.
        encoded: the bytes of the payload.
        sent: the round in which it left the client.
        due: the round in which it arrives.
        base: the bytes that the server had sent to the client, where the client's payload is a change of them.
    """

    client: str
    exchange: str
    encoded: bytes
    sent: int
    due: int
    base: bytes = b""


@dataclass(frozen=True)
class Upload:
    """One payload that left a client: the ledger records it, accepted or not.

    Args:
        round: the round in which it arrived.
        client: the name of the sender.
        exchange: the label of the step.
        encoded: the bytes that travelled.
        travelled: what the bytes decode to; None where they do not.
        contents: the payload that the exchange gets, decompressed; None where it was refused.
        refused: the reason, or None where it was accepted.
        sent: the round in which it was sent.
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
    """The result of the uploads of one group of clients in a round.

    Args:
        tensors: the mean or the sum; empty where the exchange asks for `each` upload.
        names: the clients whose uploads are in it, sorted.
        size: how many clients the group has, absent ones included.
        share: how much the mean counts beside what the server held before, from 0 to 1; below 1 in asynchronous rounds only.
        uploads: every upload by client name, where the exchange asks for each.
    """

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    size: int
    share: float = 1.0
    uploads: Mapping[str, Payload] = field(default_factory=dict)

    def into(self, held: Tensor, mean: Tensor) -> Tensor:
        """The server's tensor after a round: `held` moved towards `mean` by the share of this result.

        >>> Merged({}, (), 2, share=0.5).into(torch.tensor([0.0]), torch.tensor([4.0]))
        tensor([2.])
        """
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
    """The rule that a tensor of an upload must keep: its shape, its dtype, the range of its values.

    Args:
        shape: exactly, every dimension.
        dtype: exactly.
        low: the least value.
        high: the largest value.
        whole: whether all values are whole numbers, as counts are.

    >>> rule = TensorRule((3,), low=0, high=20, whole=True)  # how many of 20 examples are of each of three classes
    >>> rule.check("counts", torch.tensor([12.0, 8.0, 0.0]))
    >>> rule.check("counts", torch.tensor([21.0, 0.0, 0.0]))
    Traceback (most recent call last):
    hetfed.errors.PayloadRefused: 'counts' goes from 0 to 21, declared 0 to 20
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def check(self, name: str, tensor: Tensor) -> None:
        """Check `tensor` against the rule; a NaN, an infinity or a norm above MAX_NORM breaks every rule.

        Raises:
            PayloadRefused: it breaks the rule; the text says how, and is what the ledger records.
        """
        # Exactly, with no broadcasting: (1,) against (8,) would average into every row without a word.
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
        label_space: what the tensors answer; only those that answer the same can be merged. Empty where they answer nothing.
        columns: the names of the columns that the tensors stand on, in their order, by input.

    >>> declared = Declaration({"mean": TensorRule((2,))}, weight=10.0)
    >>> declared.check(Payload({"mean": torch.zeros(2)}, weight=10.0))
    >>> declared.check(Payload({"mean": torch.zeros(2)}, weight=99.0))
    Traceback (most recent call last):
    hetfed.errors.PayloadRefused: weight 99.0 is not the 10.0 that was declared
    """

    tensors: Mapping[str, TensorRule]
    weight: float | None = None
    relative: Relative = "nothing"
    lasting: bool = False
    reveals: tuple[str, ...] = ()
    label_space: str = ""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The declared shape of each tensor, by name."""
        return {name: rule.shape for name, rule in self.tensors.items()}

    @cached_property
    def group(self) -> str:
        """A short name for all whose tensors agree in name and shape, in what they answer, and in the columns they stand on."""
        columns = repr(sorted(self.columns.items())) if self.columns else ""
        return short_name(repr(sorted(self.shapes.items())), self.label_space, columns)

    @cached_property
    def max_header(self) -> int:
        """The largest number of bytes that the header of such an upload can have."""
        return HEADER + sum(PER_TENSOR + 4 * len(name) for name in self.tensors)

    @cached_property
    def max_bytes(self) -> int:
        """The largest number of bytes that such an upload can have: its values, and a bounded header."""
        # Compression only ever makes an upload smaller, so that this bounds compressed ones too.
        return sum(math.prod(rule.shape) * rule.dtype.itemsize for rule in self.tensors.values()) + self.max_header

    def check_size(self, encoded: bytes) -> None:
        """Check the length of the bytes, before anything of them is decoded.

        Raises:
            PayloadRefused: there are more bytes than such an upload has, in all or in its header.
        """
        if len(encoded) > self.max_bytes:
            raise PayloadRefused(f"{len(encoded)} bytes, declared at most {self.max_bytes}")
        # By itself: where the values are many, the names of very many empty tensors would find room beside them.
        if (header := wire.header_length(encoded)) > self.max_header:
            raise PayloadRefused(f"a header of {header} bytes, declared at most {self.max_header}")

    def check(self, payload: Payload, examples: int = int(MAX_WEIGHT)) -> None:
        """Check a decoded payload: the names, the weight, and each tensor by its rule.

        Args:
            payload: as it arrived, decompressed.
            examples: the client's number of training examples, which no weight may exceed.

        Raises:
            PayloadRefused: the payload is not what was declared; the text is the reason.
        """
        unknown = sorted(set(payload.tensors) - set(self.tensors))
        absent = sorted(set(self.tensors) - set(payload.tensors))
        if unknown:
            raise PayloadRefused(f"unknown name {unknown[0]!r}")
        if absent:
            raise PayloadRefused(f"tensor {absent[0]!r} is missing")
        # The weight before the tensors: it costs nothing, and a tensor's check reads every number of it.
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
    """Twelve hexadecimal digits that tell things apart: short enough to stand in the names of tensors.

    >>> short_name("head.weight", "(2, 8)")
    '74ab6aee0a8b'
    """
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]
