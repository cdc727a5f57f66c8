"""`hetfed predict` and `hetfed export`, and models that are kept as programs."""

from __future__ import annotations

import builtins
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import toy
from rich.console import Console
from torch import nn

from hetfed.client import new_state
from hetfed.errors import RunError, RunFolderError
from hetfed.evaluation import predict
from hetfed.kept.export import as_onnx, export
from hetfed.kept.load import load_model
from hetfed.kept.program import session
from hetfed.kept.save import save_model
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.plan import read_plan
from hetfed_medical import vertical

PLAN = """
[federation]
rounds = 1
finetune = 0
alone = false
pooled = false
[[exchange]]
kind = "prototypes"
[defaults.data]
dataset = "sample-hospitals"
limit = 40
modalities = ["genes"]
[defaults.model]
features = 8
[[client]]
name = "north"
data = { sites = ["north"] }
[[client]]
name = "forest"
data = { sites = ["west"] }
model = { learner = "random-forest", settings = { n_estimators = 3 } }
[[client]]
name = "south"
data = { sites = ["south"], modalities = ["image", "genes"] }
model = { image = "small-conv" }
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run of three hospitals, one with a forest."""
    out = tmp_path_factory.mktemp("runs") / "run"
    Launcher(vertical, Console(quiet=True)).run(read_plan(PLAN, "plan.toml"), "plan.toml", out)
    return out


@pytest.fixture
def table(run: Path, tmp_path: Path) -> Path:
    """Three patients as a CSV file."""
    columns = load_model(run / "models" / "north").preprocessing["modalities"]["genes"]["columns"]
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 60)), columns=columns).assign(id=["p", "q", "r"])
    frame.to_csv(tmp_path / "genes.csv", index=False)
    return tmp_path / "genes.csv"


@pytest.mark.parametrize("client", ["north", "forest"])
def test_predictions_go_to_a_file_or_to_the_terminal(client, run, table, tmp_path, hetfed) -> None:
    done = hetfed("predict", run, "--client", client, table, "--out", tmp_path / "out.csv")
    assert done.status == 0 and "out.csv" in done.out
    written = pd.read_csv(tmp_path / "out.csv")
    expected = load_model(run / "models" / client).predict({"genes": pd.read_csv(table).drop(columns="id")})
    assert list(written["id"]) == ["p", "q", "r"]
    assert written["probability:subtype A"].to_numpy() == pytest.approx(expected["probability:subtype A"].to_numpy(), rel=1e-5)
    shown = hetfed("predict", run, "--client", client, table).out
    assert shown.split()[:3] == ["id", "probability:subtype", "A"] and f"{written.iloc[0, 1]:.4g}"[:5] in shown


def test_images_and_tables_may_come_in_two_files(run, table, tmp_path, hetfed) -> None:
    np.savez(tmp_path / "images.npz", image=np.zeros((3, 32, 32, 1), np.uint8))
    done = hetfed("predict", run, "--client", "south", tmp_path / "images.npz", table)
    assert done.status == 0 and len(done.out.splitlines()) == 4


def test_a_long_table_is_cut_on_the_terminal(run, table, tmp_path, hetfed) -> None:
    pd.concat([pd.read_csv(table)] * 10).to_csv(table, index=False)
    out = hetfed("predict", run, "--client", "north", table).out
    assert len(out.splitlines()) == 22 and "30 rows and 3 columns in all: --out FILE writes them" in out


def damaged(path: Path, content: bytes) -> Path:
    """A file that holds something else."""
    path.write_bytes(content)
    return path


def test_what_the_user_can_mend_is_one_message(run, table, tmp_path, hetfed) -> None:
    pickled = io.BytesIO()
    np.savez(pickled, genes=np.array([object()], dtype=object))
    cases = {
        "no such client (value: 'nord'). Did you mean 'north'?": (run, "nord", table),
        "no kept models here": (tmp_path, "north", table),
        "'../models/north'": (run, "../models/north", table),
        "not a CSV table": (run, "north", tmp_path / "absent.csv"),
        "there is no row": (run, "north", damaged(tmp_path / "empty.csv", b"id\n")),
        "odd: the model has no such column": (run, "north", damaged(tmp_path / "odd.csv", b"odd\n1\n")),
        "genes.module0-gene0: this column is missing": (run, "north", damaged(tmp_path / "few.csv", b"gene0\n1\n")),
        "genes: this modality is missing": (run, "north", damaged(tmp_path / "ids.csv", b"id\n1\n")),
        "image: this modality is missing": (run, "south", table),
        "not readable as .npz": (run, "north", damaged(tmp_path / "text.npz", b"text")),
        "holds objects, not numbers": (run, "north", damaged(tmp_path / "objects.npz", pickled.getvalue())),
    }
    for message, (folder, client, file) in cases.items():
        done = hetfed("predict", folder, "--client", client, file)
        assert done.status == 2 and message in done.complaint, done.err
    done = hetfed("predict", run, "--client", "north", table, "--out", tmp_path / "absent" / "out.csv")
    assert done.status == 2 and "cannot be written" in done.complaint


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "torchscript"])
def test_export_says_how_far_it_is_from_the_model(kind, run, tmp_path, hetfed) -> None:
    done = hetfed("export", run, "--client", "north", "--format", kind, "--out", tmp_path / "model")
    assert done.status == 0, done.err
    assert "inputs: genes (n, 60)" in done.out and "largest difference of logits" in done.out
    assert (tmp_path / "model").stat().st_size > 1000


def test_a_forest_is_not_exported(run, hetfed) -> None:
    done = hetfed("export", run, "--client", "forest", "--format", "onnx")
    assert done.status == 2 and "a model of scikit-learn is no network" in done.complaint


def test_without_the_packages_of_export_one_message_says_what_to_install(run, monkeypatch, hetfed) -> None:
    imported = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name, name=name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    done = hetfed("export", run, "--client", "north", "--format", "onnx")
    assert done.status == 2 and "export to ONNX needs onnxscript" in done.complaint
    assert "pip install 'hetfed[export]'" in done.complaint


def test_an_archive_of_torch_export_holds_no_example(run, tmp_path) -> None:
    model = load_model(run / "models" / "north")
    secret = torch.full((5, 60), 1234.5)
    export(model, tmp_path / "model.pt2", "torch-export", {"genes": secret})
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = b"".join(archive.read(name) for name in archive.namelist())
    assert secret[0, :2].numpy().tobytes() not in contents


class Branching(nn.Module):
    """A model that looks at its inputs before it decides what to do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, inputs: Any) -> Output:
        return Output(self.head(inputs["point"]) if inputs["point"].sum() > 0 else inputs["point"])


@pytest.mark.parametrize("kind", ["onnx", "torch-export", "torchscript"])
def test_a_model_that_cannot_be_exported_is_refused_and_leaves_no_file(kind, tmp_path) -> None:
    """torch.export says so by itself; a trace follows one branch, and differs where the other is taken."""
    client = replace(toy.client("a"), model_fn=lambda spec: Branching())
    save_model(tmp_path / "kept", client, new_state(client, 0).model)
    points = {"point": torch.tensor([[3.0, 3.0], [-1.0, -1.0], [1.0, 1.0], [1.0, 1.0], [-9.0, -9.0]])}
    kept = load_model(tmp_path / "kept", model_fn=lambda spec: Branching())
    with pytest.raises(RunError):
        export(kept, tmp_path / "model", kind, points)
    assert not (tmp_path / "model").exists()


def test_a_model_of_a_script_may_be_kept_as_a_program(tmp_path) -> None:
    client = toy.client("a")
    save_model(tmp_path / "kept", client, new_state(client, 0).model, program=True)
    model = load_model(tmp_path / "kept")
    own = predict(client.module, client.data.test).logits
    assert torch.allclose(model.output(client.data.test.inputs).logits, own, atol=1e-5)
    assert model.predict({"point": client.data.test.inputs["point"][:1].numpy()}).shape == (1, 3)
    exact = load_model(tmp_path / "kept", model_fn=lambda spec: toy.Net(spec["inputs"], 4))
    assert torch.equal(exact.output(client.data.test.inputs).logits, own)


def test_a_program_that_reads_other_files_or_is_damaged_is_refused(tmp_path) -> None:
    content = as_onnx(toy.Net(2, 4).eval(), {"point": torch.zeros(3, 2)})
    program = onnx.load_from_string(content)
    program.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    for odd, message in ((program.SerializeToString(), "it reads other files"), (b"nothing", "not an ONNX program")):
        with pytest.raises(RunFolderError, match=message):
            session(odd)


def test_a_program_needs_its_package(tmp_path, monkeypatch) -> None:
    imported = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name, name=name)
        return imported(name, *args, **kwargs)

    client = toy.client("a")
    save_model(tmp_path / "kept", client, new_state(client, 0).model, program=True)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RunFolderError, match="a program in ONNX needs onnxruntime"):
        load_model(tmp_path / "kept")
