"""From a plan to hospitals that can learn together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from hetfed.client import Client
from hetfed.data import Facts
from hetfed.errors import PlanError
from hetfed.plan import ClientTable, Plan, validate
from hetfed.tasks import Classification
from hetfed_datasets.records import Cohort
from hetfed_datasets.registry import entry_of, load
from hetfed_medical.augmentation import flip_and_shift
from hetfed_medical.cohort_data import hospital, public_inputs
from hetfed_medical.model import HospitalNet
from hetfed_medical.tables import HospitalData, HospitalModel, PublicData


def build_clients(plan: Plan, data_dir: Path | None) -> Sequence[Client]:
    """The hospitals of `plan` with their data.

    Raises:
        PlanError, DataError: what the plan or a file lacks.
    """
    cohorts = Cohorts(data_dir)
    public = None if plan.public is None else validate(PublicData, plan.public, key="public")
    return [_client(table, plan.federation.seed, cohorts, public) for table in plan.client]


class Cohorts:
    """Cohorts by name, each loaded once: several hospitals come from the same files."""

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._loaded: dict[str, Cohort] = {}

    def get(self, name: str, key: str) -> Cohort:
        """The cohort called `name`, which a plan asks for under `key`."""
        if entry_of(name).kind != "cohort":
            raise PlanError("not a cohort of patients", key=f"{key}.dataset", value=name, remedy="Name a medical data set.")
        if name not in self._loaded:
            record = load(name, self._data_dir)
            assert isinstance(record, Cohort)  # its entry says so
            self._loaded[name] = record
        return self._loaded[name]


def _client(table: ClientTable, seed: int, cohorts: Cohorts, public: PublicData | None) -> Client:
    key = f"client {table.name!r}"
    data_table = validate(HospitalData, table.data, key=f"{key}.data")
    model_table = validate(HospitalModel, table.model, key=f"{key}.model")
    cohort = cohorts.get(data_table.dataset, f"{key}.data")
    home = hospital(cohort, data_table, seed, key)
    shapes = home.data.facts["shapes"]
    _check_identity(shapes, model_table, key)
    encoders = {modality: getattr(model_table, modality) for modality in shapes}
    return Client(
        table.name,
        home.data,
        Classification(home.classes, balanced=data_table.balanced),
        partial(_model, table=model_table),
        table.training,
        public=None if public is None else public_inputs(cohorts.get(public.dataset, "public"), public, home, data_table, seed),
        augment=flip_and_shift if data_table.augment else None,
        kind=json.dumps([encoders, model_table.features, table.training.model_dump()], sort_keys=True),
        about={
            "model": ", ".join(f"{modality}: {encoder}" for modality, encoder in encoders.items()),
            "data": cohort.name + (f" ({', '.join(data_table.sites)})" if data_table.sites else ""),
            "question": " or ".join(home.classes),
            "modalities": ", ".join(data_table.modalities),
            "synthetic": "yes" if cohort.synthetic else "no",
        },
    )


def _check_identity(shapes: Mapping[str, tuple[int, ...]], table: HospitalModel, key: str) -> None:
    for modality, shape in shapes.items():
        if modality != "image" and getattr(table, modality) == "identity" and shape[0] != table.features:
            raise PlanError(
                f"an identity encoder of {shape[0]} columns needs as many features",
                key=f"{key}.model.features",
                value=table.features,
                remedy=f"Set features to {shape[0]}, choose other columns or another encoder.",
            )


def _model(facts: Facts, table: HospitalModel) -> nn.Module:
    return HospitalNet(facts, table)
