"""Published algorithms as named compositions: add one in a few lines here."""

from __future__ import annotations

from collections.abc import Callable

from hetfed.composition import Composition, compose
from hetfed.exchanges import LogitDistillation, Prototypes, SharedParameters


def alone() -> Composition:
    """Nobody shares anything."""
    return Composition()


def fedavg() -> Composition:
    """The whole model is averaged (McMahan et al. 2017)."""
    return compose(SharedParameters())


def fedprox(mu: float = 0.01) -> Composition:
    """FedAvg with mu/2 times the squared distance to the server's model in the local loss (Li et al. 2020)."""
    return compose(SharedParameters(proximal=mu))


def fedper(head: str = "head") -> Composition:
    """All but the head is averaged (Arivazhagan et al. 2019)."""
    return compose(SharedParameters(exclude=(head,)))


def lg_fedavg(head: str = "head") -> Composition:
    """Only the head is averaged, so that what stands before it may differ (Liang et al. 2020)."""
    return compose(SharedParameters(head))


def fedmd(temperature: float = 1.0, epochs: int = 1, batch_size: int = 256) -> Composition:
    """Consensus of logits on public inputs (Li and Wang 2019)."""
    return compose(LogitDistillation(temperature=temperature, epochs=epochs, batch_size=batch_size))


def fedproto(weight: float = 1.0) -> Composition:
    """Class means of features (Tan et al. 2022)."""
    return compose(Prototypes(weight=weight))


NAMED: dict[str, Callable[..., Composition]] = {
    "alone": alone,
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fedper": fedper,
    "lg-fedavg": lg_fedavg,
    "fedmd": fedmd,
    "fedproto": fedproto,
}
"""What `[federation] algorithm` may name; its further keys are the function's arguments."""
