"""Two of eight hospitals are hostile: what six attacks cost the other six, by the rule that merges uploads.

    python tests/benchmarks/byzantine.py --seeds 3

prints a table for a document. The data are scikit-learn's handwritten digits, which come with it, unevenly dealt to eight
clients; the model is a network of one hidden layer with batch normalisation; FedAvg, 15 rounds. A cell is the mean test
accuracy of the server's model over the honest clients. Hostile clients know everything: the uploads of the others, and the
server's model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from statistics import fmean

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hetfed as hf
from hetfed.aggregation import Aggregation
from hetfed.composition import Step, compose, enrol
from hetfed.engines.local import Order, Reply
from hetfed.exchanges import SharedParameters
from hetfed.exchanges.base import EVERYBODY
from hetfed.federation import Federation
from hetfed.parts import of_group
from hetfed.payload import Payload
from hetfed.rounds import init, run_round
from hetfed.seeding import generator
from hetfed.server_optimizer import ServerOptimizer
from hetfed.turn import Report, Round

CLIENTS, HOSTILE, ROUNDS, LABEL = 8, ("c", "f"), 15, "shared-parameters"
Tensors = Mapping[str, Tensor]
Attack = Callable[[list[Tensors], Tensors, torch.Generator], Tensors]
"""From the honest uploads and the server's tensors to what a hostile client sends."""


def away(times: float) -> Attack:
    """The opposite of the mean honest change, so many times."""
    return lambda honest, base, chance: {n: base[n] - times * (mean(honest)[n] - base[n]) for n in base}


def mean(sent: list[Tensors]) -> dict[str, Tensor]:
    """The plain mean of each tensor."""
    return {name: torch.stack([one[name] for one in sent]).mean(dim=0) for name in sent[0]}


def noise(honest: list[Tensors], base: Tensors, chance: torch.Generator) -> Tensors:
    """Random weights of standard deviation 1; variances stay what they may be."""
    return {
        n: torch.randn(t.shape, generator=chance).abs() if below(n) else torch.randn(t.shape, generator=chance)
        for n, t in base.items()
    }


def sideways(honest: list[Tensors], base: Tensors, chance: torch.Generator) -> Tensors:
    """A random direction, the same at all hostile clients, just below the limit of length."""
    usual = sorted(float(flat({n: one[n] - base[n] for n in base}).norm()) for one in honest)[len(honest) // 2]
    away = {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(7)) for n, t in base.items()}
    times = 7.0 * usual / float(flat(away).norm())
    return {n: (base[n] + times * away[n]).clamp(min=1e-3) if below(n) else base[n] + times * away[n] for n in base}


def variance(honest: list[Tensors], base: Tensors, chance: torch.Generator) -> Tensors:
    """The mean of the honest uploads, but for running variances of -1000."""
    return {n: torch.full_like(t, -1000.0) if below(n) else t for n, t in mean(honest).items()}


def huge(honest: list[Tensors], base: Tensors, chance: torch.Generator) -> Tensors:
    """Every number 100, which no declared range forbids."""
    return {n: torch.full_like(t, 100.0) for n, t in base.items()}


def a_little(honest: list[Tensors], base: Tensors, chance: torch.Generator) -> Tensors:
    """The honest mean less 1.5 of their standard deviations, number by number ("a little is enough", Baruch et al. 2019)."""
    stacked = {n: torch.stack([one[n] for one in honest]) for n in base}
    moved = {n: stack.mean(dim=0) - 1.5 * stack.std(dim=0) for n, stack in stacked.items()}
    return {n: tensor.clamp(min=1e-3) if below(n) else tensor for n, tensor in moved.items()}


def below(name: str) -> bool:
    """Whether numbers of this tensor may not lie below zero."""
    return name.endswith("running_var")


def flat(tensors: Tensors) -> Tensor:
    """All numbers as one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


ATTACKS: dict[str, Attack] = {
    "sign flip": away(1),
    "sign x 10": away(10),
    "random": noise,
    "negative variance": variance,
    "values of 100": huge,
    "a little is enough": a_little,
}
JUST_BELOW: dict[str, Attack] = {"sign flip x 0.5": away(0.5), "sideways, just below": sideways}
"""Attacks by those who know the limits of `hetfed.outliers`."""
RULES: dict[str, Aggregation] = {
    "mean": Aggregation(),
    "median": Aggregation("median"),
    "trimmed-mean": Aggregation("trimmed-mean", share=0.25),
    "krum": Aggregation("krum", share=0.25),
    "multi-krum": Aggregation("multi-krum", share=0.25),
    "geometric-median": Aggregation("geometric-median"),
    "mean, outliers accepted": Aggregation(outliers="accept"),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) and the digits on them (1797,)."""
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def clients(seed: int) -> list[hf.Client]:
    """Eight of them, no two with the same number of examples or the same mix of digits."""
    inputs, target = digits()
    chance = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=chance)
    # Each digit is dealt by shares of its own.
    shares = 0.25 + torch.rand(CLIENTS, 10, generator=chance)
    rows: list[list[int]] = [[] for _ in range(CLIENTS)]
    for digit in range(10):
        of_digit = order[target[order] == digit]
        ends = (shares[:, digit].cumsum(0) / shares[:, digit].sum() * len(of_digit)).round().long().tolist()
        for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            rows[i] += of_digit[start:end].tolist()
    task = hf.Classification(tuple("0123456789"))
    return [
        hf.Client(name, hf.ClientData.of({"x": inputs[own]}, target[own].tolist(), seed=seed), task, lambda spec: new_model())
        for name, own in zip("abcdefgh", rows, strict=True)
    ]


def new_model() -> nn.Sequential:
    """The model of every client."""
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def trained(client: hf.Client, start: Tensors, chance: torch.Generator) -> dict[str, Tensor]:
    """What a client makes of the server's tensors: two passes over its data, without what a turn does besides."""
    model = new_model()
    model.load_state_dict(dict(start), strict=False)
    optimizer, inputs, target = (
        torch.optim.Adam(model.parameters(), lr=5e-3),
        client.data.train.inputs["x"],
        client.data.train.target,
    )
    for _ in range(2):
        for rows in torch.randperm(len(target), generator=chance).split(64):
            optimizer.zero_grad()
            if len(rows) > 1:
                torch.autograd.backward(nn.functional.cross_entropy(model(inputs[rows]), target[rows]))
            optimizer.step()
    state = model.state_dict()
    return {name: state[name].clone() for name in start}


def accuracy(seed: int, attack: Attack | None, rule: Aggregation, server: ServerOptimizer | None = None) -> float:
    """The mean test accuracy of what the server holds after the last round, over the honest clients."""
    members = {client.name: client for client in clients(seed)}
    composition = compose(Step(SharedParameters(server=server), aggregation=rule))
    enrolment = enrol(composition, [client.profile for client in members.values()])
    federation = Federation.of(enrolment, ROUNDS, seed)

    def engine(orders: Iterable[Order], this: Round) -> Iterator[tuple[str, Reply]]:
        """Honest turns; then those of the hostile clients, who have seen what the others send."""
        starts = {order.client: Payload.decode(order.inbox[LABEL]).tensors for order in orders}
        sent = {
            n: trained(members[n], t, generator(seed, n, this.number))
            for n, t in starts.items()
            if attack is None or n not in HOSTILE
        }
        for name in HOSTILE if attack else ():
            sent[name] = dict(
                attack([sent[n] for n in sent if n not in HOSTILE], starts[name], generator(seed, name, this.number, "attack"))
            )
        for name, tensors in sent.items():
            yield name, Reply({LABEL: Payload(tensors, len(members[name].data.train)).encoded}, Report())

    state = init(federation)
    for _ in range(ROUNDS):
        state = run_round(federation, state, engine)
    model = new_model()
    model.load_state_dict(of_group(EVERYBODY, state.server[LABEL]), strict=False)
    model.eval()
    tests = [client.data.test for name, client in members.items() if name not in HOSTILE]
    return fmean(float((model(test.inputs["x"]).argmax(dim=1) == test.target).float().mean()) for test in tests)


def table(
    attacks: Mapping[str, Attack | None], rules: Mapping[str, Aggregation], seeds: int, server: ServerOptimizer | None
) -> None:
    """The mean accuracy over the seeds, attacks down and rules across, in Markdown; each row is written when it is known."""
    sys.stdout.write("| attack | " + " | ".join(rules) + " |\n|---|" + "---|" * len(rules) + "\n")
    for name, attack in attacks.items():
        cells = [fmean(accuracy(seed, attack, rule, server) for seed in range(seeds)) for rule in rules.values()]
        sys.stdout.write(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |\n")
        sys.stdout.flush()


def main() -> None:
    """Both tables: the rules; and a server's optimiser, which never forgets one large change."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    table({"none": None, **ATTACKS, **JUST_BELOW}, RULES, seeds, None)
    sys.stdout.write("\n")
    rules = {f"{name}, FedAdam": RULES[name] for name in ("mean", "mean, outliers accepted")}
    table({"none": None, "values of 100": huge}, rules, seeds, ServerOptimizer("adam", lr=0.01))


if __name__ == "__main__":
    main()
