"""An optimiser at the server: two steps of each kind, by hand."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from goldens import a_and_b, held, near, run

from hetfed.algorithms import scaffold
from hetfed.exchanges import SharedParameters
from hetfed.server_optimizer import ServerOptimizer

LR, B1, B2, TAU = 0.5, 0.8, 0.9, 0.1
CHANGES = (2.0, -1.0)


def two_steps(kind: str, beta1: float = B1, lr: float = LR) -> list[float]:
    """Where the server stands after two rounds, from 1, in which clients change by 2 and by -1 on average."""
    point, moments, found = torch.tensor([1.0]), {}, []
    for change in CHANGES:
        after, moments = ServerOptimizer(kind, lr, beta1, B2, TAU).step({"w": point}, {"w": point + change}, moments)
        point = after["w"]
        found.append(point.item())
    return found


SECOND = {
    "adam": (B2 * TAU**2 + (1 - B2) * 4, B2 * (B2 * TAU**2 + (1 - B2) * 4) + (1 - B2) * 1),
    # The second moment is 0.41 after the first change, less than the square of the second one, which is added again.
    "yogi": (TAU**2 + (1 - B2) * 4, TAU**2 + (1 - B2) * 4 + (1 - B2) * 1),
    "adagrad": (TAU**2 + 4, TAU**2 + 4 + 1),
}


@pytest.mark.parametrize("kind", SECOND)
def test_the_second_moment_sets_the_size_of_a_step(kind: str) -> None:
    first = (0.2 * 2, B1 * 0.2 * 2 - 0.2 * 1)
    one = 1 + LR * first[0] / (sqrt(SECOND[kind][0]) + TAU)
    assert two_steps(kind) == [near(one), near(one + LR * first[1] / (sqrt(SECOND[kind][1]) + TAU))]


def test_yogi_forgets_a_large_second_moment_slowly() -> None:
    """9 is more than the square of 1: it falls by a tenth of that square, not by a tenth of the difference."""
    moments = {"first/w": torch.zeros(1), "second/w": torch.tensor([9.0])}
    kept = [
        ServerOptimizer(k, beta2=B2).step({"w": torch.zeros(1)}, {"w": torch.ones(1)}, moments)[1] for k in ("yogi", "adam")
    ]
    assert [float(found["second/w"]) for found in kept] == [near(9 - 0.1), near(9 - 0.1 * 8)]


def test_plain_steps_go_by_the_mean_change() -> None:
    assert two_steps("sgd", beta1=0.0, lr=1.0) == [near(3.0), near(2.0)]
    assert two_steps("sgd", beta1=0.0) == [near(1 + 0.5 * 2), near(1 + 0.5 * 2 - 0.5 * 1)]
    assert two_steps("sgd") == [near(1 + 0.5 * 0.4), near(1 + 0.5 * 0.4 + 0.5 * (0.8 * 0.4 - 0.2))]


def test_moments_last_from_round_to_round() -> None:
    """The mean change is 0.8 in round 1; in round 2 it is that of clients who start from where the server stepped to."""
    done = run("fedadam", a_and_b(), rounds=2, lr=0.1)
    first, second = 0.1 * 0.8, 0.99 * 1e-6 + 0.01 * 0.64
    w = 0.1 * first / (sqrt(second) + 1e-3)
    change = (2 * (0.5 - 0.5 * w) + 3 * (1 - 0.2 * w)) / 5
    first, second = 0.9 * first + 0.1 * change, 0.99 * second + 0.01 * change**2
    assert held(done.after[1])["head.weight"].item() == near(w + 0.1 * first / (sqrt(second) + 1e-3))


def test_scaffolds_learning_rate_is_the_servers() -> None:
    assert held(run("scaffold", a_and_b(), lr=0.5).after[0])["head.weight"].item() == near(0.5 * 0.8)
    assert scaffold().steps[0].exchange == SharedParameters(among="same-shape")
