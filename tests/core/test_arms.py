"""The arms of a run, and which of its models a client keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from hetfed.client import Client
from hetfed.evaluation import Outcome
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.plan import Plan, read_plan
from hetfed.results.arms import ARMS, OWN_ARMS, kept_arm

ROUNDS = "rounds = 3"


class Broken(toy.Net):
    """Cannot be trained."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        if self.training:
            raise RuntimeError("out of memory")
        return super().forward(inputs)


class OneIsBroken(toy.ToyVertical):
    """The toy, but no turn of "a" comes to an end."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        clients = super().clients(plan, data_dir)
        return [replace(c, model_fn=lambda spec: Broken(2, 5)) if c.name == "a" else c for c in clients]


def run(text: str, out: Path, vertical: toy.ToyVertical | None = None) -> dict[str, dict[str, Any]]:
    """The clients of the summary by name."""
    launcher = Launcher(vertical or toy.ToyVertical(), Console(quiet=True))
    return {client["name"]: client for client in launcher.run(read_plan(text, "x"), "x", out)["clients"]}


def judged(metric: float | None, loss: float | None = 1.0) -> Outcome:
    return Outcome(validation=metric, validation_loss=loss)


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_on_validation_data_is_kept(higher: bool) -> None:
    outcomes = {"alone": judged(0.9), "federated": judged(0.7), "finetuned": judged(0.8)}
    assert kept_arm(outcomes, higher_is_better=higher) == ("alone" if higher else "federated")


def test_of_equal_metrics_the_smaller_loss_is_kept_and_of_equals_the_one_that_shares_most() -> None:
    outcomes = {"alone": judged(0.9, 0.5), "federated": judged(0.9, 0.7), "finetuned": judged(0.9, 0.6)}
    assert kept_arm(outcomes, higher_is_better=True) == "alone"
    assert kept_arm(dict.fromkeys(reversed(OWN_ARMS), judged(0.9)), higher_is_better=True) == "federated"
    assert kept_arm(dict.fromkeys(["alone", "finetuned"], judged(0.9)), higher_is_better=False) == "finetuned"


@pytest.mark.parametrize("higher", [True, False])
def test_where_the_metric_is_nowhere_defined_the_loss_decides(higher: bool) -> None:
    outcomes = {"alone": judged(None, 0.5), "federated": judged(None, 0.7), "finetuned": judged(None, 0.6)}
    assert kept_arm(outcomes, higher_is_better=higher) == "alone"


@pytest.mark.parametrize("higher", [True, False])
def test_a_model_without_a_metric_is_kept_only_where_none_has_one(higher: bool) -> None:
    outcomes = {"alone": judged(None, 0.1), "federated": judged(0.2, 9.0)}
    assert kept_arm(outcomes, higher_is_better=higher) == "federated"


def test_who_has_not_been_judged_keeps_nothing_and_nobody_keeps_the_pooled_model() -> None:
    assert kept_arm({"federated": judged(None, None), "pooled": judged(1.0)}, higher_is_better=True) is None
    assert kept_arm({"federated": judged(0.1), "pooled": judged(1.0)}, higher_is_better=True) == "federated"
    assert kept_arm({}, higher_is_better=True) is None


finite = st.floats(-5, 5)


@given(st.dictionaries(st.sampled_from(ARMS), st.tuples(st.none() | finite, st.none() | finite)), st.booleans())
def test_nobody_has_a_better_metric_than_what_is_kept(
    values: dict[str, tuple[float | None, float | None]], higher: bool
) -> None:
    kept = kept_arm({arm: judged(*pair) for arm, pair in values.items()}, higher_is_better=higher)
    known = {arm: metric for arm, (metric, loss) in values.items() if arm in OWN_ARMS and loss is not None}
    assert (kept is None) == (not known)
    metrics = [metric if higher else -metric for metric in known.values() if metric is not None]
    if kept is not None and metrics:
        mine = known[kept]
        assert mine is not None
        assert (mine if higher else -mine) == max(metrics)


def test_fine_tuning_begins_with_the_selected_federated_model_and_never_ends_worse(tmp_path: Path) -> None:
    clients = run(toy.SAMPLE, tmp_path)
    untouched = [client for client in clients.values() if client["selected_round"]["finetuned"] == 0]
    assert untouched, "the toy is meant to have a client whom fine-tuning does not help"
    for client in untouched:
        assert client["finetuned"] == client["federated"]
    for client in clients.values():
        assert client["validation"]["finetuned"] >= client["validation"]["federated"]
    rows = pd.read_csv(tmp_path / "rounds.csv").query("arm == 'finetuned'")
    assert (rows["bytes_up"] + rows["bytes_down"] == 0).all()


def test_fine_tuning_is_as_long_as_the_plan_says_and_belongs_to_a_federation(tmp_path: Path) -> None:
    run(toy.SAMPLE.replace(ROUNDS, "rounds = 1\nfinetune = 5\npooled = false"), tmp_path / "long")
    rows = pd.read_csv(tmp_path / "long/rounds.csv")
    assert set(rows[rows["arm"] == "finetuned"]["round"]) == {1, 2, 3, 4, 5}
    nobody = '[federation]\nalgorithm = "alone"\nrounds = 1\n[[client]]\nname = "a"'
    assert run(nobody, tmp_path / "nobody")["a"]["notes"]["finetuned"] == "not part of this plan"


def test_training_alone_needs_no_connection(tmp_path: Path) -> None:
    absent = toy.SAMPLE.replace(ROUNDS, f"{ROUNDS}\npooled = false\n[defaults.presence]\navailability = 0.2")
    one, other = (run(text, tmp_path / str(i)) for i, text in enumerate((absent, toy.SAMPLE)))
    assert {name: c["alone"] for name, c in one.items()} == {name: c["alone"] for name, c in other.items()}
    rows = pd.read_csv(tmp_path / "0/rounds.csv")
    assert (rows[rows["arm"] == "alone"].groupby("client").size() == 3).all()
    assert (rows[rows["arm"] == "finetuned"].groupby("client").size() == 3).all()
    assert len(rows[(rows["arm"] == "federated") & (rows["round"] <= 3)]) < 9


@pytest.mark.parametrize("kind", ["prototypes", "shared-parameters"])
def test_a_client_that_was_never_asked_fails_no_run(kind: str, tmp_path: Path) -> None:
    """Shared parameters reach it in the end; what is no part of a model does not."""
    text = f"""
[federation]
rounds = 1
finetune = 1
[[exchange]]
kind = "{kind}"
[[client]]
name = "a"
[[client]]
name = "b"
presence = {{ availability = 0 }}
"""
    client = run(text, tmp_path)["b"]
    if kind == "prototypes":
        assert (client["federated"], client["notes"]) == (None, {"federated": "it never completed a round"})
    assert client["kept"] is not None
    assert client["finetuned"] is not None
    assert (tmp_path / "models/b/model.safetensors").is_file()
    assert (tmp_path / "report.html").is_file()


def test_a_client_whose_turns_all_fail_fails_no_run_that_tolerates_it(tmp_path: Path) -> None:
    tolerant = toy.SAMPLE.replace(ROUNDS, f"{ROUNDS}\npooled = false\n[participation]\ntolerate_failures = true")
    text = tolerant.replace('kind = "shared-parameters"\npart = "head"\n[[exchange]]\n', "")
    client = run(text, tmp_path, OneIsBroken())["a"]
    for arm in OWN_ARMS:
        assert (client[arm], client["notes"][arm]) == (None, "it never completed a round")
    assert client["kept"] is None
    rows = pd.read_csv(tmp_path / "rounds.csv").query("client == 'a'")
    assert set(rows["failed"]) == {"out of memory, in the training"}
    # It still has a model to begin with.
    assert len(pd.read_csv(tmp_path / "predictions/a.csv")) == 20
    assert math.isfinite(load_file(tmp_path / "models/a/model.safetensors")["head.bias"].sum())


def test_without_the_others_only_the_federated_model_can_be_kept(tmp_path: Path) -> None:
    text = toy.SAMPLE.replace(ROUNDS, "rounds = 1\nfinetune = 0\nalone = false\npooled = false")
    assert {client["kept"]["arm"] for client in run(text, tmp_path).values()} == {"federated"}
