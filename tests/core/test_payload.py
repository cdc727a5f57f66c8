"""What travels survives its bytes, and what was not declared is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save

from hetfed.errors import PayloadRefused
from hetfed.payload import Declaration, Payload

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    elements=st.floats(-1000, 1000, width=32),
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), st.floats(0, 1e9))
def test_a_payload_survives_its_bytes(arrays: dict[str, np.ndarray], weight: float) -> None:
    payload = Payload({name: torch.from_numpy(array) for name, array in arrays.items()}, weight)
    decoded = Payload.decode(payload.encoded)
    assert decoded.weight == weight
    assert set(decoded.tensors) == set(arrays)
    for name, array in arrays.items():
        assert decoded.tensors[name].shape == array.shape
        assert np.array_equal(decoded.tensors[name].numpy(), array)
    Declaration.of(payload.tensors).check(decoded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_dtypes_survive(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype).T  # not contiguous
    decoded = Payload.decode(Payload({"t": tensor}).encoded).tensors["t"]
    assert decoded.dtype == dtype
    assert torch.equal(decoded, tensor)


def test_the_digest_is_that_of_the_contents() -> None:
    first, second = (Payload({"a": torch.ones(2), "b": torch.zeros(3)}, 5) for _ in range(2))
    assert first.digest == second.digest
    assert Payload.decode(first.encoded).digest == first.digest
    assert Payload(first.tensors, 6).digest != first.digest
    assert Payload({"a": torch.ones(2), "b": torch.full((3,), 1e-30)}, 5).digest != first.digest


DECLARED = Declaration.of({"w": torch.zeros(2, 3), "steps": torch.zeros(1, dtype=torch.int64)})
GOOD = {"w": torch.ones(2, 3), "steps": torch.ones(1, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("tensors", "weight", "reason"),
    [
        ({**GOOD, "x": torch.ones(1)}, 1, "unknown name 'x'"),
        ({"w": GOOD["w"]}, 1, "'steps' is missing"),
        ({}, 1, "is missing"),
        ({**GOOD, "w": torch.ones(3, 2)}, 1, r"shape \(3, 2\), declared \(2, 3\)"),
        ({**GOOD, "w": torch.ones(2, 3, dtype=torch.float64)}, 1, "float64, declared torch.float32"),
        ({**GOOD, "w": torch.tensor([[0, 0, 0], [0, 0, math.nan]])}, 1, "'w' holds a NaN"),
        ({**GOOD, "w": torch.tensor([[0, 0, 0], [0, 0, -math.inf]])}, 1, "infinity"),
        ({**GOOD, "w": torch.full((2, 3), 1e30)}, 1, "above the limit"),
        ({**GOOD, "w": torch.full((2, 3), -3e38)}, 1, "above the limit"),
        (GOOD, -1, "weight -1"),
        (GOOD, math.nan, "weight nan"),
        (GOOD, math.inf, "weight inf"),
    ],
)
def test_what_was_not_declared_is_refused(tensors: dict[str, torch.Tensor], weight: float, reason: str) -> None:
    arrived = Payload.decode(Payload(tensors, weight).encoded)
    with pytest.raises(PayloadRefused, match=reason):
        DECLARED.check(arrived)


def test_what_was_declared_is_accepted() -> None:
    DECLARED.check(Payload(GOOD, 0))
    DECLARED.check(Payload(GOOD, 1e6))


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\x80\x04garbage",
        b"\xff" * 64,
        Payload(GOOD).encoded[:-3],
        save(GOOD),
        save(GOOD, metadata={"other": "1"}),
        save(GOOD, metadata={"weight": "many"}),
    ],
    ids=["empty", "pickle", "noise", "cut", "no metadata", "no weight", "weight in words"],
)
def test_bytes_that_are_no_payload_are_refused(encoded: bytes) -> None:
    with pytest.raises(PayloadRefused, match="not a payload"):
        Payload.decode(encoded)
