"""What travels survives its bytes, and what was not declared is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save
from whole import Engine, local

from hetfed.composition import compose
from hetfed.errors import PayloadRefused
from hetfed.exchanges import Exchange, Prototypes, SharedParameters
from hetfed.payload import CLASS_COUNTS, Declaration, Payload, TensorRule
from hetfed.turn import Job, Round, Turn


def declared(tensors: Mapping[str, torch.Tensor], weight: float | None = None) -> Declaration:
    """What says that uploads look like these tensors."""
    return Declaration({name: TensorRule(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}, weight)


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
    declared(payload.tensors).check(decoded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_dtypes_survive(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype).T  # not contiguous
    decoded = Payload.decode(Payload({"t": tensor}).encoded).tensors["t"]
    assert decoded.dtype == dtype
    assert torch.equal(decoded, tensor)


def test_the_same_contents_are_the_same_bytes_and_others_are_not() -> None:
    first, second = (Payload({"a": torch.ones(2), "b": torch.zeros(3)}, 5) for _ in range(2))
    assert first.encoded == second.encoded
    assert Payload.decode(first.encoded).encoded == first.encoded
    assert Payload(first.tensors, 6).encoded != first.encoded
    assert Payload({"a": torch.ones(2), "b": torch.full((3,), 1e-30)}, 5).encoded != first.encoded


DECLARED = declared({"w": torch.zeros(2, 3), "steps": torch.zeros(1, dtype=torch.int64)})
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


COUNTS = TensorRule((3,), low=0, high=20, whole=True)
VARIANCE = TensorRule((2,), low=0)


@pytest.mark.parametrize(
    ("rule", "values", "reason"),
    [
        (VARIANCE, [0.0, -1e-6], "'t' goes from -1e-06 to 0, declared 0 to inf"),
        (VARIANCE, [-3.0, 2.0], "'t' goes from -3 to 2, declared 0 to inf"),
        (COUNTS, [1.0, 2.5, 3.0], "'t' is declared to hold whole numbers"),
        (COUNTS, [1.0, -1.0, 3.0], "'t' goes from -1 to 3, declared 0 to 20"),
        (COUNTS, [1.0, 21.0, 3.0], "'t' goes from 1 to 21, declared 0 to 20"),
        (COUNTS, [1.0, math.nan, 3.0], "'t' holds a NaN"),
    ],
)
def test_a_value_outside_what_was_declared_is_refused(rule: TensorRule, values: list[float], reason: str) -> None:
    with pytest.raises(PayloadRefused, match=reason):
        Declaration({"t": rule}).check(Payload({"t": torch.tensor(values)}))


def test_values_at_the_bounds_are_accepted() -> None:
    Declaration({"t": COUNTS}).check(Payload({"t": torch.tensor([0.0, 20.0, 7.0])}))
    Declaration({"t": VARIANCE}).check(Payload({"t": torch.tensor([0.0, 1e5])}))
    Declaration({"t": TensorRule((0, 3), low=1, high=2, whole=True)}).check(Payload({"t": torch.zeros(0, 3)}))
    Declaration({"t": TensorRule((2,), torch.int64, low=0, whole=True)}).check(Payload({"t": torch.tensor([0, 9])}))


@pytest.mark.parametrize("weight", [19.0, 21.0, 0.0, 20.5, math.nan])
def test_a_weight_that_is_not_the_declared_one_is_refused(weight: float) -> None:
    declaration = declared(GOOD, weight=20.0)
    declaration.check(Payload(GOOD, 20.0), examples=20)
    with pytest.raises(PayloadRefused, match=r"weight \S+ is not the 20.0 that was declared"):
        declaration.check(Payload(GOOD, weight), examples=20)


def test_where_the_weight_is_open_it_is_no_more_than_the_client_s_examples() -> None:
    declaration = declared(GOOD)
    for weight in (0.0, 7.5, 20.0):
        declaration.check(Payload(GOOD, weight), examples=20)
    with pytest.raises(PayloadRefused, match=r"weight 20\.001 is not a number of examples"):
        declaration.check(Payload(GOOD, 20.001), examples=20)
    # Who has no examples of its own counts as one, as in a mean of equals.
    declaration.check(Payload(GOOD, 1.0), examples=0)


@pytest.mark.parametrize("names", [["w"], ["w", "another and much longer name"], [f"tensor {i}" for i in range(200)], []])
def test_more_bytes_than_such_an_upload_has_are_refused_before_they_are_decoded(names: list[str]) -> None:
    tensors = {name: torch.ones(2, 3) for name in names}
    declaration, honest = declared(tensors), Payload(tensors, 123.456).encoded
    declaration.check_size(honest)
    # Short of twice what is declared and a few pages; and of nothing that could fill a memory.
    assert len(honest) <= declaration.max_bytes < len(honest) + 4096 + 600 * len(names)
    declaration.check_size(bytes(declaration.max_bytes))
    with pytest.raises(PayloadRefused, match=rf"{declaration.max_bytes + 1} bytes, declared at most {declaration.max_bytes}"):
        declaration.check_size(bytes(declaration.max_bytes + 1))


def changed(change: Callable[[Payload], Payload | bytes]) -> Engine:
    """An engine in which what b uploads is something else."""

    def engine(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
        for name, turn in local(jobs, this):
            assert isinstance(turn, Turn)
            found = {label: change(Payload.decode(sent)) for label, sent in turn.outbox.items()}
            outbox = {label: it if isinstance(it, bytes) else it.encoded for label, it in found.items()}
            yield name, replace(turn, outbox=outbox) if name == "b" else turn

    return engine


def with_tensor(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Payload], Payload]:
    return lambda sent: replace(sent, tensors={**sent.tensors, name: value(sent.tensors[name])})


@pytest.mark.parametrize(
    ("exchange", "change", "reason"),
    [
        (SharedParameters(), with_tensor("encoder.1.running_var", lambda t: t - 9), "declared 0 to inf"),
        (Prototypes(), with_tensor("counts", lambda t: t + 0.5), "whole numbers"),
        (Prototypes(), with_tensor("counts", lambda t: t + 24), "declared 0 to 24"),
        (Prototypes(), with_tensor("counts", lambda t: -t), "declared 0 to 24"),
        (SharedParameters(), lambda sent: replace(sent, weight=25.0), "weight 25.0 is not the 24.0"),
        (SharedParameters(), lambda sent: replace(sent, weight=1.0), "weight 1.0 is not the 24.0"),
        (SharedParameters(), lambda sent: sent.encoded + bytes(9999), "bytes, declared at most"),
        (
            SharedParameters(),
            lambda sent: replace(sent, tensors={**sent.tensors, "x": torch.zeros(10**5)}),
            "bytes, declared at most",
        ),
    ],
    ids=[
        "a negative variance",
        "half an example",
        "more examples than it has",
        "fewer than none",
        "more weight",
        "less weight",
        "bytes behind",
        "a tensor that fills memory",
    ],
)
def test_the_server_refuses_it_and_merges_the_rest(exchange: Exchange, change: Any, reason: str) -> None:
    clients = [toy.client("a"), toy.client("b")]
    state, uploads = toy.federate(clients, compose(exchange), engine=changed(change))
    refused = {upload.client: upload.refused for upload in uploads}
    assert refused["a"] is None
    assert reason in refused["b"]
    assert [(row.client, row.refused) for row in state.rows] == [("a", 0), ("b", 1)]
    lost, _ = toy.federate(clients, compose(exchange), engine=without_b)
    for label, server in state.server.items():
        assert toy.same(server, lost.server[label])


def without_b(jobs: Iterable[Job], this: Round) -> Iterator[tuple[str, Turn]]:
    """An engine in which what b uploads is lost."""
    for name, turn in local(jobs, this):
        assert isinstance(turn, Turn)
        yield name, replace(turn, outbox={}) if name == "b" else turn


def test_what_an_upload_reveals_is_declared() -> None:
    profile = toy.client("a").profile
    assert CLASS_COUNTS in Prototypes(minimum_count=1).declare(profile).reveals
    assert f"{CLASS_COUNTS}, if it has at least 5 of it" in Prototypes().declare(profile).reveals
    assert SharedParameters().declare(profile).reveals == ()


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
