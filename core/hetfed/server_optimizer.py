"""An optimiser at the server: the mean of the clients' changes is its gradient (Reddi et al. 2021, FedOpt).

It goes into an exchange: `SharedParameters(server=ServerOptimizer("yogi"))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.plan_schema import STRICT


@dataclass(frozen=True, config=STRICT)
class ServerOptimizer:
    """One step per round on the mean change of the clients.

    Args:
        kind: "adam", "yogi", "adagrad", or "sgd" (with lr 1 and no momentum: plain averaging).
        lr: the server's learning rate.
        beta1: share of the first moment that is kept (momentum).
        beta2: share of the second moment that is kept.
        tau: added to the root of the second moment; how adaptive the step is.

    >>> halfway = ServerOptimizer("sgd", lr=0.5, beta1=0.0)
    >>> after, moments = halfway.step({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, {})
    >>> after
    {'w': tensor([2.])}
    """

    kind: Literal["adam", "yogi", "adagrad", "sgd"] = "adam"
    lr: PositiveFloat = 0.1
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: PositiveFloat = 1e-3

    def step(
        self, before: Mapping[str, Tensor], mean: Mapping[str, Tensor], moments: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The server's next tensors and its next moments.

        Args:
            before: the server's tensors, by name.
            mean: the mean of the clients' trained tensors, by the same names.
            moments: `first/<name>` and `second/<name>`; none before the first step.
        """
        after: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, start in before.items():
            # The pseudo-gradient points where clients went, so that a step adds it.
            change = mean[name] - start
            first = moments.get(f"first/{name}", torch.zeros_like(start))
            # It starts from tau squared, and unlike Adam's at a client is not corrected for its start: both as in the paper.
            second = moments.get(f"second/{name}", torch.full_like(start, self.tau**2))
            first = self.beta1 * first + (1 - self.beta1) * change
            second = self._second(second, change.square())
            size = torch.ones_like(start) if self.kind == "sgd" else second.sqrt() + self.tau
            after[name] = start + self.lr * first / size
            kept |= {f"first/{name}": first, f"second/{name}": second}
        return after, kept

    def _second(self, second: Tensor, squared: Tensor) -> Tensor:
        if self.kind == "adagrad":
            return second + squared
        if self.kind == "yogi":
            # Yogi moves by the sign: its second moment grows and shrinks slowly, whatever the size of the difference.
            return second - (1 - self.beta2) * squared * (second - squared).sign()
        return self.beta2 * second + (1 - self.beta2) * squared
