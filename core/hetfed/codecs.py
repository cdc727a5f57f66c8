"""Codecs: what happens to the payloads of a step on their way, as a chain of pairs, one way up and one way down.

A codec changes what a client sends before it leaves, and turns it back where it arrives: compression is one; clipping, noise and
masking are others. A chain is applied in its order at the client and in the reverse order at the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from hetfed.payload import Payload

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


def up(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], owed: Sequence[Tensors | None]) -> Payload:
    """A client's payload through the chain."""
    for codec, memory in zip(codecs, owed, strict=True):
        payload = codec.up(payload, base, memory)
    return payload


def arrived(codecs: Sequence[Codec], payload: Payload, base: Mapping[str, Tensor], shapes: Shapes) -> Payload:
    """The payload that a client put into the chain."""
    for codec in reversed(codecs):
        payload = codec.arrived(payload, base, shapes)
    return payload


def down(codecs: Sequence[Codec], payload: Payload) -> Payload:
    """The server's payload through the chain."""
    for codec in codecs:
        payload = codec.down(payload)
    return payload


def read(codecs: Sequence[Codec], payload: Payload) -> Payload:
    """The payload that the server put into the chain."""
    for codec in reversed(codecs):
        payload = codec.read(payload)
    return payload
