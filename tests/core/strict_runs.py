"""Every algorithm on the strict device, beside the same on the CPU: a line of JSON each. A script, for a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import conformance
import strict_device
import torch
from conformance import Run
from test_conformance import ROWS
from torch import Tensor
from toy_algorithm import FeatureMeans

from hetfed.algorithms import algorithm
from hetfed.composition import Composition, compose
from hetfed.context import ClientContext
from hetfed.data import Batch
from hetfed.device import device_of
from hetfed.exchanges import exchange
from hetfed.model import Output

ROUNDS = 2


@exchange("left-behind")
@dataclass(frozen=True)
class LeftBehind(FeatureMeans):
    """Makes a tensor in its loss without a thought of where."""

    def loss(self, context: ClientContext, parameters: Mapping[str, Tensor], batch: Batch, output: Output) -> Tensor | None:
        return (output.features * torch.ones(3)).sum()


@algorithm("left-behind")
def left_behind() -> Composition:
    """With that exchange alone."""
    return compose(LeftBehind())


def outcome(found: Callable[[str], Run]) -> dict[str, object]:
    """What came of an algorithm on both devices."""
    before = strict_device.MODULE.get_rng_state()
    there, here = found("auto"), found("cpu")
    clients = there.federation.clients
    return {
        "failed": sorted({row.failed for row in there.states[-1].rows if row.failed}),
        "same": conformance.same(there.states[-1], here.states[-1]),
        "at rest": sorted({tensor.device.type for tensor in conformance.flat(there.states[-1]).values()}),
        "trained on": sorted({device_of(client.module).type for client in clients}),
        "moved once": all(client.placed is client.placed for client in clients),
        "generator": torch.equal(before, strict_device.MODULE.get_rng_state()),
    }


def main() -> None:
    """All of them."""
    torch.set_num_threads(1)
    strict_device.register()
    for name, row in {**ROWS, "left-behind": ROWS["feature-means"]}.items():

        def found(device: str, name: str = name, row: conformance.Row = row) -> Run:
            training = row.training.model_copy(update={"device": device})
            return conformance.run(name, replace(row, training=training), rounds=ROUNDS)

        print(json.dumps({"name": name, **outcome(found)}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
