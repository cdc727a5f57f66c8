"""Simple forecasts against plain pandas and scikit-learn, with readings missing here and there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from towns import asking, noisy, parts, town

from hetfed.data import ClientData, Examples
from hetfed.tasks import Classification, Forecasting, MultiTask
from hetfed_datasets.records import Series
from hetfed_traffic.preprocessing import congestion_data, forecasting_data, statistics_of
from hetfed_traffic.references import (
    AVERAGE,
    USUAL,
    autoregression,
    congestion_references,
    has_rhythm,
    historical_average,
    last_value,
    references,
)
from hetfed_traffic.script import city

ASKED = asking(horizons=(60, 180))


def hourly(days: int = 16, start: str = "2024-03-04", seed: int = 0) -> Series:
    """Three sensors with a rhythm, readings missing, one sensor silent at noon, and from the second week on altogether."""
    rng = np.random.default_rng(seed)
    hour = np.arange(24 * days)
    values = 50 + 20 * np.sin(hour[:, None] / 24 * 2 * np.pi + np.arange(4)) + rng.normal(0, 5, (len(hour), 4))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[hour % 24 == 12, 1] = np.nan
    values[180:, 2] = np.nan
    values[:, 3] = np.nan
    return town(values, interval=60, start=start)


def data_of(series: Series, **keys: object) -> tuple[ClientData, Forecasting]:
    asked = ASKED.model_copy(update=keys)
    data, own = forecasting_data(series, asked), statistics_of(series, asked)
    mean, scale = own["target_mean"], own["target_scale"]
    return data, Forecasting(series.unit, series.interval, ASKED.horizons, mean, scale)


def test_last_value_goes_on():
    data, _ = data_of(hourly())
    forecast = last_value(data.test, data.train, [0])
    past = data.test.inputs["readings"][..., 0].numpy()
    everything = float(np.nanmean(data.train.target.numpy()))
    for row in range(len(data.test)):
        expected = pd.DataFrame(past[row]).ffill().iloc[-1].fillna(everything).to_numpy()
        assert np.allclose(forecast[row], np.tile(expected, (3, 1)), rtol=1e-5)
    assert forecast.shape == data.test.target.shape and forecast.isfinite().all()
    assert np.isnan(past[:, -1, 0]).any() and np.allclose(forecast[:, :, 3], everything, rtol=1e-5)


def long_form(examples: Examples, interval: int) -> pd.DataFrame:
    """One row per window, step and sensor."""
    count, steps, sensors = examples.target.shape
    clock = examples.inputs["clock"].numpy()
    window, step, sensor = (x.ravel() for x in np.indices((count, steps, sensors)))
    slot, weekend = (clock[window, 0] * 1440 / interval + 1e-3).astype(int), clock[window, 1] >= 5
    return pd.DataFrame(
        {"step": step, "sensor": sensor, "slot": slot, "weekend": weekend, "value": examples.target.numpy().ravel()}
    )


def averages(train: Examples, test: Examples, interval: int) -> np.ndarray:
    """By pandas: the same slot on the same kind of day, else on any day, else the sensor's mean, else everybody's."""
    known, wanted = long_form(train, interval), long_form(test, interval).drop(columns="value")
    result = pd.Series(np.nan, index=wanted.index)
    for keys in (["step", "sensor", "slot", "weekend"], ["step", "sensor", "slot"], ["sensor"]):
        means = known.groupby(keys)["value"].mean().rename("mean").reset_index()
        result = result.fillna(wanted.merge(means, on=keys, how="left")["mean"])
    return result.fillna(known["value"].mean()).to_numpy().reshape(test.target.shape)


@pytest.mark.parametrize(
    ("series", "keys"),
    [
        (hourly(), {}),
        (hourly(6), {"train": 0.6}),  # no weekend in training, a weekend in the test part
        (hourly(3, start="2024-03-09"), {"train": 0.5, "validation": 0.2}),
        (noisy(2000, interval=5, gaps=0.3), {}),
        (noisy(1000, interval=10, gaps=0.3), {}),
    ],
    ids=["two weeks", "no weekend", "two days", "five minutes", "ten minutes"],
)
def test_historical_average(series, keys):
    data, _ = data_of(series, **keys)
    for part in parts(data):
        forecast = historical_average(data.train, part, series.interval)
        assert forecast.isfinite().all() and np.allclose(forecast, averages(data.train, part, series.interval), rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_autoregression_is_ridge_regression(channels):
    series = noisy(600, channels=channels, gaps=0.1, interval=60)
    data, task = data_of(series)
    mean, scale = float(task.mean), float(task.scale)

    def design(examples: Examples) -> np.ndarray:
        past = (examples.inputs["readings"].sum(dim=3).numpy() - mean) / scale
        table = np.nan_to_num(past).transpose(0, 2, 1).reshape(-1, 4)
        return np.hstack([table, np.ones((len(table), 1))])

    target = ((data.train.target.numpy() - mean) / scale).transpose(0, 2, 1).reshape(-1, 3)
    known = ~np.isnan(target).any(axis=1)
    assert 0 < known.sum() < len(known)
    model = Ridge(alpha=1.0, fit_intercept=False).fit(design(data.train)[known].astype(np.float64), target[known])
    expected = model.predict(design(data.test)).reshape(len(data.test), 3, 3).transpose(0, 2, 1) * scale + mean
    forecast = autoregression(data.train, data.test, task, range(channels))
    assert forecast.isfinite().all() and np.allclose(forecast, expected, atol=1e-2)


def test_autoregression_finds_the_rule():
    """Every reading is half the last one plus a constant: what is to come is known."""
    values = np.empty((400, 2))
    values[0] = 100
    shocks = np.random.default_rng(0).normal(0, 10, 400) * (np.arange(400) % 7 == 0)
    for step in range(1, 400):
        values[step] = 20 + 0.5 * values[step - 1] + shocks[step]
    data, task = data_of(town(values, interval=60))
    forecast = autoregression(data.train, data.test, task, [0])
    calm = torch.from_numpy(shocks[320 + 4 :][: len(data.test)] == 0)
    assert (forecast[calm, 0] - data.test.target[calm, 0]).abs().max() < 1.5


def test_reference_metrics_are_those_of_the_forecasts():
    data, task = data_of(hourly())
    metrics = {name: task.metrics(said, data.test) for name, said in references(data.train, task, [0], data.test).items()}
    assert set(metrics) == {"last value", "historical average", "autoregression"}
    target = data.test.target.numpy()
    for name, forecast in (
        ("last value", last_value(data.test, data.train, [0])),
        ("historical average", historical_average(data.train, data.test, 60)),
        ("autoregression", autoregression(data.train, data.test, task, [0])),
    ):
        error = forecast.numpy() - target
        assert metrics[name].values["MAE up to 60 min"] == pytest.approx(np.nanmean(np.abs(error[:, :1])), rel=1e-4)
        assert metrics[name].values["RMSE up to 180 min"] == pytest.approx(np.sqrt(np.nanmean(error**2)), rel=1e-4)
        unmasked = np.abs(forecast.numpy() - np.nan_to_num(target)).mean()
        assert metrics[name].values["MAE up to 180 min unmasked"] == pytest.approx(unmasked, rel=1e-4)


def test_references_never_look_at_the_test_targets():
    data, task = data_of(hourly())
    hidden = Examples(data.test.inputs, torch.full_like(data.test.target, torch.nan), data.test.ids)
    assert torch.equal(last_value(data.test, data.train, [0]), last_value(hidden, data.train, [0]))
    assert torch.equal(historical_average(data.train, data.test, 60), historical_average(data.train, hidden, 60))
    assert torch.equal(autoregression(data.train, data.test, task, [0]), autoregression(data.train, hidden, task, [0]))


def test_a_rhythm_finer_than_a_quarter_of_an_hour_is_averaged_in_the_city_s_own_slots():
    """Every ten minutes another reading: in slots of 15 minutes two of three would be averaged together."""
    rhythm = np.tile([10.0, 50.0, 90.0], 48 * 10)[:, None]
    series, asked = town(rhythm, interval=10), asking(horizons=(10, 30))
    data = forecasting_data(series, asked)
    assert torch.equal(historical_average(data.train, data.test, 10), data.test.target)


def levelled(level: np.ndarray) -> ClientData:
    """A city whose publisher gives these levels, one every hour."""
    return forecasting_data(town(np.full((len(level), 1), 9.0), interval=60, level=level, levels=("low", "high")), ASKED)


def usual(data: ClientData) -> Mapping[str, float | None]:
    """How well the level that is usual at the time is the level of the test data."""
    task = MultiTask(Forecasting("km/h", 60, ASKED.horizons), {"level": (Classification(("low", "high")), 0.1)})
    return task.metrics(references(data.train, task, [0], data.test)[AVERAGE], data.test).values


def test_a_level_that_the_hour_explains_is_predicted_by_what_is_usual():
    hour = np.arange(24 * 20) % 24
    data = levelled((hour >= 8).astype(np.int64))
    found = usual(data)
    assert found["level AUROC"] == found["level accuracy"] == 1.0
    assert has_rhythm(data.train.further["level"], data.train.inputs["clock"])


def test_a_level_without_a_rhythm_over_the_day_is_said_to_have_none():
    levels = np.random.default_rng(0).integers(0, 2, 24 * 60)
    data = levelled(levels)
    assert not has_rhythm(data.train.further["level"], data.train.inputs["clock"])
    assert 0.3 < usual(data)["level AUROC"] < 0.7
    series = town(np.full((len(levels), 1), 9.0), interval=60, level=levels, levels=("low", "high"))
    assert "The level of congestion has no rhythm over the day." in city("a", series, horizons=[60]).notes


def test_levels_that_nobody_knows_are_no_rhythm_and_no_error():
    assert usual(levelled(np.full(24 * 20, -1)))["level AUROC"] is None


def test_a_sensor_that_is_congested_at_its_own_hours_is_predicted_by_what_is_usual_there():
    hour = np.arange(24 * 20) % 24
    values = np.stack([np.where(hour >= 8, 20.0, 60.0), np.where(hour >= 16, 20.0, 60.0)], axis=1)
    series, asked = replace(town(values, interval=60), sensors=("mill lane", "mill lane 2")), asking(predict="congestion")
    data, task = congestion_data(series, asked, 0), Classification(("free", "congested"))
    found = congestion_references(data.train, task, 60, data.test)
    assert {name: task.metrics(said, data.test).values["accuracy"] for name, said in found.items()} == {USUAL: 1.0}
