"""round_overhead: one federated round of a small CNN over 8 clients / a bare PyTorch loop with the same gradient steps.

Both train 8 copies of the model on the same 28x28 images with Adam and average them. The federated round besides checks,
serialises and records what travels, and keeps the model that does best on validation data (one batch here: how much a client
validates is its own choice). Processor seconds of one thread are compared pair by pair, each time in the other order, so that
whatever else the machine does counts for little; the ratio is the median over the pairs.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.algorithms import fedavg
from hetfed.client import Client
from hetfed.composition import seat
from hetfed.data import ClientData, Examples
from hetfed.federation import Federation, advance, start
from hetfed.model import Output
from hetfed.tasks import Classification
from hetfed.training import Training

CLIENTS, IMAGES, BATCH, PAIRS = 8, 2048, 32, 16
LIMIT = 1.05


class SmallCnn(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32 * 7 * 7, 10)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """(batch, 1, 28, 28) -> logits (batch, 10)."""
        features = self.encoder(inputs["image"])
        return Output(self.head(features), features)


def images(count: int, seed: int) -> Examples:
    """Random images of random classes: time does not depend on what they show."""
    chance = torch.Generator().manual_seed(seed)
    pixels, target = torch.randn(count, 1, 28, 28, generator=chance), torch.randint(0, 10, (count,), generator=chance)
    return Examples({"image": pixels}, target, [str(i) for i in range(count)])


def clients() -> list[Client]:
    """Eight clients with the same kind of model."""
    task = Classification(tuple("abcdefghij"))
    training = Training(batch_size=BATCH, keep_optimizer=False)
    data = [ClientData(images(IMAGES, i), images(BATCH, 100 + i), images(2, 200 + i)) for i in range(CLIENTS)]
    return [Client(f"c{i}", own, task, lambda facts: SmallCnn(), training) for i, own in enumerate(data)]


def bare_round(server: nn.Module, participants: list[Client]) -> None:
    """What a person would write for one round of federated averaging and nothing else."""
    trained = []
    for client in participants:
        model = copy.deepcopy(server).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        pixels, target = client.data.train.inputs["image"], client.data.train.target
        for index in torch.randperm(IMAGES).split(BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model({"image": pixels[index]}).logits, target[index]))
            optimizer.step()
        trained.append(model.state_dict())
    mean = {name: torch.stack([state[name] for state in trained]).mean(dim=0) for name in trained[0]}
    server.load_state_dict(mean)


def seconds(work: Callable[[], None]) -> float:
    """Processor seconds that `work` takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Print the ratio."""
    torch.set_num_threads(1)
    participants = clients()
    federation = Federation.of(participants, seat(fedavg(), participants).composition, PAIRS + 1, 0)
    state, server = start(federation), SmallCnn()

    def federated() -> None:
        nonlocal state
        state = advance(federation, state)

    def bare() -> None:
        bare_round(server, participants)

    federated(), bare()  # warm up
    ratios = []
    for pair in range(PAIRS):
        first, second = (federated, bare) if pair % 2 else (bare, federated)
        times = {work: seconds(work) for work in (first, second)}
        ratios.append(times[federated] / times[bare])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"round_overhead {middle:.3f}  (limit {LIMIT}; {PAIRS} pairs, quartiles {low:.3f} and {high:.3f})")  # noqa: T201


if __name__ == "__main__":
    main()
