"""A hospital's kept model: how it is built again, and how raw images and tables become its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hetfed.errors import DataError, among
from hetfed.kept.description import Architecture, Description
from hetfed.kept.inputs import AS_NPZ, IDS, check_modalities, columns_in_order, ids_of, numbers, read_csv
from hetfed.kept.registry import Blank, Prepared
from hetfed.npz import read_npz
from hetfed_medical.modalities import MODALITIES
from hetfed_medical.model import HospitalNet
from hetfed_medical.plan_schema import HospitalModel
from hetfed_medical.preprocessing import Hospital, Scale, model_input

BUILDER = FORM = "medical"
PRESENT = "present:"
"""`present:<modality>` (n,) says which samples have a modality, where a row of NaN would not do."""


def described(home: Hospital, table: HospitalModel, common: HospitalModel) -> Description:
    """What a kept model needs of a hospital: its architecture, its columns and its scales.

    Args:
        home: the hospital's data, whose scales and columns are described. No example is.
        table: the hospital's own model table.
        common: the table of the small model that all hospitals can hold.

    Returns:
        Architectures as settings of a registered builder, so that no pickled class is kept. A hospital with a learner has none.
    """
    statistics: dict[str, Tensor] = {}
    # The scales travel with the model: means and deviations of its own hospital, by which a new patient is scaled, too.
    for name, scale in home.scales.items():
        statistics |= {f"{name}.mean": torch.from_numpy(scale.mean), f"{name}.deviation": torch.from_numpy(scale.deviation)}
    modalities = {name: _about(name, home.columns[name], shape) for name, shape in home.data.spec["shapes"].items()}
    own = None if table.learner else _architecture(table)
    shared = None if table.learner else _architecture(common)
    return Description(own, shared, {}, FORM, {"modalities": modalities}, statistics)


def _architecture(table: HospitalModel) -> Architecture:
    return Architecture(BUILDER, table.model_dump(mode="json", exclude={"learner", "settings"}))


def _about(name: str, columns: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
    """The raw form of a modality: the columns of a table, or the size of each axis (height, width and channels of an image)."""
    if len(shape) == 1:
        # A table whose columns have no names has their numbers.
        return {"columns": list(columns) or [str(index) for index in range(shape[0])]}
    channels, *others = shape
    return dict(zip(MODALITIES[name].axes, (*others, channels), strict=True))


def build_network(settings: Mapping[str, Any], spec: Mapping[str, Any]) -> nn.Module:
    """The network of a model table for a data spec: `shapes` by modality and `outputs`.

    >>> net = build_network({"features": 8, "clinical": "linear"}, {"shapes": {"clinical": [13]}, "outputs": 2})
    >>> net({"clinical": torch.zeros(1, 13)}).logits.shape
    torch.Size([1, 2])
    """
    shapes = {name: tuple(shape) for name, shape in spec["shapes"].items()}
    return HospitalNet({**spec, "shapes": shapes}, HospitalModel(**settings))


class CohortForm:
    """Raw inputs are as in a cohort: images (n, height, width, channels), tables by column, everything unscaled.

    A sample may lack a modality: its row is then NaN throughout, or `present:<modality>` says so.

    >>> columns = {"modalities": {"clinical": {"columns": ["age", "sex"]}}}
    >>> scales = {"clinical.mean": torch.tensor([60.0, 0.5]), "clinical.deviation": torch.tensor([10.0, 0.5])}
    >>> patients = pd.DataFrame({"sex": [1.0, 0.0], "age": [70.0, np.nan]})  # columns go by their names
    >>> CohortForm().prepare(columns, scales, {"clinical": patients}).inputs["clinical"]
    tensor([[ 1.,  1.],
            [ 0., -1.]])
    """

    def prepare(self, settings: Mapping[str, Any], statistics: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Prepared:
        """Scaled inputs.

        A row that is NaN throughout stands for a modality that the patient lacks; an empty cell of a table for the mean.

        Args:
            settings: `modalities`: for each the names of its columns, or its height, width and channels.
            statistics: `<modality>.mean` and `<modality>.deviation`, (columns,) or (channels,).
            inputs: an array or a table for each modality; perhaps `id` and `present:<modality>`.

        Raises:
            DataError: a modality or a column is missing or unknown, or the numbers of rows differ.
        """
        about = settings["modalities"]
        check_modalities(inputs, list(about), (IDS, *(PRESENT + name for name in about)))
        raw = {name: _raw(name, inputs[name], one) for name, one in about.items()}
        counts = {name: len(values) for name, values in raw.items()}
        if len(set(counts.values())) > 1:
            remedy = "Give each patient a row in every modality, of NaN where it is missing."
            raise DataError("not as many rows in each modality", key="n", value=counts, remedy=remedy)
        tensors = {}
        for name, values in raw.items():
            scale = Scale(statistics[f"{name}.mean"].numpy(), statistics[f"{name}.deviation"].numpy())
            tensors[name] = model_input(name, values, scale, _there(values, inputs.get(PRESENT + name), name))
        return Prepared(tensors, ids_of(inputs, next(iter(counts.values()))))

    def trial(self, inputs: Mapping[str, Blank], count: int, chance: torch.Generator) -> dict[str, Tensor]:
        """Standard normal numbers, and one patient who lacks a modality.

        Exporters compare a model with its exported form on these inputs.
        """
        made = {name: one.random(count, chance) for name, one in sorted(inputs.items())}
        # The first modality of the last patient, so that the exported model is tried on a missing one, too.
        next(iter(made.values()))[-1] = torch.nan
        return made

    def read(self, settings: Mapping[str, Any], files: Sequence[Path]) -> Mapping[str, Any]:
        """Images, and tables without names, from .npz files by modality; tables from CSV files, their columns by name.

        A CSV file may hold the columns of several tables, and a column `id`.

        Raises:
            DataError: a file cannot be read, or a column is one of no table.
        """
        found: dict[str, Any] = {}
        for file in files:
            if file.suffix.lower() == ".npz":
                found |= read_npz(file, remedy=AS_NPZ)
            else:
                found |= _tables(read_csv(file), settings["modalities"], file)
        return found


def _raw(name: str, value: Any, about: Mapping[str, Any]) -> NDArray[np.float32]:
    if _is_table(about):
        return columns_in_order(name, value, about["columns"])
    return numbers(name, value, tuple(about[axis] for axis in MODALITIES[name].axes))


def _is_table(about: Mapping[str, Any]) -> bool:
    # An axis may be called so too, and then has a size.
    return isinstance(about.get("columns"), list)


def _there(values: NDArray[np.float32], given: Any, name: str) -> NDArray[np.bool_]:
    """Which samples have the modality: as given, else those that are not NaN throughout."""
    if given is None:
        return np.asarray(~np.isnan(values).reshape(len(values), -1).all(axis=1))
    there = np.asarray(given, dtype=bool)
    if there.shape != (len(values),):
        raise DataError(
            "wrong shape", key=PRESENT + name, value=there.shape, remedy=f"Give ({len(values)},) of true and false."
        )
    return there


def _tables(frame: pd.DataFrame, modalities: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The columns of each table."""
    columns = {name: about["columns"] for name, about in modalities.items() if _is_table(about)}
    known = [column for names in columns.values() for column in names]
    for column in frame.columns:
        if column not in known and column != IDS:
            raise DataError("the model has no such column", file=file, key=column, remedy=among(column, known, "It reads"))
    found: dict[str, Any] = {name: frame[[one for one in names if one in frame]] for name, names in columns.items()}
    # A table of which there is no column may come in another file.
    found = {name: table for name, table in found.items() if len(table.columns)}
    return {**found, IDS: frame[IDS].tolist()} if IDS in frame else found


cohort_form = CohortForm()
