"""Ways of merging, by hand; and how far a hostile upload moves each."""

from __future__ import annotations

import pytest
import torch
import toy

from hetfed.aggregation import MERGERS, Aggregation
from hetfed.composition import Step, compose
from hetfed.exchanges import LogitDistillation, Prototypes, SharedParameters
from hetfed.payload import Payload


def uploads(*points: object, weights: tuple[float, ...] = ()) -> list[Payload]:
    """One tensor each, of equal weight unless it is given."""
    weights = weights or (1.0,) * len(points)
    return [Payload({"w": torch.tensor(point, dtype=torch.float32)}, w) for point, w in zip(points, weights, strict=True)]


def merged(kind: str, *points: object, share: float = 0.2, **settings: object) -> list[float]:
    return Aggregation(kind, share)(uploads(*points, **settings))["w"].tolist()


def test_the_median_goes_number_by_number() -> None:
    assert merged("median", [1.0, 9.0], [2.0, 7.0], [100.0, 8.0]) == [2.0, 8.0]
    assert merged("median", [1.0], [2.0], [4.0], [100.0]) == [3.0]
    assert merged("median", [5.0]) == [5.0]


def test_the_trimmed_mean_leaves_out_both_ends() -> None:
    assert merged("trimmed-mean", [1.0, 5.0], [2.0, -50.0], [3.0, 6.0], [7.0, 7.0], [-99.0, 9.0]) == [2.0, 6.0]
    assert merged("trimmed-mean", *([float(i)] for i in (0, 1, 2, 3, 4, 5, 6, 7, 80, 90)), share=0.3) == [4.5]
    assert merged("trimmed-mean", [1.0], [2.0], [9.0], share=0.0) == [4.0]


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [
        (0.2, 1, 0),
        (0.2, 2, 0),
        (0.2, 3, 1),
        (0.2, 9, 1),
        (0.2, 10, 2),
        (0.29, 100, 29),
        (0.49, 3, 1),
        (0.49, 4, 1),
        (0.0, 9, 0),
    ],
)
def test_so_many_uploads_may_be_faulty(share: float, count: int, expected: int) -> None:
    """Where somebody may be, it is one of three at least, and never half of them."""
    assert Aggregation("trimmed-mean", share).faulty(count) == expected


def test_krum_takes_the_upload_with_the_nearest_neighbours() -> None:
    """One of five may be faulty, so that two neighbours count: 1 + 6.25, 1 + 2.25, 0.25 + 2.25, 0.25 + 4, and the far one."""
    points = ([0.0], [1.0], [2.5], [3.0], [100.0])
    assert merged("krum", *points) == [2.5]
    assert merged("multi-krum", *points) == [(0 + 1 + 2.5 + 3) / 4]
    assert merged("krum", [1.0, 1.0]) == merged("multi-krum", [1.0, 1.0]) == [1.0, 1.0]


def test_krum_looks_at_whole_uploads() -> None:
    """By its second number alone the outlier would be the best."""
    line = ([0.0, 0.0], [0.0, 1.0], [0.0, 2.5], [0.0, 3.0])
    assert merged("krum", *line, [90.0, 2.75]) == [0.0, 2.5]
    assert merged("krum", *line, [0.0, 2.75]) == [0.0, 2.75]


def test_the_geometric_median_of_points_on_a_line_is_their_median() -> None:
    assert merged("geometric-median", [0.0], [2.0], [9.0]) == pytest.approx([2.0], abs=1e-4)


def test_the_geometric_median_of_a_triangle() -> None:
    """Fermat's point: from where all corners are seen 120 degrees apart, or the corner that is as wide as that."""
    root = 3**0.5
    assert merged("geometric-median", [-1.0, 0.0], [1.0, 0.0], [0.0, root]) == pytest.approx([0.0, 1 / root], abs=1e-4)
    assert merged("geometric-median", [-1.0, 0.0], [1.0, 0.0], [0.0, 3.0]) == pytest.approx([0.0, 1 / root], abs=1e-4)
    assert merged("geometric-median", [-1.0, 0.0], [1.0, 0.0], [0.0, 0.1]) == pytest.approx([0.0, 0.1], abs=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 1000.0), (1e-4, 0.0), (1e4, -5.0)])
def test_the_geometric_median_moves_and_grows_with_the_uploads(scale: float, shift: float) -> None:
    """Their mean is 1, which is one of them, and from which it has to get away."""
    found = merged("geometric-median", *([scale * x + shift] for x in (0.0, 0.0, 0.0, 1.0, 4.0)))
    assert (found[0] - shift) / scale == pytest.approx(0.0, abs=1e-3)


def test_the_geometric_median_of_equal_uploads_is_that_upload() -> None:
    assert merged("geometric-median", [3.0, -1.0], [3.0, -1.0]) == [3.0, -1.0]


def test_late_uploads_pull_less_at_the_geometric_median() -> None:
    late = [Payload({"w": torch.tensor([x])}, discount=d) for x, d in ((0.0, 1.0), (9.0, 0.4), (9.0, 0.4))]
    assert Aggregation("geometric-median")(late)["w"].tolist() == pytest.approx([0.0], abs=1e-4)
    assert merged("geometric-median", [0.0], [9.0], [9.0]) == pytest.approx([9.0], abs=1e-4)


@pytest.mark.parametrize("kind", sorted(set(MERGERS) - {"mean"}))
def test_no_weight_and_no_number_that_one_client_claims_moves_a_robust_mean_far(kind: str) -> None:
    honest = ([0.9, 1.0], [1.0, 1.1], [1.1, 0.9], [1.0, 1.0])
    found = merged(kind, *honest, [1e4, -1e4], weights=(1, 1, 1, 1, 1e9))
    assert found == pytest.approx([1.0, 1.0], abs=0.15)
    assert merged("mean", *honest, [1e4, -1e4], weights=(1, 1, 1, 1, 1e9)) == pytest.approx([1e4, -1e4])


@pytest.mark.parametrize("kind", MERGERS)
def test_every_way_keeps_names_shapes_and_dtypes(kind: str) -> None:
    chance = torch.Generator().manual_seed(0)
    shapes = {"m": (2, 3), "v": (4,), "n": ()}
    payloads = [Payload({name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}) for _ in range(5)]
    found = Aggregation(kind)(payloads)
    assert {name: (tuple(t.shape), t.dtype) for name, t in found.items()} == {n: (s, torch.float32) for n, s in shapes.items()}
    low, high = (torch.stack([p.tensors["m"] for p in payloads]).aminmax(dim=0)[i] for i in (0, 1))
    assert (found["m"] >= low - 1e-6).all() and (found["m"] <= high + 1e-6).all()


def server_tensor(state: object, label: str, name: str) -> torch.Tensor:
    return next(t for key, t in state.server[label].items() if key.rpartition("/")[2] == name)


@pytest.mark.parametrize(
    ("exchange", "label", "name"),
    [
        (SharedParameters(), "shared-parameters", "head.weight"),
        (LogitDistillation(), "logit-distillation", "logits"),
        (Prototypes(), "prototypes", "means"),
    ],
    ids=["parameters", "logits", "prototypes"],
)
def test_whatever_is_averaged_can_be_merged_robustly(exchange: object, label: str, name: str) -> None:
    clients = [toy.client(client, n=n) for client, n in (("a", 24), ("b", 24), ("c", 300))]
    state, sent = toy.federate(clients, compose(Step(exchange, aggregation=Aggregation("median"))))
    expected = torch.stack([upload.contents.tensors[name] for upload in sent]).sort(dim=0).values[1]
    assert torch.equal(server_tensor(state, label, name), expected)
    mean, _ = toy.federate(clients, compose(exchange))
    assert not torch.allclose(server_tensor(mean, label, name), expected, atol=1e-6)
