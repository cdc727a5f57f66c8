"""From a plan to hospitals that can learn together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hetfed.client import Client
from hetfed.data import Examples, Spec
from hetfed.errors import PlanError
from hetfed.holding import Holding
from hetfed.learner import Estimator, Learner
from hetfed.plan import ClientTable, Plan, validate
from hetfed.profile import ModelFn
from hetfed.tasks import Task
from hetfed_datasets.identity import once
from hetfed_datasets.notes import notes_on
from hetfed_datasets.records import Cohort
from hetfed_datasets.registry import SOURCES, load
from hetfed_medical.kept import described
from hetfed_medical.learners import new_learner, try_out
from hetfed_medical.modalities import MODALITIES, augmented, scalable
from hetfed_medical.model import HospitalNet
from hetfed_medical.plan_schema import HospitalData, HospitalModel, LearnerName, PublicData
from hetfed_medical.preprocessing import Hospital, hospital, public_holding, public_inputs, unreadable


def build_clients(plan: Plan, data_dir: Path | None) -> Sequence[Client]:
    """The hospitals of `plan` with their data.

    Raises:
        PlanError, DataError: what the plan or a file lacks.
    """
    return clients_of(plan.client, Cohorts(data_dir), plan.public, plan.federation.seed, plan.common)


def clients_of(
    tables: Sequence[ClientTable],
    cohorts: Cohorts,
    public_table: Mapping[str, Any] | None,
    seed: int,
    common_table: Mapping[str, Any] | None = None,
) -> Sequence[Client]:
    """The hospitals that `[[client]]` tables, a `[public]` and a `[common]` table ask for."""
    chosen = None if not common_table else validate(HospitalModel, common_table, key="common")
    public = None if public_table is None else validate(PublicData, public_table, key="public")
    shown = Holding() if public is None else public_holding(cohorts.get(public.dataset, "public"), public, seed)
    clients = [replace(_client(table, seed, cohorts, public, chosen), public_holding=shown) for table in tables]
    networks = [client for client in clients if client.common_fn is not None]
    shapes = [client.data.spec["shapes"] for client in networks]
    # The common model looks only at what every network has in one shape: else its tensors could not be averaged.
    common = [name for name, shape in shapes[0].items() if all(s.get(name) == shape for s in shapes)] if shapes else []
    if chosen is not None:
        _check_common(chosen, _only(networks[0].data.spec, common)["shapes"] if networks else {})
    return [_with_common(client, common) for client in clients]


def _check_common(table: HospitalModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `PlanError` where the common model cannot be built, or cannot be averaged."""
    if table.learner is not None:
        remedy = "Name encoders, as under client.model: a common model is averaged, which takes parameters."
        raise PlanError("a learner has no parameters", key="common.learner", value=table.learner, remedy=remedy)
    if not shapes:
        remedy = "Remove the table, or give the hospitals a modality of one shape and networks."
        raise PlanError("there is no modality that all hospitals with a network have in one shape", key="common", remedy=remedy)
    _check_model(shapes, table, "common")


def _with_common(client: Client, modalities: Sequence[str]) -> Client:
    """The client, its common model looking at these modalities and at no other; none where there are none."""
    if client.common_fn is None or not modalities:
        return replace(client, common_fn=None, description=replace(client.description, common=None))
    model_fn: ModelFn = client.common_fn
    described = replace(client.description, common_spec=_only(client.data.spec, modalities))
    return replace(client, common_fn=lambda spec: model_fn(_only(spec, modalities)), description=described)


def _only(spec: Spec, modalities: Sequence[str]) -> Spec:
    """The spec of these modalities."""
    return {**spec, "shapes": {name: spec["shapes"][name] for name in modalities}}


class Cohorts:
    """Cohorts by name, each loaded once: several hospitals come from the same files. Those `given` need no loading.

    A sample that two patients have is in them once; `notes` says so, by the name of the cohort. The columns of a table stand in
    the order in which a cohort first named them: hospitals of several data sets can share what reads them.
    """

    def __init__(self, data_dir: Path | None, given: Iterable[Cohort] = ()) -> None:
        self._data_dir = data_dir
        self._loaded: dict[str, Cohort] = {}
        self._columns: dict[str, dict[str, int]] = {}
        self.notes: dict[str, tuple[str, ...]] = {}
        for cohort in given:
            self._take_in(cohort)

    def get(self, name: str, key: str) -> Cohort:
        """The cohort called `name`, which a plan asks for under `key`."""
        if name in self._loaded:
            return self._loaded[name]
        if SOURCES.find(name, key=f"{key}.dataset").kind != "cohort":
            raise PlanError("not a cohort of patients", key=f"{key}.dataset", value=name, remedy="Name a medical data set.")
        record = load(name, self._data_dir)
        assert isinstance(record, Cohort)  # its source says so
        return self._take_in(record)

    def _take_in(self, cohort: Cohort) -> Cohort:
        self.notes[cohort.name] = notes_on(cohort)
        distinct, _ = once(cohort)
        for name, columns in cohort.columns.items():
            places = self._columns.setdefault(name, {})
            for column in columns:
                places.setdefault(column, len(places))
            distinct = _reordered(distinct, name, sorted(range(len(columns)), key=lambda index: places[columns[index]]))
        self._loaded[cohort.name] = distinct
        return distinct


def _reordered(cohort: Cohort, table: str, order: Sequence[int]) -> Cohort:
    """The cohort with the columns of a table in this order."""
    names = tuple(cohort.columns[table][index] for index in order)
    if names == cohort.columns[table]:
        return cohort
    values = {**cohort.modalities, table: cohort.modalities[table][:, list(order)]}
    return replace(cohort, modalities=values, columns={**cohort.columns, table: names})


def _client(table: ClientTable, seed: int, cohorts: Cohorts, public: PublicData | None, chosen: HospitalModel | None) -> Client:
    key = f"client {table.name!r}"
    data_table = validate(HospitalData, table.data, key=f"{key}.data")
    model_table = validate(HospitalModel, table.model, key=f"{key}.model")
    cohort = cohorts.get(data_table.dataset, f"{key}.data")
    home = hospital(cohort, data_table, seed, key)
    shapes = home.data.spec["shapes"]
    shown, unread = _public(public, cohorts, home, data_table, seed)
    small = HospitalModel(features=model_table.features, **{name: MODALITIES[name].common_encoder for name in shapes})
    common = chosen or small
    model = _encoders(shapes, model_table)
    data = home.data
    model_fn: ModelFn = partial(HospitalNet, table=model_table)
    if model_table.learner is not None:
        settings = {name: str(value) for name, value in model_table.settings.items()}
        model = {"learner": model_table.learner, **settings}
        estimator = _estimator(model_table.learner, model_table.settings, home, key=key, seed=seed, name=table.name)
        data = replace(data, spec={**data.spec, "public": len(shown) if shown else 0})
        model_fn = _learner(estimator, home.task)
    else:
        _check_model(shapes, model_table, f"{key}.model")
    return Client(
        table.name,
        data,
        home.task,
        model_fn,
        table.training,
        public=shown,
        unread=unread,
        augment=augmented if data_table.augment else None,
        # Equal text stands for an equal model and training: pooled training trains such hospitals' model once.
        kind=json.dumps([model, model_table.features, table.training.model_dump()], sort_keys=True),
        about={"model": ", ".join(f"{part}: {name}" for part, name in model.items()), **_about(cohort, data_table, home)},
        common_fn=None if model_table.learner else partial(HospitalNet, table=common),
        columns={name: names for name, names in home.columns.items() if names},
        synthetic=cohort.synthetic,
        description=described(home, model_table, common),
        holding=home.holding,
        notes=cohorts.notes[cohort.name],
    )


def _about(cohort: Cohort, table: HospitalData, home: Hospital) -> dict[str, str]:
    """What a report says of a hospital's data."""
    return {
        "data": cohort.name + (f" ({', '.join(table.sites)})" if table.sites else ""),
        "question": home.task.label_space.removesuffix("?"),
        "modalities": ", ".join(table.modalities),
    }


def _public(
    public: PublicData | None, cohorts: Cohorts, home: Hospital, table: HospitalData, seed: int
) -> tuple[Examples | None, str]:
    """The public inputs as the hospital reads them, and why it cannot where it cannot."""
    if public is None:
        return None, "holds no public inputs (add a [public] table to the plan)"
    cohort = cohorts.get(public.dataset, "public")
    return public_inputs(cohort, public, home, table, seed), unreadable(cohort, home, table)


def _encoders(shapes: Mapping[str, tuple[int, ...]], table: HospitalModel) -> dict[str, str]:
    """The encoder of each modality, in words."""
    names = {modality: table.encoder(modality) for modality in shapes}
    if table.width == 1:
        return names
    widened = {modality for modality, name in names.items() if scalable(MODALITIES[modality].encoders[name])}
    return {modality: f"{name} x {table.width:g}" if modality in widened else name for modality, name in names.items()}


def _estimator(
    learner: LearnerName, settings: Mapping[str, object], home: Hospital, *, key: str, seed: int, name: str
) -> Estimator:
    """The learner of a hospital, unfitted; it has been tried out on noise, so that wrong settings show now."""
    if not home.task.class_count:
        remedy = "Leave it out, or ask for a label with classes."
        raise PlanError("learners tell classes apart", key=f"{key}.model.learner", value=learner, remedy=remedy)
    estimator = new_learner(learner, settings, key, seed, name, "learner")
    columns = sum(math.prod(shape) for shape in home.data.spec["shapes"].values())
    try_out(estimator, columns, home.task.class_count, settings=settings, key=f"{key}.model.settings")
    return estimator


def _learner(estimator: Estimator, task: Task) -> ModelFn:
    return lambda spec: Learner(estimator, task, spec["shapes"], public=spec["public"])


def _check_model(shapes: Mapping[str, tuple[int, ...]], table: HospitalModel, key: str) -> None:
    """Raise `PlanError` under the `key` of a model table where one of its encoders cannot be built."""
    for name, shape in shapes.items():
        modality, encoder = MODALITIES[name], table.encoder(name)
        modality.check_encoder(encoder, shape, features=table.features, width=table.width, key=key, name=name)
