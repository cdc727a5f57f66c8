"""The bytes of a payload have one spelling; whatever else arrives is refused with a reason, before anything large is made."""

from __future__ import annotations

import json
import struct

import pytest
import torch
import toy

from hetfed import wire
from hetfed.composition import Step, compose
from hetfed.compression import Compression, decode
from hetfed.engines.local import Failure
from hetfed.errors import PayloadRefused
from hetfed.exchanges import SharedParameters
from hetfed.payload import Declaration, Payload, TensorRule

W = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
WEIGHT = '"__metadata__":{"weight":"20.0"}'
VALUES = struct.pack("<2f", 1.0, 2.0)


def spelled(header: str, values: bytes = VALUES, blanks: int | None = None) -> bytes:
    """Bytes with this header, padded as safetensors pads it."""
    written = header.encode("utf-8", "surrogatepass")
    written += b" " * (-len(written) % 8 if blanks is None else blanks)
    return len(written).to_bytes(8, "little") + written + values


def tensor(**changes: object) -> str:
    """The header of one tensor, changed."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return "{" + WEIGHT + ',"w":' + json.dumps(entry, separators=(",", ":")) + "}"


def test_what_is_spelled_as_it_should_be_is_read() -> None:
    tensors, weight = wire.read(spelled("{" + WEIGHT + "," + W + "}"))
    assert (tensors["w"].tolist(), weight) == ([1.0, 2.0], 20.0)
    assert wire.write(tensors, weight) == spelled("{" + WEIGHT + "," + W + "}")


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "no header"),
        (b"\xff" * 64, "no header"),
        (spelled('{"__metadata__":null}', b""), "no weight"),
        (spelled("{" + W + "}"), "no weight"),
        (spelled('{"__metadata__":{"weight":"20.0","more":"x"},' + W + "}"), "more than that"),
        (spelled('{"__metadata__":{"weight":20.0},' + W + "}"), "no weight"),
        (spelled('{"__metadata__":{"weight":"1_000"},' + W + "}"), "'1_000' is written 1000.0"),
        (spelled('{"__metadata__":{"weight":" 20.0"},' + W + "}"), "is written 20.0"),
        (spelled('{"__metadata__":{"weight":"2e1"},' + W + "}"), "is written 20.0"),
        (spelled('{"__metadata__":{"weight":"many"},' + W + "}"), "no number"),
        (spelled("null", b""), "no table"),
        (spelled("[" * 50_000), "no JSON"),
        (spelled("9" * 5_000), "no JSON"),
        (spelled('{"__metadata__":{"weight":"\udc80"}}'), "no JSON"),
        (spelled("{" + WEIGHT + "," + W + "}", blanks=3000), "not spelled"),
        (spelled("{" + WEIGHT + ", " + W + "}"), "not spelled"),
        (spelled("{" + WEIGHT + "," + W + "," + W + "}"), "not spelled"),
        (spelled("{" + W + "," + WEIGHT + "," + WEIGHT + "}"), "not spelled"),
        (spelled(tensor(more=1)), "dtype, shape and offsets"),
        (spelled(tensor(dtype="C64")), "does not travel"),
        (spelled(tensor(dtype=[])), "does not travel"),
        (spelled(tensor(shape=[2**63, 0], data_offsets=[0, 0]), b""), "shape that no tensor has"),
        (spelled(tensor(shape=[2**31, 2**31, 0], data_offsets=[0, 0]), b""), "shape that no tensor has"),
        (spelled(tensor(shape=[1] * 70 + [2])), "shape that no tensor has"),
        (spelled(tensor(shape=[True, 2])), "shape that no tensor has"),
        (spelled(tensor(shape=[-1, -2])), "shape that no tensor has"),
        (spelled(tensor(shape=[2.0])), "shape that no tensor has"),
        (spelled(tensor(shape=None)), "shape that no tensor has"),
        (spelled(tensor(data_offsets=[0, 4])), "from 0 to 8"),
        (spelled(tensor(data_offsets=[4, 12]), VALUES + VALUES), "from 0 to 8"),
        (spelled("{" + WEIGHT + "," + W + "}", VALUES + b"x"), "9 bytes of values, its header tells of 8"),
        (spelled("{" + WEIGHT + "," + W + "}", VALUES[:-1]), "7 bytes of values"),
        (spelled("{" + WEIGHT + "," + W + ',"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "from 8 to 16"),
        (spelled(tensor(dtype="BOOL", shape=[8]), b"\x01\x00\x01\x00\x02\x00\x00\x00"), "truth value"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_every_other_spelling_is_refused_with_its_reason(encoded: bytes, reason: str) -> None:
    with pytest.raises(PayloadRefused, match=reason):
        Payload.decode(encoded)


def test_a_header_has_its_own_limit_beside_many_values() -> None:
    declared = Declaration({"w": TensorRule((10**7,))})
    empty = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(100_000))
    for encoded in (spelled("{" + WEIGHT + "," + empty + "}", b""), spelled("{" + WEIGHT + "}", b"", blanks=30_000_000)):
        assert len(encoded) < declared.max_bytes
        with pytest.raises(PayloadRefused, match="a header of"):
            declared.check_size(encoded)


@pytest.mark.parametrize(
    "encoded", [spelled('{"__metadata__":null}', b""), spelled(tensor(shape=[2**63, 0], data_offsets=[0, 0]), b"")]
)
def test_such_bytes_do_not_end_a_run(encoded: bytes) -> None:
    def engine(jobs: object, this: object) -> object:
        for name, turn in toy.local(jobs, this):
            assert not isinstance(turn, Failure)
            turn.outbox.update({label: encoded for label in turn.outbox if name == "b"})
            yield name, turn

    _, uploads = toy.federate([toy.client(name) for name in "abc"], compose(SharedParameters()), engine=engine)
    assert {upload.client: bool(upload.refused) for upload in uploads} == {"a": False, "b": True, "c": False}


@pytest.mark.parametrize(
    "parts",
    [
        {"left": torch.zeros(10, 10**6), "right": torch.zeros(10**6, 10), "shape": torch.tensor([10, 10], dtype=torch.int32)},
        {"whole": torch.zeros(10, 10, dtype=torch.int64), "scale": torch.ones(1)},
        {"whole": torch.zeros(10, 10, dtype=torch.int8), "scale": torch.ones(1, dtype=torch.bool)},
        {
            "at": torch.tensor([3, 3], dtype=torch.int32),
            "values": torch.ones(2),
            "shape": torch.tensor([10, 10], dtype=torch.int32),
        },
        {"at": torch.tensor([3.0, 4.0]), "values": torch.ones(2), "shape": torch.tensor([10, 10], dtype=torch.int32)},
        {"at": torch.tensor([3], dtype=torch.int32), "values": torch.ones(1), "shape": torch.tensor([10.0, 10.0])},
    ],
    ids=[
        "72 MB for a small matrix",
        "wide numbers",
        "a scale of truth",
        "a place twice",
        "places between",
        "a shape of fractions",
    ],
)
def test_a_compressed_tensor_is_no_larger_than_itself_and_of_the_dtypes_that_a_client_sends(
    parts: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(PayloadRefused, match="cannot be decompressed"):
        decode({f"w~{name}": part for name, part in parts.items()}, {"w": (10, 10)})


class Stumbles(Compression):
    """A codec that does not expect what it reads."""

    def arrived(self, payload: Payload, sent: object, shapes: object) -> Payload:
        raise KeyError("scale")


def test_a_codec_that_stumbles_refuses_the_upload() -> None:
    step = Step(SharedParameters(), codecs=(Stumbles("8-bit"),))
    _, uploads = toy.federate([toy.client(name) for name in "ab"], compose(step))
    assert all("Stumbles cannot turn it back: KeyError" in str(upload.refused) for upload in uploads)
