"""Kinds of day and slots of the day that training never saw: they are read as the nearest that it saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from towns import MONDAY, asking, town

import hetfed as hf
from hetfed.kept.save import save_model
from hetfed.parts import Signature, write_tensors
from hetfed.pooled import build_pools
from hetfed_traffic.calendar import SLOTS_PER_DAY, seen_times
from hetfed_traffic.preprocessing import forecasting_data
from hetfed_traffic.script import city

SMALL = {"features": 24, "layers": 1, "sensor_embedding": 4, "time_embedding": 4}
DAY = 96


def week(start: str = MONDAY, days: int = 7, interval: int = 15, **keys: object) -> hf.Client:
    """A city that trains on the first days of its series, and is tested on what follows."""
    steps = days * 24 * 60 // interval
    values = (
        50 + 20 * np.sin(np.arange(steps)[:, None] * interval / 720 * np.pi) + np.random.default_rng(0).normal(0, 1, (steps, 2))
    )
    series = town(values, interval=interval, start=start)
    return city("town", series, history=4, horizons=[60], train=0.6, validation=0.1, model={**SMALL, **keys})


def forecast(client: hf.Client, day: int, hour: float = 12.0) -> torch.Tensor:
    """What the city's model says of the same readings at another time."""
    model = client.module.eval()
    readings = client.data.train.inputs["readings"][:1]
    with torch.no_grad():
        return model({"readings": readings, "clock": torch.tensor([[hour / 24, float(day)]])}).logits


@pytest.mark.parametrize("calendar", ["weekend", "weekday"])
def test_a_kind_of_day_that_training_never_saw_is_read_as_one_that_it_saw(calendar):
    client = week(calendar=calendar)  # Monday to Thursday are for training
    assert client.statistics["city.seen_days"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    # Of the fifth day a few hours are for training: Saturday and Sunday stand nearest to Friday and Monday.
    nearest = {5: 4, 6: 0}
    for day, other in nearest.items():
        assert torch.equal(forecast(client, day), forecast(client, other))
    assert calendar == "weekend" or not torch.equal(forecast(client, 0), forecast(client, 3))


def test_of_a_week_that_begins_on_sunday_saturdays_are_sundays():
    client = week(start="2024-03-03", days=5, calendar="weekday")
    assert client.statistics["city.seen_days"].tolist() == [1, 1, 0, 0, 0, 0, 1]
    assert torch.equal(forecast(client, 5), forecast(client, 6))
    assert torch.equal(forecast(client, 2), forecast(client, 1)) and not torch.equal(forecast(client, 5), forecast(client, 1))


def test_a_slot_that_training_never_saw_is_read_as_the_nearest_one():
    client = week(interval=60, days=20)
    assert client.statistics["city.seen_slots"].nonzero().flatten().tolist() == list(range(0, SLOTS_PER_DAY, 4))
    at = [forecast(client, 0, hour) for hour in (9.0, 9.25, 9.5, 9.75, 10.0, 23.75, 0.0)]
    assert (
        torch.equal(at[0], at[1]) and torch.equal(at[0], at[2]) and torch.equal(at[3], at[4]) and not torch.equal(at[0], at[4])
    )
    assert torch.equal(at[5], at[6])  # around midnight


def test_what_training_saw_is_what_it_had_a_target_for():
    values = np.full((7 * DAY, 1), 50.0)
    values[5 * DAY :] = np.nan  # a sensor that is silent at the weekend
    data = forecasting_data(town(values), asking(train=0.9, validation=0.05))
    assert seen_times(data.train)["seen_days"].tolist() == [1, 1, 1, 1, 1, 0, 0]


def test_a_forecast_of_an_unseen_kind_of_day_does_not_hang_on_chance():
    """Before, the vector of weekends was what it had been initialised to, after however much training."""
    client = week()
    saturday = forecast(client, 5)
    with torch.no_grad():
        client.module.city.kind_of_day.weight[1] += 100.0
    assert torch.equal(forecast(client, 5), saturday)


def test_a_kept_model_knows_what_training_saw(tmp_path: Path):
    client = week()
    save_model(tmp_path, client, client.module.state_dict())
    kept = hf.load_model(tmp_path)
    values = client.data.train.inputs["readings"][:2, :, :, 0].numpy()
    days = [pd.Timestamp(MONDAY) + pd.Timedelta(days=day, hours=12) for day in (1, 5)]
    said = [kept.predict({"readings": values[:1, :, :, None], "time": [day]}) for day in days]
    assert np.allclose(said[0].filter(like="forecast"), said[1].filter(like="forecast"))


def test_what_training_saw_stays_at_home():
    client = week()
    signature = Signature.of(client.module)
    assert signature.names("city.kind_of_day") == ["city.kind_of_day.weight"]
    assert not [name for name in signature.names("") if "seen" in name]


def test_entries_that_nobody_marked_stand_for_themselves():
    client = week(calendar="weekday")
    write_tensors(client.module, {"city.seen_days": torch.zeros(7)})
    assert len({float(forecast(client, day).sum()) for day in range(7)}) == 7


@pytest.mark.parametrize("kinds", [("mlp", "linear"), ("linear", "mlp")])
def test_pooled_training_knows_what_each_city_saw_whatever_the_other_s_encoder(kinds: tuple[str, str]):
    mine, other = (replace(week(encoder=kind), name=kind) for kind in kinds)
    pools = build_pools([mine], [mine, other])
    for pool in pools:
        assert torch.equal(pool.model.city.seen_days, mine.statistics["city.seen_days"])
    assert len(pools) == 2
