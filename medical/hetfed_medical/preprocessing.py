"""From a cohort to one hospital's splits, as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed.data import ClientData, Examples
from hetfed.errors import PlanError, among
from hetfed.holding import Holding
from hetfed.scale import scale_of
from hetfed.tasks import Classification, Survival, Task
from hetfed_datasets import partition
from hetfed_datasets.gate import check_cohort
from hetfed_datasets.identity import identities
from hetfed_datasets.records import MISSING_LABEL, Cohort
from hetfed_medical.modalities import MODALITIES
from hetfed_medical.plan_schema import HospitalData, Partition, PublicData

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Scale:
    """How a modality is scaled: (value - mean) / deviation, from the hospital's own training data.

    Args:
        mean: (columns,) or (channels,).
        deviation: of the same shape, never 0.

    >>> age = Scale(np.array([60.0], dtype=np.float32), np.array([10.0], dtype=np.float32))
    >>> age.apply(np.array([[75.0], [np.nan]]))
    array([[1.5],
           [0. ]], dtype=float32)
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Scaled values; a missing cell of a table becomes the mean, 0.

        Args:
            values: (..., columns) or (..., channels), of any numeric dtype.
        """
        # NaN ends here as the sign of an empty cell. Wherever a model sees one, the whole modality of that sample is missing
        # (see `_tensor`).
        return np.asarray(np.nan_to_num((values.astype(np.float32) - self.mean) / self.deviation), dtype=np.float32)


@dataclass(frozen=True)
class Hospital:
    """One hospital's data and task, its patients, and what public inputs need to look like its own: scales and column names.

    Args:
        data: training, validation and test examples, and the data spec that a model is built from.
        task: classification, or survival where the label is an event.
        scales: by modality.
        columns: by modality: the names of the columns in use; none of an image.
        holding: by what two hospitals with the same patient are found out.
    """

    data: ClientData
    task: Task
    scales: Mapping[str, Scale]
    columns: Mapping[str, tuple[str, ...]]
    holding: Holding


def hospital(cohort: Cohort, table: HospitalData, seed: int, key: str) -> Hospital:
    """The data of the hospital that `table` describes, split by patient.

    Scales come from the training part alone: a mean over all samples would carry test data into training.

    Args:
        cohort: a whole data set.
        table: the `data` table of the plan.
        seed: of the plan, by which samples are dealt out.
        key: of the client's table, for messages.

    Raises:
        PlanError: the table asks for what the cohort does not have, or for too few samples to split.
        DataError: the cohort is not what `Cohort` promises.

    >>> from hetfed_datasets.sample_hospitals import generate
    >>> table = HospitalData(dataset="sample-hospitals", sites=("south",), modalities=("image", "genes"))
    >>> home = hospital(generate(), table, seed=0, key="client 'south'")
    >>> len(home.data.train), len(home.data.validation), len(home.data.test)
    (66, 17, 27)
    >>> home.data.spec["shapes"]
    {'image': (1, 32, 32), 'genes': (60,)}
    """
    check_cohort(cohort)
    label = _label(cohort, table.label, f"{key}.data.label")
    _check_known(cohort, table, key)
    try:
        own = _own_samples(cohort, table, label, seed)
    except PlanError as error:
        raise error.seen_from(key=f"{key}.data.partition") from error
    if not len(own):
        problem = f"no sample of {cohort.name} has a known label and one of the modalities"
        raise PlanError(problem, key=f"{key}.data", remedy="Take other sites, or modalities that they have.")
    parts = _split(own, table, label, seed)
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        if not len(part):
            problem = f"no sample is left for {name} ({cohort.name}: {len(own)} in all)"
            limit = {"key": f"{key}.data.limit", "value": table.limit} if table.limit else {"key": f"{key}.data"}
            remedy = "Take more sites or a larger part or limit, or change train and validation."
            raise PlanError(problem, **limit, remedy=remedy)
    names: dict[str, tuple[str, ...]] = {name: _names(own, name, table) for name in table.modalities}
    scales: dict[str, Scale] = {name: _scale(own, name, names[name], parts[0], table) for name in table.modalities}
    train, validation, test = (_examples(own, part, names, scales, label) for part in parts)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in train.inputs.items()}
    classes = own.classes.get(label, ())
    task: Task = Survival(label)
    if classes:
        task = Classification(classes, balanced=table.balanced, metric=table.metric)
    # The head of a survival model has one output, the risk.
    data = ClientData(train, validation, test, {"shapes": shapes, "outputs": len(classes) or 1}, "patients")
    # All patients of this hospital, the test part included: none of them may stand at another hospital.
    return Hospital(data, task, scales, names, _holding(own, np.concatenate(parts)))


def public_inputs(cohort: Cohort, table: PublicData, home: Hospital, like: HospitalData, seed: int) -> Examples | None:
    """The public inputs as this hospital reads them, in the same order everywhere.

    None where they are `unreadable`.

    Each hospital scales them by its own scales, which stay at home; what hospitals share are answers to these inputs.

    Args:
        cohort: the public data set.
        table: the `[public]` table of the plan.
        home: the hospital that is to read them.
        like: its `data` table.
        seed: of the plan.

    Raises:
        PlanError: a site that the cohort does not have.
        DataError: the cohort is not what `Cohort` promises.
    """
    check_cohort(cohort)
    rows = _public_rows(cohort, table, seed)
    if unreadable(cohort, home, like):
        return None
    inputs: dict[str, Tensor] = {
        name: _tensor(cohort, rows, name, home.columns[name], home.scales[name]) for name in like.modalities
    }
    # Labels are left behind. The ids are positions in the cohort, by which hospitals see that theirs are the same inputs.
    unknown = torch.full((len(rows),), MISSING_LABEL)
    return Examples(inputs, unknown, [f"public-{row}" for row in rows.tolist()])


def public_holding(cohort: Cohort, table: PublicData, seed: int) -> Holding:
    """Whose the public inputs are.

    None of them may be a patient of a hospital, whose training data would then be public.
    """
    return _holding(cohort, _public_rows(cohort, table, seed))


def _holding(cohort: Cohort, rows: Index) -> Holding:
    return Holding(identities(cohort, rows), "patients", remedy="Give each its own sites, or parts of one partition.")


def _public_rows(cohort: Cohort, table: PublicData, seed: int) -> Index:
    """The samples whose inputs are public; the seed is the plan's alone, so that every hospital draws the same."""
    _check_sites(cohort, table.sites or (), "public.sites")
    rows = np.flatnonzero(np.isin(cohort.site, table.sites)) if table.sites else np.arange(len(cohort))
    if table.partition is not None:
        label = _label(cohort, table.label, "public.label")
        # As for the hospitals: parts are drawn among samples whose label is known, or they would be other parts.
        rows = rows[cohort.strata(label)[rows] != MISSING_LABEL]
        rows = rows[_part(cohort.take(rows), label, table.partition, seed)]
    return rows[_drawn(len(rows), table.limit, seed)]


def unreadable(cohort: Cohort, home: Hospital, like: HospitalData) -> str:
    """Why the hospital cannot read the public inputs of `cohort`, after "it", with the remedy; empty where it can."""
    for modality in like.modalities:
        if lack := _lack(cohort, modality, home):
            return f"cannot read the public inputs: {cohort.name} {lack} (name another data set under [public])"
    return ""


def _lack(cohort: Cohort, modality: str, home: Hospital) -> str:
    """In what a modality of `cohort` differs from the hospital's own; columns go by their names, not by their order."""
    if modality not in cohort.modalities:
        return f"lacks its modality {modality}"
    if not set(home.columns[modality]) <= set(cohort.columns.get(modality, ())):
        return f"has other columns of {modality}"
    if home.columns[modality]:
        return ""
    kind = MODALITIES[modality]
    theirs, own = kind.shape(modality, cohort), home.data.spec["shapes"][modality]
    return "" if theirs == own else f"has {modality}s of shape {kind.shown(theirs)}, it of {own}"


def _label(cohort: Cohort, asked: str | None, key: str) -> str:
    if asked is None and len(cohort.questions) == 1:
        return cohort.questions[0]
    if asked is None or asked not in cohort.questions:
        remedy = f"{cohort.name} has: {', '.join(cohort.questions)}."
        raise PlanError("no such label", key=key, value=asked, remedy=remedy)
    return asked


def _check_known(cohort: Cohort, table: HospitalData, key: str) -> None:
    for modality in table.modalities:
        if modality not in cohort.modalities:
            remedy = f"{cohort.name} has: {', '.join(cohort.modalities)}."
            raise PlanError("no such modality", key=f"{key}.data.modalities", value=modality, remedy=remedy)
        MODALITIES[modality].check(modality, cohort)
    _check_sites(cohort, table.sites or (), f"{key}.data.sites")
    known = {column for columns in cohort.columns.values() for column in columns}
    for column in table.columns:
        if column not in known:
            raise PlanError("no such column", key=f"{key}.data.columns", value=column, remedy=among(column, sorted(known)))


def _check_sites(cohort: Cohort, sites: tuple[str, ...], key: str) -> None:
    for site in sites:
        if site not in cohort.site:
            remedy = among(site, sorted(set(cohort.site.tolist())), f"{cohort.name} has")
            raise PlanError("no such site", key=key, value=site, remedy=remedy)


def _own_samples(cohort: Cohort, table: HospitalData, label: str, seed: int) -> Cohort:
    """The hospital's samples: of its sites, of its part, with a known label and at least one of its modalities."""
    usable = cohort.strata(label) != MISSING_LABEL
    if table.sites:
        usable &= np.isin(cohort.site, table.sites)
    # A modality of which the cohort does not say who has it is there for everybody.
    complete = np.ones(len(cohort), dtype=bool)
    usable &= np.any([cohort.present.get(modality, complete) for modality in table.modalities], axis=0)
    # Sites and labels first, then the part: parts are drawn among samples that can be used.
    own = cohort.take(usable)
    if table.partition is not None:
        own = own.take(_part(own, label, table.partition, seed))
    return own.take(_drawn(len(own), table.limit, seed))


def _drawn(count: int, limit: int | None, seed: int) -> Index:
    """Which of so many samples are taken, in their order: all, or as many as the limit allows."""
    if limit is None or count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def _part(own: Cohort, label: str, asked: Partition, plan_seed: int) -> Index:
    """The samples of one part; those of a patient stay together."""
    # With a seed of its own, parts stay the same while a comparison changes the plan's seed.
    seed = plan_seed if asked.seed is None else asked.seed

    def deal(label: NDArray[np.int64]) -> list[Index]:
        """The samples of each part, for one label per patient."""
        if asked.kind == "dirichlet":
            return partition.dirichlet(label, asked.clients, asked.alpha, seed, asked.minimum)
        if asked.kind == "quantity":
            return partition.quantity(len(label), asked.clients, asked.alpha, seed)
        return partition.classes_per_client(label, asked.clients, asked.classes, seed)

    return partition.by_patient(own.patient, own.strata(label), deal)[asked.part]


def _split(own: Cohort, table: HospitalData, label: str, seed: int) -> tuple[Index, Index, Index]:
    strata = own.strata(label)
    if own.official_split is None:
        return partition.split_by_patient(own.patient, strata, (table.train, table.validation), seed)
    train, validation, test = (np.flatnonzero(own.official_split == word) for word in ("train", "validation", "test"))
    if not len(validation):
        # Models are selected on validation data: a publisher who has none gets it out of the training data.
        parts = partition.split_by_patient(own.patient[train], strata[train], (1 - table.validation, table.validation), seed)
        # These are positions in the training data, not in the cohort.
        train, validation = train[parts[0]], train[parts[1]]
    return train, validation, test


def _scale(own: Cohort, modality: str, names: Sequence[str], train: Index, table: HospitalData) -> Scale:
    values = _columns(own, modality, names)
    # Zeros stand for a modality that is missing, and would pull the mean towards them.
    there = train[own.present[modality][train]] if modality in own.present else train
    known = values[there].astype(np.float32)
    size = values.shape[-1]
    mean, deviation = np.zeros(size, np.float32), np.ones(size, np.float32)
    if MODALITIES[modality].always_scaled or table.standardise:
        known = known.reshape(-1, size)
        counted = np.isfinite(known).any(axis=0)
        # In single precision, the sum over all pixels of a hospital is off by a few per cent.
        # Not of a column that is missing throughout, about which numpy would warn.
        mean[counted] = np.nanmean(known[:, counted], axis=0, dtype=np.float64)
        # A column or channel that never varies here says nothing; dividing by 1 keeps it harmless.
        deviation = scale_of(known, axis=0)
    return Scale(mean, deviation)


def _names(cohort: Cohort, modality: str, table: HospitalData) -> tuple[str, ...]:
    """The columns of a modality that the plan asks for: all where it names none of them.

    They stand in the cohort's order, and not in the plan's: hospitals that ask for the same can share what reads them.
    """
    names = cohort.columns.get(modality, ())
    return tuple(column for column in names if column in table.columns) or names


def _columns(cohort: Cohort, modality: str, chosen: Sequence[str]) -> NDArray[np.generic]:
    """A modality's values, of a table the columns of these names in this order."""
    values, names = cohort.modalities[modality], cohort.columns.get(modality, ())
    return values if chosen == names else values[:, [names.index(column) for column in chosen]]


def _examples(
    own: Cohort, rows: Index, names: Mapping[str, Sequence[str]], scales: Mapping[str, Scale], label: str
) -> Examples:
    inputs: dict[str, Tensor] = {name: _tensor(own, rows, name, names[name], scale) for name, scale in scales.items()}
    # The row's number is part of the id, since a patient may have several samples.
    patients = [str(patient) for patient in own.patient[rows].tolist()]
    ids = [f"{patient}/{row}" for patient, row in zip(patients, rows.tolist(), strict=True)]
    return Examples(inputs, torch.from_numpy(own.target(label)[rows]), ids, owners=patients)


def _tensor(cohort: Cohort, rows: Index, modality: str, names: Sequence[str], scale: Scale) -> Tensor:
    """A modality of some samples, channels first, NaN throughout where it is missing."""
    there = cohort.present[modality][rows] if modality in cohort.present else None
    return model_input(modality, _columns(cohort, modality, names)[rows], scale, there)


def model_input(modality: str, values: NDArray[np.generic], scale: Scale, there: NDArray[np.bool_] | None) -> Tensor:
    """Raw values (n, height, width, channels) or (n, columns) as a model reads them: scaled, channels first.

    `there` (n,) says which samples have the modality, None that all have; a row that has not is NaN throughout.

    >>> scale = Scale(np.zeros(1, np.float32), np.full(1, 255, np.float32))
    >>> pixels = np.full((2, 4, 4, 1), 255, dtype=np.uint8)
    >>> image = model_input("image", pixels, scale, np.array([True, False]))
    >>> image.shape, image[:, 0, 0, 0]
    (torch.Size([2, 1, 4, 4]), tensor([1., nan]))
    """
    tensor = MODALITIES[modality].tensor(torch.from_numpy(scale.apply(values)))
    if there is not None:
        # After scaling, which has made numbers of all NaN.
        tensor[~torch.from_numpy(there)] = torch.nan
    return tensor
