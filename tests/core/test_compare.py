"""Comparisons: means and intervals by hand, and a comparison that goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy
from rich.console import Console

from hetfed.cli.tables import comparison_table
from hetfed.client import Client
from hetfed.errors import PlanError, RunFolderError
from hetfed.plan import Plan, read_plan
from hetfed.run.compare import EVERYONE, aggregate, compare_plan, half_width, under
from hetfed.run.launch import Launcher

QUICK = toy.SAMPLE.replace("rounds = 3", "rounds = 1\npooled = false")
T_2, T_3 = 12.706205, 4.302653
"""97.5 % quantiles of Student's t with one and two degrees of freedom, from a printed table."""


class CountingVertical(toy.ToyVertical):
    """Remembers the seeds that clients were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        self.asked.append(plan.federation.seed)
        return super().clients(plan, data_dir)


class WithoutPublicInputs(toy.ToyVertical):
    """The toy, but nobody holds public inputs."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        return [replace(client, public=None) for client in super().clients(plan, data_dir)]


def row(seed: int, client: str, alone: float | None, federated: float | None, **other: Any) -> dict[str, Any]:
    values = {"algorithm": "x", "seed": seed, "client": client, "metric": "AUROC", "unit": "", "higher_is_better": True}
    return values | {"alone": alone, "federated": federated, "pooled": None, "bytes": 1, "seconds": 1.0} | other


def found(frame: pd.DataFrame, client: str, algorithm: str = "x") -> dict[str, Any]:
    (one,) = frame[(frame["client"] == client) & (frame["algorithm"] == algorithm)].to_dict("records")
    return one


def compare(plan: Plan, out: Path, *, algorithms: Sequence[str], seeds: int, vertical: toy.ToyVertical | None = None) -> Any:
    launcher = Launcher(vertical or toy.ToyVertical(), Console(quiet=True))
    return compare_plan(launcher, plan, "toy plan sample", out, algorithms=algorithms, seeds=seeds)


def test_means_over_seeds_and_clients_by_hand() -> None:
    values = {("a", 0): (0.5, 0.6), ("a", 1): (0.6, 0.9), ("a", 2): (0.7, 0.9)}
    values |= {("b", 0): (0.7, 0.5), ("b", 1): (0.7, 0.7), ("b", 2): (0.7, 0.9)}
    frame = pd.DataFrame([row(seed, client, *pair) for (client, seed), pair in values.items()])
    means = aggregate(frame)
    assert list(means["client"]) == ["a", "b", EVERYONE]
    a, b, both = (found(means, client) for client in ("a", "b", EVERYONE))
    assert (a["seeds"], a["alone"], a["federated"]) == (3, pytest.approx(0.6), pytest.approx(0.8))
    assert pd.isna(a["pooled"])
    # Differences 0.1, 0.3, 0.2: mean 0.2, deviation 0.1.
    assert (a["difference"], a["half_width"]) == (pytest.approx(0.2), pytest.approx(T_3 * 0.1 / 3**0.5, rel=1e-5))
    assert a["wins"] == 3
    # Differences -0.2, 0, 0.2; a tie is no win.
    assert (b["difference"], b["half_width"]) == (pytest.approx(0), pytest.approx(T_3 * 0.2 / 3**0.5, rel=1e-5))
    assert b["wins"] == 1
    # Means over clients, seed by seed: alone 0.6, 0.65, 0.7; federated 0.55, 0.8, 0.9.
    assert (both["alone"], both["federated"]) == (pytest.approx(0.65), pytest.approx(0.75))
    assert (both["difference"], both["wins"], both["seeds"]) == (pytest.approx(0.1), 2, 3)


def test_where_lower_is_better_less_wins() -> None:
    frame = pd.DataFrame([row(seed, "a", 5.0, 4.0 + seed, higher_is_better=False) for seed in (0, 2)])
    assert found(aggregate(frame), "a")["wins"] == 1
    assert found(aggregate(frame), "a")["difference"] == pytest.approx(0)


def test_a_seed_without_a_value_is_left_out_of_the_difference() -> None:
    frame = pd.DataFrame([row(0, "a", 0.5, 0.6), row(1, "a", None, 0.8), row(2, "a", 0.5, 0.8)])
    a = found(aggregate(frame), "a")
    assert (a["alone"], a["federated"], a["wins"]) == (pytest.approx(0.5), pytest.approx(2.2 / 3), 2)
    assert (a["difference"], a["half_width"]) == (pytest.approx(0.2), pytest.approx(T_2 * 0.1, rel=1e-5))


def test_without_any_value_nothing_is_claimed() -> None:
    a = found(aggregate(pd.DataFrame([row(0, "a", None, 0.6), row(1, "a", None, 0.7)])), "a")
    assert a["wins"] == 0
    assert pd.isna(a["difference"])
    assert pd.isna(a["half_width"])


def test_one_seed_has_no_interval() -> None:
    assert pd.isna(found(aggregate(pd.DataFrame([row(0, "a", 0.5, 0.6)])), "a")["half_width"])


def test_algorithms_are_kept_apart_in_their_order() -> None:
    frame = pd.DataFrame([row(0, "a", 0.5, 0.6, algorithm="z"), row(0, "a", 0.5, 0.4, algorithm="m")])
    means = aggregate(frame)
    assert list(means["algorithm"].unique()) == ["z", "m"]
    assert found(means, "a", "z")["difference"] == pytest.approx(0.1)
    assert found(means, "a", "m")["difference"] == pytest.approx(-0.1)


def test_half_width_by_hand() -> None:
    import numpy as np

    assert half_width(np.array([1.0, 3.0])) == pytest.approx(T_2 * 2**0.5 / 2**0.5, rel=1e-5)
    assert half_width(np.array([2.0, 2.0, 2.0])) == 0


def test_the_table_on_the_terminal_has_a_row_per_mean() -> None:
    frame = pd.DataFrame([row(0, "a", 0.5, 0.6), row(1, "a", 0.5, 0.8)])
    table = comparison_table(frame)
    cells = [list(column.cells) for column in table.columns]
    assert list(zip(*cells, strict=True)) == [
        ("x", client, "2", "0.5", "0.7", "-", "+0.2000 +/- 1.2706", "2/2") for client in ("a", EVERYONE)
    ]


def test_rows_are_those_of_the_runs(tmp_path: Path) -> None:
    frame = compare(read_plan(QUICK, "x"), tmp_path / "out", algorithms=["plan", "fedproto", "alone"], seeds=2)
    assert len(frame) == 3 * 2 * 3
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out/comparison.csv", keep_default_na=False, na_values={"pooled": [""]}),
        frame.assign(pooled=float("nan")),
    )
    for algorithm, seed in {(r.algorithm, r.seed) for r in frame.itertuples()}:
        summary = json.loads((tmp_path / f"out/{algorithm}/seed-{seed}/summary.json").read_text(encoding="utf-8"))
        assert summary["seed"] == seed
        assert summary["algorithm"] == ("composed" if algorithm == "plan" else algorithm)
        for client in summary["clients"]:
            (mine,) = frame.query("algorithm == @algorithm and seed == @seed and client == @client['name']").to_dict("records")
            assert (mine["alone"], mine["federated"]) == (client["alone"], client["federated"])
            assert mine["bytes"] == sum(summary["communication_bytes"].values())


def test_training_alone_is_the_same_under_every_algorithm(tmp_path: Path) -> None:
    frame = compare(read_plan(QUICK, "x"), tmp_path / "out", algorithms=["plan", "fedproto", "alone"], seeds=1)
    assert (frame.groupby("client")["alone"].nunique() == 1).all()
    nothing_shared = frame[frame["algorithm"] == "alone"]
    assert (nothing_shared["alone"] == nothing_shared["federated"]).all()
    assert (nothing_shared["bytes"] == 0).all()


def test_what_has_ended_is_not_run_again(tmp_path: Path) -> None:
    plan, out, vertical = read_plan(QUICK, "x"), tmp_path / "out", CountingVertical()
    first = compare(plan, out, algorithms=["plan"], seeds=2, vertical=vertical)
    environment = out / "plan/seed-0/environment.json"
    environment.write_text("{}", encoding="utf-8")
    asked = len(vertical.asked)
    more = compare(plan, out, algorithms=["plan"], seeds=3, vertical=vertical)
    assert vertical.asked[asked:] == [plan.federation.seed, 2]
    pd.testing.assert_frame_equal(more[:6], first)
    assert environment.read_text(encoding="utf-8") == "{}"


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    plan, out = read_plan(QUICK, "x"), tmp_path / "out"
    first = compare(plan, out, algorithms=["plan"], seeds=1)
    run = out / "plan/seed-0"
    (run / "summary.json").unlink()
    (run / "checkpoints/alone.safetensors").unlink()
    again = compare(plan, out, algorithms=["plan"], seeds=1)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), first.drop(columns="seconds"))
    assert (run / "ledger.jsonl").read_text(encoding="utf-8").count('"round": 1') == 3


def test_a_comparison_of_another_plan_is_refused(tmp_path: Path) -> None:
    compare(read_plan(QUICK, "x"), tmp_path / "out", algorithms=["plan"], seeds=1)
    other = read_plan(QUICK.replace("rounds = 1", "rounds = 2"), "x")
    with pytest.raises(RunFolderError, match="another plan"):
        compare(other, tmp_path / "out", algorithms=["plan"], seeds=1)


def test_an_algorithm_that_does_not_suit_shows_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no client can take part"):
        compare(read_plan(QUICK, "x"), tmp_path / "out", algorithms=["plan", "fedmd"], seeds=1, vertical=WithoutPublicInputs())
    with pytest.raises(PlanError, match="unknown algorithm"):
        compare(read_plan(QUICK, "x"), tmp_path / "out", algorithms=["plan", "fedfoo"], seeds=1)
    assert not (tmp_path / "out").exists()


def test_another_algorithm_replaces_exchanges_and_nothing_else() -> None:
    plan = read_plan(QUICK, "x")
    other = under(plan, "fedprox")
    assert other.exchange == ()
    assert [type(step.exchange).__name__ for step in other.composition()] == ["SharedParameters"]
    assert other.composition().name == "fedprox"
    assert (other.client, other.federation.rounds) == (plan.client, plan.federation.rounds)
    assert under(plan, "plan") is plan
