"""Two of eight hospitals are hostile: what six attacks cost the other six, by the rule that merges uploads.

    python tests/benchmarks/byzantine.py --seeds 3

prints a table for a document. The data are scikit-learn's handwritten digits, which come with it, unevenly dealt to eight clients; the
model is a network of one hidden layer with batch normalisation; FedAvg, 12 rounds. A cell is the mean test accuracy of the honest
clients. Hostile clients know everything: the uploads of the others, and the server's model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import hetfed as hf
from hetfed.aggregation import Aggregation
from hetfed.composition import Step, compose, enrol
from hetfed.engines.local import Order, Reply, Sites
from hetfed.evaluation import evaluate
from hetfed.exchanges import SharedParameters
from hetfed.federation import Federation
from hetfed.payload import Payload
from hetfed.rounds import finalize, init, run_round
from hetfed.seeding import generator
from hetfed.server_optimizer import ServerOptimizer
from hetfed.training import Training
from hetfed.turn import Round

CLIENTS, HOSTILE, ROUNDS = 8, ("c", "f"), 12
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
    return {n: torch.randn(t.shape, generator=chance).abs() if below(n) else torch.randn(t.shape, generator=chance) for n, t in base.items()}


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


def clients(seed: int) -> list[hf.Client]:
    """Eight of them, the largest with four times the examples of the smallest, no two with the same mix of digits."""
    found = load_digits()
    inputs, target = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
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
    task = hf.Classification(tuple("0123456789"), metric="accuracy")

    def net(spec: Any) -> nn.Module:
        """The model of every client."""
        return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    training = Training(optimizer="adam", lr=1e-2, batch_size=32)
    return [
        hf.Client(name, hf.ClientData.of({"x": inputs[own]}, target[own].tolist(), seed=seed), task, net, training)
        for name, own in zip("abcdefgh", rows, strict=True)
    ]


def accuracy(seed: int, attack: Attack | None, rule: Aggregation, server: ServerOptimizer | None = None) -> float:
    """The mean test accuracy of the honest clients after the last round."""
    held = clients(seed)
    enrolment = enrol(compose(Step(SharedParameters(server=server), aggregation=rule)), [client.profile for client in held])
    federation = Federation.of(enrolment, ROUNDS, seed, select="last")
    sites = Sites.of(held, enrolment, seed)

    def engine(orders: Iterable[Order], this: Round) -> Iterator[Any]:
        """All turns; then those of the hostile clients send something else."""
        told = {order.client: order for order in orders}
        replies = dict(sites(told.values(), this))
        (label,) = (step.label for step in federation.composition)
        honest = [Payload.decode(reply.outbox[label]).tensors for name, reply in replies.items() if name not in HOSTILE and reply.outbox]
        for name, reply in replies.items():
            if attack and name in HOSTILE and isinstance(reply, Reply) and reply.outbox:
                base = Payload.decode(told[name].inbox[label]).tensors
                bad = attack(honest, base, generator(seed, name, this.number, "attack"))
                weight = Payload.decode(reply.outbox[label]).weight
                reply = replace(reply, outbox={label: Payload(bad, weight).encoded})
            yield name, reply

    state = init(federation)
    for _ in range(ROUNDS):
        state = run_round(federation, state, engine)
    finalize(federation, state, sites)
    scores = []
    for name, client in sites.clients.items():
        if name not in HOSTILE:
            client.module.load_state_dict(sites.states[name].model)
            scores.append(evaluate(client.module, client.task, client.data.test).value or 0.0)
    return fmean(scores)


def table(attacks: Mapping[str, Attack | None], rules: Mapping[str, Aggregation], seeds: int, server: ServerOptimizer | None) -> str:
    """The mean accuracy over the seeds, attacks down and rules across, in Markdown."""
    lines = ["| attack | " + " | ".join(rules) + " |", "|---|" + "---|" * len(rules)]
    for name, attack in attacks.items():
        cells = (fmean(accuracy(seed, attack, rule, server) for seed in range(seeds)) for rule in rules.values())
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """The table, and how attacks just below the limits and a server's optimiser fare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    everything = {"none": None, **ATTACKS, **JUST_BELOW}
    print("| attack | " + " | ".join(RULES) + " |\n|---|" + "---|" * len(RULES))
    table(everything, RULES, seeds, None)
    print()
    table({"none": None, "values of 100": huge}, {"mean, FedAdam": RULES["mean"]}, seeds, ServerOptimizer("adam", lr=0.01))


if __name__ == "__main__":
    main()
