"""scale: a federation of 10, 100, 1000 clients of mixed architectures, of whom the server asks ten a round.

Each number of clients runs in a process of its own. `stored` is what the clients hold, their data and their states; `peak` is
the most memory the process had beyond what it has before the first client is made. What `peak` has over `stored` is machinery,
and should not grow with the number of clients. `python tests/benchmarks/scale.py 10000` runs another number.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hetfed.client import Client
from hetfed.composition import compose, enrol
from hetfed.data import ClientData, Examples
from hetfed.engines.local import Sites
from hetfed.exchanges import Prototypes, SharedParameters
from hetfed.federation import Federation
from hetfed.model import Output
from hetfed.participation import Participation
from hetfed.rounds import finalize, init, run_round
from hetfed.tasks import Classification
from hetfed.training import Training

COUNTS, ASKED, ROUNDS, WIDTHS = (10, 100, 1000), 10, 5, (32, 64, 96, 128)


class Net(nn.Module):
    """Two layers of some width, projected to 16 features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """(batch, 64) -> logits (batch, 4)."""
        features = self.encoder(inputs["x"])
        return Output(self.head(features), features)


def examples(count: int, seed: int) -> Examples:
    """Points of four classes."""
    chance = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (count,), generator=chance)
    return Examples({"x": torch.randn(count, 64, generator=chance) + target[:, None]}, target, [str(i) for i in range(count)])


def client(number: int) -> Client:
    """One of them, its width by its number."""
    width = WIDTHS[number % len(WIDTHS)]
    data = ClientData(*(examples(count, 3 * number + i) for i, count in enumerate((32, 8, 8))))
    task = Classification(tuple("abcd"))
    return Client(f"{number:05d}", data, task, lambda spec: Net(width), Training(batch_size=16))


def stored(sites: Sites) -> int:
    """Bytes of the tensors that the clients hold."""
    held = [tensor for c in sites.clients.values() for part in (c.data.train, c.data.validation, c.data.test)
            for tensor in (part.target, *part.inputs.values())]  # fmt: skip
    for own in sites.states.values():
        held += [*own.model.values(), *own.best.values(), *own.optimizer.values()]
        held += [tensor for memory in own.exchanges.values() for tensor in memory.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in {t.data_ptr(): t for t in held}.values())


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(count: int) -> None:
    """Print one line."""
    torch.set_num_threads(1)
    few = [client(number) for number in range(ASKED)]
    enrolment = enrol(compose(SharedParameters(among="same-shape")), [member.profile for member in few])
    warm_up = Federation.of(enrolment, 1, 0)
    run_round(warm_up, init(warm_up), Sites.of(few, enrolment, 0))
    before = peak()
    clients = [client(number) for number in range(count)]
    enrolment = enrol(compose(SharedParameters("encoder", among="same-shape"), Prototypes()), [c.profile for c in clients])
    asked = Participation(fraction=ASKED / count)
    sites = Sites.of(clients, enrolment, 0)
    federation = Federation.of(enrolment, ROUNDS, 0, participation=asked)
    state = init(federation)
    began = time.perf_counter()
    for _ in range(ROUNDS):
        state = run_round(federation, state, sites)
    seconds = (time.perf_counter() - began) / ROUNDS
    finalize(federation, state, sites)
    held, most = stored(sites) / 2**20, (peak() - before) / 2**20
    line = f"{count:6d} clients  {seconds:6.2f} s a round  stored {held:8.1f} MiB  peak {most:8.1f} MiB"
    print(f"scale {line}  peak/stored {most / held:5.2f}", flush=True)  # noqa: T201


def main() -> None:
    """Each count in a process of its own."""
    for count in sys.argv[1:] or map(str, COUNTS):
        subprocess.run([sys.executable, __file__, "--here", count], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        measure(int(sys.argv[2]))
    else:
        main()
