"""What a package brings through entry points, and a script by registering, runs as what this project ships does."""

from __future__ import annotations

import csv
import doctest
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hetfed_datasets.source
import hetfed_medical.modalities
from hetfed.errors import DataError, PlanError
from hetfed.plan import read_plan
from hetfed_datasets.registry import SOURCES, load
from hetfed_datasets.source import Source
from hetfed_medical import vertical as medical
from hetfed_medical.backbones import BACKBONES
from hetfed_medical.kept import cohort_form
from hetfed_medical.modalities import MODALITIES, Modality, augmented
from hetfed_medical.plan_schema import HospitalData
from hetfed_medical.preprocessing import hospital
from hetfed_traffic import vertical as traffic
from hetfed_traffic.encoders import ENCODERS

Install = Callable[..., Path]

ENTRY_POINTS = """
[hetfed.sources]
clinic = guest_data:clinic
hamlet = guest_data:hamlet
[hetfed.modalities]
ecg = guest_models:ecg
[hetfed.backbones]
mean-image = guest_models:mean_and_linear
[hetfed.table_encoders]
wide-and-deep = guest_models:wide
[hetfed.traffic_encoders]
recent = guest_models:Recent
"""
DATA = '''
import numpy as np
import pandas as pd
from hetfed_datasets.records import Cohort, Series
from hetfed_datasets.source import Source

def generate():
    """Patients whose heart beats fast or slowly; half of the images are missing."""
    rng, n = np.random.default_rng(0), 160
    fast = np.arange(n) % 2
    time = np.linspace(0, 1, 40)[None, :, None]
    ecg = np.sin(2 * np.pi * (3 + 3 * fast[:, None, None]) * time) + rng.normal(0, 0.1, (n, 40, 2))
    image = rng.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8) * (np.arange(n) % 4 < 2)[:, None, None, None]
    return Cohort(
        name="clinic", patient=np.array([f"p{i}" for i in range(n)]), site=np.repeat(["here", "there"], n // 2),
        modalities={"ecg": ecg.astype(np.float32), "image": image.astype(np.uint8),
                    "clinical": rng.normal(size=(n, 3)).astype(np.float32)},
        labels={"beat": fast}, classes={"beat": ("slow", "fast")}, columns={"clinical": ("a", "b", "c")},
        present={"image": np.arange(n) % 4 < 2}, synthetic=True,
    )

def readings(folder):
    frame = pd.read_csv(folder / "counts.csv")
    return Series(
        name="hamlet", values=frame.to_numpy(dtype=np.float32)[:, :, None], sensors=tuple(frame.columns),
        channels=("vehicles",), unit="veh/h", kind="count", interval=15,
        time=pd.date_range("2024-03-04", periods=len(frame), freq="15min"),
    )

clinic = Source("clinic", "cohort", "heart beats", generate, origin="made up", licence="CC0", generated=True)
hamlet = Source("hamlet", "series", "a village", "guest_data:readings", origin="the village", licence="CC0")
'''
MODELS = """
import torch
from torch import nn
from hetfed_medical.modalities import Modality

def spectrum(shape, features, factor=1.0):
    class Spectrum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(shape[0] * (shape[1] // 2 + 1), features)
        def forward(self, x):
            return self.linear(torch.fft.rfft(x, norm="ortho").abs().flatten(1))
    return Spectrum()

def mean_and_linear(shape, features):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(shape[0] * 4, features))

def wide(columns, features):
    return nn.Linear(columns, features)

ecg = Modality(("time", "leads"), {"spectrum": spectrum}, "spectrum", augment=lambda x, generator: x * 1.01)

class Recent(nn.Module):
    reads = "history"
    def __init__(self, steps, width, layers, dropout):
        super().__init__()
        self.linear = nn.Linear(1, width)
    def forward(self, x, adjacency):
        return self.linear(x[..., -1:])
"""
HOSPITALS = """
title = "hearts"
[federation]
rounds = 8
alone = false
pooled = false
[[exchange]]
kind = "shared-parameters"
[defaults.data]
dataset = "clinic"
modalities = ["ecg", "image", "clinical"]
augment = true
[defaults.model]
image = "mean-image"
clinical = "wide-and-deep"
features = 8
[defaults.training]
lr = 0.01
[[client]]
name = "here"
data = { sites = ["here"] }
[[client]]
name = "there"
data = { sites = ["there"] }
"""
CITY = """
[federation]
rounds = 2
alone = false
pooled = false
[[exchange]]
kind = "shared-parameters"
part = "encoder"
[defaults.data]
history = 4
horizons = [15]
[defaults.model]
encoder = "recent"
[[client]]
name = "hamlet"
data = { dataset = "hamlet" }
[[client]]
name = "loops"
data = { dataset = "sample-cities", city = "probes" }
"""


@pytest.mark.parametrize("module", [hetfed_datasets.source, hetfed_medical.modalities])
def test_the_examples_hold(module: ModuleType) -> None:
    tried, failed = doctest.testmod(module)[::-1]
    assert tried and not failed


@pytest.fixture
def guest(install: Install, tmp_path: Path) -> Path:
    """A package that brings one of everything; the folder in which its commands run."""
    install(ENTRY_POINTS, guest_data=DATA, guest_models=MODELS)
    (tmp_path / "data" / "hamlet").mkdir(parents=True)
    counts = np.random.default_rng(0).poisson(30, (300, 2))
    np.savetxt(tmp_path / "data" / "hamlet" / "counts.csv", counts, delimiter=",", header="north,south", comments="", fmt="%d")
    (tmp_path / "hearts.toml").write_text(HOSPITALS, encoding="utf-8")
    (tmp_path / "hamlet.toml").write_text(CITY, encoding="utf-8")
    return tmp_path


def command(folder: Path, *words: str, status: int = 0) -> str:
    """What a command prints, in a process of its own, which knows what is installed and nothing else."""
    line = [sys.executable, "-m", "hetfed", *words, "--data-dir", str(folder / "data")]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_data_sets_of_a_package_are_listed_and_checked(guest: Path) -> None:
    listed = command(guest, "datasets", "list")
    assert "clinic" in listed and "heart beats" in listed and "sample-hospitals" in listed
    assert "hamlet is in order: sensors 2, steps 300 of 15 min (3 days), veh/h" in command(guest, "datasets", "check", "hamlet")
    (guest / "data" / "hamlet" / "counts.csv").write_text("north\n1\n-3\n", encoding="utf-8")
    refused = command(guest, "datasets", "check", "hamlet", status=2)
    assert "series 'hamlet': values[1][0][0]: a reading below zero (value: -3.0). Write NaN" in refused


def test_a_comparison_in_other_processes_knows_the_data_set_and_the_modality_of_a_package(guest: Path) -> None:
    words = ("--algorithms", "plan", "--seeds", "2", "--jobs", "2", "--out", "hearts")
    command(guest, "medical", "compare", "hearts.toml", *words)
    with (guest / "hearts" / "comparison.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["client"]) for row in rows] == [(seed, client) for seed in "01" for client in ("here", "there")]
    # Nothing but the spectrum of the heart beats tells the classes apart.
    assert all(float(row["federated"]) > 0.9 for row in rows), [row["federated"] for row in rows]


def test_a_city_has_the_encoder_of_a_package(guest: Path) -> None:
    command(guest, "traffic", "run", "hamlet.toml", "--out", "run")
    assert "recent" in (guest / "run" / "summary.json").read_text(encoding="utf-8")


def test_a_package_that_takes_a_shipped_name_is_named(install: Install, tmp_path: Path) -> None:
    install("[hetfed.sources]\ncamera-counts = guest_data:clinic\n", guest_data=DATA)
    (tmp_path / "data").mkdir(exist_ok=True)
    refused = command(tmp_path, "datasets", "list", status=2)
    assert "the data set 'camera-counts' of the package guest cannot be used" in refused


@pytest.fixture
def script(install: Install, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script that has registered a data set and a modality; what it registers is forgotten after the test."""
    for registry in (SOURCES, MODALITIES, BACKBONES, ENCODERS):
        monkeypatch.setattr(registry, "_items", dict(registry))
    install("", guest_data=DATA, guest_models=MODELS)
    data = import_module("guest_data")
    SOURCES.add("hearts", Source("hearts", "cohort", "", data.generate, origin="here", generated=True))
    MODALITIES.add("ecg", import_module("guest_models").ecg)
    return data


@pytest.mark.usefixtures("script")
def test_a_script_registers_a_data_set_a_modality_and_encoders() -> None:
    @BACKBONES.register("mean-image")
    def mean_image(shape: tuple[int, ...], features: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], features))

    @ENCODERS.register("recent")
    class Recent(nn.Module):
        reads = "history"

        def __init__(self, steps: int, width: int, layers: int, dropout: float) -> None:
            super().__init__()
            self.linear = nn.Linear(1, width)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return torch.as_tensor(self.linear(x[..., -1:]))

    assert load("hearts").name == "clinic"
    plan = HOSPITALS.replace('"clinic"', '"hearts"').replace('clinical = "wide-and-deep"', "").replace("augment = true", "")
    here, _ = medical.clients(read_plan(plan, "hearts.toml"), None)
    assert here.about["model"] == "ecg: spectrum, image: mean-image, clinical: mlp"
    assert here.data.spec["shapes"] == {"ecg": (2, 40), "image": (1, 8, 8), "clinical": (3,)}
    ecg_inputs = here.data.train.inputs["ecg"]
    assert float(ecg_inputs.mean()) == pytest.approx(0, abs=1e-3) and float(ecg_inputs.std()) == pytest.approx(1, abs=0.01)
    assert here.profile.probe.logits.shape == (2, 2)
    assert here.description.preprocessing["modalities"]["ecg"] == {"time": 40, "leads": 2}
    # What a kept model makes of raw inputs is what the hospital has made of them.
    hearts, test = load("hearts"), here.data.test
    rows = [int(identity.rpartition("/")[2]) for identity in test.ids]
    raw = {**{name: values[rows] for name, values in hearts.modalities.items()}, "present:image": hearts.present["image"][rows]}
    ready = cohort_form.prepare(here.description.preprocessing, here.description.statistics, raw).inputs
    assert all(torch.equal(ready[name].nan_to_num(), test.inputs[name].nan_to_num()) for name in test.inputs)
    batch = augmented(here.data.train.whole(), torch.Generator())
    assert torch.allclose(batch.inputs["ecg"], ecg_inputs * 1.01)
    (city, _) = traffic.clients(read_plan(CITY.replace('"hamlet" }', '"random-readings" }'), "city.toml"), None)
    assert city.about["model"] == "recent" and city.profile.probe.logits.shape == (2, 1, 5)


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('"ecg"', '"eeg"'),
            r"modalities\[0\]: unknown modality .*'eeg'\)\. Did you mean 'ecg'\? Known: clinical, ecg, genes, image",
        ),
        (
            ("[defaults.model]", '[defaults.model]\necg = "spectra"'),
            r"model\.ecg: unknown encoder of ecg .*Did you mean 'spectrum'",
        ),
        (
            ("[defaults.model]", '[defaults.model]\neeg = "x"'),
            r"model\.eeg: unknown key .*'ecg'\? Known keys here: clinical, ecg, feat",
        ),
        (('"hearts"', '"heart"'), r"data\.dataset: unknown data set .*Did you mean 'hearts'"),
    ],
    ids=["modality", "encoder", "key", "data set"],
)
def test_an_unknown_name_gets_the_nearest_registered_one(change: tuple[str, str], message: str) -> None:
    plan = HOSPITALS.replace('"clinic"', '"hearts"').replace('image = "mean-image"\nclinical = "wide-and-deep"', "")
    with pytest.raises(PlanError, match=message):
        medical.clients(read_plan(plan.replace(*change), "hearts.toml"), None)


def test_a_modality_says_which_axes_it_has(script: ModuleType) -> None:
    MODALITIES.add("ecg", Modality(("minute", "time", "leads"), {"none": nn.Linear}, "none"), replace=True)
    table = HospitalData(dataset="clinic", modalities=("ecg",))
    message = r"cohort 'clinic': modalities\['ecg'\]: axes \(n, minute, time, leads\) expected \(value: \(160, 40, 2\)\)"
    with pytest.raises(DataError, match=message):
        hospital(script.generate(), table, 0, "here")


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        ("features", Modality(("x",), {"a": nn.Linear}, "a"), "a model table has a key of that name"),
        ("sound", Modality(("x",), {"a": nn.Linear}, "b"), "its encoder 'b' is none of a"),
        ("sound", Modality(("x",), {"a": nn.Linear}, "a", common="c"), "its encoder 'c' is none of a"),
        ("sound", nn.Linear, "it is a type, not a hetfed_medical.modalities.Modality"),
    ],
)
def test_what_is_no_modality_is_not_registered(name: str, modality: Modality, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is no modality: {message}"):
        MODALITIES.add(name, modality)


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("a", Source("b", "cohort", "", print, origin="here"), "it calls itself 'b'"),
        ("a", dict, "it is a type, not a hetfed_d"),
    ],
)
def test_what_is_no_source_is_not_registered(name: str, source: Source, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is no data set: {message}"):
        SOURCES.add(name, source)


@pytest.mark.usefixtures("script")
def test_a_traffic_encoder_that_does_not_say_what_it_reads_is_refused() -> None:
    ENCODERS.add("silent", lambda steps, width, layers, dropout: nn.Linear(steps, width))
    plan = CITY.replace('"hamlet" }', '"random-readings" }').replace('"recent"', '"silent"')
    message = (
        r"client 'hamlet'\.model\.encoder: its `reads` is None, and none of history, embedded, sequence \(value: 'silent'\)"
    )
    with pytest.raises(PlanError, match=message):
        traffic.clients(read_plan(plan, "city.toml"), None)
