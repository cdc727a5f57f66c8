"""A client's description of its model and its inputs, from which both can be made again without its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TENSORS = "tensors"
"""The form of inputs that are tensors already, by modality: nothing is scaled."""


@dataclass(frozen=True)
class Architecture:
    """A registered builder and its settings.

    Args:
        builder: a name in the entry point group `hetfed.models`.
        settings: as JSON has them.

    >>> Architecture("medical", {"image": "lenet"}).builder
    'medical'
    """

    builder: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """The way a client's model is built, and its inputs are made of the raw form of its data set.

    Args:
        architecture: builds the model from the client's data spec; None where no registered builder does.
        common: builds the client's small common model, with a spec of its own; None where there is none.
        common_spec: the data spec of that one.
        form: a name in the entry point group `hetfed.inputs`: what turns raw inputs into the model's.
        preprocessing: the form's settings, as JSON: column names, shapes.
        statistics: the form's tensors, from the client's own training data: means, deviations.
        names: of what is predicted where an output has several numbers alike: the sensors.

    >>> Description().form  # nothing is scaled, unless a client says so
    'tensors'
    """

    architecture: Architecture | None = None
    common: Architecture | None = None
    common_spec: Mapping[str, Any] = field(default_factory=dict)
    form: str = TENSORS
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    names: tuple[str, ...] = ()
