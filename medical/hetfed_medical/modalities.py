"""Modalities: the kinds of input that hospitals hold. Each is one object and one row of `MODALITIES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hetfed.data import Batch
from hetfed.errors import PlanError
from hetfed.registry import Registry
from hetfed.seeding import isolated
from hetfed_datasets.field import Field
from hetfed_datasets.records import Cohort
from hetfed_medical.augmentation import moved_and_relit
from hetfed_medical.backbones import BACKBONES
from hetfed_medical.tabular import TABULAR

Shape = tuple[int, ...]
"""Of one sample as a model is given it: (channels, ...), or (columns,)."""
Encoder = Callable[..., nn.Module]
Change = Callable[[Tensor, torch.Generator], Tensor]
TAKEN = ("features", "width", "learner", "settings")
"""The keys of a model table that are no modality's."""


@dataclass(frozen=True)
class Modality:
    """One kind of input: how it is checked, scaled, encoded, changed in training, and shown.

    A cohort holds it as (n, *axes), the channels or columns last. A model is given it scaled, channels first, and NaN
    throughout where a sample lacks it.

    Args:
        axes: of one sample, in words, the channels or columns last. With one axis it is a table, whose columns have names.
        encoders: what a plan may name, by name. The encoder of a table is built from (columns, features), any other from
            (shape, features), where shape is (channels, ...); it maps a batch of that to (batch, features). One that takes a
            `factor` can be made wider by a plan's `width`. It raises ValueError, in words, where it cannot be built.
        default: the encoder where a plan names none.
        common: the encoder of the small model that all hospitals can hold beside their own; without one, the default.
        always_scaled: whether it is scaled even where a plan says `standardise = false`.
        augment: changes training inputs (batch, channels, ...) at random where a plan says `augment = true`; it leaves NaN as
            it is.

    >>> from torch import nn
    >>> def mean_and_linear(shape, features):
    ...     return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(shape[0], features))
    >>> ecg = Modality(("time", "leads"), {"mean": mean_and_linear}, "mean")
    >>> ecg.build("mean", (12, 500), features=8)(torch.zeros(2, 12, 500)).shape
    torch.Size([2, 8])
    >>> ecg.shown((12, 500))
    '(12, 500) (leads, time)'
    """

    axes: tuple[str, ...]
    encoders: Mapping[str, Encoder]
    default: str
    common: str = ""
    always_scaled: bool = False
    augment: Change | None = None

    @property
    def common_encoder(self) -> str:
        """The encoder of the small model that all hospitals can hold."""
        return self.common or self.default

    def check(self, name: str, cohort: Cohort) -> None:
        """Raise `DataError` unless the cohort's modality `name` has the axes of this one."""
        found = cohort.modalities[name].shape
        if len(found) != 1 + len(self.axes):
            field = Field(f"cohort {cohort.name!r}", "modalities").at(name)
            wanted = ", ".join(("n", *self.axes))
            remedy = f"Bring it into that form, or give it another name than {name}."
            raise field.fault(f"axes ({wanted}) expected", value=found, remedy=remedy)

    def shape(self, name: str, cohort: Cohort) -> Shape:
        """Of one sample of the cohort, as a model is given it.

        Returns:
            (channels, ...), or (columns,) of a table.
        """
        *others, last = cohort.modalities[name].shape[1:]
        return (last, *others)

    def shown(self, shape: Shape) -> str:
        """A shape in words."""
        *others, last = self.axes
        return f"{shape} ({', '.join((last, *others))})"

    def tensor(self, values: Tensor) -> Tensor:
        """Scaled samples (n, *axes), as a model is given them: (n, channels, ...).

        >>> IMAGE.tensor(torch.zeros(2, 32, 28, 3)).shape
        torch.Size([2, 3, 32, 28])
        """
        # Contiguous, since batches are cut from this tensor in every pass.
        return values.movedim(-1, 1).contiguous()

    def build(self, encoder: str, shape: Shape, features: int, factor: float = 1.0) -> nn.Module:
        """The encoder of that name.

        Args:
            encoder: one of `encoders`.
            shape: of one sample, channels first.
            features: size of the output.
            factor: multiplies the channels of an encoder that is `scalable`; others do not see it.

        Raises:
            ValueError: it cannot be built so.

        >>> GENES.build("mlp", (60,), features=8)(torch.zeros(2, 60)).shape
        torch.Size([2, 8])
        """
        size = shape[0] if len(self.axes) == 1 else shape
        widened = (factor,) if scalable(self.encoders[encoder]) else ()
        return self.encoders[encoder](size, features, *widened)

    def check_encoder(self, encoder: str, shape: Shape, *, features: int, width: float, key: str, name: str) -> None:
        """Raise `PlanError` where the encoder that a model table (`key`) names for the modality `name` cannot be built.

        Args:
            encoder: one of `encoders`.
            shape: of one sample, channels first.
            features: the feature size that the hospitals agree on.
            width: the `width` of the model table.
            key: of the model table, for messages.
            name: of the modality, for messages.
        """
        wider = [one for one, build in self.encoders.items() if scalable(build)]
        # Of encoders that all have one width, as those of tables, `width` asks nothing.
        if width != 1 and wider and encoder not in wider:
            remedy = f"Leave width out, or choose one of {', '.join(wider)}."
            raise PlanError(f"{encoder} has one width", key=f"{key}.width", value=width, remedy=remedy)
        try:
            # On the device without memory, where a large network costs next to nothing.
            with isolated("trial"), torch.device("meta"):
                self.build(encoder, shape, features, width)
        except ValueError as error:
            remedy = f"Change features, which is {features}, or choose another encoder: {', '.join(self.encoders)}."
            raise PlanError(str(error), key=f"{key}.{name}", value=encoder, remedy=remedy) from None


def scalable(encoder: Encoder) -> bool:
    """Whether the channels of an encoder can be multiplied by a factor.

    >>> from hetfed_medical.tabular import linear
    >>> scalable(IMAGE.encoders["lenet"]), scalable(linear)
    (True, False)
    """
    return "factor" in inspect.signature(encoder).parameters


def augmented(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with its inputs changed at random, as their modalities say.

    Targets stay as they are. A batch of tables alone comes back as the same object.
    """
    # None for a table: no random change is known to leave the meaning of its columns as it is.
    changes = {name: MODALITIES[name].augment for name in batch.inputs}
    changed = {name: change(batch.inputs[name], generator) for name, change in changes.items() if change is not None}
    return replace(batch, inputs={**batch.inputs, **changed}) if changed else batch


def _fault(name: str, modality: object) -> str:
    if not isinstance(modality, Modality):
        return f"it is a {type(modality).__name__}, not a hetfed_medical.modalities.Modality"
    # A key of a model table names the encoder of a modality: it must not be one that means something else.
    if name in TAKEN:
        return "a model table has a key of that name"
    absent = [one for one in (modality.default, modality.common_encoder) if one not in modality.encoders]
    return f"its encoder {absent[0]!r} is none of {', '.join(modality.encoders)}" if absent else ""


IMAGE = Modality(
    ("height", "width", "channels"),
    BACKBONES,
    "deep-conv",
    common="small-conv",
    always_scaled=True,
    augment=moved_and_relit,
)
GENES = Modality(("columns",), TABULAR, "snn", common="mlp")
CLINICAL = Modality(("columns",), TABULAR, "mlp")
MODALITIES: Registry[Modality] = Registry(
    "modality", {"image": IMAGE, "genes": GENES, "clinical": CLINICAL}, group="hetfed.modalities", fault=_fault
)
"""What a plan may name among the `modalities` of a data table; each is a key of a model table too, which names its encoder. An
installed package adds a `Modality` through the group `hetfed.modalities`, a script with `MODALITIES.add(name, modality)`."""
