"""What is at fault in a plan, a data file or a folder ends the command: exit status 2, one message, nothing written.

The data sets are made up in the shape of the real ones, then damaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

XRAY = """
[federation]
rounds = 1
[[exchange]]
kind = "shared-parameters"
part = "encoders.image"
[defaults.data]
dataset = "pneumoniamnist"
modalities = ["image"]
[defaults.model]
image = "small-conv"
features = 4
[[client]]
name = "one"
data = { partition = { kind = "quantity", clients = 2, part = 0 } }
training = { lr = 0.01 }
[[client]]
name = "two"
data = { partition = { kind = "quantity", clients = 2, part = 1 } }
"""
HEART = """
[federation]
rounds = 1
algorithm = "fedavg"
[defaults.data]
dataset = "uci-heart-4hospitals"
modalities = ["clinical"]
[defaults.model]
features = 4
[[client]]
name = "Cleveland"
data = { sites = ["cleveland"] }
[[client]]
name = "VA"
data = { sites = ["va"] }
"""
CITIES = """
[federation]
rounds = 1
[[exchange]]
kind = "shared-parameters"
part = "encoder"
[defaults.data]
history = 4
horizons = [15]
[defaults.model]
features = 8
layers = 1
sensor_embedding = 2
time_embedding = 1
[[client]]
name = "Shenzhen"
data = { dataset = "shenzhen-sz-taxi" }
[[client]]
name = "Camera"
data = { dataset = "camera-counts" }
"""
PNEUMONIA = "pneumoniamnist/pneumoniamnist_28_reconstructed.npz"
CLEVELAND = "uci-heart-4hospitals/processed.cleveland.data"
SPEED, LINKS = "shenzhen-sz-taxi/sz_speed_40roads.csv", "shenzhen-sz-taxi/sz_adj_40.csv"
CAMERA = "camera-counts/Traffic.csv"
Arrays = dict[str, NDArray[Any]]


def pneumonia(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for split, n in (("train", 40), ("val", 12), ("test", 12)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).reshape(-1, 1).astype(np.uint8)
    folder.mkdir()
    np.savez(folder / "pneumoniamnist_28_reconstructed.npz", **arrays)


def heart(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for hospital, n in {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}.items():
        table = pd.DataFrame(rng.integers(0, 100, (n, 13)).astype(float))
        table[11] = np.where(np.arange(n) % 7 == 3, "?", "1.0")
        table[13] = np.arange(n) % 5
        table.to_csv(folder / f"processed.{hospital}.data", header=False, index=False)


def shenzhen(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    time = pd.date_range("2015-01-01", periods=2976, freq="15min").strftime("%m/%d/%Y %H:%M")
    speed = pd.DataFrame(rng.integers(0, 60, (2976, 40)), columns=[str(road) for road in range(40)])
    speed.insert(0, "date", time)
    speed.to_csv(folder / "sz_speed_40roads.csv", index=False)
    pd.DataFrame(np.eye(40)).to_csv(folder / "sz_adj_40.csv", header=False, index=False)


def camera(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    time = pd.date_range("2023-10-10", periods=2976, freq="15min")
    frame = pd.DataFrame({"Time": time.strftime("%I:%M:%S %p"), "Date": time.day, "Day of the week": time.day_name()})
    for kind in ("Car", "Bike", "Bus", "Truck"):
        frame[f"{kind}Count"] = rng.integers(0, 50, 2976)
    frame["Total"] = 0
    frame["Traffic Situation"] = np.resize(["low", "normal", "high", "heavy"], 2976)
    frame.to_csv(folder / "Traffic.csv", index=False)


SETS = {"pneumoniamnist": pneumonia, "uci-heart-4hospitals": heart, "shenzhen-sz-taxi": shenzhen, "camera-counts": camera}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name, make in SETS.items():
        make(root / name)
    return root


@dataclass(frozen=True)
class Bench:
    """A folder of data sets that can be damaged, and a command that runs a plan on it."""

    home: Path
    data: Path
    command: Callable[..., Any]

    @property
    def out(self) -> Path:
        return self.home / "out"

    def run(self, text: str, *words: object) -> Any:
        file = self.home / "plan.toml"
        file.write_text(text, encoding="utf-8")
        vertical = "traffic" if "shenzhen" in text else "medical"
        return self.command(vertical, "run", file, "--data-dir", self.data, "--out", self.out, *words)

    def refused(self, text: str, *words: object) -> str:
        """What is said of a plan, or of the data that it names."""
        before = self.out.exists()
        answer = self.run(text, *words)
        assert answer.status == 2
        assert "Traceback" not in answer.out + answer.err
        assert self.out.exists() == before
        return str(answer.complaint)


@pytest.fixture
def bench(pristine: Path, tmp_path: Path, hetfed: Callable[..., Any]) -> Bench:
    data = tmp_path / "data"
    for file in pristine.rglob("*.*"):
        copy = data / file.relative_to(pristine)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(file)
    return Bench(tmp_path, data, hetfed)


def replace_bytes(file: Path, content: bytes) -> None:
    """Instead of the link to the pristine file."""
    file.unlink()
    file.write_bytes(content)


def rewrite(file: Path, change: Callable[[str], str]) -> None:
    before = file.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    replace_bytes(file, after.encode())


def rearrange(file: Path, **arrays: NDArray[Any] | None) -> None:
    """Replace arrays of an .npz file; None takes one away."""
    with np.load(file) as archive:
        whole = {**archive, **arrays}
    file.unlink()
    np.savez(file, **{name: array for name, array in whole.items() if array is not None})


def cell(row: int, column: int, value: str) -> Callable[[str], str]:
    """A change of one cell of a CSV file."""

    def change(text: str) -> str:
        lines = text.splitlines()
        cells = lines[row].split(",")
        cells[column] = value
        lines[row] = ",".join(cells)
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize("text", [XRAY, HEART, CITIES], ids=["xray", "heart", "cities"])
def test_what_is_not_damaged_runs(text: str, bench: Bench) -> None:
    answer = bench.run(text)
    assert (answer.status, answer.err) == (0, "")
    assert (bench.out / "report.html").is_file()


PLANS = {
    "no TOML": (XRAY + "[[client", ["plan.toml", "not valid TOML", "line"]),
    "unknown key": (XRAY.replace("rounds", "roundz"), ["federation.roundz", "unknown key", "Did you mean 'rounds'?"]),
    "unknown table": (
        "[federated]\nrounds = 1\n" + XRAY,
        ["federated", "unknown key", "Known keys here: client, common, defaults"],
    ),
    "unknown key of a client's data": (
        XRAY.replace("modalities =", 'modality = "image"\nmodalities ='),
        ["client 'one'.data.modality", "unknown key", "Known keys here: augment"],
    ),
    "unknown key of a client's training": (XRAY.replace("lr =", "rate ="), ["client 'one'.training.rate", "unknown key"]),
    "unknown setting of an exchange": (
        XRAY.replace('kind = "shared', 'weights = 2\nkind = "shared'),
        ["exchange[0].weights", "unknown key", "Known keys here: aggregation, among"],
    ),
    "unknown exchange": (
        XRAY.replace("shared-parameters", "telepathy"),
        ["exchange[0].kind", "unknown exchange", "'telepathy'", "Known: control-variates, distilled-parameters"],
    ),
    "unknown algorithm": (HEART.replace("fedavg", "fedfoo"), ["federation.algorithm", "'fedfoo'", "Known: alone, fedavg"]),
    "an exchange that a client cannot join": (
        XRAY.replace("encoders.image", "encoders.genes").replace('kind = "shared', 'clients = ["two"]\nkind = "shared'),
        ["shared-parameters.clients", "'two' cannot take part", "no part 'encoders.genes'", "leave it out"],
    ),
    "an exchange that no client can join": (
        XRAY.replace("encoders.image", "encoders.genes"),
        ["shared-parameters", "no client can take part", "no part 'encoders.genes'"],
    ),
    "an exchange of clients that do not fit": (
        XRAY.replace('name = "two"', 'name = "two"\nmodel = { features = 8 }'),
        ["shared-parameters", "'one' and 'two' cannot share part 'encoders.image'", "Give them the same architecture"],
    ),
    "distillation without public inputs": (
        XRAY.replace('kind = "shared-parameters"\npart = "encoders.image"', 'kind = "logit-distillation"'),
        ["logit-distillation", "one, two: it holds no public inputs (add a [public] table to the plan)."],
    ),
    "a client that is not there": (
        XRAY.replace('kind = "shared', 'clients = ["three"]\nkind = "shared'),
        ["shared-parameters.clients", "no such client", "'three'", "There are: one, two"],
    ),
    "two clients of one name": (XRAY.replace('"two"', '"one"'), ["client.name", "same name", "'one'", "Rename"]),
    "no client": ("[federation]\nrounds = 1\n", ["client: the plan has no [[client]]", "Add a [[client]] table"]),
    "defaults that are no tables": ("defaults = 3\n", ["defaults", "valid table", "3"]),
    "clients that are no tables": ("client = 3\n", ["client", "list", "3", "Write [[client]], with two brackets"]),
    "negative learning rate": (
        XRAY.replace("lr = 0.01", "lr = -0.01"),
        ["client 'one'.training.lr", "greater than 0", "-0.01", "docs/plans.md"],
    ),
    "no rounds": (XRAY.replace("rounds = 1", "rounds = 0"), ["federation.rounds", "greater than 0", "0"]),
    "unknown backbone": (XRAY.replace("small-conv", "huge-conv"), ["client 'one'.model.image", "'huge-conv'", "small-conv"]),
    "unknown data set": (
        XRAY.replace("pneumoniamnist", "pneumonia-mnist"),
        ["client 'one'.data.dataset: unknown data set", "Did you mean 'pneumoniamnist'? Known: breastmnist"],
    ),
    "unknown data set of a city": (
        CITIES.replace("camera-counts", "camera-count"),
        ["client 'Camera'.data.dataset: unknown data set", "Did you mean 'camera-counts'?"],
    ),
    "too many parts": (
        XRAY.replace("clients = 2, part = 1", "clients = 200, part = 0"),
        ["client 'two'.data.partition.clients: too few samples (value: 200). 64 samples are at most 6 clients of 10."],
    ),
    "too few samples": (
        HEART.replace('["va"]', '["va"], limit = 1'),
        ["client 'VA'.data.limit: no sample is left for validation (uci-heart-4hospitals: 1 in all) (value: 1). Take more"],
    ),
    "a name with a slash": (XRAY.replace('"two"', '"a/b"'), ["client 'a/b'.name: a name begins with a letter, a digit or _"]),
    "all of a part excluded": (
        XRAY.replace("[defaults.data]", 'exclude = ["encoders"]\n[defaults.data]'),
        ["everything in part 'encoders.image' of its model is excluded or stays local"],
    ),
    "whole models that differ": (
        XRAY.replace('part = "encoders.image"', "").replace('name = "two"', 'name = "two"\nmodel = { features = 8 }'),
        ["'one' and 'two' cannot share the whole model: "],
    ),
    "settings of no learner": (
        HEART.replace('["va"] }', '["va"] }\nmodel = { settings = { n_estimators = 5 } }'),
        ["client 'VA'.model.settings: settings are those of a learner, which is not named"],
    ),
    "a setting out of range": (
        HEART.replace('["va"] }', '["va"] }\nmodel = { learner = "random-forest", settings = { n_estimators = -50 } }'),
        [
            "client 'VA'.model.settings: The 'n_estimators' parameter of RandomForestClassifier must be an int",
            "lists what it takes",
        ],
    ),
    "a word for a setting": (
        HEART.replace('["va"] }', '["va"] }\nmodel = { learner = "svm", settings = { C = "many" } }'),
        ["client 'VA'.model.settings: The 'C' parameter of SVC must be", "'many'"],
    ),
    "a data set of the other vertical": (
        XRAY.replace("pneumoniamnist", "camera-counts"),
        ["client 'one'.data.dataset", "not a cohort", "'camera-counts'"],
    ),
    "no such hospital": (HEART.replace('["va"]', '["vx"]'), ["client 'VA'.data.sites", "no such site", "'vx'", "cleveland"]),
    "no such modality": (
        HEART.replace('["clinical"]', '["genes"]'),
        ["client 'Cleveland'.data.modalities", "no such modality", "'genes'", "clinical"],
    ),
    "a horizon between two readings": (
        CITIES.replace("[15]", "[20]"),
        ["data.horizons", "not a whole number of steps", "20", "every 15 min"],
    ),
}


@pytest.mark.parametrize("fault", PLANS)
def test_a_plan_at_fault(fault: str, bench: Bench) -> None:
    text, parts = PLANS[fault]
    said = bench.refused(text)
    assert said.startswith(f"error: {bench.home / 'plan.toml'}: ")
    for part in parts:
        assert part in said


IMAGES = np.zeros((12, 28, 28), dtype=np.uint8)
NAN = np.where(np.arange(12 * 28 * 28).reshape(12, 28, 28) == 28 * 28 + 2, np.nan, 1.0)


DATA: dict[str, tuple[str, str, Callable[[Path], None], list[str]]] = {
    "missing": (XRAY, PNEUMONIA, Path.unlink, ["no such data file", "No publisher serves it: prepare it from", "--data-dir"]),
    "empty": (XRAY, PNEUMONIA, lambda f: replace_bytes(f, b""), ["not readable as .npz", "Fetch it again"]),
    "cut short": (
        XRAY,
        PNEUMONIA,
        lambda f: replace_bytes(f, f.read_bytes()[:20_000]),
        ["not readable as .npz, perhaps cut short", "Fetch it again"],
    ),
    "something else": (XRAY, PNEUMONIA, lambda f: replace_bytes(f, b"<html>"), ["not readable as .npz", "Fetch it again"]),
    "an array missing": (XRAY, PNEUMONIA, lambda f: rearrange(f, val_labels=None), ["val_labels", "array is missing"]),
    "images of another size": (
        XRAY,
        PNEUMONIA,
        lambda f: rearrange(f, val_images=IMAGES[:, :27]),
        ["val_images", "images of shape (28, 28) expected", "(27, 28)"],
    ),
    "labels outside the classes": (
        XRAY,
        PNEUMONIA,
        lambda f: rearrange(f, test_labels=np.array([[0], [1], [7]] * 4)),
        ["test_labels[2]", "label outside the classes", "(value: 7)", "Known: 0 = normal, 1 = pneumonia."],
    ),
    "labels cut short": (
        XRAY,
        PNEUMONIA,
        lambda f: rearrange(f, val_labels=np.zeros((11, 1))),
        ["val_labels", "12 rows expected", "(value: 11)"],
    ),
    "NaN pixels": (
        XRAY,
        PNEUMONIA,
        lambda f: rearrange(f, val_images=NAN),
        ["val_images[1, 0, 2]", "NaN or infinite pixel", "leave out that image"],
    ),
    "wrong column count": (
        HEART,
        CLEVELAND,
        lambda f: rewrite(f, lambda text: "".join(line.split(",", 1)[1] for line in text.splitlines(keepends=True))),
        ["wrong column count, 14 expected", "(value: 13)", "Fetch it again"],
    ),
    "rows cut off": (
        HEART,
        CLEVELAND,
        lambda f: rewrite(f, lambda text: "".join(text.splitlines(keepends=True)[:-3])),
        ["303 rows expected", "cut short", "(value: 300)"],
    ),
    "a row cut short": (
        HEART,
        CLEVELAND,
        lambda f: rewrite(f, lambda text: text[: text.rindex(",") - 10]),
        ["line 303, column 14", "(value: nan)"],
    ),
    "a word in a table": (
        HEART,
        CLEVELAND,
        lambda f: rewrite(f, cell(4, 2, "high")),
        ["line 5, column 3", "not a number", "'high'"],
    ),
    "an infinite cell": (HEART, CLEVELAND, lambda f: rewrite(f, cell(4, 2, "inf")), ["line 5, column 3", "finite", "inf"]),
    "a grade that there is none of": (
        HEART,
        CLEVELAND,
        lambda f: rewrite(f, cell(4, 13, "9")),
        ["line 5, column 14: label outside the classes", "(value: 9)", "Known: 0 = none", "or write -1 where it is not known"],
    ),
    "a reading that is a word": (CITIES, SPEED, lambda f: rewrite(f, cell(9, 3, "fast")), ["line 10, column '2'", "'fast'"]),
    "a road missing": (
        CITIES,
        SPEED,
        lambda f: rewrite(f, lambda text: "".join(line.rsplit(",", 1)[0] + "\n" for line in text.splitlines())),
        ["wrong column count, 41 expected", "(value: 40)"],
    ),
    "time that stands still": (
        CITIES,
        SPEED,
        lambda f: rewrite(f, cell(5, 0, "01/01/2015 00:45")),
        ["line 6", "time does not go on regularly", "2015-01-01 00:45", "every 15 minutes"],
    ),
    "no time": (CITIES, SPEED, lambda f: rewrite(f, cell(5, 0, "noon")), ["line 6, column 'date'", "not a time", "'noon'"]),
    "a negative link": (CITIES, LINKS, lambda f: rewrite(f, cell(5, 0, "-1")), ["negative", "from 0 upwards"]),
    "a graph of fewer roads": (
        CITIES,
        LINKS,
        lambda f: rewrite(f, lambda text: "".join(text.splitlines(keepends=True)[:-1])),
        ["adjacency of 40 x 40 expected", "(39, 40)"],
    ),
    "a level that there is none of": (
        CITIES,
        CAMERA,
        lambda f: rewrite(f, cell(7, 8, "awful")),
        ["line 8, column 'Traffic Situation'", "label outside the classes", "'awful'", "Known: low, normal, high, heavy"],
    ),
    "rows out of order": (
        CITIES,
        CAMERA,
        lambda f: rewrite(f, cell(7, 0, "02:15:00 AM")),
        ["line 8", "time does not go on regularly", "02:15:00 AM"],
    ),
}


@pytest.mark.parametrize("fault", DATA)
def test_data_at_fault(fault: str, bench: Bench) -> None:
    text, name, damage, parts = DATA[fault]
    damage(bench.data / name)
    said = bench.refused(text)
    assert said.startswith(f"error: {bench.data / name}: ")
    for part in parts:
        assert part in said


def test_a_data_folder_that_is_not_there(bench: Bench) -> None:
    said = bench.refused(XRAY, "--data-dir", bench.home / "elsewhere")
    assert f"{bench.home / 'elsewhere'}" in said
    assert "no such folder" in said


def test_a_data_folder_that_lacks_what_is_served(bench: Bench) -> None:
    (bench.data / CAMERA).unlink()
    assert f"Get it with `hetfed datasets fetch camera-counts --data-dir {bench.data}`, or point" in bench.refused(CITIES)


def test_an_output_folder_that_holds_another_run(bench: Bench) -> None:
    assert bench.run(HEART).status == 0
    before = (bench.out / "summary.json").read_bytes()
    assert "the folder holds a run already. Go on with --resume" in bench.refused(HEART)
    for other, words in ((XRAY, ()), (HEART, ("--seed", 1)), (HEART, ("--rounds", 2))):
        said = bench.refused(other, "--resume", *words)
        assert said.startswith(f"error: {bench.out / 'plan.resolved.toml'}: the folder holds a run of another plan")
        assert re.search(r"Resume with the plan, .* or give another folder with --out\.$", said)
    assert (bench.out / "summary.json").read_bytes() == before


@pytest.mark.parametrize("part", ["federated/server-1.safetensors", "federated/sites-1.safetensors", "federated/rows.jsonl"])
def test_a_checkpoint_of_another_plan(part: str, bench: Bench) -> None:
    file = bench.out / f"checkpoints/{part}"
    assert bench.run(HEART, "--seed", 1).status == 0
    other = file.read_bytes()
    bench.out.rename(bench.home / "other")
    assert bench.run(HEART).status == 0
    file.write_bytes(other)
    assert_enough_to_delete(file, bench)


@pytest.mark.parametrize("part", ["checkpoint.json", "server-1.safetensors", "sites-1.safetensors", "rows.jsonl"])
def test_a_checkpoint_cut_short(part: str, bench: Bench) -> None:
    assert bench.run(HEART).status == 0
    file = bench.out / f"checkpoints/alone/{part}"
    file.write_bytes(file.read_bytes()[:-100])
    assert_enough_to_delete(file, bench)


def assert_enough_to_delete(file: Path, bench: Bench) -> None:
    """The file is refused by name; to delete it and resume is enough, as the message says."""
    said = bench.refused(HEART, "--resume")
    assert said.startswith(f"error: {file}: damaged: ")
    assert said.endswith("Delete that file and resume with --resume: what it stands for is run again.")
    file.unlink()
    assert bench.run(HEART, "--resume").status == 0
