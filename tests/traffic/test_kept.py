"""The model that a city keeps predicts by itself what the run predicted, from raw readings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import towns
from rich.console import Console

from hetfed.errors import DataError
from hetfed.kept.export import export
from hetfed.kept.load import load_model
from hetfed.launch.launcher import Launcher
from hetfed.plan import Plan, read_plan, validate
from hetfed.vertical import plan_text
from hetfed_datasets.records import Series
from hetfed_traffic import vertical
from hetfed_traffic.clients import _series
from hetfed_traffic.plan_schema import CityData

CONGESTION = """
[federation]
rounds = 1
finetune = 0
[[exchange]]
kind = "shared-parameters"
part = "encoder"
[defaults.data]
dataset = "sample-cities"
predict = "congestion"
history = 4
examples = 300
[[client]]
name = "Loops"
data = { city = "loops" }
[[client]]
name = "Signals"
data = { city = "signals" }
"""


def run(plan: Plan, out: Path, data_dir: Path | None = None) -> Path:
    """The folder of a run."""
    Launcher(vertical, Console(quiet=True), data_dir).run(plan, "plan.toml", out)
    return out


def shipped(name: str, rounds: int) -> Plan:
    """A shipped plan, shortened, without its arms for comparison."""
    plan = read_plan(*plan_text(vertical, name))
    changes = {"rounds": rounds, "alone": False, "pooled": False, "finetune": 0}
    return plan.model_copy(update={"federation": plan.federation.model_copy(update=changes)})


def cities(plan: Plan, data_dir: Path | None = None) -> dict[str, tuple[Series, CityData]]:
    """The series of every client, and what the plan asks of it."""
    tables = {table.name: validate(CityData, table.data, key="data") for table in plan.client}
    return {name: (_series(data, data_dir), data) for name, data in tables.items()}


def windows(series: Series, history: int, last: list[pd.Timestamp]) -> dict[str, Any]:
    """Raw readings of the windows whose last step is at these times."""
    at = series.time.get_indexer(pd.DatetimeIndex(last))
    assert (at >= 0).all()
    steps = at[:, None] + np.arange(1 - history, 1)
    return {"readings": series.values[steps], "time": np.array([str(stamp) for stamp in last])}


def check_forecasts(run: Path, name: str, found: pd.DataFrame, sensors: tuple[str, ...]) -> None:
    """The forecasts are those that the run left, to the last figure."""
    expected = pd.read_csv(run / "predictions" / f"{name}.csv")
    renamed = {f"forecast:{index}": f"forecast:{sensor}" for index, sensor in enumerate(sensors)}
    expected = expected[["id", "horizon", *renamed]].rename(columns=renamed)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def check_cities(plan: Plan, out: Path, elsewhere: Any, data_dir: Path | None = None) -> None:
    found = cities(plan, data_dir)
    inputs = {}
    for name, (series, data) in found.items():
        ids = pd.read_csv(out / "predictions" / f"{name}.csv")["id"].unique()
        inputs[name] = windows(series, data.history, [pd.Timestamp(one) for one in ids])
    for name, table in elsewhere(out, inputs).items():
        check_forecasts(out, name, table, found[name][0].sensors)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A short run of the sample plan."""
    return run(shipped("sample", 1), tmp_path_factory.mktemp("runs") / "sample")


def test_the_sample_is_forecast_again_from_a_copy_of_the_folders_alone(whole, elsewhere) -> None:
    check_cities(shipped("sample", 1), whole, elsewhere)


@pytest.mark.slow
def test_real_cities_are_forecast_again_from_a_copy_of_the_folders_alone(real_data, elsewhere, tmp_path) -> None:
    plan = shipped("cities", 1)
    # Those of few sensors: the largest would take most of the time.
    few = tuple(table for table in plan.client if table.name not in {"Los Angeles", "Melbourne"})
    plan = plan.model_copy(update={"client": few})
    check_cities(plan, run(plan, tmp_path / "run", real_data), elsewhere, real_data)


def test_congestion_is_predicted_again_from_raw_readings(tmp_path) -> None:
    plan = read_plan(CONGESTION, "plan.toml")
    out = run(plan, tmp_path / "run")
    for name, (series, data) in cities(plan).items():
        expected = pd.read_csv(out / "predictions" / f"{name}.csv")
        stamps = sorted({pd.Timestamp(one.rpartition(" ")[0]) for one in expected["id"]})
        step = pd.Timedelta(minutes=series.interval)
        model = load_model(out / "models" / name)
        model.predict(windows(series, data.history, [stamp - step for stamp in stamps])).to_csv(
            tmp_path / "again.csv", index=False, float_format="%.6g"
        )
        again = pd.read_csv(tmp_path / "again.csv").set_index("id").loc[expected["id"]].reset_index()
        # In other batches than in the run, which may round otherwise in the last place.
        pd.testing.assert_frame_equal(again, expected[list(again.columns)], rtol=2e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "torchscript"])
def test_a_city_is_exported_for_other_programs(kind, whole, tmp_path) -> None:
    assert export(load_model(whole / "models" / "Signals"), tmp_path / "model", kind).difference < 1e-4


def frame_of(series: Series, sensors: list[str] | None = None, steps: int | None = None) -> pd.DataFrame:
    """The last readings as a table with a column per sensor and channel."""
    names = [s if len(series.channels) == 1 else f"{s}:{c}" for s in series.sensors for c in series.channels]
    table = pd.DataFrame(series.values.reshape(len(series.values), -1), columns=names)
    return table.assign(time=series.time).iloc[-(steps or len(table)) :]


@pytest.mark.parametrize("city", ["Loops", "Signals"])
def test_the_last_steps_of_a_table_give_the_forecast_in_whatever_order_its_columns_stand(city, whole) -> None:
    series, data = cities(shipped("sample", 1))[city]
    model, frame = load_model(whole / "models" / city), frame_of(series)
    expected = model.predict(windows(series, data.history, [series.time[-1]]))
    for given in (frame, frame[frame.columns[::-1]], frame.iloc[-data.history :], frame.set_index("time")):
        pd.testing.assert_frame_equal(model.predict({"readings": given}), expected)
    assert expected["horizon"].tolist() == [15, 30, 60]
    assert list(expected.columns[2:]) == [f"forecast:{sensor}" for sensor in series.sensors]
    scale = np.nanstd(series.values.sum(axis=2))
    assert (expected.iloc[:, 2:] - np.nanmean(series.values.sum(axis=2))).abs().to_numpy().max() < 10 * scale


def test_a_missing_reading_is_an_empty_cell(whole) -> None:
    series = cities(shipped("sample", 1))["Loops"][0]
    frame = frame_of(series)
    frame.iloc[-2:, 0] = np.nan
    assert load_model(whole / "models" / "Loops").predict({"readings": frame}).notna().all(axis=None)


def wrong(frame: pd.DataFrame, what: str) -> dict[str, Any]:
    """Readings that do not fit."""
    sensor = frame.columns[0]
    values, time = frame.drop(columns="time").to_numpy(), frame["time"].to_numpy()
    return {
        "a sensor is missing": {"readings": frame.drop(columns=sensor)},
        "a sensor too many": {"readings": frame.assign(unknown=1.0)},
        "too few steps": {"readings": frame.iloc[-3:]},
        "a gap": {"readings": pd.concat([frame.iloc[:-4], frame.iloc[-3:]])},
        "out of order": {"readings": frame.iloc[::-1]},
        "no time": {"readings": values},
        "a table without time": {"readings": frame.drop(columns="time")},
        "times of other steps": {"readings": values, "time": time[1:]},
        "words for times": {"readings": values, "time": ["soon"] * len(values)},
        "wrong modality": {"speed": values, "time": time},
        "wrong shape": {"readings": values[:, 1:], "time": time},
    }[what]


MESSAGES = {
    "a sensor is missing": "this column is missing",
    "a sensor too many": "the model has no such column",
    "too few steps": "3 steps, and the model reads 12",
    "a gap": "the steps are not",
    "out of order": "the steps are not",
    "no time": "time: this modality is missing",
    "a table without time": "time: this modality is missing",
    "times of other steps": "Give each step its time",
    "words for times": "not times",
    "wrong modality": "speed: the model has no such modality",
    "wrong shape": "wrong shape",
}


@pytest.mark.filterwarnings("ignore:Could not infer format")
@pytest.mark.parametrize("what", MESSAGES)
def test_readings_that_do_not_fit_are_refused_with_the_remedy(what, whole) -> None:
    frame = frame_of(cities(shipped("sample", 1))["Loops"][0], steps=20)
    with pytest.raises(DataError) as caught:
        load_model(whole / "models" / "Loops").predict(wrong(frame, what))
    assert MESSAGES[what] in str(caught.value)


def test_what_is_the_citys_own_comes_with_the_weights() -> None:
    from hetfed_traffic.kept import build_city

    model = towns.model_of(towns.noisy(adjacency=towns.ring(3)), encoder="graph")
    settings = {"features": 24, "layers": 2, "sensor_embedding": 4, "time_embedding": 3, "encoder": "graph"}
    sizes = {"history": 4, "steps": 2, "sensors": 3, "channels": 1, "target": [0], "levels": ("free", "congested")}
    again = build_city(settings, sizes)
    again.load_state_dict(model.state_dict())
    assert (again.get_buffer("city.adjacency") == model.get_buffer("city.adjacency")).all()
    assert again.get_buffer("city.mean") == model.get_buffer("city.mean") != 0
