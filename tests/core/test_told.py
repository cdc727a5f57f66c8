"""What a user is told: why values are missing, whose uploads were refused, and what a script or an exchange did wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy
from rich.console import Console

import hetfed as hf
from hetfed.composition import compose, enrol
from hetfed.errors import PlanError, RunError
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.report.troubles import troubles

QUICK = toy.SAMPLE.replace("rounds = 3", "rounds = 2\nfinetune = 0\npooled = false")


def run(text: str, out: Path) -> str:
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(text, "plan"), "plan", out)
    return (out / "report.html").read_text(encoding="utf-8")


def test_refused_uploads_are_told_by_client_and_reason(tmp_path: Path) -> None:
    page = run(QUICK.replace("model = { width = 5 }", "training = { lr = 1e9 }"), tmp_path)
    said = [line for line in troubles(tmp_path) if "refused" in line]
    assert said[0].startswith("2 of 2 uploads of shared-parameters from a were refused: ")
    assert all(" from a " in line for line in said)
    assert "uploads of shared-parameters from a were refused" in page


def test_an_exchange_of_which_nothing_was_accepted_is_told_in_a_sentence(tmp_path: Path) -> None:
    text = QUICK.replace("[[client]]", "[defaults.training]\nlr = 1e9\n[[client]]", 1)
    page = run(text.replace('training = { optimizer = "sgd", momentum = 0.5 }', ""), tmp_path)
    sentence = "Every upload of shared-parameters was refused: nothing came of it."
    assert sentence in troubles(tmp_path) and sentence in page


def test_one_class_everywhere_is_told_and_no_empty_picture_is_drawn(tmp_path: Path) -> None:
    head, *clients = QUICK.replace("data = { n = 17 }", "").split("[[client]]")
    page = run("[[client]]\ndata = { one_class = true }".join([head, *clients]), tmp_path)
    assert any("no value for every client, alone and federated" in line and "class" in line for line in troubles(tmp_path))
    assert list((tmp_path / "plots").iterdir()) == []
    assert "No client has a value in any arm: there is no picture." in page
    assert "<strong>a</strong>: its validation metric is undefined in every round, so there is no picture." in page


def test_an_end_beyond_the_last_round_is_told(tmp_path: Path) -> None:
    phase = "[[phase]]\nuntil = 5\n[[client]]"
    page = run(QUICK.replace('part = "head"', 'part = "head"\nuntil = 9').replace("[[client]]", phase, 1), tmp_path)
    for what, last in (("shared-parameters", 9), ("phase 1", 5)):
        sentence = f"{what} was to end with round {last}, and the run has 2 rounds."
        assert sentence in troubles(tmp_path) and sentence in page


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hf.Training(lr="x"), "Training.lr: input should be a valid number"),  # type: ignore[arg-type]
        (lambda: hf.Training(learning_rate=0.1), "Training.learning_rate: unknown key"),  # type: ignore[call-arg]
        (lambda: hf.SharedParameters(proximal=-1), "SharedParameters.proximal: input should be greater than or equal to 0"),
        (lambda: hf.Prototypes(weigth=1), "Prototypes.weigth: unknown key"),  # type: ignore[call-arg]
    ],
)
def test_a_script_is_told_in_our_words(make: Any, message: str) -> None:
    with pytest.raises(PlanError) as error:
        make()
    assert str(error.value).startswith(message)


def test_a_declaration_that_fails_names_exchange_and_client() -> None:
    class Broken(hf.SharedParameters):
        def declare(self, profile: Any) -> Any:
            raise KeyError("width")

    with pytest.raises(RunError, match=r"cannot declare what 'b' sends: KeyError\('width'\)"):
        enrol(compose(Broken()), [toy.client("b").profile])


@pytest.mark.parametrize("part", ["test", "validation", "data"])
def test_an_exchange_that_reaches_for_test_data_is_told_why_there_are_none(part: str) -> None:
    context = toy.client_context(toy.client("a"))
    with pytest.raises(AttributeError, match=rf"no {part} data in a context.*works with context\.train"):
        getattr(context, part)
    with pytest.raises(AttributeError, match="has no attribute 'tst'"):
        getattr(context, "tst")  # noqa: B009


def test_the_nearest_command_is_named_once(hetfed: Any) -> None:
    said = hetfed("reprot").err
    assert said.count("Did you mean") == 1 and "report" in said
