"""A city's model: gaps in the readings, the clock, forecasts as changes, the congestion head, and the article's network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from towns import asking, counting, model_of, noisy, some, town

from hetfed.model import Output
from hetfed.tasks import Forecasting
from hetfed_traffic.calendar import SLOTS_PER_DAY
from hetfed_traffic.encoders import ENCODERS
from hetfed_traffic.model import City, CongestionModel
from hetfed_traffic.plan_schema import CityModelTable
from hetfed_traffic.preprocessing import clock_of, forecasting_data, statistics_of
from hetfed_traffic.references import last_value

GENTLE = settings(deadline=None, max_examples=60)


def city_of(**keys: object) -> City:
    """A city whose time embeddings say which entry was taken, in the last two features."""
    city = model_of(noisy(), time_embedding=1, **keys).city
    with torch.no_grad():
        for embedding in (city.time_of_day, city.kind_of_day):
            embedding.weight.copy_(torch.arange(float(len(embedding.weight)))[:, None])
    return city


def taken(city: City, clock: list[list[float]]) -> list[list[int]]:
    """The slot of the day and the kind of day for each clock."""
    times = torch.tensor(clock)
    found = city(torch.zeros(len(times), 4, 3, 1), times)[..., -2:]
    assert torch.equal(found, found[:, :1].expand(-1, 3, -1))
    return found[:, 0].long().tolist()


@GENTLE
@given(st.floats(0, 1, width=32), st.integers(0, 6))
def test_every_time_has_a_slot(fraction, day):
    ((slot, kind),) = taken(city_of(), [[fraction, day]])
    assert 0 <= slot < SLOTS_PER_DAY and kind == (day >= 5)
    assert abs(slot + 0.5 - fraction * SLOTS_PER_DAY) <= 0.5 + 1e-4


@pytest.mark.parametrize("interval", [1, 5, 15, 60])
def test_slots_are_quarters_of_an_hour(interval):
    steps = 24 * 60 // interval
    clock = clock_of(counting(steps, interval=interval).time)
    slots = [slot for slot, _ in taken(city_of(), clock.tolist())]
    assert slots == [step * interval // 15 for step in range(steps)]


def test_days_are_weekends_or_weekdays():
    days = [[0.5, day] for day in range(7)]
    assert [kind for _, kind in taken(city_of(), days)] == [0, 0, 0, 0, 0, 1, 1]
    assert [kind for _, kind in taken(city_of(calendar="weekday"), days)] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_gap_is_read_as_the_mean(name):
    series = noisy(channels=2)
    model, inputs = model_of(series, encoder=name), some(series)
    gap, filled = inputs["readings"].clone(), inputs["readings"].clone()
    gap[2, 1, 0] = torch.nan
    filled[2, 1, 0] = model.city.mean
    whole, with_gap, with_mean = (model({**inputs, "readings": x}).logits for x in (inputs["readings"], gap, filled))
    assert with_gap.isfinite().all() and torch.allclose(with_gap, with_mean, atol=1e-4)
    assert not torch.allclose(with_gap[2], whole[2], atol=1e-4)
    assert torch.allclose(with_gap[[0, 1, 3, 4]], whole[[0, 1, 3, 4]], atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_city_that_says_nothing_is_still_forecast(name):
    series = noisy()
    inputs = {**some(series), "readings": torch.full((5, 4, 3, 1), torch.nan)}
    model = model_of(series, encoder=name)
    output = model(inputs)
    output.logits.sum().backward()
    assert output.logits.isfinite().all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ENCODERS)
def test_the_unit_of_the_readings_does_not_matter(name):
    """A city in miles per hour and the same in km/h: the same scaled forecasts."""
    one, other = noisy(), noisy()
    other.values[:] = one.values * 1.609
    first, second = model_of(one, encoder=name)(some(one)).logits, model_of(other, encoder=name)(some(other)).logits
    assert torch.allclose(first, second, atol=1e-4)


def forecast_of(series, **keys: object) -> tuple[torch.Tensor, Output]:
    """Forecasts in the city's unit, by a model whose head says nothing."""
    data, model = forecasting_data(series, asking()), model_of(series, **keys)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    own = statistics_of(series, asking())
    task = Forecasting(series.unit, series.interval, (15, 30), own["target_mean"], own["target_scale"])
    output = model(data.test.inputs)
    return task.in_unit(output.logits).detach(), output


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("channels", [1, 4])
def test_without_a_head_the_forecast_is_the_last_value(name, channels):
    series = noisy(channels=channels)
    data = forecasting_data(series, asking())
    forecast, _ = forecast_of(series, encoder=name)
    assert torch.allclose(forecast, last_value(data.test, data.train, range(channels)), rtol=1e-4)


def test_without_a_head_a_silent_sensor_is_forecast_as_the_mean():
    series = noisy()
    series.values[192:, 1] = np.nan
    forecast, _ = forecast_of(series)
    assert torch.allclose(forecast[..., 1], statistics_of(series, asking())["target_mean"], rtol=1e-5)


def test_without_residual_and_head_the_forecast_is_the_mean():
    forecast, output = forecast_of(noisy(), residual=False)
    assert not output.logits.any() and torch.allclose(forecast, statistics_of(noisy(), asking())["target_mean"])


def test_management_is_a_head_of_its_own():
    levels = np.arange(240) % 4
    series = noisy(level=levels, levels=("low", "normal", "high", "heavy"))
    output = model_of(series)(some(series))
    assert output.further["level"].shape == (5, 3, 4) and output.logits.shape == (5, 2, 3)
    without = model_of(series, management=0)
    assert without.management is None and not without(some(series)).further
    assert torch.equal(without(some(series)).logits, output.logits)
    assert not [name for name, _ in without.named_parameters() if name.startswith("management")]


def test_features_make_room_for_the_embeddings():
    city = model_of(noisy(), features=20, sensor_embedding=5, time_embedding=4).city
    assert city.adapter.out_features == 20 - 5 - 2 * 4
    readings, clock = some(noisy()).values()
    parts = city(readings, clock)
    assert parts.shape == (5, 3, 20)
    assert torch.equal(parts[:, :, 7:12], city.sensor.expand(5, -1, -1))


def test_scale_graph_and_mean_are_no_parameters():
    model = model_of(noisy())
    own = ("mean", "scale", "target_mean", "target_scale", "adjacency", "seen_slots", "seen_days")
    assert set(model.state_dict()) - {name for name, _ in model.named_parameters()} == {f"city.{name}" for name in own}


def test_congestion_model_is_the_article_s():
    model = CongestionModel({"history": 10, "classes": 2}, CityModelTable(encoder="linear", features=128))
    linears = [(layer.in_features, layer.out_features) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert linears == [(10, 128), (128, 2)] and sum(p.numel() for p in model.parameters()) == 10 * 128 + 128 + 128 * 2 + 2
    x = torch.ones(3, 10)
    output = model({"history": x})
    assert torch.equal(output.features, model.encoder(x)) and torch.equal(output.logits, model.head(model.encoder(x)))


def test_every_sensor_of_a_town_is_forecast_by_its_own_past():
    """With an encoder that sees history alone, equal sensors are forecast alike and others otherwise."""
    values = np.random.default_rng(0).normal(50, 10, (240, 2))
    series = town(np.concatenate([values, values[:, :1]], axis=1))
    logits = model_of(series, encoder="linear")(some(series)).logits
    assert torch.equal(logits[..., 0], logits[..., 2]) and not torch.allclose(logits[..., 0], logits[..., 1], atol=1e-3)


def test_of_several_channels_the_one_that_is_forecast_goes_on():
    series = noisy(channels=3, target="c1")
    data, model = forecasting_data(series, asking()), model_of(series, encoder="linear")
    own = statistics_of(series, asking())
    latest = model.city.latest(data.test.inputs["readings"]) * own["target_scale"] + own["target_mean"]
    assert torch.allclose(latest, data.test.inputs["readings"][:, -1, :, 1], rtol=1e-4)
    assert torch.equal(last_value(data.test, data.train, [1])[:, 0], data.test.inputs["readings"][:, -1, :, 1])
