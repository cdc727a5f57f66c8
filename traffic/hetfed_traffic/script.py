"""Cities from a script or a notebook: what the tables of a plan say, said in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hetfed.client import Client
from hetfed.participation import Presence
from hetfed.plan import client_table
from hetfed.training import Training
from hetfed_datasets.gate import check_series
from hetfed_datasets.records import Series
from hetfed_traffic.clients import client_of

Keys = Mapping[str, Any]


def city(
    name: str,
    dataset: str | Series,
    *,
    model: Keys | None = None,
    training: Training | Keys | None = None,
    presence: Presence | Keys | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    **data: Any,
) -> Client:
    """One city. Keys, values and messages are those of a plan: docs/plans.md lists them.

    Args:
        name: of the client.
        dataset: the name of a data set, or a series of your own.
        model: the `model` table: `encoder`, `features`, `layers` ...
        training: how it trains.
        presence: how reliable and how fast it is.
        seed: of what is drawn among the examples of congestion.
        data_dir: where data sets lie; else HETFED_DATA, else the user's cache folder.
        data: the other keys of the `data` table: `city`, `history`, `horizons`, `predict` ...

    Raises:
        PlanError: a key, or what it asks for, is wrong. DataError: a file, or the series, is.

    >>> town = city("town", "sample-cities", city="loops", model={"encoder": "gru"})
    >>> town.unit, len(town.columns["readings"])
    ('mph', 12)
    """
    series = None if isinstance(dataset, str) else check_series(dataset)
    own = {**data, "dataset": dataset if series is None else series.name}
    table = client_table(name, data=own, model=model, training=training, presence=presence)
    client = client_of(table, seed, None if data_dir is None else Path(data_dir), series)
    return replace(client, presence=table.presence)
