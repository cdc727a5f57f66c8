"""Smaller payloads: fewer bits, fewer numbers, or fewer dimensions, for any exchange."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.errors import PayloadRefused
from hetfed.payload import Payload

MARK = "~"
"""Between a tensor's name and the name of a part of its compressed form."""
Tensors = dict[str, Tensor]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Compression:
    """How one exchange makes its payloads smaller. What clients send is a change of what the server sent.

    "8-bit": whole numbers from -127 to 127 and a scale per tensor. "top-k": the largest numbers and where they stand; what is
    left out is remembered by the client and added the next time (error feedback, Stich et al. 2018; from clients only).
    "low-rank": a matrix as the product of two narrow ones, of just so many singular values as hold `energy` (FedKD, Wu et al.
    2022). A tensor that would not get smaller, or that does not hold floating-point numbers, travels as it is.

    Args:
        kind: the way of compressing.
        share: of the numbers that "top-k" keeps.
        energy: share of the sum of squared singular values that "low-rank" keeps.
        both_ways: also compress what the server sends ("8-bit" and "low-rank").
    """

    kind: Literal["8-bit", "top-k", "low-rank"]
    share: float = Field(default=0.1, gt=0, le=1)
    energy: float = Field(default=0.95, gt=0, le=1)
    both_ways: bool = False

    def up(self, payload: Payload, sent: Mapping[str, Tensor], residual: Tensors) -> Payload:
        """A client's payload, smaller.

        `sent` is what the server sent this round; `residual`, what "top-k" has left out so far, is brought up to date.
        """
        change = {n: t - sent[n] if n in sent and t.is_floating_point() else t for n, t in payload.tensors.items()}
        if self.kind != "top-k":
            return Payload(self._encode(change), payload.weight)
        wanted = {n: t + residual[n] if n in residual and t.is_floating_point() else t for n, t in change.items()}
        encoded = self._encode(wanted)
        arrives = decode(encoded)
        residual.update({n: t - arrives[n] for n, t in wanted.items() if t.is_floating_point()})
        return Payload(encoded, payload.weight)

    def arrived(self, payload: Payload, sent: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Payload:
        """A client's payload as it was.

        Raises:
            PayloadRefused: it is not what a client that keeps to `shapes` sends.
        """
        decoded = decode(payload.tensors, shapes)
        return Payload(
            {n: t + sent[n] if n in sent and t.is_floating_point() else t for n, t in decoded.items()}, payload.weight
        )

    def down(self, payload: Payload) -> Payload:
        """What the server sends, smaller where it is to be."""
        if not self.both_ways or self.kind == "top-k":
            return payload
        return Payload(self._encode(payload.tensors), payload.weight)

    def _encode(self, tensors: Mapping[str, Tensor]) -> Tensors:
        encoded: Tensors = {}
        for name, tensor in tensors.items():
            parts = self._parts(tensor) if tensor.is_floating_point() and tensor.isfinite().all() else None
            smaller = parts is not None and sum(map(_size, parts.values())) < _size(tensor)
            encoded |= {f"{name}{MARK}{part}": t for part, t in (parts or {}).items()} if smaller else {name: tensor}
        return encoded

    def _parts(self, tensor: Tensor) -> Tensors | None:
        shape = torch.tensor(tensor.shape, dtype=torch.int32)
        if self.kind == "8-bit":
            scale = tensor.abs().max() / 127 if tensor.numel() else tensor.new_zeros(())
            whole = (tensor / scale.clamp(min=torch.finfo(tensor.dtype).tiny)).round().to(torch.int8)
            return {"whole": whole, "scale": scale.view(1)}
        if self.kind == "top-k":
            at = tensor.flatten().abs().topk(max(1, round(self.share * tensor.numel()))).indices.sort().values
            return {"at": at.to(torch.int32), "values": tensor.flatten()[at], "shape": shape}
        return self._low_rank(tensor, shape)

    def _low_rank(self, tensor: Tensor, shape: Tensor) -> Tensors | None:
        if tensor.ndim < 2:
            return None
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
    """The tensors that were encoded; with `shapes`, nothing larger than they allow is ever made.

    Raises:
        PayloadRefused: parts are missing or do not fit together.
    """
    whole: Tensors = {}
    parts: dict[str, Tensors] = {}
    for name, tensor in encoded.items():
        base, mark, part = name.rpartition(MARK)
        if mark:
            parts.setdefault(base, {})[part] = tensor
        else:
            whole[name] = tensor
    for name, found in parts.items():
        if shapes is not None and name not in shapes:
            raise PayloadRefused(f"unknown name {name!r}")
        try:
            whole[name] = _decode_one(found, None if shapes is None else shapes[name])
        except (RuntimeError, KeyError, IndexError, ValueError, TypeError) as error:
            raise PayloadRefused(f"{name!r} cannot be decompressed: {error}") from error
    return dict(sorted(whole.items()))


def _decode_one(parts: Tensors, allowed: tuple[int, ...] | None) -> Tensor:
    if "whole" in parts:
        return parts["whole"].to(parts["scale"].dtype) * parts["scale"]
    shape = tuple(parts["shape"].tolist())
    if allowed is not None and shape != allowed:
        raise ValueError(f"it has shape {shape}, declared {allowed}")
    if "values" in parts:
        at = parts["at"].long()
        if len(at) and not (int(at.min()) >= 0 and int(at.max()) < math.prod(shape)):
            raise ValueError("a place lies outside the tensor")
        flat = torch.zeros(math.prod(shape), dtype=parts["values"].dtype)
        flat[at] = parts["values"]
        return flat.view(shape)
    if parts["left"].shape[0] * parts["right"].shape[1] != math.prod(shape):
        raise ValueError(f"its factors do not make {shape}")
    return (parts["left"].double() @ parts["right"].double()).to(parts["left"].dtype).view(shape)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
