"""Hospitals from a few lines of Python: the same as a plan's, in bits and in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wards
from rich.console import Console

import hetfed as hf
from hetfed.errors import DataError, PlanError
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.results.ledger import Ledger
from hetfed_medical import hospital, hospitals, vertical
from hetfed_medical.clients import build_clients

PLAN = """
[federation]
rounds = 2
seed = 3
finetune = 1
[public]
dataset = "sample-hospitals"
sites = ["west"]
limit = 20
[[exchange]]
kind = "shared-parameters"
part = "encoders.genes"
[[exchange]]
kind = "logit-distillation"
[[client]]
name = "north"
data = { dataset = "sample-hospitals", sites = ["north"], modalities = ["genes"] }
model = { genes = "mlp", features = 8 }
training = { lr = 0.01, batch_size = 16 }
[[client]]
name = "south"
data = { dataset = "sample-hospitals", sites = ["south"], modalities = ["genes"], metric = "accuracy" }
model = { genes = "mlp", features = 8 }
presence = { speed = 2.0 }
"""
PUBLIC = {"dataset": "sample-hospitals", "sites": ["west"], "limit": 20}
MODEL = {"genes": "mlp", "features": 8}
SHARED = hf.compose(hf.SharedParameters("encoders.genes"), hf.LogitDistillation())


def one(name: str, **keys: Any) -> hf.Client:
    return hospital(name, "sample-hospitals", sites=[name], modalities=["genes"], model=MODEL, public=PUBLIC, seed=3, **keys)


def both() -> list[hf.Client]:
    return [
        one("north", training={"lr": 0.01, "batch_size": 16}),
        one("south", metric="accuracy", presence=hf.Presence(speed=2.0)),
    ]


def test_a_script_of_hospitals_comes_to_the_bits_of_the_plan(tmp_path: Path) -> None:
    Launcher(vertical, Console(quiet=True)).run(read_plan(PLAN, "plan.toml"), "plan.toml", tmp_path / "plan")
    result = hf.federate(both(), SHARED, rounds=2, seed=3, finetune=1, progress=False)
    planned = Ledger(tmp_path / "plan" / "ledger.jsonl").entries()
    assert len(planned) == 8
    assert Ledger(result.run.ledger).entries() == planned
    for name in ("north", "south"):
        for file in (f"models/{name}/federated/model.safetensors", f"models/{name}/model.json", f"predictions/{name}.csv"):
            assert (result.run.path / file).read_bytes() == (tmp_path / "plan" / file).read_bytes()
    assert list(result.table()["metric"]) == ["AUROC", "accuracy"]


def test_a_hospital_is_the_client_of_a_plan() -> None:
    planned = build_clients(read_plan(PLAN, "plan.toml"), None)
    for mine, theirs in zip(both(), planned, strict=True):
        assert mine.profile.to_json() == replace(theirs, presence=mine.presence).profile.to_json()
        assert mine.about == theirs.about and mine.description.architecture == theirs.description.architecture


def test_training_may_be_said_either_way() -> None:
    said = [one("north", training=each).training for each in (hf.Training(lr=0.5), {"lr": 0.5})]
    assert said[0] == said[1] == hf.Training(lr=0.5)


def test_a_cohort_of_ones_own_makes_a_hospital() -> None:
    clients = [hospital(site, wards.ward(), sites=[site], modalities=["genes"], model=MODEL) for site in ("left", "right")]
    assert [client.about["data"] for client in clients] == ["ward (left)", "ward (right)"]
    result = hf.federate(clients, "fedavg", rounds=1, arms=(), finetune=0, progress=False)
    assert result.table()["federated"].between(0, 1).all()
    genes = wards.ward().modalities["genes"][:3]
    assert len(result.models["left"].predict({"genes": genes})) == 3


def test_a_cohort_goes_through_the_gate() -> None:
    broken = wards.ward(patient=np.array(["p"] * 79 + [""]))
    with pytest.raises(DataError, match=r"cohort 'ward': patient\[79\]: no name"):
        hospital("mine", broken, modalities=["genes"])
    with pytest.raises(DataError, match="not a cohort"):
        hospital("mine", 3, modalities=["genes"])  # type: ignore[arg-type]


def test_several_hospitals_know_of_one_another() -> None:
    keys = {"dataset": "sample-hospitals", "modalities": ["genes"]}
    with pytest.raises(PlanError, match=r"^client 'again'\.data: \d+ of its \d+ patients are also those of client 'north'"):
        hospitals({"north": {**keys, "sites": ["north"]}, "again": {**keys, "sites": ["north"]}})
    with pytest.raises(PlanError, match=r"^client 'b'\.dataset: another cohort has this name \(value: 'ward'\)"):
        hospitals({"a": {"dataset": wards.ward(), "modalities": ["genes"]}, "b": {"dataset": wards.ward(seed=1)}})
    with pytest.raises(PlanError, match=r"^client 'north'\.data: .* patients are also those of the public inputs"):
        hospitals({"north": {**keys, "sites": ["west"]}}, public=PUBLIC)


def test_the_common_model_of_several_hospitals_looks_at_what_all_have() -> None:
    ward = wards.ward()
    more, less = hospitals(
        {
            "more": {"dataset": ward, "sites": ["left"], "modalities": ["genes", "clinical"]},
            "less": {"dataset": ward, "sites": ["right"], "modalities": ["genes"]},
        }
    )
    assert more.common_fn is not None and less.common_fn is not None
    shapes = [{k: t.shape for k, t in each.common_fn(each.data.spec).state_dict().items()} for each in (more, less)]
    assert shapes[0] == shapes[1]
    result = hf.federate([more, less], "fml", rounds=1, arms=(), finetune=0, progress=False)
    assert set(result.ledger["client"]) == {"more", "less"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"site": ["north"]}, r"data\.site: unknown key .*Did you mean 'sites'"),
    "unknown site": ({"sites": ["nrth"]}, r"data\.sites: no such site"),
    "unknown encoder": ({"model": {"genes": "cnn"}}, r"model\.genes: unknown encoder"),
    "wrong number": ({"training": {"lr": "fast"}}, r"training\.lr: .*number"),
    "unknown modality": ({"modalities": ["gens"]}, r"data\.modalities\[0\]: unknown modality"),
    "unknown data set": ({"dataset": "sampel"}, r"data\.dataset: unknown data set"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_as_of_a_plan(change: dict[str, Any], message: str) -> None:
    keys = {"dataset": "sample-hospitals", "sites": ["north"], "modalities": ["genes"], **change}
    with pytest.raises(PlanError, match=rf"^client 'north'\.{message}"):
        hospital("north", **keys)


def test_the_words_are_those_of_the_plan() -> None:
    text = PLAN.replace('sites = ["north"]', 'sites = ["nrth"]')
    with pytest.raises(PlanError) as planned:
        build_clients(read_plan(text, "plan.toml"), None)
    with pytest.raises(PlanError) as scripted:
        hospital("north", "sample-hospitals", sites=["nrth"], modalities=["genes"])
    assert str(scripted.value) == str(planned.value)


def test_a_real_hospital_takes_a_line(real_data: Path) -> None:
    du = hospital(
        "DU", dataset="tcga-lgg-mri", sites=["DU"], modalities=["image"], model={"image": "deep-conv"},
        training=hf.Training(lr=1e-3), data_dir=real_data,
    )  # fmt: skip
    assert du.about["data"] == "tcga-lgg-mri (DU)" and not du.synthetic
    assert len(du.data.train) > 100
