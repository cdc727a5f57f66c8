"""A real short run with the hospitals that make trouble: one of a single class and without genes, some with gaps."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from rich.console import Console

from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed_medical import vertical

PLAN = """
[federation]
rounds = 2

[public]
dataset = "sample-hospitals"
sites = ["west"]
limit = 20

[[exchange]]
kind = "shared-parameters"
part = "encoders.image"
among = "same-shape"

[[exchange]]
kind = "prototypes"

[[exchange]]
kind = "logit-distillation"

[defaults.data]
dataset = "sample-hospitals"

[defaults.model]
image = "small-conv"
features = 8

[[client]]
name = "one class"
data = { sites = ["east"], modalities = ["image"], partition = { kind = "classes", clients = 2, part = 0 } }

[[client]]
name = "both"
[client.data]
sites = ["north"]
modalities = ["image", "genes"]
augment = true
partition = { kind = "quantity", alpha = 10, clients = 2, part = 0 }

[[client]]
name = "few images"
data = { sites = ["south"], modalities = ["image", "genes"], limit = 40 }
training = { batch_size = 1 }

[[client]]
name = "other backbone"
model = { image = "monai-densenet" }
training = { batch_size = 13 }
[client.data]
sites = ["north"]
modalities = ["image", "genes"]
limit = 40
balanced = true
partition = { kind = "quantity", alpha = 10, clients = 2, part = 1 }
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of the run and its summary by client."""
    out = tmp_path_factory.mktemp("runs") / "trouble"
    with (out.parent / "console.txt").open("w") as text:
        summary = Launcher(vertical, Console(file=text)).run(read_plan(PLAN, "trouble.toml"), "trouble.toml", out)
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(summary))
    return out, {client["name"]: client for client in summary["clients"]}


def test_every_hospital_ends_with_finite_numbers(run):
    out, clients = run
    rounds = pd.read_csv(out / "rounds.csv")
    assert set(clients) == set(rounds["client"]) == {"one class", "both", "few images", "other backbone"}
    assert set(rounds["arm"]) == {"federated", "alone", "finetuned"} and len(rounds) == (2 + 1 + 2 + 1) * 4
    trained = rounds[rounds["round"] < 3]
    assert trained["train_loss"].notna().all() and rounds["validation_loss"].notna().all()
    assert (rounds["refused"] == 0).all() and (trained.loc[trained["arm"] == "federated", "bytes_up"] > 0).all()


def test_a_hospital_of_one_class_has_accuracies_and_a_reason_for_the_rest(run):
    client = run[1]["one class"]
    assert client["federated"] is None and client["alone"] is None
    assert "examples are of class 'subtype" in client["notes"]["federated"]
    for arm in ("federated", "alone"):
        assert client["metrics"][arm]["AUROC"] is None and 0 <= client["metrics"][arm]["accuracy"] <= 1


def test_the_others_are_judged(run):
    for name in ("both", "few images", "other backbone"):
        assert 0 <= run[1][name]["federated"] <= 1 and 0 <= run[1][name]["alone"] <= 1


def test_predictions_are_left_for_every_test_sample(run):
    out, clients = run
    for name, client in clients.items():
        table = pd.read_csv(out / "predictions" / f"{name}.csv")
        assert len(table) == client["n_test"] and set(table["target"]) <= {"subtype A", "subtype B"}
        assert (table.filter(like="probability").sum(axis=1) - 1).abs().max() < 1e-4
