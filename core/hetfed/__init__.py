"""hetfed: federated learning for participants whose models differ.

A federation is clients and exchanges. A client owns data, a model of its own and its own way of training it; an exchange
is one kind of knowledge that clients share, with how it is merged; an algorithm is a composition of exchanges.

`import hetfed as hf` gives the names below; each is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hetfed import algorithms as algorithms
    from hetfed import errors as errors
    from hetfed.aggregation import Aggregation as Aggregation
    from hetfed.algorithms import algorithm as algorithm
    from hetfed.client import Client as Client
    from hetfed.codecs import Codec as Codec
    from hetfed.composition import Composition as Composition
    from hetfed.composition import Step as Step
    from hetfed.composition import compose as compose
    from hetfed.composition import every as every
    from hetfed.compression import Compression as Compression
    from hetfed.context import ClientContext as ClientContext
    from hetfed.context import ServerContext as ServerContext
    from hetfed.data import Batch as Batch
    from hetfed.data import ClientData as ClientData
    from hetfed.data import Examples as Examples
    from hetfed.data import Spec as Spec
    from hetfed.exchanges import ControlVariates as ControlVariates
    from hetfed.exchanges import DistilledParameters as DistilledParameters
    from hetfed.exchanges import Exchange as Exchange
    from hetfed.exchanges import FeatureGenerator as FeatureGenerator
    from hetfed.exchanges import LogitDistillation as LogitDistillation
    from hetfed.exchanges import MixedModels as MixedModels
    from hetfed.exchanges import MutualLearning as MutualLearning
    from hetfed.exchanges import NestedFeatures as NestedFeatures
    from hetfed.exchanges import Prototypes as Prototypes
    from hetfed.exchanges import ProximalCopy as ProximalCopy
    from hetfed.exchanges import SecondModel as SecondModel
    from hetfed.exchanges import SharedParameters as SharedParameters
    from hetfed.exchanges import Slices as Slices
    from hetfed.exchanges import TeacherDistillation as TeacherDistillation
    from hetfed.exchanges import TrainedHead as TrainedHead
    from hetfed.exchanges import TrainedPrototypes as TrainedPrototypes
    from hetfed.exchanges import exchange as exchange
    from hetfed.kept.load import load_model as load_model
    from hetfed.kept.model import KeptModel as KeptModel
    from hetfed.learner import Learner as Learner
    from hetfed.model import Output as Output
    from hetfed.participation import Participation as Participation
    from hetfed.participation import Presence as Presence
    from hetfed.payload import Declaration as Declaration
    from hetfed.payload import Merged as Merged
    from hetfed.payload import Payload as Payload
    from hetfed.payload import TensorRule as TensorRule
    from hetfed.profile import Profile as Profile
    from hetfed.script import Result as Result
    from hetfed.script import federate as federate
    from hetfed.server_optimizer import ServerOptimizer as ServerOptimizer
    from hetfed.tasks import Classification as Classification
    from hetfed.tasks import Forecasting as Forecasting
    from hetfed.tasks import MultiTask as MultiTask
    from hetfed.tasks import Regression as Regression
    from hetfed.tasks import Survival as Survival
    from hetfed.tasks import Task as Task
    from hetfed.training import Phase as Phase
    from hetfed.training import Training as Training

_WHERE = {
    "aggregation": ("Aggregation",),
    "algorithms": ("algorithm",),
    "client": ("Client",),
    "codecs": ("Codec",),
    "composition": ("Composition", "Step", "compose", "every"),
    "compression": ("Compression",),
    "context": ("ClientContext", "ServerContext"),
    "data": ("Batch", "ClientData", "Examples", "Spec"),
    "exchanges": (
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
    ),
    "kept.load": ("load_model",),
    "kept.model": ("KeptModel",),
    "script": ("Result", "federate"),
    "learner": ("Learner",),
    "model": ("Output",),
    "participation": ("Participation", "Presence"),
    "payload": ("Declaration", "Merged", "Payload", "TensorRule"),
    "profile": ("Profile",),
    "server_optimizer": ("ServerOptimizer",),
    "tasks": ("Classification", "Forecasting", "Regression", "Survival", "Task", "MultiTask"),
    "training": ("Phase", "Training"),
}
"""The module of each public name. Loaded lazily, since `hetfed --help` must not wait for torch."""
_MODULES = ("algorithms", "errors")
_NAMES = {name: module for module, names in _WHERE.items() for name in names}
__all__ = [*_NAMES, *_MODULES, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"hetfed.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'hetfed' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"hetfed.{_NAMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
