"""From the tables of a plan to cities, and every way in which a plan can ask for what is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import tomli_w
import torch
from towns import noisy, ring, town

from hetfed.client import Client
from hetfed.errors import DataError, PlanError
from hetfed.evaluation import predict
from hetfed.holding import check_apart
from hetfed.model import Output
from hetfed.plan import read_plan
from hetfed.tasks import Classification, Forecasting, MultiTask
from hetfed_datasets.records import Measure, Series
from hetfed_traffic import vertical
from hetfed_traffic.references import autoregression
from hetfed_traffic.script import city

DATA = {"dataset": "sample-cities", "city": "probes"}


def cities(*tables: dict[str, Any], **top: Any) -> list[Client]:
    """The cities of a plan with these client tables, called "a", "b", ..."""
    named = [{"name": name, **table} for name, table in zip("abcd", tables, strict=False)]
    return list(vertical.clients(read_plan(tomli_w.dumps({**top, "client": named}), "test.toml"), None))


def test_a_city_says_what_it_is():
    (city,) = cities({"data": {"dataset": "sample-cities", "city": "camera"}, "model": {"encoder": "gru"}})
    assert city.about == {
        "model": "gru",
        "data": "sample-cities: camera",
        "interval": "15 min",
        "sensors": "1",
        "channels": "car, bike, bus, truck",
        "forecast": "car + bike + bus + truck",
    }
    assert city.unit == city.profile.unit == "vehicles/15 min" and city.synthetic and city.profile.synthetic
    assert city.profile.probe.logits.shape == (2, 4, 1) and city.profile.probe.further["level"].shape == (2, 1, 4)


def test_a_city_that_is_not_named_is_the_first():
    a, b = cities({"data": {"dataset": "sample-cities"}}, {"data": {"dataset": "sample-cities", "city": "loops"}})
    assert torch.equal(a.data.test.target, b.data.test.target) and a.about["data"] == "sample-cities"


def test_congestion_level_is_a_further_task_with_its_weight():
    a, b = cities({"data": DATA, "model": {"management": 0.25}}, {"data": DATA, "model": {"management": 0}})
    assert isinstance(a.task, MultiTask) and isinstance(a.task.main, Forecasting) and isinstance(b.task, Forecasting)
    level, weight = a.task.further["level"]
    assert level.names == ("free", "congested") and weight == 0.25
    metrics = a.task.metrics(predict(a.module, a.data.test), a.data.test).values
    assert 0 <= metrics["level AUROC"] <= 1 and 0 <= metrics["level accuracy"] <= 1


def test_the_loss_is_the_one_asked_for():
    for kind in ("mae", "mse", "huber"):
        (city,) = cities({"data": DATA, "model": {"loss": kind, "management": 0}})
        assert city.task.loss_kind == kind


def test_cities_of_the_same_model_and_training_are_of_one_kind():
    other = {"data": {"dataset": "sample-cities", "city": "loops"}}
    a, b, c, d = cities({"data": DATA}, other, {"data": DATA, "model": {"layers": 1}}, {"data": DATA, "training": {"lr": 1.0}})
    assert a.kind == b.kind and len({a.kind, c.kind, d.kind}) == 3
    a, b = cities({"data": DATA}, {"data": {**DATA, "predict": "congestion"}})
    assert a.kind != b.kind


@pytest.mark.parametrize("city", ["loops", "probes", "signals", "camera"])
def test_metrics_are_in_the_city_s_own_unit(city):
    (client,) = cities({"data": {"dataset": "sample-cities", "city": city, "horizons": [15, 60]}})
    test, interval = client.data.test, int(client.about["interval"].split()[0])
    output = predict(client.module, test)
    metrics = client.task.metrics(output, test)
    own = client.statistics
    forecast = (output.logits * own["city.target_scale"] + own["city.target_mean"]).clamp(min=0).numpy()
    for minutes in (15, 60):
        steps = minutes // interval
        error, target = forecast[:, :steps] - test.target[:, :steps].numpy(), test.target[:, :steps].numpy()
        assert metrics.values[f"MAE up to {minutes} min"] == pytest.approx(np.nanmean(np.abs(error)), rel=1e-3)
        assert metrics.values[f"RMSE up to {minutes} min"] == pytest.approx(np.sqrt(np.nanmean(error**2)), rel=1e-3)
        usable = target >= 1
        share = np.abs(error[usable]) / target[usable]
        assert metrics.values[f"MAPE up to {minutes} min"] == pytest.approx(100 * share.mean(), rel=1e-3)
        unmasked = forecast[:, :steps] - np.nan_to_num(target)
        assert metrics.values[f"MAE up to {minutes} min unmasked"] == pytest.approx(np.abs(unmasked).mean(), rel=1e-3)
        assert metrics.values[f"RMSE up to {minutes} min unmasked"] == pytest.approx(np.sqrt((unmasked**2).mean()), rel=1e-3)
        masked, whole = metrics.values[f"MAE up to {minutes} min"], metrics.values[f"MAE up to {minutes} min unmasked"]
        assert (masked < whole) if city == "probes" else masked == pytest.approx(whole, rel=1e-6)
    assert client.task.metric == "MAE up to 15 min" and not client.task.higher_is_better
    assert set(client.references(client.data.test)) == {"last value", "historical average", "autoregression"}


def test_congestion_is_a_classification_of_sensors():
    (city,) = cities({"data": {**DATA, "predict": "congestion", "history": 10, "examples": 99}, "model": {"features": 16}})
    assert city.task == Classification(("free", "congested"))
    ((name, usual),) = city.references(city.data.test).items()
    assert name == "usual level" and 0 <= city.task.metrics(usual, city.data.test).values["AUROC"] <= 1
    assert city.data.train.inputs["history"].shape == (99, 10)
    assert city.profile.probe.logits.shape == (2, 2) and city.profile.probe.features.shape == (2, 16)


def test_the_seed_of_the_plan_decides_which_examples_are_drawn():
    table = {"data": {**DATA, "predict": "congestion", "examples": 50}}
    one, again, other = (cities(table, federation={"seed": seed})[0].data.test.ids for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dataset": "nowhere"}, r"dataset: unknown data set \(value: 'nowhere'\)"),
        ({"dataset": "sample-hospitals"}, r"client 'a'\.data\.dataset: not a traffic data set \(value: 'sample-hospitals'\)"),
        ({"city": "atlantis"}, r"city: no such sample city \(value: 'atlantis'\)\. Known: loops, probes, signals, camera"),
        (
            {"dataset": "la-los-loop"},
            r"client 'a'\.data\.city: this data set has one city \(value: 'probes'\)\. Remove the key",
        ),
        ({"horizons": [15, 20]}, r"data\.horizons: not a whole number of steps \(value: 20\)"),
        ({"horizons": []}, r"client 'a'\.data\.horizons: list should have at least 1 item"),
        ({"horizons": [0]}, r"client 'a'\.data\.horizons\[0\]: input should be greater than 0"),
        ({"history": 500}, r"data\.history: sample-cities: a part of 135 steps holds no window \(value: 500\)"),
        ({"history": 500, "predict": "congestion"}, r"data\.history: sample-cities: a part of 135 steps holds no window"),
        ({"train": 0.9, "validation": 0.1}, r"client 'a'\.data: train and validation leave nothing to test on"),
        ({"predict": "rain"}, r"client 'a'\.data\.predict: .* \(value: 'rain'\)"),
        ({"steps": 3}, r"client 'a'\.data\.steps: unknown key"),
    ],
    ids=lambda value: "-".join(f"{key}-{item}" for key, item in value.items()) if isinstance(value, dict) else "",
)
def test_data_that_are_not_there_are_a_plan_error(data, message):
    with pytest.raises(PlanError, match=message):
        cities({"data": {**DATA, **data}})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"encoder": "transformer"}, r"a'\.model\.encoder: unknown traffic encoder .*Known: graph, gru, linear, mlp\."),
        ({"features": 64}, r"client 'a'\.model\.features: the embeddings take 64 features .* \(value: 64\)"),
        ({"encoder": "graph", "features": 20}, r"client 'a'\.model\.features: the embeddings take 64 features"),
        ({"encoder": "gru", "layers": 0}, r"client 'a'\.model\.encoder: a gru has at least one layer .*Change layers"),
        ({"dropout": 1.0}, r"client 'a'\.model\.dropout: input should be less than 1"),
        ({"sensors": 3}, r"client 'a'\.model\.sensors: unknown key"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_model_that_cannot_be_is_a_plan_error(model, message):
    with pytest.raises(PlanError, match=message):
        cities({"data": DATA, "model": model})


@pytest.mark.parametrize(
    "model",
    [{"features": 65}, {"features": 8, "encoder": "gru"}, {"features": 8, "encoder": "linear", "layers": 0}],
    ids=["one feature left", "gru", "linear"],
)
def test_a_model_that_can_be_is_built(model):
    (city,) = cities({"data": DATA, "model": model})
    assert city.profile.probe.features.shape == (2, 10, model["features"])


def test_cities_have_no_public_inputs():
    with pytest.raises(PlanError, match=r"public: cities have no public inputs\. Remove the \[public\] table"):
        cities({"data": DATA}, public={"dataset": "sample-cities"})


def test_chance_is_by_day():
    for extra in ({}, {"predict": "congestion", "history": 10, "examples": 99}):
        (city,) = cities({"data": {**DATA, **extra}})
        assert city.data.owned_by == "days"
        assert [identity[:10] for identity in city.data.test.ids] == list(city.data.test.whose)
        assert 1 < len(set(city.data.test.whose)) < 10


def lone(links: np.ndarray | None) -> Series:
    return noisy(adjacency=None if links is None else links.astype(np.float32))


@pytest.mark.parametrize("links", [None, np.eye(3), np.zeros((3, 3))], ids=["none", "to themselves", "no link"])
def test_a_graph_encoder_without_a_graph_is_refused(links):
    message = (
        r"client 'a'\.model\.encoder: town has no road graph: .* \(value: 'graph'\)\. Choose an encoder without a graph, as mlp"
    )
    with pytest.raises(PlanError, match=message):
        city("a", lone(links), history=4, model={"encoder": "graph"})
    assert city("a", lone(links), history=4).about["model"] == "mlp"


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf])
def test_a_graph_with_a_hole_in_it_is_refused(wrong):
    links = ring(3)
    links[1, 2] = wrong
    with pytest.raises(DataError, match=r"series 'town': adjacency\[1\]\[2\]: not a weight"):
        city("a", lone(links), history=4, model={"encoder": "graph"})
    with pytest.raises(DataError, match=r"adjacency: array of shape \(3, 3\) expected"):
        city("a", lone(ring(4)), history=4, model={"encoder": "graph"})


@pytest.mark.parametrize("measure", get_args(Measure))
def test_nothing_is_forecast_below_zero(measure):
    """A model may answer anything; a count of -132.8 passengers is none."""
    client = city("a", noisy(kind=measure), history=4, horizons=[15], model={"management": 0})
    test, task = client.data.test, client.task
    low = Output(torch.full_like(test.target, -100.0))
    table = task.table(low, test)
    assert (table.filter(like="forecast") == 0).all(axis=None)
    assert task.metrics(low, test).values["MAE up to 15 min"] == pytest.approx(float(test.target.mean()), rel=1e-5)
    free = low.logits.requires_grad_()
    task.loss(Output(free), test.whole()).backward()
    assert (free.grad < 0).all()  # training is told the way up


def test_references_forecast_nothing_below_zero():
    falling = np.maximum(100 - np.arange(240)[:, None], 0) * np.ones(2)
    client = city("a", town(falling), history=4, horizons=[15], train=0.4)
    forecast = autoregression(client.data.train, client.data.test, client.task.main, [0])
    assert (forecast >= 0).all()


def test_the_same_city_twice_with_other_shares_of_time_is_refused():
    """The one would train on what the other tests on, whatever the data set is called."""
    one, again = noisy(), replace(noisy(), name="village")
    first = city("a", one, history=4, train=0.5)
    message = (
        r"^client 'b'\.data: 3 of its 3 sensors are also those of client 'a', .*\. Name a city once, or give both the same"
    )
    with pytest.raises(PlanError, match=message):
        check_apart([first, city("b", again, history=4, train=0.6)])
    with pytest.raises(PlanError, match=message):
        check_apart([first, city("b", again, history=4, train=0.6, predict="congestion")])
    check_apart([first, city("b", again, history=4, train=0.5), city("c", noisy(seed=1), history=4, train=0.7)])
    some = replace(again, values=again.values[:, 1:], sensors=("x", "y"))
    with pytest.raises(PlanError, match="2 of its 2 sensors"):
        check_apart([first, city("b", some, history=4, train=0.6)])
