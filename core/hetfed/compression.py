"""Smaller payloads: fewer bits, fewer numbers, or fewer dimensions, for any exchange."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.errors import PayloadRefused
from hetfed.payload import Payload
from hetfed.plan_schema import STRICT, Told

MARK = "~"
"""Between a tensor's name and the name of a part of its compressed form."""
Tensors = dict[str, Tensor]


@dataclass(frozen=True, config=STRICT)
class Compression(metaclass=Told):
    """A codec that makes the payloads of one exchange smaller. Clients send a change of what the server sent in the same round.

    "8-bit": whole numbers from -127 to 127 and a scale per tensor. "top-k": the largest numbers and where they stand; where
    uploads are relative to the broadcast, the client remembers what is left out and adds it the next time (error feedback,
    Stich et al. 2018). "low-rank": a matrix as the product of two narrow ones, of just so many singular values as hold `energy`
    (FedKD, Wu et al. 2022). The last two are for changes only: of weights themselves they would leave little.

    Vectors travel as they are: they are small, and a count of examples or a variance does not bear it. So does a tensor that
    would not get smaller, or that does not hold floating-point numbers.

    What an upload carried that the server refuses is lost: the client is not told, and counts it as delivered.

    Args:
        kind: the way of compressing.
        share: of the numbers that "top-k" keeps.
        energy: share of the sum of squared singular values that "low-rank" keeps.
        both_ways: also compress what the server sends ("8-bit" only: it sends no changes).

    >>> sent, trained = {"w": torch.zeros(100, 100)}, Payload({"w": torch.arange(10000.0).view(100, 100)})
    >>> small = Compression("top-k", share=0.1).up(trained, sent)
    >>> len(small.encoded) < len(trained.encoded) / 4
    True
    """

    kind: Literal["8-bit", "top-k", "low-rank"]
    share: float = Field(default=0.1, gt=0, le=1)
    energy: float = Field(default=0.95, gt=0, le=1)
    both_ways: bool = False

    @model_validator(mode="after")
    def _one_way_only(self) -> Compression:
        if self.both_ways and self.kind != "8-bit":
            raise ValueError(f"{self.kind} is for changes, and what the server sends is none: both_ways goes with 8-bit only")
        return self

    @property
    def owes(self) -> bool:
        """Whether a client remembers what was left out: only "top-k" makes up for it."""
        return self.kind == "top-k"

    def up(self, payload: Payload, sent: Mapping[str, Tensor], owed: Tensors | None = None) -> Payload:
        """A client's payload, smaller.

        Args:
            payload: as the exchange gives it; it is not changed.
            sent: the tensors that the server sent this round, of which a change is taken.
            owed: what "top-k" has left out so far, by name; it is brought up to date in place. None for no such memory.
        """
        # A tensor that the server did not send is no change: to cut numbers out of it would lose what nothing makes up for.
        changed = {n for n, t in payload.tensors.items() if n in sent and t.is_floating_point()}
        wanted = {n: t - sent[n] if n in changed else t for n, t in payload.tensors.items()}
        if self.kind != "top-k" or owed is None:
            return Payload(self._encode(wanted, changed), payload.weight)
        wanted |= {n: wanted[n] + owed[n] for n in changed & set(owed)}
        # What was left out before competes with what is new: in the end every number that moves is sent.
        encoded = self._encode(wanted, changed)
        # As the server will read it, so that what is owed also counts what rounding has lost.
        arrives = decode(encoded)
        owed.update({n: wanted[n] - arrives[n] for n in changed})
        return Payload(encoded, payload.weight)

    def arrived(self, payload: Payload, sent: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Payload:
        """A client's payload as it was before `up`, as far as compression has left it.

        Args:
            payload: as it travelled.
            sent: the same tensors that the client was sent, to which the change is added again.
            shapes: the declared shapes; nothing larger is ever made.

        Raises:
            PayloadRefused: it is not what a client that keeps to `shapes` sends.

        >>> codec, sent = Compression("8-bit"), {"w": torch.zeros(20, 20)}
        >>> small = codec.up(Payload({"w": torch.full((20, 20), 2.0)}), sent)
        >>> codec.arrived(small, sent, {"w": (20, 20)}).tensors["w"].unique()
        tensor([2.])
        """
        decoded = decode(payload.tensors, shapes)
        for name, tensor in decoded.items():
            # Adding would turn another dtype into the declared one without a word.
            if name in sent and tensor.dtype != sent[name].dtype:
                raise PayloadRefused(f"{name!r} is {tensor.dtype}, sent was {sent[name].dtype}")
        return Payload(
            {n: t + sent[n] if n in sent and t.is_floating_point() else t for n, t in decoded.items()}, payload.weight
        )

    def down(self, payload: Payload) -> Payload:
        """The payload that leaves the server: compressed with `both_ways`, else as it is."""
        return Payload(self._encode(payload.tensors, ()), payload.weight) if self.both_ways else payload

    def read(self, payload: Payload) -> Payload:
        """The server's payload, as a client reads it."""
        return Payload(decode(payload.tensors), payload.weight)

    def _encode(self, tensors: Mapping[str, Tensor], changed: Collection[str]) -> Tensors:
        """The tensors, those that get smaller in parts; `changed` are the names of those that are changes."""
        encoded: Tensors = {}
        for name, tensor in tensors.items():
            # A NaN must arrive as it is, to be refused with its reason: rounded or cut away it would pass for a number.
            can = tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 0 and tensor.isfinite().all()
            parts = self._parts(tensor) if can and (self.kind == "8-bit" or name in changed) else None
            smaller = parts is not None and sum(map(_size, parts.values())) < _size(tensor)
            # The scale, the places and the shape travel too: of a small tensor they are more than is saved.
            encoded |= {f"{name}{MARK}{part}": t for part, t in (parts or {}).items()} if smaller else {name: tensor}
        return encoded

    def _parts(self, tensor: Tensor) -> Tensors:
        shape = torch.tensor(tensor.shape, dtype=torch.int32)
        if self.kind == "8-bit":
            scale = tensor.abs().max() / 127
            # Of a tensor of zeros the scale is 0, and any divisor gives the zeros back.
            whole = (tensor / scale.clamp(min=torch.finfo(tensor.dtype).tiny)).round().to(torch.int8)
            return {"whole": whole, "scale": scale.view(1)}
        if self.kind == "top-k":
            at = tensor.flatten().abs().topk(max(1, round(self.share * tensor.numel()))).indices.sort().values
            return {"at": at.to(torch.int32), "values": tensor.flatten()[at], "shape": shape}
        return self._low_rank(tensor, shape)

    def _low_rank(self, tensor: Tensor, shape: Tensor) -> Tensors:
        # A tensor of more than two dimensions counts as a matrix of its first dimension against all others.
        u, s, v = torch.linalg.svd(tensor.flatten(1).double(), full_matrices=False)
        # At least one singular value: where all are alike none may be enough by itself, and zero of them would send nothing.
        energy = s.square().cumsum(0)
        rank = max(1, int((energy < self.energy * energy[-1]).sum()) + 1)
        left = (u[:, :rank] * s[:rank]).to(tensor.dtype)
        return {"left": left.contiguous(), "right": v[:rank].to(tensor.dtype).contiguous(), "shape": shape}


def _short_form(value: object) -> object:
    """`compression = "8-bit"` is short for `compression = { kind = "8-bit" }`."""
    return {"kind": value} if isinstance(value, str) else value


Setting = Annotated[Compression, BeforeValidator(_short_form)]
"""The `compression` of an exchange's table."""


def decode(encoded: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]] | None = None) -> Tensors:
    """The tensors that were encoded, by name in sorted order.

    Args:
        encoded: tensors by name; those with MARK in their name are parts of a compressed one.
        shapes: the shapes that are allowed, by name; with them, nothing larger is ever made.

    Raises:
        PayloadRefused: parts are missing or do not fit together.
    """
    found: dict[str, Tensors] = {}
    for name, tensor in encoded.items():
        # From the right: a part's name never holds the mark, whereas a tensor's might.
        base, mark, part = name.rpartition(MARK)
        found.setdefault(base if mark else name, {})[part if mark else ""] = tensor
    decoded: Tensors = {}
    for name, parts in sorted(found.items()):
        # Before anything of it is made: an unknown name has no size that bounds it.
        if shapes is not None and name not in shapes:
            raise PayloadRefused(f"unknown name {name!r}")
        try:
            decoded[name] = _decode_one(parts, None if shapes is None else shapes[name])
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise PayloadRefused(f"{name!r} cannot be decompressed: {error}") from error
    return decoded


def _decode_one(parts: Tensors, allowed: tuple[int, ...] | None) -> Tensor:
    """One tensor from its parts. What would be larger than they are is checked before it is made."""
    if set(parts) == {""}:
        return _of_shape(parts[""], allowed)
    if set(parts) == {"whole", "scale"}:
        # Shapes are checked before the product is made: broadcasting a scale of another shape would fill the memory.
        whole, scale = _of_shape(parts["whole"], allowed, torch.int8), _of_shape(parts["scale"], (1,))
        _check_floating(scale)
        # The scale has kept the dtype that the tensor had.
        return whole.to(scale.dtype) * scale
    if set(parts) == {"at", "values", "shape"}:
        shape, values = _shape(parts["shape"], allowed), parts["values"]
        at, size = _of_shape(parts["at"], (values.numel(),), torch.int32).long(), math.prod(shape)
        _check_floating(values)
        # In ascending order, each once: of two values for one place it would be chance which counts.
        if len(at) > 1 and not bool((at[1:] > at[:-1]).all()):
            raise ValueError("its places are not in ascending order")
        if len(at) and not (int(at.min()) >= 0 and int(at.max()) < size):
            raise ValueError("a place lies outside the tensor")
        # A place that was left out holds no change, not a value of zero: the base is added later.
        flat = torch.zeros(size, dtype=values.dtype)
        flat[at] = values
        return flat.view(shape)
    if set(parts) == {"left", "right", "shape"}:
        shape, left, right = _shape(parts["shape"], allowed), parts["left"], parts["right"]
        if left.ndim != 2 or right.ndim != 2 or left.dtype != right.dtype or left.shape[0] * right.shape[1] != math.prod(shape):
            raise ValueError(f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} do not make {shape}")
        # A client sends factors only where they are smaller than what they make.
        if left.numel() + right.numel() >= math.prod(shape):
            raise ValueError(f"factors of shapes {tuple(left.shape)} and {tuple(right.shape)} are larger than {shape}")
        _check_floating(left)
        return (left.double() @ right.double()).to(left.dtype).view(shape)
    raise ValueError(f"its parts are {sorted(parts)}")


def _of_shape(tensor: Tensor, allowed: tuple[int, ...] | None, dtype: torch.dtype | None = None) -> Tensor:
    if allowed is not None and tuple(tensor.shape) != allowed:
        raise ValueError(f"it has shape {tuple(tensor.shape)}, declared {allowed}")
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"a part of it is {tensor.dtype}, not {dtype}")
    return tensor


def _check_floating(tensor: Tensor) -> None:
    """Whole numbers are never compressed, and truth values cannot be."""
    if not tensor.is_floating_point():
        raise ValueError(f"a part of it is {tensor.dtype}, and no floating-point number")


def _shape(part: Tensor, allowed: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape that a part names."""
    _of_shape(part, (part.numel(),), torch.int32)
    shape = tuple(int(size) for size in part.tolist())
    if allowed is not None and shape != allowed:
        raise ValueError(f"it has shape {shape}, declared {allowed}")
    return shape


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
