"""Codecs: what happens to the payloads of a step on their way, as a chain of pairs, one way up and one way down.

A codec changes what a client sends before it leaves, and turns it back where it arrives: compression is one; clipping, noise
and masking are others. A chain is applied in its order at the client and in the reverse order at the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from hetfed.payload import Declaration, Payload

Tensors = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


class Codec(Protocol):
    """One pair. Payloads are never changed in place."""

    @property
    def owes(self) -> bool:
        """Whether a client remembers what was left out of its uploads so far."""
        ...

    def up(self, payload: Payload, base: Mapping[str, Tensor], owed: Tensors | None) -> Payload:
        """What leaves the client. `base` is what it was sent this round; `owed` is its memory, to be brought up to date."""
        ...

    def arrived(self, payload: Payload, base: Mapping[str, Tensor], shapes: Shapes) -> Payload:
        """The same as the server reads it, nothing larger than `shapes` allow.

        Raises:
            PayloadRefused: it is not what a client that keeps to the declaration sends.
        """
        ...

    def down(self, payload: Payload) -> Payload:
        """What leaves the server."""
        ...

    def read(self, payload: Payload) -> Payload:
        """The same as a client reads it."""
        ...


def base_of(sent: Payload | None, declared: Declaration) -> Mapping[str, Tensor]:
    """What a client's payload is a change of: what it was sent in the same round, unless it sends changes by itself."""
    return {} if sent is None or declared.relative == "change" else sent.tensors


def to_server(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], owed: Sequence[Tensors | None]) -> bytes:
    """What leaves a client."""
    for codec, memory in zip(codecs, owed, strict=True):
        payload = codec.up(payload, base, memory)
    return payload.encoded


def at_server(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], shapes: Shapes) -> Payload:
    """The payload that a client put into the chain."""
    for codec in reversed(codecs):
        payload = codec.arrived(payload, base, shapes)
    return payload


def to_client(codecs: Sequence[Codec], payload: Payload) -> bytes:
    """What leaves the server."""
    for codec in codecs:
        payload = codec.down(payload)
    return payload.encoded


def at_client(codecs: Sequence[Codec], encoded: bytes) -> Payload:
    """The payload that the server put into the chain."""
    payload = Payload.decode(encoded)
    for codec in reversed(codecs):
        payload = codec.read(payload)
    return payload
