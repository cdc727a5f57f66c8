"""Windows: past and future in their places, splits by time, scales and thresholds of the training part alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from towns import MONDAY, asking, counting, model_of, noisy, parts, ring, town

from hetfed.errors import DataError, PlanError
from hetfed_datasets import sample_cities
from hetfed_datasets.records import MISSING_LABEL, Measure, Series
from hetfed_traffic.preprocessing import (
    Parts,
    clock_of,
    congestion_data,
    forecasting_data,
    levels_of,
    statistics_of,
    steps_ahead,
    target_of,
)

GENTLE = settings(deadline=None, max_examples=50)


def test_past_and_future_meet_at_the_origin():
    series = counting()
    data = forecasting_data(series, asking())
    for part, first in zip(parts(data), (0, 168, 192), strict=True):
        assert part.inputs["readings"].shape == (len(part), 4, 2, 1) and part.target.shape == (len(part), 2, 2)
        for row in range(len(part)):
            start = first + row
            for sensor in (0, 1):
                past = part.inputs["readings"][row, :, sensor, 0] - 1000 * sensor
                assert past.tolist() == [start, start + 1, start + 2, start + 3]
                assert (part.target[row, :, sensor] - 1000 * sensor).tolist() == [start + 4, start + 5]
            assert part.ids[row] == str(series.time[start + 3])
            stamp = series.time[start + 3]
            expected = [(stamp.hour * 60 + stamp.minute) / 1440, stamp.dayofweek]
            assert part.inputs["clock"][row].tolist() == pytest.approx(expected)


@GENTLE
@given(
    steps=st.integers(60, 300),
    history=st.integers(1, 8),
    ahead=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    train=st.floats(0.4, 0.6),
    validation=st.floats(0.2, 0.25),
    interval=st.sampled_from([5, 15, 60]),
)
def test_no_reading_is_in_two_parts(*, steps, history, ahead, train, validation, interval):
    horizons = tuple(step * interval for step in ahead)
    assume(min(steps * validation, steps * (1 - train - validation)) > history + max(ahead) + 1)
    asked = asking(history=history, horizons=horizons, train=train, validation=validation)
    data = forecasting_data(counting(steps, 1, interval=interval), asked)
    seen = [set(part.inputs["readings"].flatten().tolist()) | set(part.target.flatten().tolist()) for part in parts(data)]
    assert max(seen[0]) < min(seen[1]) and max(seen[1]) < min(seen[2])
    assert set.union(*seen) == set(range(steps))
    for part, readings in zip(parts(data), seen, strict=True):
        assert len(part) == len(readings) - history - max(ahead) + 1 == len(part.ids) == len(part.further["level"])


@pytest.mark.parametrize(
    ("steps", "train", "validation", "ends"),
    [(1000, 0.7, 0.1, (700, 800)), (2880, 0.7, 0.1, (2016, 2304)), (2016, 0.72, 0.08, (1451, 1612)), (7, 0.5, 0.2, (3, 4))],
)
def test_parts_end_at_whole_steps(steps, train, validation, ends):
    found = Parts.of(steps, asking(train=train, validation=validation))
    assert (found.train, found.validation, found.end) == (*ends, steps)


@pytest.mark.parametrize(("interval", "steps"), [(5, 12), (15, 4), (30, 2), (60, 1)])
def test_horizons_are_minutes(interval, steps):
    series = counting(interval=interval)
    asked = asking(horizons=(60,))
    assert steps_ahead(series, asked) == steps == forecasting_data(series, asked).spec["steps"]


@pytest.mark.parametrize(("interval", "horizons", "wrong"), [(15, (15, 20), 20), (10, (15, 30), 15), (60, (30, 60), 30)])
def test_a_horizon_between_two_readings_is_refused(interval, horizons, wrong):
    with pytest.raises(
        PlanError, match=rf"data\.horizons: not a whole number of steps \(value: {wrong}\).*every {interval} min"
    ):
        forecasting_data(counting(interval=interval), asking(horizons=horizons))


def test_a_part_too_short_for_a_window_is_refused():
    for build in (lambda asked: forecasting_data(counting(), asked), lambda asked: congestion_data(counting(), asked, 0)):
        with pytest.raises(PlanError, match=r"data\.history: town: a part of 24 steps holds no window \(value: 24\)"):
            build(asking(history=24))
    assert len(forecasting_data(counting(), asking(history=22)).validation) == 1
    assert len(congestion_data(counting(sensors=1), asking(history=23), 0).validation) == 1


def test_vehicles_of_all_classes_together_are_forecast():
    series = noisy(channels=4)
    data = forecasting_data(series, asking())
    assert np.allclose(target_of(series, asking()), series.values.sum(axis=2))
    assert torch.allclose(data.train.target[0], torch.from_numpy(series.values[4:6].sum(axis=2)))
    assert data.train.inputs["readings"].shape[3] == 4


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_scales_are_those_of_the_training_part(gaps):
    series, asked = noisy(channels=2, gaps=gaps), asking()
    own, train = statistics_of(series, asked), series.values[:168].astype(np.float64)
    assert np.allclose(own["mean"], np.nanmean(train, axis=(0, 1)), rtol=1e-4)
    assert np.allclose(own["scale"], np.nanstd(train, axis=(0, 1)), rtol=1e-4)
    assert np.allclose(own["target_mean"], np.nanmean(train.sum(axis=2)), rtol=1e-4)
    assert np.allclose(own["target_scale"], np.nanstd(train.sum(axis=2)), rtol=1e-4)


@pytest.mark.parametrize("kind", get_args(Measure))
@pytest.mark.parametrize(("changed", "alike"), [(slice(168, None), True), (slice(100, 168), False)])
def test_what_comes_later_changes_nothing_in_training(kind, changed, alike):
    before, after = noisy(kind=kind), noisy(kind=kind)
    after.values[changed] *= 3
    one, other = (forecasting_data(series, asking()) for series in (before, after))
    own = [statistics_of(series, asking()) for series in (before, after)]
    for name in ("mean", "scale", "target_mean", "target_scale"):
        assert torch.equal(own[0][name], own[1][name]) == alike
    assert torch.equal(one.train.further["level"], other.train.further["level"]) == alike
    assert torch.equal(one.train.target, other.train.target) == alike
    pair = [congestion_data(series, asking(), 0).train for series in (before, after)]
    assert torch.equal(pair[0].inputs["history"], pair[1].inputs["history"]) == alike


def test_a_channel_that_never_varies_in_training_does_no_harm():
    values = np.random.default_rng(0).normal(50, 10, (240, 2, 2))
    values[:168, :, 1], values[168:, :, 1] = 0, 3
    assert statistics_of(town(values), asking())["scale"][1] == 1
    still = town(np.full((240, 2), 7.0))
    assert statistics_of(still, asking())["target_scale"] == 1
    assert not congestion_data(still, asking(), 0).train.inputs["history"].any()


def test_rows_of_the_adjacency_sum_to_one():
    links = ring(3) * 2
    links[2] = 0
    adjacency = statistics_of(noisy(adjacency=links), asking())["adjacency"]
    assert torch.allclose(adjacency, torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]]))
    assert torch.equal(statistics_of(noisy(), asking())["adjacency"], torch.eye(3))


def test_clock_is_the_fraction_of_the_day_and_the_weekday():
    series = counting(96 * 8)
    clock = clock_of(series.time)
    assert clock[0].tolist() == [0, 0] and clock[95].tolist() == pytest.approx([95 / 96, 0])
    assert clock[::96, 1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert clock_of(counting(start="2024-03-09 06:00").time)[0].tolist() == [0.25, 5]


def test_a_publisher_s_level_is_that_of_the_nearest_horizon():
    series = counting(level=np.arange(240) % 4, levels=("low", "normal", "high", "heavy"))
    data = forecasting_data(series, asking(horizons=(45, 30)))
    assert data.spec["levels"] == ["low", "normal", "high", "heavy"]
    for part in parts(data):
        origin = part.inputs["readings"][:, -1, 0, 0].long()
        assert torch.equal(part.further["level"], ((origin + 2) % 4)[:, None].expand(-1, 2))


def test_a_slow_sensor_is_congested():
    """Below 0.6 times its own free speed, the 95th percentile of the training part."""
    series, asked = noisy(gaps=0.1), asking()
    series.values[..., 0] *= np.array([1.0, 2.0, 0.5])
    levels, names = levels_of(series, asked, slice(0, 168))
    readings = series.values[..., 0]
    for sensor in range(3):
        free = np.percentile(readings[:168, sensor][~np.isnan(readings[:168, sensor])], 95)
        expected = np.where(np.isnan(readings[:, sensor]), MISSING_LABEL, readings[:, sensor] < 0.6 * free)
        assert np.array_equal(levels[:, sensor], expected) and 1 in expected and MISSING_LABEL in expected
    assert names == ("free", "congested")
    data = forecasting_data(series, asked)
    assert np.array_equal(data.test.further["level"], levels[192 + 4 : 192 + 4 + len(data.test)])


@pytest.mark.parametrize("kind", ["count", "occupancy"])
@pytest.mark.parametrize("unit", ["vehicles/15 min", "veh/h", "%"])
def test_a_busy_sensor_is_congested_whatever_the_unit_is_called(kind, unit):
    """Above the 85 % quantile of its own volumes in the training part."""
    series = noisy(kind=kind, unit=unit)
    levels, _ = levels_of(series, asking(), slice(0, 168))
    assert np.allclose(levels[:168].mean(axis=0), 0.15, atol=0.01)
    for sensor in range(3):
        readings = series.values[:, sensor, 0]
        assert np.array_equal(levels[:, sensor], readings > np.quantile(readings[:168], 0.85))
    assert levels_of(series, asking(congested_volume=0.5), slice(0, 168))[0][:168].mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", get_args(Measure))
def test_of_a_sensor_silent_in_training_no_level_is_known(kind):
    series = noisy(kind=kind)
    series.values[:168, 1] = np.nan
    levels, _ = levels_of(series, asking(), slice(0, 168))
    assert (levels[:, 1] == MISSING_LABEL).all() and (levels[:, [0, 2]] != MISSING_LABEL).all()
    assert (forecasting_data(series, asking()).test.further["level"][:, 1] == MISSING_LABEL).all()


def test_a_road_that_takes_long_is_as_congested_as_one_on_which_traffic_is_slow():
    speeds = noisy(gaps=0.1, kind="speed")
    times = replace(speeds, values=1000 / speeds.values, kind="travel-time")
    slow, long = (levels_of(series, asking(congested_speed=0.8), slice(0, 168))[0] for series in (speeds, times))
    # Quantiles lie between two readings, where a reciprocal is not exactly that of the mean.
    assert (slow == long).mean() > 0.99 and (slow == 1).mean() > 0.1


@pytest.mark.parametrize("kind", ["speed", "occupancy", "travel-time"])
def test_the_sum_of_what_does_not_add_up_is_refused(kind):
    series = noisy(channels=2, kind=kind)
    message = (
        rf"series 'town': target: the sum of several channels of {kind} means nothing \(value: 'sum'\)\. Only counts add up"
    )
    for read in (forecasting_data, partial(congestion_data, seed=0)):
        with pytest.raises(DataError, match=message):
            read(series, asking())
        with pytest.raises(DataError, match=message):
            read(replace(series, target=None), asking(target="sum"))


@pytest.mark.parametrize("kind", get_args(Measure))
def test_of_several_channels_one_is_named_as_the_one_to_forecast(kind):
    """Flow, occupancy and speed: their sum, 260.1, is no reading."""
    series = noisy(channels=3, kind=kind, target=None)
    for read in (forecasting_data, partial(congestion_data, seed=0)):
        with pytest.raises(
            DataError, match=r"several channels, and none .* \('c0', 'c1', 'c2'\)\)\. Set data\.target, or the target"
        ):
            read(series, asking())
    data = forecasting_data(series, asking(target="c1"))
    assert np.allclose(data.train.target[:, 0, :], series.values[4 : 4 + len(data.train), :, 1])
    assert data.train.inputs["readings"].shape[3] == 3 and data.spec["target"] == [1]
    own = statistics_of(series, asking(target="c1"))
    assert np.allclose(own["target_mean"], series.values[:168, :, 1].mean()) and own["mean"].shape == (3,)
    levels = levels_of(series, asking(target="c1"), slice(0, 168))[0]
    assert np.array_equal(levels, levels_of(town(series.values[..., 1], kind=kind), asking(), slice(0, 168))[0])


def test_a_channel_that_is_not_there_is_no_target():
    with pytest.raises(DataError, match=r"series 'town': target: no such channel \(value: 'bikes'\)\. Known: c0, c1, sum"):
        forecasting_data(noisy(channels=2), asking(target="bikes"))


SILENT = np.where(np.arange(3) == 1, np.nan, noisy().values[..., 0])
LEGITIMATE: dict[str, Series] = {
    "gaps": noisy(gaps=0.5),
    "a silent sensor": town(SILENT),
    "a time zone in which a clock goes back": replace(
        noisy(), time=pd.date_range("2024-10-26", periods=240, freq="15min", tz="Europe/Berlin")
    ),
    "stamps in seconds": replace(noisy(), time=noisy().time.as_unit("s")),
    "an interval of numpy": replace(noisy(), interval=np.int64(15)),
    "a sensor without any link": noisy(adjacency=np.zeros((3, 3), dtype=np.float32)),
    "levels that nobody knows": noisy(level=np.full(240, MISSING_LABEL), levels=("free", "congested")),
    "only zeros": town(np.zeros((240, 2))),
}


@pytest.mark.parametrize("series", LEGITIMATE.values(), ids=LEGITIMATE)
def test_a_series_that_is_odd_and_legitimate_gives_numbers_to_learn_from(series):
    data = forecasting_data(series, asking())
    model = model_of(series)
    for part in parts(data):
        assert len(part) and len(set(part.ids)) == len(part)
        assert model(part.inputs).logits.isfinite().all()
    if series.level is None:
        assert congestion_data(series, asking(), 0).train.inputs["history"].isfinite().all()


def test_a_series_is_checked_whoever_made_it():
    series = noisy(interval=15)
    series = replace(series, time=series.time[[*range(100), *range(101, 240), 239]])
    for read in (forecasting_data, partial(congestion_data, seed=0)):
        with pytest.raises(
            DataError, match=r"series 'town': time\[100\]: not 15 minutes after the stamp before \(value: '2024"
        ):
            read(series, asking())


def test_congestion_at_the_next_step_from_the_readings_before_it():
    """Every fifth reading is slow; the past is scaled by the training part."""
    speed = np.where(np.arange(240) % 5 == 0, 10.0, 60.0)
    data = congestion_data(town(np.stack([speed, speed[::-1]], axis=1)), asking(), 0)
    assert data.spec == {"history": 4, "classes": 2}
    low, high = float(data.train.inputs["history"].min()), float(data.train.inputs["history"].max())
    assert (high - low) == pytest.approx(50 / np.std(np.stack([speed, speed[::-1]], axis=1)[:168]), rel=1e-4)
    for part, steps in zip(parts(data), (168, 24, 48), strict=True):
        assert len(part) == 2 * (steps - 4)
        # Of five readings in a row exactly one is slow: congested is next where none of the past four was.
        assert torch.equal(part.target == 1, (part.inputs["history"] > 0).all(dim=1))
        assert 0 < int(part.target.sum()) < len(part)


def test_congestion_examples_are_named_by_what_they_foretell():
    series = noisy(gaps=0.2)
    data, levels = congestion_data(series, asking(), 0), levels_of(series, asking(), slice(0, 168))[0]
    total = 0
    for part, span in zip(parts(data), (range(168), range(168, 192), range(192, 240)), strict=True):
        for identity, target in zip(part.ids, part.target.tolist(), strict=True):
            stamp, _, sensor = identity.rpartition(" ")
            step = series.time.get_loc(stamp)
            assert step - 4 in span and step in span
            assert levels[step, series.sensors.index(sensor)] == target != MISSING_LABEL
        total += len(part)
        assert part.inputs["history"].isfinite().all()
    assert total == sum(
        int((levels[span[4] : span[-1] + 1] != MISSING_LABEL).sum()) for span in (range(168), range(168, 192), range(192, 240))
    )


def test_high_and_heavy_are_congested():
    series = counting(sensors=1, level=np.arange(240) % 4, levels=("low", "normal", "high", "heavy"))
    train = congestion_data(series, asking(), 0).train
    expected = [int((step % 4) >= 2) for step in range(4, 168)]
    assert train.target.tolist() == expected


def test_examples_are_thinned_at_random_in_their_order():
    series = noisy()
    everything, one, again, other = (
        congestion_data(series, asking(examples=most), seed) for most, seed in ((None, 0), (50, 1), (50, 1), (50, 2))
    )
    assert [len(part) for part in parts(one)] == [50, 50, 50] and len(everything.train) == 164 * 3
    for few, all_of_them in zip(parts(one), parts(everything), strict=True):
        places = [all_of_them.ids.index(identity) for identity in few.ids]
        assert places == sorted(places) and len(set(places)) == 50
        assert torch.equal(few.inputs["history"], all_of_them.inputs["history"][places])
    assert one.train.ids == again.train.ids != other.train.ids


@pytest.mark.parametrize("city", sample_cities.LAYOUTS)
def test_sample_cities_make_windows(city):
    series = sample_cities.generate(city)
    data = forecasting_data(series, asking(history=12, horizons=(15, 30, 60)))
    assert str(series.time[0]).startswith(MONDAY)
    assert data.spec["steps"] == 60 // series.interval
    assert all(int((part.further["level"] != MISSING_LABEL).sum()) > 0 for part in parts(data))


def test_a_city_in_a_tiny_unit_is_scaled_like_any_other():
    series = noisy()
    small = replace(series, values=series.values * np.float32(1e-9))
    one, other = (statistics_of(each, asking()) for each in (series, small))
    assert torch.allclose(other["scale"], one["scale"] * 1e-9, rtol=1e-4, atol=0)
    assert torch.allclose(other["target_scale"], one["target_scale"] * 1e-9, rtol=1e-4, atol=0)
    histories = [congestion_data(each, asking(), 0).train.inputs["history"] for each in (series, small)]
    assert torch.allclose(*histories, atol=1e-3)
