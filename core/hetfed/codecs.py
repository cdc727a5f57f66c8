"""Codecs: what happens to the payloads of a step on their way, as a chain of pairs, one way up and one way down.

A codec changes what a client sends before it leaves, and turns it back where it arrives: compression is one; clipping, noise
and masking are others. A chain is applied in its order at the client and in the reverse order at the server.

>>> import torch
>>> from hetfed.compression import Compression
>>> chain, base = [Compression("8-bit")], {"w": torch.zeros(20, 20)}
>>> encoded = to_server(chain, Payload({"w": torch.full((20, 20), 2.0)}), base, [None])
>>> float(at_server(chain, Payload.decode(encoded), base, {"w": (20, 20)}).tensors["w"].mean())
2.0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from hetfed.errors import PayloadRefused
from hetfed.payload import Declaration, Payload

Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Codec(Protocol):
    """One codec: two pairs of methods, `up` and `arrived` for uploads, `down` and `read` for broadcasts.

    Payloads are never changed in place. The server calls `arrived` on bytes that anybody may have made up: it checks before it
    makes anything large. A codec of one's own is any object with these members, in `Step(..., codecs=(MyCodec(),))`.

    >>> from dataclasses import dataclass, replace
    >>> @dataclass(frozen=True)
    ... class Clip:  # every number of a change between -1 and 1
    ...     owes = False
    ...     def up(self, payload, base, owed):
    ...         near = {name: base[name] + (t - base[name]).clamp(-1, 1) for name, t in payload.tensors.items()}
    ...         return replace(payload, tensors=near)
    ...     def arrived(self, payload, base, shapes): return payload
    ...     def down(self, payload): return payload
    ...     def read(self, payload): return payload
    >>> Clip().up(Payload({"w": Tensor([5.0])}), {"w": Tensor([3.0])}, None).tensors
    {'w': tensor([4.])}
    """

    @property
    def owes(self) -> bool:
        """Whether a client remembers what was left out of its uploads so far."""
        ...

    def up(self, payload: Payload, base: Mapping[str, Tensor], owed: Tensors | None) -> Payload:
        """The payload that leaves the client.

        Args:
            payload: as the exchange, or the codec before, gives it.
            base: the tensors that the client was sent this round; empty where it was sent none, or sends changes by itself.
            owed: the client's memory of what was left out, to be brought up to date in place; None where nothing is owed.
        """
        ...

    def arrived(self, payload: Payload, base: Mapping[str, Tensor], shapes: Shapes) -> Payload:
        """The payload of a client as the server reads it, nothing larger than `shapes` allow.

        Raises:
            PayloadRefused: it is not what a client that keeps to the declaration sends.
        """
        ...

    def down(self, payload: Payload) -> Payload:
        """The payload that leaves the server."""
        ...

    def read(self, payload: Payload) -> Payload:
        """The server's payload as a client reads it."""
        ...


def base_of(sent: Payload | None, declared: Declaration) -> Mapping[str, Tensor]:
    """The tensors that a client's payload is a change of: those it was sent in the same round.

    There are none where it was sent nothing, or where its payload is a change by itself.
    """
    return {} if sent is None or declared.relative == "change" else sent.tensors


def to_server(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], owed: Sequence[Tensors | None]) -> bytes:
    """The bytes that leave a client, after all codecs in their order.

    Args:
        codecs: the chain of the step.
        payload: as the exchange gives it.
        base: the tensors that the client was sent this round.
        owed: a memory for each codec, None for one that owes nothing.
    """
    for codec, memory in zip(codecs, owed, strict=True):
        payload = codec.up(payload, base, memory)
    return payload.encoded


def at_server(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], shapes: Shapes) -> Payload:
    """The payload that a client put into the chain, after all codecs in the reverse order.

    Raises:
        PayloadRefused: a codec cannot turn it back.
    """
    for codec in reversed(codecs):
        try:
            payload = codec.arrived(payload, base, shapes)
        except PayloadRefused:
            raise
        # Whatever a codec stumbles over: anybody may have made up what it reads, and one upload must not end the run.
        except Exception as error:
            raise PayloadRefused(f"{type(codec).__name__} cannot turn it back: {error!r}") from error
    return payload


def to_client(codecs: Sequence[Codec], payload: Payload) -> bytes:
    """The bytes that leave the server, after all codecs in their order."""
    for codec in codecs:
        payload = codec.down(payload)
    return payload.encoded


def at_client(codecs: Sequence[Codec], encoded: bytes) -> Payload:
    """The payload that the server put into the chain.

    Raises:
        PayloadRefused: the bytes are no payload.
    """
    # Here the bytes come from the server; at the server they are decoded, and judged, before the chain.
    payload = Payload.decode(encoded)
    for codec in reversed(codecs):
        payload = codec.read(payload)
    return payload
