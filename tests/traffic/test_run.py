"""A real run of the sample plan, one round long."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from rich.console import Console

from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.vertical import plan_text
from hetfed_traffic import vertical

HORIZONS = (15, 30, 60)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run and its summary as it was written."""
    text, file = plan_text(vertical, "sample")
    plan = read_plan(text, file).with_federation(rounds=1)
    out = tmp_path_factory.mktemp("runs") / "sample"
    with (out.parent / "console.txt").open("w") as console:
        Launcher(vertical, Console(file=console)).run(plan, file, out)
    return out, json.loads((out / "summary.json").read_text())


def test_the_run_ends_with_every_arm(run):
    out, summary = run
    assert (summary["plan"], summary["rounds"], summary["synthetic"]) == ("sample", 1, True)
    assert summary["metric"] == "MAE up to 15 min" and not summary["higher_is_better"]
    assert {client["name"] for client in summary["clients"]} == {"Loops", "Probes", "Signals", "Camera"}
    for client in summary["clients"]:
        assert client["metric"] == "MAE up to 15 min"
        assert all(client[arm] > 0 for arm in ("alone", "federated", "pooled")), client["name"]
    assert summary["communication_bytes"]["up"] > 0 and summary["uploads_refused"] == 0
    assert (out / "report.html").is_file()


def test_references_stand_beside_the_models(run):
    for client in run[1]["clients"]:
        # What is usual at the time is the average of what is told beside the forecast, too.
        assert 0.5 < client["references"]["historical average"]["level AUROC"] <= 1
        assert set(client["references"]) == {"last value", "historical average", "autoregression"}
        assert all(values["MAE up to 15 min"] > 0 for values in client["references"].values())


def test_errors_are_masked_and_unmasked(run):
    for client in run[1]["clients"]:
        # With one round nobody fine-tunes.
        for values in [*filter(None, client["metrics"].values()), *client["references"].values()]:
            for minutes in HORIZONS:
                expected = [f"{m} up to {minutes} min" for m in ("MAE", "RMSE", "MAPE")]
                expected += [f"{m} up to {minutes} min unmasked" for m in ("MAE", "RMSE")]
                assert all(values[name] > 0 for name in expected)
                masked, unmasked = values[f"MAE up to {minutes} min"], values[f"MAE up to {minutes} min unmasked"]
                assert unmasked > masked if client["name"] == "Probes" else unmasked == pytest.approx(masked)


def test_the_congestion_head_is_judged(run):
    for client in run[1]["clients"]:
        assert all(0 <= client["metrics"][arm]["level AUROC"] <= 1 for arm in ("alone", "federated", "pooled"))


def test_only_the_encoder_left_the_cities(run):
    lines = [json.loads(line) for line in (run[0] / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert "encoder." in json.dumps(line) and "city." not in json.dumps(line) and "head." not in json.dumps(line)


def test_forecasts_are_left_in_the_unit_of_the_city(run):
    """The mean absolute error of the table is that of the kept model, where the horizon is one step."""
    signals = next(client for client in run[1]["clients"] if client["name"] == "Signals")
    table = pd.read_csv(run[0] / "predictions" / "Signals.csv")
    near = table[table["horizon"] == 15]
    error = near.filter(like="forecast").to_numpy() - near.filter(like="target").to_numpy()
    assert len(near) == signals["n_test"]
    assert abs(error).mean() == pytest.approx(signals["kept"]["value"], rel=1e-3)
