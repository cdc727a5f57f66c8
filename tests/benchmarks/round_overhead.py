"""round_overhead: one federated round of a small CNN over 8 clients / a bare PyTorch loop with the same gradient steps.

Both train 8 copies of the model on the same 28x28 images with Adam and average them. The federated round besides checks,
serialises and records what travels, and keeps the model that does best on validation data (one batch here: how much a client
validates is its own choice). Before or after each client's turn comes the bare loop over the same images, both in processor
seconds of one thread: what else the machine does lasts longer than that, and so hits both. The ratio is the median over these
pairs, plus the server's own part of a round.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.algorithms import fedavg
from hetfed.client import Client
from hetfed.composition import enrol
from hetfed.data import ClientData, Examples
from hetfed.engines.local import Failure, Order, Reply, Sites
from hetfed.federation import Federation
from hetfed.model import Output
from hetfed.rounds import init, run_round
from hetfed.tasks import Classification
from hetfed.training import Training
from hetfed.turn import Round

CLIENTS, IMAGES, BATCH, ROUNDS = 8, 2048, 32, 17
LIMIT = 1.05
Outcome = TypeVar("Outcome")


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
    return [Client(f"c{i}", own, task, lambda spec: SmallCnn(), training) for i, own in enumerate(data)]


def bare_turn(server: nn.Module, client: Client) -> dict[str, Tensor]:
    """What a person would write for a client's part of a round of federated averaging."""
    model = copy.deepcopy(server).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    pixels, target = client.data.train.inputs["image"], client.data.train.target
    for index in torch.randperm(IMAGES).split(BATCH):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model({"image": pixels[index]}).logits, target[index]))
        optimizer.step()
    return model.state_dict()


def bare_mean(server: nn.Module, trained: Sequence[Mapping[str, Tensor]]) -> None:
    """What a person would write for the server's part."""
    mean = {name: torch.stack([state[name] for state in trained]).mean(dim=0) for name in trained[0]}
    server.load_state_dict(mean)


def timed(work: Callable[[], Outcome]) -> tuple[float, Outcome]:
    """Processor seconds that `work` takes, and what comes of it."""
    began = time.process_time()
    outcome = work()
    return time.process_time() - began, outcome


@dataclass
class Doubled:
    """The engine that takes each turn twice, federated and bare, and notes the seconds of both."""

    server: nn.Module
    sites: Sites
    turns: list[float] = field(default_factory=list)
    bare_turns: list[float] = field(default_factory=list)
    trained: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply | Failure]]:
        """Each turn of the round; every other one comes after its bare one."""
        for number, order in enumerate(orders):
            client = self.sites.clients[order.client]
            if number % 2:
                self._bare(client)
            seconds, replies = timed(partial(self._turn, order, this))
            self.turns.append(seconds)
            if not number % 2:
                self._bare(client)
            yield from replies

    def _turn(self, order: Order, this: Round) -> list[tuple[str, Reply | Failure]]:
        return list(self.sites([order], this))

    def _bare(self, client: Client) -> None:
        seconds, parameters = timed(partial(bare_turn, self.server, client))
        self.bare_turns.append(seconds)
        self.trained.append(parameters)


def main() -> None:
    """Print the ratio."""
    torch.set_num_threads(1)
    participants, server = clients(), SmallCnn()
    enrolment = enrol(fedavg(), [client.profile for client in participants])
    sites, federation = Sites.of(participants, enrolment, 0), Federation.of(enrolment, ROUNDS, 0)
    state, ratios, shares = init(federation), [], []
    for number in range(ROUNDS):
        engine = Doubled(server, sites)
        whole, state = timed(partial(run_round, federation, state, engine))
        averaging, _ = timed(partial(bare_mean, server, engine.trained))
        turns, bare = sum(engine.turns), sum(engine.bare_turns)
        if number:  # the first round warms up
            ratios += [ours / theirs for ours, theirs in zip(engine.turns, engine.bare_turns, strict=True)]
            shares.append((whole - turns - bare - averaging) / bare)
    low, middle, high = statistics.quantiles(ratios, n=4)
    ratio = middle + statistics.median(shares)
    spread = f"{len(ratios)} pairs of turns, quartiles {low:.3f} and {high:.3f}; the server's part {ratio - middle:.3f}"
    print(f"round_overhead {ratio:.3f}  (limit {LIMIT}; {spread})")  # noqa: T201


if __name__ == "__main__":
    main()
