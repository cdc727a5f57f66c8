"""What a client keeps in the end."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import hetfed as hf
from hetfed.data import Examples
from hetfed.errors import RunFolderError
from hetfed.keeping import Keep, mean_answer, shares_of
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.plan import read_plan
from hetfed.tasks import Classification, Regression

TASK = Classification(("no", "yes"))
FOUR = Examples({}, torch.tensor([0, 0, 1, 1]), list("abcd"))
RULES: tuple[Keep, ...] = get_args(Keep)


def says(*margins: float) -> Output:
    return Output(torch.tensor([[0.0, margin] for margin in margins]))


RIGHT, WRONG, ODD = says(-1, -1, 1, 1), says(1, 1, -1, -1), says(float("nan"), 0, 0, 0)


@pytest.mark.parametrize("rule", RULES)
def test_the_only_model_is_kept_whatever_the_rule(rule: Keep) -> None:
    assert shares_of(rule, {"finetuned": RIGHT}, TASK, FOUR) == {"finetuned": 1.0}


@pytest.mark.parametrize("rule", RULES)
def test_predictions_that_are_no_numbers_spoil_no_mean(rule: Keep) -> None:
    assert shares_of(rule, {"federated": ODD, "alone": RIGHT}, TASK, FOUR) == {"alone": 1.0}
    assert shares_of(rule, {"federated": ODD}, TASK, FOUR) == {"federated": 1.0}


def test_the_mean_asks_no_validation_data() -> None:
    nothing = Examples({}, torch.full((4,), -1), list("abcd"))
    for rule, arms in (("mean", ("federated", "finetuned", "alone")), ("mean of two", ("federated", "alone"))):
        found = shares_of(rule, dict.fromkeys(("alone", "finetuned", "federated"), WRONG), TASK, nothing)  # type: ignore[arg-type]
        assert found == pytest.approx(dict.fromkeys(arms, 1 / len(arms)))


def test_the_metric_chooses_and_of_equals_the_loss_and_then_who_shares_most() -> None:
    sure = says(-2, -2, 2, 2)
    assert shares_of("validation", {"federated": WRONG, "alone": RIGHT}, TASK, FOUR) == {"alone": 1.0}
    assert shares_of("validation", {"federated": RIGHT, "alone": sure}, TASK, FOUR) == {"alone": 1.0}
    assert shares_of("validation", {"alone": RIGHT, "finetuned": RIGHT}, TASK, FOUR) == {"finetuned": 1.0}


def test_the_loss_chooses_where_it_is_asked() -> None:
    unsure = says(-0.1, -0.1, 0.1, 0.1)
    assert shares_of("loss", {"federated": unsure, "alone": RIGHT}, TASK, FOUR) == {"alone": 1.0}


@given(st.lists(st.floats(-4, 4), min_size=12, max_size=12))
def test_no_choice_of_an_arm_has_less_loss_than_stacking(margins: list[float]) -> None:
    answers = {arm: says(*margins[i : i + 4]) for i, arm in enumerate(("alone", "federated", "finetuned"))}
    task = TASK
    shares = shares_of("stacking", answers, task, FOUR)
    assert sum(shares.values()) == pytest.approx(1)
    losses = [float(task.loss(answer, FOUR.whole())) for answer in answers.values()]
    assert float(task.loss(mean_answer(shares, answers, task), FOUR.whole())) <= min(losses) + 1e-5


def test_numbers_are_averaged_as_they_are() -> None:
    answers = {"alone": Output(torch.tensor([1.0])), "federated": Output(torch.tensor([3.0]))}
    assert mean_answer({"alone": 0.25, "federated": 0.75}, answers, Regression()).logits.tolist() == [2.5]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "kept"
    text = toy.SAMPLE.replace("rounds = 3", 'rounds = 4\nselect = { mean = "predictions", last = 2 }\npooled = false')
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(text, "x"), "x", folder)
    return folder


def test_a_mean_is_kept_as_a_folder_of_models(out: Path) -> None:
    kept = out / "models/b"
    names = [f"{arm} {number}" for arm in ("federated", "finetuned", "alone") for number in (1, 2)]
    assert sorted(folder.name for folder in kept.iterdir() if folder.is_dir()) == sorted(names)
    model = hf.load_model(kept, model_fn=toy.net)
    assert model.about["mean"] == pytest.approx(dict.fromkeys(names, 1 / 6))
    client = next(c for c in toy.ToyVertical().clients(read_plan(toy.SAMPLE, "x"), None) if c.name == "b")
    table = model.predict({**client.data.test.inputs, "id": list(client.data.test.ids)})
    written = pd.read_csv(out / "predictions/b.csv").drop(columns="target")
    assert table["id"].tolist() == written["id"].tolist()
    assert (table.set_index("id") - written.set_index("id")).abs().to_numpy().max() < 1e-5


def test_a_part_that_has_changed_is_refused(out: Path) -> None:
    about = out / "models/c/federated 1/model.json"
    about.write_text(about.read_text(encoding="utf-8").replace('"client"', '"client" '), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"federated 1/model\.json: it is not the file that was written"):
        hf.load_model(out / "models/c", model_fn=toy.net)


def test_a_model_that_is_part_of_the_federated_prediction_counts_once(tmp_path: Path) -> None:
    text = toy.SAMPLE.replace(
        '[[exchange]]\nkind = "shared-parameters"',
        '[[exchange]]\nkind = "second-model"\nmodel = "own"\n[[exchange]]\nkind = "shared-parameters"',
    )
    folder = tmp_path / "run"
    summary = Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(text, "x"), "x", folder)
    for client in summary["clients"]:
        assert set(client["kept"]["shares"]) == {"federated", "finetuned"}
        assert client["alone"] is not None
