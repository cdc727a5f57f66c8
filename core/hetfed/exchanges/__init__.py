"""Exchanges: each kind of knowledge that clients can share is one file, and one row of `KINDS`.

The contract is `base.Exchange`; clients of equal tensors are found by `groups`. An exchange never knows which others are in the
composition.
"""

from collections.abc import Callable
from typing import TypeVar

from hetfed.exchanges.base import Exchange
from hetfed.exchanges.companions import MixedModels, MutualLearning, NestedFeatures, ProximalCopy, SecondModel
from hetfed.exchanges.control_variates import ControlVariates
from hetfed.exchanges.distilled_parameters import DistilledParameters
from hetfed.exchanges.feature_generator import FeatureGenerator
from hetfed.exchanges.logit_distillation import LogitDistillation
from hetfed.exchanges.prototypes import Prototypes
from hetfed.exchanges.shared_parameters import SharedParameters
from hetfed.exchanges.slices import Slices
from hetfed.exchanges.teacher_distillation import TeacherDistillation
from hetfed.exchanges.trained_head import TrainedHead
from hetfed.exchanges.trained_prototypes import TrainedPrototypes
from hetfed.registry import same_definition

KINDS: dict[str, type[Exchange]] = {
    "control-variates": ControlVariates,
    "distilled-parameters": DistilledParameters,
    "feature-generator": FeatureGenerator,
    "logit-distillation": LogitDistillation,
    "mixed-models": MixedModels,
    "mutual-learning": MutualLearning,
    "nested-features": NestedFeatures,
    "prototypes": Prototypes,
    "proximal-copy": ProximalCopy,
    "second-model": SecondModel,
    "shared-parameters": SharedParameters,
    "slices": Slices,
    "teacher-distillation": TeacherDistillation,
    "trained-head": TrainedHead,
    "trained-prototypes": TrainedPrototypes,
}
"""The `kind` of an [[exchange]] table in a plan; `exchange` adds to it."""
AnyExchange = TypeVar("AnyExchange", bound=type[Exchange])


def kind_of(exchange: Exchange) -> str:
    """The `kind` of an exchange; the name of its class where it has not been registered.

    >>> kind_of(Prototypes())
    'prototypes'
    """
    own = type(exchange)
    return next((word for word, found in KINDS.items() if same_definition(found, own)), own.__name__)


def exchange(kind: str) -> Callable[[AnyExchange], AnyExchange]:
    """Register an exchange that is written outside of this package, so that plans know it as `kind`.

    A class that is defined anew, as a notebook's cell that is run again does, takes the place of its former self.

    Raises:
        ValueError: the kind is taken by another class.

    >>> @exchange("nothing")
    ... class Nothing(Exchange):
    ...     def declare(self, profile): ...
    ...     def upload(self, context): ...
    ...     def update(self, server, state, merged): return state
    >>> kind_of(Nothing()), KINDS.pop("nothing") is Nothing
    ('nothing', True)
    """

    def register(found: AnyExchange) -> AnyExchange:
        """Add the class under its kind."""
        if not same_definition(KINDS.setdefault(kind, found), found):
            raise ValueError(f"the exchange {kind!r} is {KINDS[kind].__qualname__}, and cannot be {found.__qualname__} too")
        KINDS[kind] = found
        return found

    return register


__all__ = [
    "KINDS",
    "ControlVariates",
    "DistilledParameters",
    "Exchange",
    "FeatureGenerator",
    "LogitDistillation",
    "MixedModels",
    "MutualLearning",
    "NestedFeatures",
    "Prototypes",
    "ProximalCopy",
    "SecondModel",
    "SharedParameters",
    "Slices",
    "TeacherDistillation",
    "TrainedHead",
    "TrainedPrototypes",
    "exchange",
    "kind_of",
]
