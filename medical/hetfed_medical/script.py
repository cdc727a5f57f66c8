"""Hospitals from a script or a notebook: what the tables of a plan say, said in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.holding import check_apart
from hetfed.participation import Presence
from hetfed.plan import ClientTable, client_table
from hetfed.training import Training
from hetfed_datasets.gate import check_cohort
from hetfed_datasets.records import Cohort
from hetfed_medical.clients import Cohorts, clients_of

Keys = Mapping[str, Any]
BESIDE = ("model", "training", "presence")
"""The tables of a client beside `data`."""


def hospital(
    name: str,
    dataset: str | Cohort,
    *,
    model: Keys | None = None,
    training: Training | Keys | None = None,
    presence: Presence | Keys | None = None,
    public: Keys | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    **data: Any,
) -> Client:
    """One hospital. Keys, values and messages are those of a plan: docs/plans.md lists them.

    Args:
        name: of the client.
        dataset: the name of a data set, or a cohort of your own.
        model: the `model` table: the encoder of each modality, `features`, or a `learner`.
        training: how it trains.
        presence: how reliable and how fast it is.
        public: the `[public]` table, the same for every hospital of a federation.
        seed: of the splits and of what is drawn among the samples.
        data_dir: where data sets lie; else HETFED_DATA, else the user's cache folder.
        data: the other keys of the `data` table: `sites`, `modalities`, `label`, `partition` ...

    Raises:
        PlanError: a key, or what it asks for, is wrong. DataError: a file, or the cohort, is.

    >>> north = hospital("north", "sample-hospitals", sites=["north"], modalities=["genes"])
    >>> north.profile.task.metric, north.profile.columns["genes"][:2]
    ('AUROC', ('module0-gene0', 'module0-gene1'))
    """
    own = {"dataset": dataset, "model": model, "training": training, "presence": presence, **data}
    (client,) = hospitals({name: own}, public=public, seed=seed, data_dir=data_dir)
    return client


def hospitals(
    tables: Mapping[str, Keys], *, public: Keys | None = None, seed: int = 0, data_dir: str | Path | None = None
) -> list[Client]:
    """The hospitals of one federation, by name what `hospital` takes of each.

    Data sets are loaded once. Hospitals know of one another here: that no patient belongs to two of them is checked, and the
    small common model of companion algorithms (FML, FedKD, FedMRL) looks at what all of them have.

    Raises:
        PlanError: a key, or what it asks for, is wrong. DataError: a file, or a cohort, is.
    """
    given: dict[str, Cohort] = {}
    asked = [_table(name, keys, given) for name, keys in tables.items()]
    cohorts = Cohorts(None if data_dir is None else Path(data_dir), given.values())
    clients = clients_of(asked, cohorts, public, seed)
    check_apart(clients)
    return [replace(client, presence=table.presence) for client, table in zip(clients, asked, strict=True)]


def _table(name: str, keys: Keys, given: dict[str, Cohort]) -> ClientTable:
    """The `[[client]]` table of a hospital; its cohort, where it brings one, is added to those `given`, by name."""
    beside = {key: keys.get(key) for key in BESIDE}
    data = {key: value for key, value in keys.items() if key not in BESIDE}
    if not isinstance(data.get("dataset"), str | None):
        cohort = check_cohort(data["dataset"])
        if given.setdefault(cohort.name, cohort) is not cohort:
            remedy = "Name every cohort differently: a name stands for one set of patients."
            raise PlanError("another cohort has this name", key=f"client {name!r}.dataset", value=cohort.name, remedy=remedy)
        data["dataset"] = cohort.name
    return client_table(name, data=data, **beside)
