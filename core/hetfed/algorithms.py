"""Published algorithms as named compositions: add one in a few lines here.

Where models differ, averaging goes on within each group of clients whose tensors agree (`among = "same-shape"`). Every function
takes the settings of its algorithm, all with defaults, and gives a `Composition`.

>>> [step.label for step in scaffold()]
['shared-parameters', 'control-variates']
>>> NAMED["fedprox"](mu=0.1).steps[0].exchange.proximal
0.1
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Literal, TypeVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from hetfed.composition import Composition, Step, compose
from hetfed.compression import Compression
from hetfed.exchanges import (
    ControlVariates,
    DistilledParameters,
    FeatureGenerator,
    LogitDistillation,
    MixedModels,
    MutualLearning,
    NestedFeatures,
    Prototypes,
    ProximalCopy,
    SecondModel,
    SharedParameters,
    Slices,
    TeacherDistillation,
    TrainedHead,
    TrainedPrototypes,
)
from hetfed.exchanges.groups import Among
from hetfed.parts import COMPANION
from hetfed.registry import same_definition
from hetfed.server_optimizer import ServerOptimizer
from hetfed.training import Phase

SAME: Among = "same-shape"
PLUG_INS = "hetfed.exchanges"
"""The group of entry points that name modules with exchanges and algorithms of their own."""


def alone() -> Composition:
    """Everybody trains alone and shares nothing: the baseline.

    >>> len(alone().steps)
    0
    """
    return Composition()


def fedavg(among: Among = SAME) -> Composition:
    """The whole model is averaged, weighted by training examples (McMahan et al. 2017).

    Args:
        among: "same-shape" averages within each group of clients with equal tensors; "all" refuses clients that differ.
    """
    return compose(SharedParameters(among=among))


def fedprox(mu: NonNegativeFloat = 0.01, among: Among = SAME) -> Composition:
    """FedAvg with mu/2 times the squared distance to the server's model in the local loss (Li et al. 2020).

    Args:
        mu: the weight of the proximal term; 0 is FedAvg.
        among: as in `fedavg`.
    """
    return compose(SharedParameters(proximal=mu, among=among))


def fedadam(lr: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, among: Among = SAME) -> Composition:
    """FedAvg whose mean change is a gradient for Adam at the server (Reddi et al. 2021).

    Args:
        lr: the server's learning rate.
        beta1: share of the first moment that is kept.
        beta2: share of the second moment that is kept.
        tau: added to the root of the second moment.
        among: as in `fedavg`.
    """
    return compose(SharedParameters(server=ServerOptimizer("adam", lr=lr, beta1=beta1, beta2=beta2, tau=tau), among=among))


def fedyogi(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3, among: Among = SAME) -> Composition:
    """FedAvg whose mean change is a gradient for Yogi at the server (Reddi et al. 2021); arguments as in `fedadam`."""
    return compose(SharedParameters(server=ServerOptimizer("yogi", lr=lr, beta1=beta1, beta2=beta2, tau=tau), among=among))


def fedadagrad(lr: float = 0.1, tau: float = 1e-3, among: Among = SAME) -> Composition:
    """FedAvg whose mean change is a gradient for Adagrad at the server (Reddi et al. 2021); arguments as in `fedadam`."""
    # Without momentum, as the paper runs it.
    return compose(SharedParameters(server=ServerOptimizer("adagrad", lr=lr, beta1=0.0, tau=tau), among=among))


def scaffold(lr: float = 1.0, among: Among = SAME) -> Composition:
    """FedAvg with control variates against client drift (Karimireddy et al. 2020).

    Args:
        lr: the server's learning rate; 1 is plain averaging.
        among: as in `fedavg`.
    """
    # With a rate of 1 the optimiser does plain averaging: left out, so that the server keeps no moments.
    server = None if lr == 1 else ServerOptimizer("sgd", lr=lr, beta1=0.0)
    return compose(SharedParameters(among=among, server=server), ControlVariates(among=among))


def fedbn(among: Among = SAME) -> Composition:
    """All but the normalisation layers is averaged (Li et al. 2021): each client keeps the statistics of its own inputs."""
    return compose(SharedParameters(norm="local", among=among))


def fedper(head: str = "head", among: Among = SAME) -> Composition:
    """All but the head is averaged (Arivazhagan et al. 2019).

    Args:
        head: path of the submodule that stays personal.
        among: as in `fedavg`.
    """
    return compose(SharedParameters(exclude=(head,), among=among))


def fedrep(head: str = "head", head_epochs: PositiveInt = 5, body_epochs: PositiveInt = 1, among: Among = SAME) -> Composition:
    """FedPer in which the head trains first and alone, then the body (Collins et al. 2021).

    Args:
        head: path of the submodule that stays personal.
        head_epochs: local epochs of the head in a round.
        body_epochs: local epochs of the body after them.
        among: as in `fedavg`.

    >>> [(phase.epochs, phase.only, phase.frozen) for phase in fedrep(head_epochs=3).phases]
    [(3, ('head',), ()), (1, (), ('head',))]
    """
    phases = (Phase(epochs=head_epochs, only=(head,)), Phase(epochs=body_epochs, frozen=(head,)))
    return compose(SharedParameters(exclude=(head,), among=among), phases=phases)


def fedbabu(head: str = "head", finetune: NonNegativeInt = 2, among: Among = SAME) -> Composition:
    """The body is averaged under one frozen head for all; in the last rounds everybody fine-tunes alone (Oh et al. 2022).

    Args:
        head: path of the submodule that is frozen.
        finetune: the number of those last rounds; 0 for none.
        among: as in `fedavg`.
    """
    last = -finetune if finetune else None
    body = Step(SharedParameters(exclude=(head,), among=among), until=last, label="body")
    # Sent once and never uploaded: the head is frozen at the same values everywhere.
    first_head = Step(SharedParameters(head, among=among), until=0, label="first head")
    phases = (Phase(frozen=(head,), until=last), *([Phase(after=-finetune)] if finetune else []))
    return compose(body, first_head, phases=phases)


def lg_fedavg(head: str = "head", among: Among = SAME) -> Composition:
    """Only the head is averaged, so that what stands before it may differ (Liang et al. 2020)."""
    return compose(SharedParameters(head, among=among))


def ditto(weight: float = 0.1, among: Among = SAME) -> Composition:
    """A copy is averaged, the client's own model is pulled towards it (Li et al. 2021).

    Args:
        weight: of the pull, the paper's lambda.
        among: as in `fedavg`.
    """
    # The order matters: the copy must exist before SharedParameters looks for it at enrolment.
    return compose(ProximalCopy(weight=weight), SharedParameters(COMPANION, among=among))


def pfedme(weight: float = 15.0, among: Among = SAME) -> Composition:
    """The client's own model is the proximal point of a copy that is averaged (Dinh et al. 2020).

    Args:
        weight: of the pull, the paper's lambda.
        among: as in `fedavg`.
    """
    return compose(ProximalCopy(weight=weight, anchor="current"), SharedParameters(COMPANION, among=among))


def apfl(mixture: float = 0.5, adaptive: bool = True, among: Among = SAME) -> Composition:
    """The client predicts with a mixture of its own model and a copy that is averaged (Deng et al. 2020).

    Args:
        mixture: the share of the own model at the start, from 0 to 1.
        adaptive: whether the share is learned.
        among: as in `fedavg`.
    """
    return compose(MixedModels(mixture=mixture, adaptive=adaptive), SharedParameters(COMPANION, among=among))


def heterofl() -> Composition:
    """Narrow models are the first channels of wide ones (HeteroFL, Diao et al. 2021)."""
    return compose(Slices())


def fedrolex() -> Composition:
    """Narrow models are a window on wide ones that moves on each round (FedRolex, Alam et al. 2022)."""
    return compose(Slices(window="rolling"))


def fedmd(temperature: float = 1.0, epochs: int = 1, batch_size: int = 256) -> Composition:
    """Clients learn from the mean of everybody's logits on public inputs (FedMD, Li and Wang 2019).

    Args:
        temperature: softens both sides.
        epochs: passes over the public inputs in each round.
        batch_size: of those passes.
    """
    return compose(LogitDistillation(temperature=temperature, epochs=epochs, batch_size=batch_size))


def feddf(temperature: float = 1.0, epochs: int = 20, lr: float = 1e-3) -> Composition:
    """FedAvg per architecture, then distillation of the ensemble at the server on public inputs (FedDF, Lin et al. 2020).

    Args:
        temperature: softens both sides.
        epochs: passes over the public inputs at the server, at most.
        lr: of the server's Adam.
    """
    return compose(DistilledParameters(temperature=temperature, epochs=epochs, lr=lr))


def fedproto(weight: float = 1.0, mean: Literal["counted", "equal"] = "counted", minimum_count: int = 5) -> Composition:
    """Class means of features are shared and pull every client's features together (FedProto, Tan et al. 2022).

    Args:
        weight: of the pull in the local loss.
        mean: "counted" weighs a client's class mean by its count; "equal" does not.
        minimum_count: a class of which a client has fewer training examples is not told of.
    """
    return compose(Prototypes(weight=weight, mean=mean, minimum_count=minimum_count))


def fedtgp(weight: float = 10.0, epochs: int = 100, margin_cap: float = 100.0, minimum_count: int = 5) -> Composition:
    """Prototypes that the server trains with a margin between classes (FedTGP, Zhang et al. 2024).

    Args:
        weight: of the pull in the local loss.
        epochs: passes over the class means at the server.
        margin_cap: the largest margin.
        minimum_count: a class of which a client has fewer training examples is not told of.
    """
    return compose(TrainedPrototypes(weight=weight, epochs=epochs, margin_cap=margin_cap, minimum_count=minimum_count))


def fml(alpha: float = 0.5, beta: float = 0.5, among: Among = SAME) -> Composition:
    """A small common model is averaged; it and the client's own teach each other (FML, Shen et al. 2020).

    Args:
        alpha: weight of its own labels for the client's model, above 0 and up to 1.
        beta: weight of the labels for the common model, likewise.
        among: as in `fedavg`.
    """
    return compose(MutualLearning(alpha=alpha, beta=beta), SharedParameters(COMPANION, among=among))


def fedkd(energy: float = 0.95, hint: float = 1.0, among: Among = SAME) -> Composition:
    """FML with adaptive distillation, a hint on features, and uploads of low rank (FedKD, Wu et al. 2022).

    Args:
        energy: the share of the squared singular values that an upload keeps.
        hint: weight of the distance between the features of the two models.
        among: as in `fedavg`.
    """
    # The paper decomposes gradients; of the change of a round the same is done here.
    shared = Step(SharedParameters(COMPANION, among=among), compression=Compression("low-rank", energy=energy))
    return compose(MutualLearning(adaptive=True, hint=hint), shared)


def second_model(own: float = 0.5, among: Among = SAME) -> Composition:
    """A common model is averaged over all; it and the client's own learn by themselves and predict together.

    Args:
        own: the share of the client's own model in the prediction, from 0 to 1.
        among: as in `fedavg`.
    """
    return compose(SecondModel(own=own), SharedParameters(COMPANION, among=among))


def two_alone() -> Composition:
    """Everybody trains two models of its own alone, and predicts with their mean: the control for every ensemble.

    What a federation of several models gains below this is not owed to the other clients.
    """
    return compose(SecondModel("own"))


def alone_again() -> Composition:
    """Everybody trains alone, from other first weights: the control for chance. What an algorithm gains below this is luck."""
    return compose(SecondModel("own", own=0.0))


def fedgen(weight: float = 1.0, epochs: int = 50, minimum_count: int = 5) -> Composition:
    """A generator of features, trained at the server against the clients' heads (FedGen, Zhu et al. 2021).

    Args:
        weight: of the loss on generated features in the local loss.
        epochs: steps of the generator in each round.
        minimum_count: a class of which a client has fewer training examples is not told of.
    """
    return compose(FeatureGenerator(weight=weight, epochs=epochs, minimum_count=minimum_count))


def fedgh(epochs: int = 10, lr: float = 0.01, minimum_count: int = 5) -> Composition:
    """One head for all, trained at the server on class means of features (FedGH, Yi et al. 2023).

    Args:
        epochs: passes over the class means at the server.
        lr: of the server's SGD.
        minimum_count: a class of which a client has fewer training examples is not told of.
    """
    return compose(TrainedHead(epochs=epochs, lr=lr, minimum_count=minimum_count))


def fedmrl(size: int | None = None, among: Among = SAME) -> Composition:
    """A small common model is averaged; its features and the client's own are fused at two sizes (FedMRL, Yi et al. 2024).

    Args:
        size: of the inner vector; None for half of the client's own features.
        among: as in `fedavg`.
    """
    return compose(NestedFeatures(size=size), SharedParameters(COMPANION, among=among))


def codistillation(
    temperature: float = 2.0, weight: float = 1.0, every: PositiveInt = 2, weighting: Literal["equal", "fit"] = "fit"
) -> Composition:
    """Everybody's model teaches everybody else on the learner's own data (after codistillation, Anil et al. 2018).

    Args:
        temperature: softens both sides.
        weight: of the distillation loss.
        every: the number of rounds between two exchanges of models: they are large.
        weighting: "fit" weighs teachers by how well they predict the learner's own labels; "equal" does not.
    """
    return compose(Step(TeacherDistillation(temperature=temperature, weight=weight, weighting=weighting), every=every))


NAMED: dict[str, Callable[..., Composition]] = {
    "alone": alone,
    "fedavg": fedavg,
    "fedprox": fedprox,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fedadagrad": fedadagrad,
    "scaffold": scaffold,
    "fedbn": fedbn,
    "fedper": fedper,
    "fedrep": fedrep,
    "fedbabu": fedbabu,
    "lg-fedavg": lg_fedavg,
    "ditto": ditto,
    "pfedme": pfedme,
    "apfl": apfl,
    "heterofl": heterofl,
    "fedrolex": fedrolex,
    "fedmd": fedmd,
    "feddf": feddf,
    "fedproto": fedproto,
    "fedtgp": fedtgp,
    "fml": fml,
    "fedkd": fedkd,
    "second-model": second_model,
    "fedgen": fedgen,
    "fedgh": fedgh,
    "fedmrl": fedmrl,
    "codistillation": codistillation,
    "two-alone": two_alone,
    "alone-again": alone_again,
}
"""What `[federation] algorithm` may name; its further keys are the function's arguments. `algorithm` adds to it."""
RENAMED = {"peers": "codistillation"}
"""Names that plans of earlier versions use."""
AnyAlgorithm = TypeVar("AnyAlgorithm", bound=Callable[..., Composition])


def algorithm(name: str) -> Callable[[AnyAlgorithm], AnyAlgorithm]:
    """Register a composition that is written outside of this package, so that plans and `compare` know it as `name`.

    A function that is defined anew takes the place of its former self.

    Raises:
        ValueError: the name is taken by another function.

    >>> @algorithm("everything twice a week")
    ... def twice() -> Composition:
    ...     return compose(Step(SharedParameters(), every=3))
    >>> NAMED.pop("everything twice a week")().steps[0].every
    3
    """

    def register(found: AnyAlgorithm) -> AnyAlgorithm:
        """Add the function under its name."""
        if not same_definition(NAMED.setdefault(name, found), found):
            raise ValueError(f"there is another algorithm {name!r}")
        NAMED[name] = found
        return found

    return register


def load_plug_ins() -> None:
    """Import the modules of installed packages that register exchanges and algorithms.

    A package names such a module in the entry point group `hetfed.exchanges`.
    """
    for entry in entry_points(group=PLUG_INS):
        entry.load()


# On import, so that every process that knows the named algorithms, a worker's too, knows those of plug-ins.
load_plug_ins()
