"""Cities from a few lines of Python: the same as a plan's, in bits and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import towns
from rich.console import Console

import hetfed as hf
from hetfed.errors import DataError, PlanError
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.results.ledger import Ledger
from hetfed_traffic import city, vertical
from hetfed_traffic.clients import build_clients

PLAN = """
[federation]
rounds = 2
seed = 3
finetune = 0
alone = false
pooled = false
[[exchange]]
kind = "shared-parameters"
part = "encoder"
[defaults.data]
dataset = "sample-cities"
history = 6
horizons = [15]
[defaults.model]
encoder = "linear"
features = 24
sensor_embedding = 4
time_embedding = 2
[defaults.training]
steps = 4
[[client]]
name = "Loops"
data = { city = "loops" }
[[client]]
name = "Signals"
data = { city = "signals" }
presence = { speed = 2.0 }
"""
DATA: dict[str, Any] = {"history": 6, "horizons": [15]}
MODEL = {"encoder": "linear", "features": 24, "sensor_embedding": 4, "time_embedding": 2}
ALONE: dict[str, Any] = {"rounds": 1, "arms": (), "finetune": 0, "progress": False}


def both() -> list[hf.Client]:
    keys: dict[str, Any] = {**DATA, "model": MODEL, "training": hf.Training(steps=4), "seed": 3}
    return [
        city("Loops", "sample-cities", city="loops", **keys),
        city("Signals", "sample-cities", city="signals", presence={"speed": 2.0}, **keys),
    ]


def test_a_script_of_cities_comes_to_the_bits_of_the_plan(tmp_path: Path) -> None:
    Launcher(vertical, Console(quiet=True)).run(read_plan(PLAN, "plan.toml"), "plan.toml", tmp_path / "plan")
    result = hf.federate(both(), hf.SharedParameters("encoder"), rounds=2, seed=3, arms=(), finetune=0, progress=False)
    planned = Ledger(tmp_path / "plan" / "ledger.jsonl").entries()
    assert len(planned) == 4
    assert Ledger(result.run.ledger).entries() == planned
    for name in ("Loops", "Signals"):
        for file in (f"models/{name}/model.safetensors", f"models/{name}/model.json", f"predictions/{name}.csv"):
            assert (result.run.path / file).read_bytes() == (tmp_path / "plan" / file).read_bytes()
    units = {client.name: client.unit for client in both()}
    assert list(result.table()["metric"]) == [f"MAE up to 15 min ({units[name]})" for name in ("Loops", "Signals")]


def test_a_city_is_the_client_of_a_plan() -> None:
    for mine, theirs in zip(both(), build_clients(read_plan(PLAN, "plan.toml"), None), strict=True):
        assert (mine.kind, mine.about, mine.columns, mine.unit) == (theirs.kind, theirs.about, theirs.columns, theirs.unit)
        assert mine.data.spec == theirs.data.spec and mine.synthetic


@pytest.mark.parametrize("predict", ["readings", "congestion"])
def test_a_series_of_ones_own_makes_a_city(predict: str) -> None:
    town = city("mine", towns.noisy(), history=4, horizons=[15], predict=predict, model=MODEL)
    assert town.about["data"] == "town" and not town.synthetic
    result = hf.federate([town], "alone", **ALONE)
    assert result.table()["federated"].notna().all()


def test_a_series_goes_through_the_gate() -> None:
    values = np.full((40, 2), 50.0)
    values[7, 1] = -1
    with pytest.raises(DataError, match=r"series 'town': values\[7\]\[1\]\[0\]: a reading below zero"):
        city("mine", towns.town(values), history=4, horizons=[15])
    with pytest.raises(DataError, match="not a series"):
        city("mine", 3)  # type: ignore[arg-type]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"histori": 6}, r"data\.histori: unknown key .*Did you mean 'history'"),
    "unknown city": ({"city": "grid"}, r"data\.city: no such sample city"),
    "unknown data set": ({"dataset": "sample-towns"}, r"data\.dataset: unknown data set"),
    "a cohort": ({"dataset": "sample-hospitals"}, r"data\.dataset: not a traffic data set"),
    "unknown encoder": ({"model": {"encoder": "grü"}}, r"model\.encoder: unknown .*Did you mean 'gru'"),
    "no whole step": ({"horizons": [7]}, r"data\.horizons: not a whole number of steps \(value: 7\)"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_as_of_a_plan(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=rf"^client 'Loops'\.{message}"):
        city("Loops", **{"dataset": "sample-cities", "city": "loops", **change})


def test_a_series_of_ones_own_has_one_city() -> None:
    with pytest.raises(PlanError, match=r"^client 'mine'\.data\.city: this data set has one city \(value: 'loops'\)"):
        city("mine", towns.noisy(), city="loops")


def test_the_words_are_those_of_the_plan() -> None:
    with pytest.raises(PlanError) as planned:
        build_clients(read_plan(PLAN.replace('"loops"', '"grid"'), "plan.toml"), None)
    with pytest.raises(PlanError) as scripted:
        city("Loops", "sample-cities", city="grid")
    assert str(scripted.value) == str(planned.value)


def test_a_real_city_takes_a_line(real_data: Path) -> None:
    shenzhen = city("Shenzhen", "shenzhen-sz-taxi", data_dir=real_data)
    assert shenzhen.unit == "km/h" and not shenzhen.synthetic
