"""From a plan to cities that can learn together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hetfed.client import Client
from hetfed.data import ClientData
from hetfed.errors import PlanError
from hetfed.holding import Holding
from hetfed.plan import ClientTable, Plan, validate
from hetfed.seeding import isolated
from hetfed.tasks import Classification, Forecasting, MultiTask
from hetfed_datasets.identity import sensors
from hetfed_datasets.notes import notes_on
from hetfed_datasets.records import Series
from hetfed_datasets.registry import SOURCES, load
from hetfed_traffic.calendar import seen_times
from hetfed_traffic.encoders import ENCODERS, reads_of
from hetfed_traffic.kept import described_city, described_congestion
from hetfed_traffic.model import CityModel, CongestionModel
from hetfed_traffic.plan_schema import CityData, CityModelTable
from hetfed_traffic.preprocessing import (
    CONGESTION,
    Parts,
    congestion_data,
    forecasting_data,
    reading_scale,
    statistics_of,
    target_channels,
)
from hetfed_traffic.references import congestion_references, has_rhythm, references


def build_clients(plan: Plan, data_dir: Path | None) -> Sequence[Client]:
    """The cities of `plan` with their data.

    Raises:
        PlanError, DataError: what the plan or a file lacks.
    """
    if plan.common:
        raise PlanError("cities have no common model", key="common", remedy="Remove the table.")
    if plan.public is not None:
        raise PlanError("cities have no public inputs", key="public", remedy="Remove the [public] table.")
    return [client_of(table, plan.federation.seed, data_dir) for table in plan.client]


def client_of(table: ClientTable, seed: int, data_dir: Path | None, series: Series | None = None) -> Client:
    """The city that a `[[client]]` table asks for; a `series` that is given stands in place of the data set that it names.

    Raises:
        PlanError, DataError: what the table or a file lacks.
    """
    try:
        return _client(table, seed, data_dir, series)
    except PlanError as error:
        raise error.seen_from(key=f"client {table.name!r}") from error


def _client(table: ClientTable, seed: int, data_dir: Path | None, given: Series | None) -> Client:
    data_table = validate(CityData, table.data, key="data")
    model_table = validate(CityModelTable, table.model, key="model")
    try:
        series = _series(data_table, data_dir, given)
    except PlanError as error:
        raise error.seen_from(key="data") from error
    build = _congestion if data_table.predict == "congestion" else _forecast
    return replace(
        build(table, data_table, model_table, series, seed),
        # Equal text stands for an equal model and training: pooled training trains such cities' model once.
        kind=json.dumps([data_table.predict, table.model, table.training.model_dump()], sort_keys=True),
        about=_about(data_table, model_table, series),
        synthetic=series.synthetic,
        holding=Holding(
            sensors(series), "sensors", _shares(series, data_table), "Name a city once, or give both the same shares of time."
        ),
    )


def _about(data: CityData, model: CityModelTable, series: Series) -> dict[str, str]:
    """What a report says of the city."""
    target = target_channels(series, data)
    return {
        "model": "linear" if data.predict == "congestion" else model.encoder,
        "data": series.name if data.city is None else f"{series.name}: {data.city}",
        # What is judged is in the readings' unit only where readings are forecast.
        **({} if data.predict == "readings" else {"readings": series.unit}),
        "interval": f"{series.interval} min",
        "sensors": str(len(series.sensors)),
        "channels": ", ".join(series.channels),
        **({"forecast": " + ".join(series.channels[i] for i in target)} if len(series.channels) > 1 else {}),
    }


def _congestion(table: ClientTable, asked: CityData, model: CityModelTable, series: Series, seed: int) -> Client:
    """The city whose sensors are examples: is the next reading one of congestion?"""
    data, task = congestion_data(series, asked, seed), Classification(CONGESTION)
    scale = {k: torch.tensor(v) for k, v in zip(("mean", "deviation"), reading_scale(series, asked), strict=True)}
    return Client(
        table.name,
        data,
        task,
        partial(CongestionModel, table=model),
        table.training,
        references=partial(congestion_references, data.train, task, series.interval),
        description=described_congestion(series, model, asked.history, target_channels(series, asked), scale),
        notes=notes_on(series),
    )


def _forecast(table: ClientTable, asked: CityData, model: CityModelTable, series: Series, seed: int) -> Client:
    """The city whose times are examples: what will all sensors read?"""
    _check_encoder(model, asked.history, series)
    data = forecasting_data(series, asked)
    statistics = statistics_of(series, asked) | seen_times(data.train)
    task: Forecasting | MultiTask = _forecasting(series, asked, model, statistics)
    if model.management:
        task = MultiTask(task, {"level": (Classification(tuple(data.spec["levels"])), model.management)})
    return Client(
        table.name,
        data,
        task,
        partial(CityModel, table=model),
        table.training,
        references=partial(references, data.train, task, data.spec["target"]),
        statistics={f"city.{name}": tensor for name, tensor in statistics.items()},
        columns={"readings": series.sensors},
        unit=series.unit,
        description=described_city(series, model, asked.history),
        notes=(*notes_on(series), *_without_rhythm(data)),
    )


def _without_rhythm(data: ClientData) -> list[str]:
    """A note on a level of congestion of which the hour says nothing."""
    clock, levels = data.train.inputs["clock"], data.train.further.values()
    return [] if all(has_rhythm(level, clock) for level in levels) else ["The level of congestion has no rhythm over the day."]


def _check_encoder(table: CityModelTable, history: int, series: Series) -> None:
    """Raise `PlanError` where the encoder of a city cannot be built, leaves no room for its readings, or lacks a graph."""
    try:
        # On the device without memory, since only what it reads is asked for.
        with isolated("trial"), torch.device("meta"):
            encoder = ENCODERS[table.encoder](history, table.features, table.layers, table.dropout)
            reads = reads_of(encoder)
    except ValueError as error:
        remedy = f"Change layers, features or dropout, or choose another encoder: {', '.join(ENCODERS)}."
        raise PlanError(str(error), key="model.encoder", value=table.encoder, remedy=remedy) from None
    links = np.zeros((1, 1)) if series.adjacency is None else series.adjacency
    # A sensor's link to itself is no road.
    if getattr(encoder, "needs_graph", False) and not (links - np.diag(np.diag(links))).any():
        problem = f"{series.name} has no road graph: no sensor is linked to another one"
        remedy = "Choose an encoder without a graph, as mlp, or give the series an adjacency."
        raise PlanError(problem, key="model.encoder", value=table.encoder, remedy=remedy)
    taken = table.sensor_embedding + 2 * table.time_embedding
    if reads == "embedded" and table.features <= taken:
        raise PlanError(
            f"the embeddings take {taken} features (sensor_embedding + 2 * time_embedding) and leave none for the readings",
            key="model.features",
            value=table.features,
            remedy="Use more features or smaller embeddings.",
        )


def _shares(series: Series, table: CityData) -> str:
    """How a city's time is shared out: which step it begins to validate at, and which to test at."""
    parts = Parts.of(len(series.values), table)
    return f"{parts.train} and {parts.validation} of {parts.end} steps"


def _series(table: CityData, data_dir: Path | None, given: Series | None = None) -> Series:
    source = None if given else SOURCES.find(table.dataset, key="dataset")
    if source and source.kind != "series":
        raise PlanError("not a traffic data set", key="dataset", value=table.dataset, remedy="Name a series.")
    options = {} if table.city is None else {"city": table.city}
    if options and (source is None or "city" not in source.options):
        raise PlanError("this data set has one city", key="city", value=table.city, remedy="Remove the key.")
    if given:
        return given
    series = load(table.dataset, data_dir, **options)
    assert isinstance(series, Series)  # its source says so
    return series


def _forecasting(series: Series, table: CityData, model: CityModelTable, statistics: Mapping[str, Tensor]) -> Forecasting:
    mean, scale = statistics["target_mean"], statistics["target_scale"]
    # Nothing that a series measures lies below zero (`Series.values`).
    return Forecasting(series.unit, series.interval, table.horizons, mean, scale, loss_kind=model.loss, low=0.0)
