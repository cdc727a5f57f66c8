"""Randomness derived from names: (seed, client, round, purpose) gives the same numbers in whatever order clients run.

Nothing sets a global seed. A run that is resumed, or whose clients run elsewhere, draws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from hetfed.device import CPU

INITIAL = "initial"
"""The purpose of a model's first weights. No name stands beside it: alone, federated and pooled an architecture starts from one
draw."""


def derive(*path: object) -> int:
    """A 63-bit seed that depends on every element of `path` and on nothing else.

    >>> derive(0, "a", 1, "shuffle") == derive(0, "a", 1, "shuffle"), derive("ab", "c") == derive("a", "bc")
    (True, False)
    """
    # A separator that no name holds: ("ab", "c") and ("a", "bc") are different paths.
    text = "\x1f".join(str(part) for part in path)
    # Not hash(), which is salted anew in every process. A bit is dropped, so that the seed fits a signed 64-bit integer.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*path: object) -> torch.Generator:
    """A generator of its own, seeded by `path`, for whatever takes one.

    >>> torch.equal(torch.rand(3, generator=generator(0, "a", 1)), torch.rand(3, generator=generator(0, "a", 1)))
    True
    """
    return torch.Generator().manual_seed(derive(*path))


@contextmanager
def isolated(*path: object, device: torch.device = CPU) -> Iterator[None]:
    """Inside, torch's default generator (initialisation, dropout) is seeded by `path`; outside, it is as it was.

    With another `device` than the CPU, so is the generator of that device.

    >>> with isolated(0, "a"):
    ...     first = torch.nn.Linear(2, 1)
    >>> with isolated(0, "a"):
    ...     again = torch.nn.Linear(2, 1)
    >>> torch.equal(first.weight, again.weight)
    True
    """
    # torch's generators, and nothing else: numpy and scikit-learn are given seeds of their own.
    default = torch.default_generator
    before = default.get_state()
    default.manual_seed(derive(*path))
    try:
        with nullcontext() if device.type == "cpu" else _accelerator_seeded(derive(*path), device):
            yield
    finally:
        default.set_state(before)


@contextmanager
def _accelerator_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the default generator of an accelerator starts at `seed`; outside, it is as it was."""
    kind = torch.get_device_module(device)
    before = kind.get_rng_state()
    kind.manual_seed(seed)
    try:
        yield
    finally:
        kind.set_rng_state(before)
