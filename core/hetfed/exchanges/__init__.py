"""Exchanges: each kind of knowledge that clients can share is one file, and one row of `KINDS`."""

from hetfed.exchanges.base import Exchange
from hetfed.exchanges.logit_distillation import LogitDistillation
from hetfed.exchanges.prototypes import Prototypes
from hetfed.exchanges.shared_parameters import SharedParameters
from hetfed.exchanges.teacher_distillation import TeacherDistillation

KINDS: dict[str, type[Exchange]] = {
    "logit-distillation": LogitDistillation,
    "prototypes": Prototypes,
    "shared-parameters": SharedParameters,
    "teacher-distillation": TeacherDistillation,
}
"""The `kind` of an [[exchange]] table in a plan. A test or a plug-in may add to it."""

__all__ = ["KINDS", "Exchange", "LogitDistillation", "Prototypes", "SharedParameters", "TeacherDistillation"]
