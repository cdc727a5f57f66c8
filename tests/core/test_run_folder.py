"""What a run leaves behind, and which folders it does not touch."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch
import toy
from rich.console import Console
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from hetfed.client import Client
from hetfed.data import ClientData, Examples
from hetfed.errors import DataError, PlanError, RunError, RunFolderError, UsageError
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.plan import Plan, read_plan
from hetfed.results import folder
from hetfed.results.folder import LOCK, RunFolder
from hetfed.results.writing import write_bytes, write_json
from hetfed.tasks import Regression

ARMS = ("alone", "federated", "finetuned", "pooled")
FILES = {
    ".lock",
    "plan.resolved.toml",
    "environment.json",
    "summary.json",
    "rounds.csv",
    "ledger.jsonl",
    "report.html",
    "checkpoints/pooled.json",
    "plots/outcomes.svg",
    "checkpoints/seconds.json",
    "data.json",
    *(
        f"checkpoints/{arm}/{part}"
        for arm in ("federated", "finetuned", "alone")
        for part in ("checkpoint.json", "rows.jsonl", "server-3.safetensors", "sites-3.safetensors")
    ),
} | {
    file.format(client)
    for client in "abc"
    for file in (
        *(
            f"models/{{}}/{arm}{part}"
            for arm in ("alone/", "federated/", "finetuned/")
            for part in ("model.safetensors", "model.json")
        ),
        *(f"models/{{}}/{arm}statistics.safetensors" for arm in ("", "alone/", "federated/", "finetuned/")),
        "models/{}/model.json",
        "predictions/{}.csv",
        "plots/curve-{}.svg",
    )
}
ONE_CLASS = toy.SAMPLE + '\n[[client]]\nname = "lonely"\ndata = { one_class = true }\n'
FEDERATION = "[federation]\nrounds = 3"


class Far(nn.Module):
    """Predicts a number that is finite, but whose square is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(inputs["point"])[:, 0] * 0 + 1e30)


@dataclass
class OtherVertical(toy.ToyVertical):
    """The toy with its clients changed by a function."""

    change: Any

    def __post_init__(self) -> None:
        super().__init__()

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        return [self.change(client) for client in super().clients(plan, data_dir)]


def run(text: str, out: Path, vertical: toy.ToyVertical | None = None, **options: bool) -> dict[str, Any]:
    plan = read_plan(text, "toy.toml")
    return Launcher(vertical or toy.ToyVertical(), Console(quiet=True)).run(plan, "toy.toml", out, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def strictly(file: Path) -> Any:
    """JSON as other readers take it: without NaN and infinities."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} in {file}")

    return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)


def by_name(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {client["name"]: client for client in summary["clients"]}


def regression(client: Client, model: type[nn.Module]) -> Client:
    def numbers(examples: Examples) -> Examples:
        return replace(examples, target=examples.target.float())

    parts = [numbers(part) for part in (client.data.train, client.data.validation, client.data.test)]
    return replace(client, data=ClientData(*parts), task=Regression(), model_fn=lambda spec: model(), kind="far")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(toy.SAMPLE, out)
    return out


@pytest.fixture(scope="module")
def summary(whole: Path) -> dict[str, Any]:
    return strictly(whole / "summary.json")


def test_everything_that_is_promised_is_there_and_nothing_else(whole: Path) -> None:
    assert set(content(whole)) == FILES
    assert all(data for name, data in content(whole).items() if name != LOCK)


def test_files_can_be_read_by_those_they_are_sent_to(whole: Path, tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    assert {file.stat().st_mode for file in whole.rglob("*") if file.is_file()} == {usual.stat().st_mode}


def test_the_resolved_plan_is_the_plan(whole: Path) -> None:
    text = (whole / "plan.resolved.toml").read_text(encoding="utf-8")
    plan, resolved = read_plan(toy.SAMPLE, "toy.toml"), read_plan(text, "plan.resolved.toml")
    assert text.startswith(f"# digest {plan.digest()}\n")
    assert resolved.digest() == plan.digest()
    assert RunFolder(whole).plan_digest() == plan.digest()
    for words in ("checkpoint_every = 1", "quorum = 1", "batch_size = 32", "lr = 0.001"):
        assert words in text


def test_the_environment_is_named(whole: Path) -> None:
    environment = strictly(whole / "environment.json")
    assert set(environment) == {"python", "system", "cpus", "threads", "packages"}
    assert environment["packages"]["torch"] == torch.__version__


def test_a_package_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PACKAGES", ("numpy", "no-such-package"))
    packages = folder.environment()["packages"]
    assert packages["no-such-package"] == "absent" != packages["numpy"]


def test_the_summary_has_the_promised_keys(summary: dict[str, Any]) -> None:
    assert {"plan", "algorithm", "seed", "rounds", "metric", "higher_is_better", "seconds", "clients"} <= set(summary)
    assert set(summary["communication_bytes"]) == {"up", "down"}
    assert summary["seconds"] > 0
    for client in summary["clients"]:
        assert {"name", "n_train", "n_validation", "n_test", "parameters", "notes", *ARMS} <= set(client)


def test_the_summary_says_who_took_part(summary: dict[str, Any]) -> None:
    assert [client["name"] for client in summary["clients"]] == ["b", "a", "c"]
    sizes = {name: (c["n_train"], c["n_validation"], c["n_test"]) for name, c in by_name(summary).items()}
    assert sizes == {"a": (24, 12, 20), "b": (24, 12, 20), "c": (17, 12, 20)}
    widths = {"a": 5, "b": 4, "c": 4}
    parameters = {name: sum(p.numel() for p in toy.Net(2, width).parameters()) for name, width in widths.items()}
    assert {name: c["parameters"] for name, c in by_name(summary).items()} == parameters
    assert [(e["label"], e["kind"], e["every"], sorted(e["clients"])) for e in summary["exchanges"]] == [
        ("shared-parameters", "shared-parameters", 1, ["a", "b", "c"]),
        ("prototypes", "prototypes", 2, ["a", "b", "c"]),
    ]
    assert summary["exchanges"][0]["settings"]["part"] == "head"


def test_every_arm_has_a_value_for_every_client(summary: dict[str, Any]) -> None:
    for client in summary["clients"]:
        assert client["notes"] == {}
        for arm in ARMS:
            assert 0 <= client[arm] <= 1
            assert client["metrics"][arm]["AUROC"] == client[arm]
            assert (0 if arm == "finetuned" else 1) <= client["selected_round"][arm] <= 3


def test_predictions_give_the_metric_of_what_is_kept(whole: Path, summary: dict[str, Any]) -> None:
    for name, client in by_name(summary).items():
        table = pd.read_csv(whole / "predictions" / f"{name}.csv")
        assert list(table["id"]) == [f"{name}-{i}" for i in range(20)]
        kept = client["kept"]
        assert kept["arm"] == "mean of federated, finetuned, alone"
        assert kept["shares"] == pytest.approx(dict.fromkeys(("federated", "finetuned", "alone"), 1 / 3))
        assert roc_auc_score(table["target"] == "high", table["probability:high"]) == pytest.approx(kept["value"])


def test_models_give_the_predictions(whole: Path, summary: dict[str, Any]) -> None:
    """The mean of what the three say, each from its own folder."""
    for table in read_plan(toy.SAMPLE, "toy.toml").client:
        points, home = toy.examples(20, table.name, "test").inputs, whole / "models" / table.name
        said = []
        for arm in ("federated", "finetuned", "alone"):
            model = toy.Net(2, table.model.get("width", 4)).eval()
            model.load_state_dict(load_file(home / arm / "model.safetensors"))
            said.append(model(points).logits.softmax(dim=1)[:, 1])
        predicted = pd.read_csv(whole / "predictions" / f"{table.name}.csv")["probability:high"]
        assert torch.stack(said).mean(dim=0).tolist() == pytest.approx(predicted.tolist(), abs=1e-5)
        client, about = by_name(summary)[table.name], strictly(home / "model.json")
        assert about["mean"] == pytest.approx(client["kept"]["shares"])
        assert {key: about[key] for key in ("client", "arm", "metric", "spec", "architecture")} == {
            "client": table.name,
            "arm": client["kept"]["arm"],
            "metric": "AUROC",
            "spec": {"inputs": 2, "width": table.model.get("width", 4)},
            "architecture": None,
        }
        own = {arm: client["validation"][arm] for arm in ("federated", "finetuned", "alone")}
        assert about["validation"] == pytest.approx(own, rel=1e-5)


def test_rounds_have_a_row_per_arm_round_and_client(whole: Path, summary: dict[str, Any]) -> None:
    rounds = pd.read_csv(whole / "rounds.csv")
    keys = list(zip(rounds["arm"], rounds["round"], rounds["client"], strict=True))
    # The last broadcast is one more round of the federation.
    rounds_of = {"federated": (1, 2, 3, 4), "finetuned": (3,), "alone": (1, 2, 3)}
    assert keys == [(arm, number, client) for arm, numbers in rounds_of.items() for number in numbers for client in "abc"]
    federated, apart = rounds[rounds["arm"] == "federated"], rounds[rounds["arm"] != "federated"]
    assert federated["bytes_up"].sum() == summary["communication_bytes"]["up"] > 0
    assert federated["bytes_down"].sum() == summary["communication_bytes"]["down"] > 0
    assert (apart[["bytes_up", "bytes_down"]] == 0).all(axis=None)
    assert (rounds["train_loss"].isna() == (rounds["round"] == 4)).all()
    assert rounds["validation"].between(0, 1).all()


def test_the_selected_round_is_one_that_was_best_on_validation_data(whole: Path, summary: dict[str, Any]) -> None:
    """Alone, a model is judged once per round; the metric decides, then the loss."""
    rounds = pd.read_csv(whole / "rounds.csv").query("arm == 'alone'")
    for name, client in by_name(summary).items():
        mine = rounds[rounds["client"] == name].sort_values(["validation", "validation_loss"], ascending=[False, True])
        assert client["selected_round"]["alone"] == mine["round"].iloc[0]


def test_arms_can_be_left_out(tmp_path: Path) -> None:
    summary = run(
        toy.SAMPLE.replace(FEDERATION, FEDERATION + "\nfinetune = 0\nalone = false\npooled = false"), tmp_path / "out"
    )
    for client in summary["clients"]:
        left_out = [arm for arm in ARMS if client[arm] is None]
        assert left_out == ["alone", "finetuned", "pooled"]
        assert client["notes"] == dict.fromkeys(left_out, "not part of this plan")
        assert (client["kept"]["arm"], client["kept"]["value"]) == ("federated", client["federated"])
        assert client["federated"] is not None
    assert {file.name for file in (tmp_path / "out/checkpoints").iterdir()} == {"federated", "seconds.json"}
    assert set(pd.read_csv(tmp_path / "out/rounds.csv")["arm"]) == {"federated"}


def test_a_metric_that_is_undefined_is_null_with_the_reason(tmp_path: Path) -> None:
    run(ONE_CLASS, tmp_path / "out")
    clients = by_name(strictly(tmp_path / "out/summary.json"))
    for arm in ARMS:
        assert clients["lonely"][arm] is None
        assert clients["lonely"]["notes"][arm] == "AUROC is undefined: all 20 examples are of class 'low'"
        assert clients["lonely"]["metrics"][arm]["accuracy"] is not None
        assert clients["a"][arm] is not None


def test_a_client_whose_data_nobody_shares_has_no_pooled_value(tmp_path: Path) -> None:
    text = '[federation]\nrounds = 1\n[[client]]\nname = "a"'
    client = by_name(run(text, tmp_path / "out"))["a"]
    assert client["pooled"] is None
    assert client["notes"]["pooled"] == "no other client's data fits its model"


def test_a_huge_error_is_told_in_every_arm_and_its_loss_is_null(tmp_path: Path) -> None:
    text = '[federation]\nrounds = 2\n[[exchange]]\nkind = "shared-parameters"\n[[client]]\nname = "a"\n[[client]]\nname = "b"'
    run(text, tmp_path / "out", OtherVertical(lambda client: regression(client, Far)))
    for file in ("summary.json", "checkpoints/pooled.json"):
        strictly(tmp_path / "out" / file)
    for client in strictly(tmp_path / "out/summary.json")["clients"]:
        for arm in ARMS:
            # Its square is beyond single precision, in which the loss is computed.
            assert client[arm] == client["metrics"][arm]["MAE"] == pytest.approx(1e30)
            assert client["validation_loss"][arm] is None


def test_a_model_that_diverges_leaves_json_that_can_be_read(tmp_path: Path) -> None:
    wild = '\n[[client]]\nname = "wild"\ntraining = { optimizer = "sgd", lr = 1e30 }\n'
    run(toy.SAMPLE + wild, tmp_path / "out")
    summary = strictly(tmp_path / "out/summary.json")
    assert summary["uploads_refused"] > 0
    client = by_name(summary)["wild"]
    assert client["alone"] is None
    assert "not finite" in client["notes"]["alone"]
    assert strictly(tmp_path / "out/checkpoints/pooled.json")


def test_nan_is_never_written(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": math.nan})
    assert strictly(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_cannot_be_written_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        write_bytes(tmp_path / "nowhere" / "x", b"")


@pytest.mark.parametrize(
    "wrong",
    [
        toy.SAMPLE.replace('part = "head"', 'part = "tail"'),
        toy.SAMPLE.replace('part = "head"', 'part = "head"\nclients = ["d"]'),
        toy.SAMPLE.replace('kind = "prototypes"', 'kind = "prototypes"\nweight = -1'),
        toy.SAMPLE.replace("rounds = 3", 'rounds = 3\nalgorithm = "fedfoo"').replace("[[exchange]]", "[[unused]]"),
    ],
)
def test_nothing_is_written_when_the_plan_is_at_fault(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as error:
        run(wrong, tmp_path / "new/out")
    assert error.value.file == "toy.toml"
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_names_its_file_keeps_it(tmp_path: Path) -> None:
    def elsewhere(client: Client) -> NoReturn:
        raise PlanError("unknown key", file="included.toml", key="x", remedy="Remove it.")

    with pytest.raises(PlanError, match=r"^included\.toml: x: unknown key"):
        run(toy.SAMPLE, tmp_path / "out", OtherVertical(elsewhere))


def test_nothing_is_written_when_the_data_are_at_fault(tmp_path: Path) -> None:
    def damaged(client: Client) -> NoReturn:
        raise DataError("cut short", file="x.csv", remedy="Fetch it again.")

    with pytest.raises(DataError, match=r"x\.csv: cut short"):
        run(toy.SAMPLE, tmp_path / "new/out", OtherVertical(damaged))
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_change_another(whole: Path) -> None:
    before = content(whole)
    for text, options, problem in (
        (toy.SAMPLE, {}, "holds a run already"),
        (toy.SAMPLE.replace("rounds = 3", "rounds = 3\nseed = 1"), {"resume": True}, "holds a run of another plan"),
        (toy.SAMPLE.replace('part = "head"', 'part = "head"\nproximal = 0.1'), {"resume": True}, "holds a run of another plan"),
        (toy.SAMPLE.replace("rounds = 3", "rounds = 4"), {"resume": True}, "holds a run of another plan"),
    ):
        with pytest.raises(RunFolderError, match=problem) as error:
            run(text, whole, **options)
        assert str(error.value).startswith(str(whole))
        assert "--out" in error.value.remedy
    assert content(whole) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(resume: bool, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one", encoding="utf-8")
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        run(toy.SAMPLE, tmp_path, resume=resume)
    assert content(tmp_path) == {"thesis.txt": b"chapter one"}


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="the output is a file"):
        run(toy.SAMPLE, file)
    with pytest.raises(RunFolderError, match=r"cannot be written: .*Not a directory"):
        run(toy.SAMPLE, file / "below")
    assert content(tmp_path) == {"out": b"mine"}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    run('[federation]\nrounds = 1\n[[client]]\nname = "a"', tmp_path)
    assert (tmp_path / "summary.json").is_file()


def test_resume_needs_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing to resume"):
        run(toy.SAMPLE, tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_only_has_the_plan_yet_can_be_resumed(whole: Path, tmp_path: Path) -> None:
    """The plan is what is written first."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.resolved.toml").write_bytes((whole / "plan.resolved.toml").read_bytes())
    run(toy.SAMPLE, out, resume=True)
    assert (out / "summary.json").is_file()


def test_two_processes_do_not_run_in_one_folder(whole: Path, tmp_path: Path) -> None:
    """Both would write the ledger; one that was killed is in nobody's way."""
    out = tmp_path / "out"
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); sys.stdin.read()"
    out.mkdir()
    (out / "plan.resolved.toml").write_bytes((whole / "plan.resolved.toml").read_bytes())
    with subprocess.Popen([sys.executable, "-c", hold, out / LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(RunFolderError, match="another process is running in this folder"):
            run(toy.SAMPLE, out, resume=True)
        other.kill()
    assert (out / LOCK).is_file() and not (out / "ledger.jsonl").exists()
    run(toy.SAMPLE, out, resume=True)
    assert (out / "summary.json").is_file()


def test_a_checkpoint_of_another_plan_is_refused(whole: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    run('[federation]\nrounds = 1\n[[client]]\nname = "a"', other)
    RunFolder.open(out, read_plan(toy.SAMPLE, "toy.toml"), resume=False)
    file = out / "checkpoints/federated/checkpoint.json"
    shutil.copytree(other / "checkpoints/federated", file.parent)
    with pytest.raises(RunFolderError, match="a checkpoint of another plan") as error:
        run(toy.SAMPLE, out, resume=True)
    assert error.value.file == file


@pytest.mark.parametrize(("text", "problem"), [(None, "no ended run here"), ('{"plan": ', "not JSON")])
def test_a_summary_that_is_none(text: str | None, problem: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=problem) as error:
        RunFolder(tmp_path).summary()
    assert error.value.file == tmp_path / "summary.json"


def test_every_key_of_the_summary_is_documented(summary: dict[str, Any]) -> None:
    document = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    assert [key for key in (*summary, *summary["clients"][0]) if f"`{key}`" not in document] == []
