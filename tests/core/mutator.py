"""Payloads of all exchanges, and what becomes of their bytes by accident or by intent: seeded, and without end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import conformance
import torch
import toy
from test_conformance import ROWS
from whole import Federation, enrol

from hetfed.composition import Step, compose
from hetfed.compression import Compression
from hetfed.exchanges import SharedParameters, kind_of
from hetfed.federation import Federation as ServerSide
from hetfed.payload import InFlight, Upload
from hetfed.plan import named_algorithm
from hetfed.rounds import _receive

EXTREMES: tuple[Any, ...] = (
    0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**53, 2**62, 2**63, 2**64, 10**400, 1e308, 0.5, True, None, "", "x", "F64", "1_000", [],
    {}, [0], [2**63, 0], [2**31, 2**31, 0], [1] * 70,
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """An upload that is accepted, and what the server needs to judge it."""

    federation: ServerSide
    sent: InFlight

    def receive(self, encoded: bytes) -> Upload:
        """What the server makes of other bytes in its place."""
        mine = self.sent
        return _receive(
            self.federation, InFlight(mine.client, mine.exchange, encoded, mine.sent, mine.due, mine.base), mine.sent
        )


def samples() -> list[Sample]:
    """An upload of every exchange that a named algorithm has, and of each compression."""
    found: dict[tuple[str, ...], Sample] = {}
    seen: set[tuple[str, bool]] = set()
    for name, row in ROWS.items():
        steps = named_algorithm(name, row.settings).steps
        kinds = {(kind_of(step.exchange), bool(step.chain)) for step in steps}
        # One algorithm for each exchange that is new.
        if kinds <= seen:
            continue
        seen |= kinds
        done = conformance.run(name, row, rounds=2)
        for upload in done.uploads:
            sent = InFlight(upload.client, upload.exchange, upload.encoded, upload.sent, upload.round, _base(done, upload))
            sample = Sample(done.federation.server, sent)
            assert sample.receive(upload.encoded).refused is None
            found.setdefault((name, upload.exchange), sample)
    return [*found.values(), *_compressed()]


def _base(done: conformance.Run, upload: Upload) -> bytes:
    """What the client had been sent, where its upload is compressed as a change of it."""
    server = done.federation.server
    step = next(step for step in server.composition if step.label == upload.exchange)
    if not step.chain:
        return b""
    context = server.server_context(step, upload.round)
    payload = step.exchange.broadcast(context, done.states[upload.round - 1].server[step.label], server.peers[upload.client])
    return b"" if payload is None else payload.encoded


def _compressed() -> Iterator[Sample]:
    for kind in ("8-bit", "top-k", "low-rank"):
        members = [toy.client(name, width=40) for name in "ab"]
        enrolment = enrol(compose(Step(SharedParameters(), compression=Compression(kind))), members)
        federation = Federation.of(enrolment.clients, enrolment.composition, 1, 0)
        done = conformance.Run(federation, [conformance.init(federation)], [])
        conformance.run_round(federation, done.states[0], on_upload=done.uploads.append)
        upload = done.uploads[0]
        sent = InFlight(upload.client, upload.exchange, upload.encoded, 1, 1, _base(done, upload))
        assert Sample(federation.server, sent).receive(upload.encoded).refused is None
        yield Sample(federation.server, sent)


def mutated(found: Sequence[Sample], seed: int, count: int) -> Iterator[tuple[Sample, bytes]]:
    """So many mutated uploads, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        sample = chance.choice(found)
        encoded = sample.sent.encoded
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            encoded = chance.choice(MUTATIONS)(encoded, chance)
        yield sample, encoded


def flipped(encoded: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(encoded) or 1)
    return encoded[:at] + bytes([encoded[at] ^ 1 << chance.randrange(8)]) + encoded[at + 1 :] if encoded else encoded


def cut(encoded: bytes, chance: random.Random) -> bytes:
    return encoded[: chance.randrange(len(encoded) + 1)]


def inserted(encoded: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(encoded) + 1)
    more = chance.choice((b" ", b"[", b"\x00", b"9", bytes([chance.randrange(256)]))) * chance.choice((1, 8, 5000))
    return encoded[:at] + more + encoded[at:]


def doubled(encoded: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(encoded) + 1) for _ in range(2))
    return encoded[:end] + encoded[start:]


def extreme_values(encoded: bytes, chance: random.Random) -> bytes:
    """Four bytes of the values become a NaN, an infinity, a huge number, or any."""
    at = len(encoded) - 4 * chance.randrange(1, 40)
    value = chance.choice(
        (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f", b"\x00\x00\x7a\xc4", chance.randbytes(4))
    )
    return encoded[:at] + value + encoded[at + 4 :] if at > 8 else encoded


def other_header(encoded: bytes, chance: random.Random) -> bytes:
    """A header of which a word, a number or an entry has become another one, as long as it says it is."""
    length = int.from_bytes(encoded[:8], "little")
    try:
        header = json.loads(encoded[8 : 8 + length])
        text = json.dumps(_other(header, chance), separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return encoded
    if chance.random() < 0.2:
        # The same key twice, which no dictionary holds.
        text = text[:-1] + "," + text[1:]
    written = text.encode("utf-8", "surrogatepass")
    written += b" " * (-len(written) % 8 + 8 * chance.choice((0, 0, 0, 1, 600)))
    return len(written).to_bytes(8, "little") + written + encoded[8 + length :]


def _other(header: Any, chance: random.Random) -> Any:
    if not isinstance(header, dict | list) or not header or chance.random() < 0.2:
        return chance.choice(EXTREMES)
    keys = list(header) if isinstance(header, dict) else list(range(len(header)))
    key, what = chance.choice(keys), chance.random()
    if what < 0.7:
        header[key] = _other(header[key], chance)
    elif what < 0.8 and isinstance(header, dict):
        header[str(chance.choice(EXTREMES))] = header.pop(key)
    elif what < 0.9 and isinstance(header, dict):
        header["more"] = chance.choice(EXTREMES)
    else:
        del header[key]
    return header


def other_length(encoded: bytes, chance: random.Random) -> bytes:
    return chance.choice((0, 1, 2**63, 2**64 - 1, chance.randrange(2**12))).to_bytes(8, "little") + encoded[8:]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flipped, flipped, cut, inserted, doubled, extreme_values, other_header, other_header, other_header, other_length,
)  # fmt: skip


def check(sample: Sample, encoded: bytes) -> str | None:
    """Why the server refuses these bytes, None where it accepts them; what it accepts is what was declared, and no more."""
    upload, declared = sample.receive(encoded), sample.federation.declared[sample.sent.exchange][sample.sent.client]
    if upload.travelled is not None:
        assert sum(tensor.nbytes for tensor in upload.travelled.tensors.values()) <= len(encoded) <= declared.max_bytes
    if upload.contents is None:
        assert upload.refused
        return upload.refused
    assert upload.travelled is not None
    # One spelling: what it says is all that the bytes hold.
    travelled = upload.travelled
    header = json.loads(encoded[8 : 8 + int.from_bytes(encoded[:8], "little")])
    assert set(header) == {"__metadata__", *travelled.tensors}
    weight, examples = travelled.weight, sample.federation.peers[sample.sent.client].examples
    assert header["__metadata__"] == {"weight": repr(weight)}
    assert weight == declared.weight if declared.weight is not None else 0 <= weight <= examples
    assert set(upload.contents.tensors) == set(declared.tensors)
    for name, rule in declared.tensors.items():
        tensor = upload.contents.tensors[name]
        assert (tuple(tensor.shape), tensor.dtype) == (rule.shape, rule.dtype)
        assert not tensor.numel() or rule.low <= float(tensor.min()) <= float(tensor.max()) <= rule.high
        assert bool(torch.isfinite(tensor).all())
    return None
