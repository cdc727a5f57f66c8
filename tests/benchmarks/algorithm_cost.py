"""algorithm_cost: seconds and bytes a round of every algorithm, relative to FedAvg.

Four clients train the same small CNN for one epoch on 256 images of 28x28; 128 public images are there for those who need them.
Each algorithm's rounds are timed in processor seconds of one thread, FedAvg's before and after it; what an algorithm does every
second round counts half. Bytes are those of all payloads, up and down.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hetfed.algorithms import NAMED
from hetfed.client import Client
from hetfed.composition import enrol
from hetfed.data import ClientData, Examples
from hetfed.engines.local import Sites
from hetfed.federation import Federation
from hetfed.model import Output
from hetfed.plan import named_algorithm
from hetfed.rounds import init, run_round
from hetfed.tasks import Classification
from hetfed.training import Training

CLIENTS, IMAGES, PUBLIC, ROUNDS = 4, 256, 128, 2
CLASSES = 4


class Cnn(nn.Module):
    """Two convolutions, features, and a head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Linear(2 * channels * 9, 32),
        )  # fmt: skip
        self.head = nn.Linear(32, CLASSES)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """(batch, 1, 28, 28) -> logits (batch, 4)."""
        features = self.encoder(inputs["image"])
        return Output(self.head(features), features)


def images(count: int, seed: int) -> Examples:
    """Random images of random classes: cost does not depend on what they show."""
    chance = torch.Generator().manual_seed(seed)
    pixels, target = torch.randn(count, 1, 28, 28, generator=chance), torch.randint(0, CLASSES, (count,), generator=chance)
    return Examples({"image": pixels}, target, [str(i) for i in range(count)])


def clients() -> list[Client]:
    """Clients with the same kind of model, public inputs, and a small common model."""
    task, public = Classification(tuple("abcd")), images(PUBLIC, 99)
    found = []
    for i in range(CLIENTS):
        data = ClientData(images(IMAGES, i), images(32, 100 + i), images(2, 200 + i))
        client = Client(f"c{i}", data, task, lambda spec: Cnn(), Training(batch_size=32), public)
        found.append(replace(client, common_fn=lambda spec: Cnn(8)))
    return found


def cost(name: str) -> tuple[float, float]:
    """Processor seconds and bytes of a round."""
    members = clients()
    enrolment = enrol(named_algorithm(name, {}).over(ROUNDS + 2), [member.profile for member in members])
    sites = Sites.of(members, enrolment, 0)
    federation = Federation.of(enrolment, ROUNDS + 2, 0, public=sites.public(enrolment.composition))
    state = run_round(federation, run_round(federation, init(federation), sites), sites)  # warm up
    began, rows = time.process_time(), len(state.rows)
    for _ in range(ROUNDS):
        state = run_round(federation, state, sites)
    sent = sum(row.bytes_up + row.bytes_down for row in state.rows[rows:])
    return (time.process_time() - began) / ROUNDS, sent / ROUNDS


def main() -> None:
    """A line per algorithm, the cheapest first."""
    torch.set_num_threads(1)
    found, yardsticks = {}, [cost("fedavg")]
    for name in NAMED:
        found[name] = cost(name)
        yardsticks.append(cost("fedavg"))
        before, after = yardsticks[-2:]
        found[name] = (found[name][0] / statistics.fmean((before[0], after[0])), found[name][1] / after[1])
    for name, (seconds, sent) in sorted(found.items(), key=lambda item: item[1]):
        print(f"algorithm_cost {name:12} {seconds:6.2f} x the seconds  {sent:6.3f} x the bytes")  # noqa: T201


if __name__ == "__main__":
    main()
