"""What a plan may say of a hospital: its data and its model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from hetfed.errors import among
from hetfed.plan_schema import Count, OpenTable, Share, Size, SplitTable, Table
from hetfed_medical.modalities import MODALITIES

LearnerName = Literal["random-forest", "extra-trees", "gradient-boosting", "svm", "logistic-regression"]
ModalityName = Annotated[str, AfterValidator(MODALITIES.known)]


class Partition(Table):
    """One of `clients` parts of a data set that has no hospitals of its own; `part` counts from 0.

    "dirichlet" skews the classes (Hsu et al. 2019), "quantity" the sizes: both more, the smaller `alpha`; "classes" gives each
    part only some classes. Of a Dirichlet draw every part has at least `minimum` samples. The draw is that of the plan's seed,
    or of a `seed` of its own.

    >>> Partition(clients=4, part=0, alpha=0.5).kind
    'dirichlet'
    """

    kind: Literal["dirichlet", "quantity", "classes"] = "dirichlet"
    clients: Count
    part: NonNegativeInt
    alpha: PositiveFloat = 1.0
    classes: PositiveInt = 1
    minimum: PositiveInt = 10
    seed: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _part_is_one_of_them(self) -> Partition:
        # Checked here and not in `hospital`: a part that is none of the parts is wrong whatever the data.
        if self.part >= self.clients:
            raise ValueError(f"part must be below clients ({self.clients})")
        return self


class HospitalData(SplitTable):
    """The `data` table of a hospital.

    `sites` are the data set's names of its hospitals; without any, all samples are taken. Splits are the publisher's where
    there are any, otherwise by patient. `columns` are the columns of a table to use; without any, all. `standardise` scales
    tables by the mean and deviation of the hospital's own training data; images always are.

    `limit` keeps that many samples, drawn at random. With `balanced` each class weighs the same in the training loss of a
    batch. Models are selected by `metric`, on validation data.

    >>> table = HospitalData(dataset="uci-heart-4hospitals", sites=("va",), modalities=("clinical",))
    >>> table.train, table.validation, table.metric
    (0.6, 0.15, 'AUROC')
    """

    dataset: str
    sites: tuple[str, ...] | None = Field(default=None, min_length=1)
    modalities: tuple[ModalityName, ...] = Field(min_length=1)
    label: str | None = None
    partition: Partition | None = None
    columns: tuple[str, ...] = ()
    train: Share = 0.6
    validation: Share = 0.15
    standardise: bool = True
    augment: bool = False
    balanced: bool = False
    metric: Literal["AUROC", "accuracy", "balanced accuracy", "F1"] = "AUROC"
    limit: PositiveInt | None = None


class HospitalModel(OpenTable):
    """The `model` table of a hospital: the feature size that hospitals agree on, and by the name of a modality its encoder.

    `width` multiplies the channels of the backbones that are plain convolutions. With a `learner` the hospital has a
    scikit-learn classifier instead, which looks at all modalities side by side and learns without gradients; `settings` are the
    classifier's own. Further keys are modalities, of which installed packages may bring more.

    >>> HospitalModel(features=32, image="lenet").encoder("image")
    'lenet'
    """

    features: Size = 64
    width: float = Field(default=1.0, gt=0, le=64)
    learner: LearnerName | None = None
    settings: dict[str, float | int | str | bool] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _are_a_learners(cls, settings: dict[str, Any], table: ValidationInfo) -> dict[str, Any]:
        # A field before it that failed is not in table.data: then its own message is enough.
        if settings and table.data.get("learner") is None:
            raise ValueError("settings are those of a learner, which is not named: add learner, or remove them")
        return settings

    @model_validator(mode="after")
    def _further_keys_are_encoders(self) -> HospitalModel:
        found = [(key, value, _encoder_fault(key, value)) for key, value in (self.model_extra or {}).items()]
        faults = [InitErrorDetails(type=fault, loc=(key,), input=value) for key, value, fault in found if fault]
        if faults:
            raise ValidationError.from_exception_data("HospitalModel", faults)
        return self

    def encoder(self, modality: str) -> str:
        """The name of the encoder of a modality.

        >>> HospitalModel().encoder("genes")  # the modality's default
        'snn'
        """
        return str((self.model_extra or {}).get(modality, MODALITIES[modality].default))


def _encoder_fault(modality: str, encoder: object) -> PydanticCustomError | None:
    """What is wrong with a further key of a model table, and its value."""
    if modality not in MODALITIES:
        # One list for a misspelt key: those of the table and those of all modalities.
        remedy = among(modality, sorted({*HospitalModel.model_fields, *MODALITIES}), "Known keys here")
        return PydanticCustomError("extra_forbidden", "unknown key", {"remedy": remedy})
    known = MODALITIES[modality].encoders
    if encoder in known:
        return None
    context = {"modality": modality, "remedy": among(encoder, sorted(known))}
    return PydanticCustomError("unknown_name", "unknown encoder of {modality}", context)


class PublicData(Table):
    """The `[public]` table: samples whose inputs every hospital holds.

    Their labels are not read, but to deal a `partition`, by `label` as the hospitals do.
    """

    dataset: str
    sites: tuple[str, ...] | None = Field(default=None, min_length=1)
    label: str | None = None
    partition: Partition | None = None
    limit: PositiveInt | None = None
