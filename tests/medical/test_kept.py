"""The model that a hospital keeps predicts by itself what the run predicted, from raw images and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
import wards
from rich.console import Console

from hetfed.errors import DataError
from hetfed.kept.export import export
from hetfed.kept.load import load_model
from hetfed.launch.launcher import Launcher
from hetfed.plan import Plan, read_plan, validate
from hetfed.vertical import plan_text
from hetfed_datasets import sample_hospitals
from hetfed_datasets.records import Cohort
from hetfed_datasets.registry import load
from hetfed_medical import vertical
from hetfed_medical.plan_schema import HospitalData
from hetfed_medical.preprocessing import _own_samples

IMAGES = {
    "federation": {"rounds": 2, "finetune": 0, "alone": False, "pooled": False},
    "defaults": {
        "data": {"dataset": "sample-hospitals", "modalities": ["image"], "limit": 40},
        "model": {"image": "small-conv", "features": 8},
    },
    "client": [
        {"name": "north.1", "data": {"sites": ["north"]}},
        {"name": "south", "data": {"sites": ["south"]}},
        {"name": "east", "data": {"sites": ["east"]}},
    ],
}
SLICED = ("heterofl", "fedrolex")
"""Algorithms for one architecture in several widths."""
ALGORITHMS = ("apfl", "ditto", "fedavg", "fedkd", "fedmrl", "fml", "pfedme", *SLICED)
PREDICTING = {"apfl": "mixed-models", "fedmrl": "nested-features", "heterofl": "slices", "fedrolex": "slices"}
"""Those under which a model predicts otherwise than as it was built."""


def run(plan: Plan, out: Path, data_dir: Path | None = None) -> Path:
    """The folder of a run."""
    Launcher(vertical, Console(quiet=True), data_dir).run(plan, "plan.toml", out)
    return out


def shipped(name: str, **federation: Any) -> Plan:
    """A shipped plan, shortened."""
    text, file = plan_text(vertical, name)
    plan = read_plan(text, file)
    return plan.model_copy(update={"federation": plan.federation.model_copy(update=federation)})


def raw_inputs(plan: Plan, run: Path, cohorts: dict[str, Cohort]) -> dict[str, dict[str, Any]]:
    """The test patients of every client as the data set has them, by client."""
    found = {}
    for table in plan.client:
        data = validate(HospitalData, table.data, key="data")
        label = data.label or cohorts[data.dataset].questions[0]
        own = _own_samples(cohorts[data.dataset], data, label, plan.federation.seed)
        ids = pd.read_csv(run / "predictions" / f"{table.name}.csv")["id"]
        rows = [int(one.rpartition("/")[2]) for one in ids]
        arrays: dict[str, Any] = {"id": ids.to_numpy(str)}
        for name in data.modalities:
            arrays[name] = own.modalities[name][rows]
            if name in own.present:
                arrays[f"present:{name}"] = own.present[name][rows]
        found[table.name] = arrays
    return found


def check_same(run: Path, found: dict[str, pd.DataFrame]) -> None:
    """Every client's predictions are those that the run left, to the last figure."""
    for name, table in found.items():
        expected = pd.read_csv(run / "predictions" / f"{name}.csv")
        predicted = [column for column in expected if column.startswith("probability:") or column == "risk"]
        assert predicted and len(expected)
        pd.testing.assert_frame_equal(table, expected[["id", *predicted]], check_exact=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A short run of the sample plan."""
    return run(shipped("sample", rounds=2), tmp_path_factory.mktemp("runs") / "sample")


def test_the_sample_is_predicted_again_from_a_copy_of_the_folders_alone(whole, sample, elsewhere) -> None:
    plan = shipped("sample", rounds=2)
    check_same(whole, elsewhere(whole, raw_inputs(plan, whole, {"sample-hospitals": sample})))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_an_exchange_adds_to_a_model_is_kept(algorithm, sample, tmp_path) -> None:
    clients = [dict(client) for client in IMAGES["client"]]
    if algorithm in SLICED:
        clients[1]["model"] = {"width": 0.5}
    federation = {**IMAGES["federation"], "algorithm": algorithm}
    plan = read_plan(tomli_w.dumps({**IMAGES, "federation": federation, "client": clients}), "plan.toml")
    out = run(plan, tmp_path / "run")
    inputs = raw_inputs(plan, out, {"sample-hospitals": sample})
    kinds = set()
    for name, arrays in inputs.items():
        model = load_model(out / "models" / name)
        kinds |= {one["kind"] for one in model.about["extensions"]}
        model.predict(arrays).to_csv(tmp_path / "again.csv", index=False, float_format="%.6g")
        check_same(out, {name: pd.read_csv(tmp_path / "again.csv")})
    if algorithm in PREDICTING:
        assert export(model, tmp_path / "model.pt2", "torch-export").difference < 1e-5
    assert kinds == ({PREDICTING[algorithm]} if algorithm in PREDICTING else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glioma-mixed", "glioma-molecular", "brca-survival"])
def test_real_hospitals_are_predicted_again_from_a_copy_of_the_folders_alone(name, real_data, elsewhere, tmp_path) -> None:
    plan = shipped(name, rounds=1, pooled=False)
    out = run(plan, tmp_path / "run", real_data)
    names = {table.data["dataset"] for table in plan.client}
    found = elsewhere(out, raw_inputs(plan, out, {one: load(one, real_data) for one in names}))
    check_same(out, found)
    if name == "glioma-mixed":
        assert (out / "models" / "HT" / "alone" / "estimator.skops").is_file()


def test_a_hospital_with_gaps_is_predicted_again(tmp_path, whole) -> None:
    """A patient without an image, and one of whom all cells are empty, are two things."""
    model = load_model(whole / "models" / "north")
    inputs = {"image": np.full((2, 32, 32, 1), np.nan), "genes": np.full((2, 60), np.nan)}
    inputs["genes"][0] = 1
    missing = model.predict(inputs)
    empty = model.predict({**inputs, "present:genes": [True, True]})
    assert missing.iloc[0, 1] == empty.iloc[0, 1] and missing.iloc[1, 1] != empty.iloc[1, 1]


def test_columns_by_name_are_put_in_order(whole) -> None:
    model = load_model(whole / "models" / "west")
    columns = model.preprocessing["modalities"]["genes"]["columns"]
    values = np.random.default_rng(0).normal(size=(3, len(columns))).astype(np.float32)
    frame = pd.DataFrame(values, columns=columns)
    expected = model.predict({"genes": values})
    pd.testing.assert_frame_equal(model.predict({"genes": frame[columns[::-1]]}), expected)
    assert expected["id"].tolist() == ["0", "1", "2"]


def test_a_single_patient_is_predicted_as_among_others(whole) -> None:
    model = load_model(whole / "models" / "north")
    image, genes = np.ones((5, 32, 32, 1), np.uint8), np.ones((5, 60), np.float32)
    one = model.predict({"image": image[:1], "genes": genes[:1]}).iloc[0, 1:].astype(float)
    among = model.predict({"image": image, "genes": genes}).iloc[0, 1:].astype(float)
    np.testing.assert_allclose(one, among, rtol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "torchscript"])
def test_a_hospital_is_exported_for_other_programs(kind, whole, tmp_path) -> None:
    """For any number of patients, with and without a modality."""
    done = export(load_model(whole / "models" / "north"), tmp_path / "model", kind)
    assert done.difference < 1e-5 and done.file.stat().st_size > 1000


FRAME = pd.DataFrame(np.ones((2, 60)), columns=sample_hospitals.GENES)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a column is missing": ({"genes": FRAME.iloc[:, 1:]}, "genes.module0-gene0: this column is missing"),
    "a column too many": ({"genes": FRAME.assign(module0gene1=1)}, "Did you mean 'module0-gene1'?"),
    "a column twice": ({"genes": pd.concat([FRAME, FRAME.iloc[:, :1]], axis=1)}, "the column is there twice"),
    "text": ({"genes": FRAME.astype(object).replace(1.0, "high")}, "not numbers (value: 'high')"),
    "wrong shape": ({"genes": np.ones((2, 59))}, "genes: wrong shape (value: (2, 59)). The model reads (n, 60)"),
    "no example": ({"genes": np.ones((0, 60))}, "there is no example"),
    "infinite": ({"genes": np.full((2, 60), np.inf)}, "it holds an infinity"),
    "wrong modality": ({"gene": np.ones((2, 60))}, "gene: the model has no such modality. Did you mean 'genes'?"),
    "no modality": ({}, "genes: this modality is missing"),
    "too few names": ({"genes": np.ones((2, 60)), "id": ["one"]}, "1 names of 2 examples"),
    "presence of another length": ({"genes": np.ones((2, 60)), "present:genes": [True]}, "Give (2,) of true and false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_inputs_that_do_not_fit_are_refused_with_the_remedy(case, whole) -> None:
    inputs, message = WRONG[case]
    with pytest.raises(DataError) as caught:
        load_model(whole / "models" / "west").predict(inputs)
    assert message in str(caught.value)


def test_every_modality_has_a_row_for_every_patient(whole) -> None:
    with pytest.raises(DataError, match="not as many rows in each modality"):
        load_model(whole / "models" / "north").predict({"image": np.ones((2, 32, 32, 1)), "genes": np.ones((3, 60))})


def test_tensors_are_checked_as_well(whole) -> None:
    model = load_model(whole / "models" / "west")
    assert model.output({"genes": torch.ones(2, 60)}).logits.shape == (2, 2)
    for tensor in (torch.ones(2, 59), torch.ones(2, 60, dtype=torch.float64)):
        with pytest.raises(DataError, match="wrong shape or dtype"):
            model.output({"genes": tensor})


def test_the_description_holds_no_data_of_the_hospital_but_its_scales(whole) -> None:
    about = json.loads((whole / "models" / "north" / "model.json").read_text())
    parts = {f"{arm}/model.json" for arm in about["mean"]}
    assert set(about["files"]) == {"statistics.safetensors", *parts}
    for part in parts:
        one = json.loads((whole / "models" / "north" / part).read_text())
        assert set(one["files"]) == {"model.safetensors", "statistics.safetensors"}
    assert set(load_model(whole / "models" / "north").statistics) == {
        f"{name}.{value}" for name in ("image", "genes") for value in ("mean", "deviation")
    }


def test_a_table_of_a_ward_with_empty_cells_is_scaled_as_in_training() -> None:
    home = wards.admit(wards.ward(), "clinical")
    from hetfed_medical.kept import cohort_form, described
    from hetfed_medical.plan_schema import HospitalModel

    about = described(home, HospitalModel(), HospitalModel())
    cohort, rows = wards.ward(), wards.rows(home.data.test)
    ready = cohort_form.prepare(about.preprocessing, about.statistics, {"clinical": cohort.modalities["clinical"][rows]})
    assert wards.same(ready.inputs["clinical"], home.data.test.inputs["clinical"])
