"""Clients whose metrics go in different directions in one plan: each is judged as its own goes, wherever it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy
from rich.console import Console
from torch import Tensor

from hetfed.cli.tables import outcome_table
from hetfed.client import Client
from hetfed.data import ClientData, Examples
from hetfed.launch.compare import compare_plan, settle
from hetfed.launch.launcher import Launcher
from hetfed.launch.workers import OneByOne
from hetfed.model import Output
from hetfed.plan import Plan, read_plan
from hetfed.report.facts import ClientFacts, Facts, read_facts
from hetfed.report.figures import verdict
from hetfed.report.words import headline
from hetfed.results.analyse import analyse
from hetfed.results.folder import RunFolder
from hetfed.tasks import Regression

UP, DOWN = ("low or high", "which side"), ("how far", "how near", "how wide")


class Numbers(toy.Net):
    """Answers with one number."""

    def __init__(self) -> None:
        super().__init__(2, 4, classes=1)

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        output = super().forward(inputs)
        return Output(output.logits[:, 0], output.features)


def numbers(client: Client) -> Client:
    """The same points, and a number to be told of each."""

    def told(examples: Examples) -> Examples:
        point = examples.inputs["point"]
        return replace(examples, target=point[:, 0] - 2 * point[:, 1])

    data = client.data
    told_of = ClientData(told(data.train), told(data.validation), told(data.test), data.spec)
    return replace(client, data=told_of, task=Regression(), model_fn=lambda spec: Numbers(), kind="", public=None)


class Mixed(toy.ToyVertical):
    """Some clients tell classes, for which more is better, and some tell numbers, for which less is."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        found = zip(super().clients(plan, data_dir), plan.client, strict=True)
        return [numbers(client) if table.name in DOWN else client for client, table in found]


PLAN = f"""
[federation]
rounds = 3
finetune = 1
keep = "validation"
pooled = false
[[exchange]]
kind = "shared-parameters"
part = "encoder"
{"".join(f'[[client]]{chr(10)}name = "{name}"{chr(10)}' for name in (*UP, *DOWN))}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, dict[str, Any], str]:
    """What the report of a run knows, the run's summary, and the page."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    summary = Launcher(Mixed(), Console(quiet=True)).run(read_plan(PLAN, "mixed"), "toy plan mixed", out)
    folder = RunFolder(out)
    return read_facts(folder), summary, (out / "report.html").read_text(encoding="utf-8")


def is_better(name: str, one: float, other: float) -> bool:
    return one > other if name in UP else one < other


def test_every_entry_of_the_summary_has_its_own_direction(ended: tuple[Facts, dict[str, Any], str]) -> None:
    entries = {client["name"]: client for client in ended[1]["clients"]}
    assert {name: (entry["metric"], entry["higher_is_better"]) for name, entry in entries.items()} == {
        **dict.fromkeys(UP, ("AUROC", True)),
        **dict.fromkeys(DOWN, ("RMSE", False)),
    }


def test_what_is_kept_is_the_best_as_the_metric_goes(ended: tuple[Facts, dict[str, Any], str]) -> None:
    for entry in ended[1]["clients"]:
        values = {arm: entry["validation"][arm] for arm in ("federated", "finetuned", "alone")}
        best = (max if entry["name"] in UP else min)(values.values())
        assert values[entry["kept"]["arm"]] == best
        assert entry["kept"]["value"] == entry[entry["kept"]["arm"]]


def client_of(facts: Facts, name: str) -> ClientFacts:
    return next(client for client in facts.clients if client.name == name)


def test_the_report_says_who_gains_as_the_metric_goes(ended: tuple[Facts, dict[str, Any], str]) -> None:
    facts, summary, page = ended
    losers = []
    for entry in summary["clients"]:
        name, alone, federated = entry["name"], entry["alone"], entry["federated"]
        client = client_of(facts, name)
        gains = is_better(name, federated, alone)
        if alone == federated:
            assert verdict(client.chance("federated")) == "no clear difference"
            continue
        chance = client.chance("federated")
        assert chance is not None and chance["value"] == pytest.approx(client.gain, abs=1e-5)
        assert verdict(chance) in {"no clear difference", "better" if gains else "worse"}
        assert client.gain == pytest.approx(abs(federated - alone) * (1 if gains else -1))
        values = [value for arm in ("alone", "federated", "finetuned") if (value := entry[arm]) is not None]
        assert client.best is None or entry[client.best] == (max(values) if name in UP else min(values))
        losers += [] if gains else [name]
    assert 0 < len(losers) < len(facts.clients), "the toy is meant to have both"
    said = headline(facts)
    assert said[0].startswith("Federated against alone: ")
    # Areas and errors have no mean, and no direction in common.
    assert not any(sentence.startswith("Mean") for sentence in said)
    assert "Each client's own test metric; higher or lower is better, as the metric goes" in page.replace("&#39;", "'")


def test_the_table_on_the_terminal_says_so_too(ended: tuple[Facts, dict[str, Any], str]) -> None:
    summary = ended[1]
    table = outcome_table(summary, Console(width=200))
    assert str(table.title).endswith("each client's own test metric")
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["federated is"] == [verdict(client["gains"]["federated"]) for client in summary["clients"]]


def test_a_comparison_has_gains_of_the_right_sign(tmp_path: Path) -> None:
    vertical, quiet = Mixed(), Console(quiet=True)
    launcher = Launcher(vertical, quiet)
    comparison = settle(launcher, read_plan(PLAN, "x"), "toy plan mixed", algorithms=["plan"], seeds=1)
    frame = compare_plan(launcher, comparison, tmp_path, OneByOne(vertical, quiet))
    assert isinstance(frame, pd.DataFrame)
    rows = {str(row["client"]): row for row in frame.to_dict("records") if row["algorithm"] == "plan"}
    assert {name: row["higher_is_better"] for name, row in rows.items()} == {
        **dict.fromkeys(UP, True),
        **dict.fromkeys(DOWN, False),
    }
    (result,) = analyse(frame)
    gains = {client.client: client.gain.mean for client in result.clients}
    for name, row in rows.items():
        better = is_better(name, row["federated"], row["alone"])
        assert gains[name] == pytest.approx((1 if better else -1) * 100 * abs(row["federated"] - row["alone"]) / row["alone"])
        best = max if name in UP else min
        validation = validation_of(tmp_path, name)
        assert validation[row["kept_arm"]] == best(validation.values())
    assert result.gained == sum(gain > 0 for gain in gains.values())
    name, worst = result.worst
    assert name == min(gains, key=gains.__getitem__)
    assert worst == pytest.approx(min(gains.values()))


def validation_of(out: Path, name: str) -> dict[str, float]:
    """A client's validation metric in each arm of a comparison."""

    def entry(algorithm: str) -> dict[str, Any]:
        summary = RunFolder(out / algorithm / "seed-0").summary()
        found: dict[str, Any] = next(client for client in summary["clients"] if client["name"] == name)
        return found

    shared = entry("plan")["validation"]
    return {arm: shared[arm] for arm in ("federated", "finetuned", "alone")}
