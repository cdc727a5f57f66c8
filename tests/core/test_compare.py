"""Comparisons: which runs there are, what they come to, and a comparison that goes on after a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy
from rich.console import Console

from hetfed.client import Client
from hetfed.errors import PlanError, RunFolderError
from hetfed.launch.compare import collect, compare_plan, read_comparison, settle, under
from hetfed.launch.launcher import Launcher
from hetfed.launch.workers import Job, OneByOne
from hetfed.participation import Participation, Presence
from hetfed.plan import Plan, read_plan

QUICK = toy.SAMPLE.replace("rounds = 3", 'rounds = 2\npooled = false\nfinetune = 1\nkeep = "validation"')


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


class Interrupted(Exception):
    """What stops a comparison in these tests."""


def compare(
    text: str, out: Path, *, algorithms: Sequence[str], seeds: int = 1, vertical: toy.ToyVertical | None = None
) -> pd.DataFrame:
    vertical = vertical or toy.ToyVertical()
    launcher = Launcher(vertical, Console(quiet=True))
    comparison = settle(launcher, read_plan(text, "x"), "toy plan sample", algorithms=algorithms, seeds=seeds)
    return compare_plan(launcher, comparison, out, OneByOne(vertical, Console(quiet=True)))


def settled(text: str, *algorithms: str, vertical: toy.ToyVertical | None = None) -> Any:
    launcher = Launcher(vertical or toy.ToyVertical(), Console(quiet=True))
    return settle(launcher, read_plan(text, "x"), "x", algorithms=algorithms, seeds=1)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("comparisons") / "out"
    return out, compare(QUICK, out, algorithms=["plan", "fedproto"], seeds=2)


def test_rows_are_those_of_the_runs(done: tuple[Path, pd.DataFrame]) -> None:
    out, frame = done
    assert len(frame) == 2 * 2 * 3
    for algorithm, seed in {(r.algorithm, r.seed) for r in frame.itertuples()}:
        summary, baseline = (summary_of(out / name / f"seed-{seed}") for name in (algorithm, "alone"))
        assert summary["seed"] == baseline["seed"] == seed
        assert summary["algorithm"] == ("composed" if algorithm == "plan" else algorithm)
        assert (baseline["algorithm"], sum(baseline["communication_bytes"].values())) == ("alone", 0)
        for client, alone in zip(summary["clients"], baseline["clients"], strict=True):
            (mine,) = frame.query("algorithm == @algorithm and seed == @seed and client == @client['name']").to_dict("records")
            assert (mine["federated"], mine["finetuned"]) == (client["federated"], client["finetuned"])
            assert mine["alone"] == alone["federated"]
            assert mine["bytes"] == sum(summary["communication_bytes"].values())
            assert mine["rounds"] == 2


def test_what_is_kept_is_the_best_of_three_on_validation_data(done: tuple[Path, pd.DataFrame]) -> None:
    out, frame = done
    assert frame["kept_arm"].nunique() > 1, "the toy is meant to keep several"
    for row in frame.itertuples():
        entries = {c["name"]: c for c in summary_of(out / row.algorithm / f"seed-{row.seed}")["clients"]}
        validation = {arm: entries[row.client]["validation"][arm] for arm in ("federated", "finetuned", "alone")}
        assert validation[row.kept_arm] == max(validation.values())
        assert row.kept == getattr(row, row.kept_arm)


def test_it_can_be_read_again(done: tuple[Path, pd.DataFrame]) -> None:
    out, frame = done
    again, about = read_comparison(out)
    pd.testing.assert_frame_equal(again, frame.assign(pooled=float("nan")))
    assert (about.plan, about.seeds, about.algorithms) == ("toy plan sample", 2, ("plan", "fedproto"))
    assert (about.variants, about.left_out) == ({}, {})


def test_training_alone_is_what_a_run_would_find(done: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    plan = read_plan(QUICK, "x").with_federation(seed=1)
    run = Launcher(toy.ToyVertical(), Console(quiet=True)).run(plan, "x", tmp_path / "run")
    mine = done[1].query("seed == 1 and algorithm == 'plan'")
    assert dict(zip(mine["client"], mine["alone"], strict=True)) == {c["name"]: c["alone"] for c in run["clients"]}
    assert dict(zip(mine["client"], mine["kept"], strict=True)) == {c["name"]: c["kept"]["value"] for c in run["clients"]}


def test_pooled_training_runs_once_a_seed(tmp_path: Path) -> None:
    frame = compare(QUICK.replace("pooled = false", "pooled = true"), tmp_path, algorithms=["plan", "fedproto"])
    pooled = {client["name"]: client["pooled"] for client in summary_of(tmp_path / "alone/seed-0")["clients"]}
    assert dict(zip(frame["client"], frame["pooled"], strict=True)) == pooled
    assert all(value is not None for value in pooled.values())
    for name in ("plan", "fedproto"):
        assert {client["pooled"] for client in summary_of(tmp_path / name / "seed-0")["clients"]} == {None}


def test_who_trains_alone_is_neither_chosen_nor_waited_for(tmp_path: Path) -> None:
    rare = "\n[participation]\nfraction = 0.1\n[defaults.presence]\navailability = 0.3\n"
    plan = settled(QUICK + rare, "plan").baseline
    assert plan.participation == Participation()
    assert {client.presence for client in plan.client} == {Presence()}
    frame, usual = (compare(text, tmp_path / str(i), algorithms=["plan"]) for i, text in enumerate((QUICK + rare, QUICK)))
    pd.testing.assert_series_equal(frame["alone"], usual["alone"])
    assert (frame["bytes"] < usual["bytes"]).all()


def test_what_has_ended_is_not_run_again(tmp_path: Path) -> None:
    vertical = CountingVertical()
    first = compare(QUICK, tmp_path, algorithms=["plan"], seeds=2, vertical=vertical)
    environment = tmp_path / "plan/seed-0/environment.json"
    environment.write_text("{}", encoding="utf-8")
    asked = len(vertical.asked)
    more = compare(QUICK, tmp_path, algorithms=["plan"], seeds=3, vertical=vertical)
    assert vertical.asked[asked:] == [0, 2, 2]
    pd.testing.assert_frame_equal(more[:6], first)
    assert environment.read_text(encoding="utf-8") == "{}"


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    first = compare(QUICK, tmp_path / "first", algorithms=["plan"])
    run = tmp_path / "again/plan/seed-0"
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    launcher.run(settled(QUICK, "plan").variants["plan"], "toy plan sample", run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints/finetuned")
    again = compare(QUICK, tmp_path / "again", algorithms=["plan"])
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), first.drop(columns="seconds"))
    assert (run / "ledger.jsonl").read_text(encoding="utf-8").count('"round": 1') == 3


@pytest.mark.parametrize("after", [1, 2, 3])
def test_after_a_stop_there_is_what_has_ended(after: int, tmp_path: Path) -> None:
    """The first run is that of everybody alone: a row needs it, and is none itself."""
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    comparison = settle(launcher, read_plan(QUICK, "x"), "x", algorithms=["plan", "fedproto"], seeds=1)

    def stops(jobs: Sequence[Job], done: int) -> Iterator[Job]:
        for number, job in enumerate(OneByOne(launcher.vertical, Console(quiet=True))(jobs, done), done + 1):
            yield job
            if number == after:
                raise Interrupted

    with pytest.raises(Interrupted):
        compare_plan(launcher, comparison, tmp_path, stops)
    assert len(collect(comparison, tmp_path)) == 3 * (after - 1)
    if after == 1:
        with pytest.raises(RunFolderError, match="no ended comparison here"):
            read_comparison(tmp_path)
    else:
        assert len(read_comparison(tmp_path)[0]) == 3 * (after - 1)


def test_a_comparison_of_another_plan_is_refused(tmp_path: Path) -> None:
    compare(QUICK, tmp_path, algorithms=["plan"])
    with pytest.raises(RunFolderError, match="another plan"):
        compare(QUICK.replace("rounds = 2", "rounds = 4"), tmp_path, algorithms=["plan"])


@pytest.mark.parametrize("name", ["plan.resolved.toml", "summary.json"])
def test_the_folder_of_a_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match=rf"{name}: the folder holds a single run.*--out"):
        compare(QUICK, tmp_path, algorithms=["plan"])
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_folder_of_a_comparison_is_no_place_for_a_run(done: tuple[Path, pd.DataFrame]) -> None:
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    with pytest.raises(RunFolderError, match="not empty and holds no run"):
        launcher.run(read_plan(QUICK, "x"), "x", done[0])


def test_what_was_compared_earlier_stays_beside_what_is_new(tmp_path: Path) -> None:
    first = compare(QUICK, tmp_path, algorithms=["plan"], seeds=2)
    both = compare(QUICK, tmp_path, algorithms=["fedproto"], seeds=1)
    pd.testing.assert_frame_equal(both.query("algorithm == 'plan'").reset_index(drop=True), first)
    assert both.query("algorithm == 'fedproto'")["seed"].unique().tolist() == [0]
    frame, about = read_comparison(tmp_path)
    assert len(frame) == len(both) == 9
    assert (about.algorithms, about.seeds) == (("plan", "fedproto"), 2)


def test_what_did_not_suit_is_remembered_until_it_has_run(tmp_path: Path) -> None:
    compare(QUICK, tmp_path, algorithms=["plan"])
    (tmp_path / "comparison.json").write_text('{"algorithms": ["plan"], "left_out": {"fedmd": "so", "fedavg": "so"}}')
    compare(QUICK, tmp_path, algorithms=["fedavg"])
    assert read_comparison(tmp_path)[1].left_out == {"fedmd": "so"}


def test_an_algorithm_that_was_set_otherwise_earlier_is_refused(tmp_path: Path) -> None:
    compare(QUICK, tmp_path, algorithms=["fedprox"])
    with pytest.raises(RunFolderError, match="another plan") as error:
        compare(QUICK + "[variant.fedprox]\nsettings = { mu = 0.3 }\n", tmp_path, algorithms=["plan"])
    assert error.value.file == tmp_path / "fedprox/seed-0/plan.resolved.toml"


@pytest.mark.parametrize("content", ["{", "[]", '{"plans": 1}'])
def test_a_broken_memory_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"comparison\.json: not what a comparison leaves.*Remove the file"):
        compare(QUICK, tmp_path, algorithms=["plan"])


def test_an_earlier_algorithm_that_is_unknown_now_is_refused(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text('{"algorithms": ["fedfoo"]}', encoding="utf-8")
    with pytest.raises(PlanError, match=r"comparison\.json: federation\.algorithm: unknown algorithm \(value: 'fedfoo'\)"):
        compare(QUICK, tmp_path, algorithms=["plan"])


def test_checkpoints_go_when_a_run_of_a_comparison_has_ended(done: tuple[Path, pd.DataFrame]) -> None:
    assert list(done[0].glob("*/*/summary.json"))
    assert list(done[0].glob("**/checkpoints")) == []


def test_what_is_lent_is_what_everybody_would_train(done: tuple[Path, pd.DataFrame]) -> None:
    """Bit by bit: the rows of the arm alone are those of the baseline; phases that take other steps are trained anew."""
    out, _ = done
    lent, own = (pd.read_csv(out / name / "seed-0/rounds.csv") for name in ("plan", "alone"))
    columns = ["round", "client", "train_loss", "validation", "validation_loss"]
    mine, baseline = lent.query("arm == 'alone'")[columns], own.query("arm == 'federated'")[columns]
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), baseline.reset_index(drop=True))
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    comparison = settle(launcher, read_plan(QUICK, "x"), "x", algorithms=["fedavg", "fedrep"], seeds=1)
    jobs = {job.title: job for job in comparison.jobs("toy", None, out)}
    assert jobs["fedavg, seed 0"].lent is not None and jobs["fedrep, seed 0"].lent is None


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(RunFolderError, match="cannot be written"):
        compare(QUICK, tmp_path / "out", algorithms=["plan"])
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_an_algorithm_that_does_not_suit_shows_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"^toy plan sample: .* fedmd: no client can take part.*Leave it out of"):
        compare(QUICK, tmp_path / "out", algorithms=["plan", "fedmd"], vertical=WithoutPublicInputs())
    with pytest.raises(PlanError, match="unknown algorithm"):
        compare(QUICK, tmp_path / "out", algorithms=["plan", "fedfoo"])
    with pytest.raises(PlanError, match=r"^toy plan sample: shared-parameters: no client can take part"):
        compare(QUICK.replace('"head"', '"tail"'), tmp_path / "out", algorithms=["plan"])
    assert not (tmp_path / "out").exists()


def test_of_all_algorithms_those_that_do_not_suit_are_left_out_with_the_reason() -> None:
    found = settled(QUICK, "all", vertical=WithoutPublicInputs())
    assert {"plan", "fedavg", "fedproto"} <= set(found.variants)
    assert set(found.left_out) == {"fedmd", "feddf", "fml", "fedkd", "fedmrl", "second-model"}
    assert found.left_out["fedmd"].startswith("no client can take part. a, b, c: it holds no public inputs")
    assert "alone" not in found.variants


def test_where_no_algorithm_suits_there_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetfed.launch import compare as module

    monkeypatch.setattr(module, "NAMED", {name: module.NAMED[name] for name in ("alone", "fedmd")})
    with pytest.raises(PlanError, match="no algorithm suits these clients") as error:
        settled(QUICK.replace('"head"', '"tail"'), "all", vertical=WithoutPublicInputs())
    assert "plan: no client can take part" in error.value.remedy
    assert "fedmd: no client can take part" in error.value.remedy


def test_training_alone_alone_is_no_comparison() -> None:
    with pytest.raises(PlanError, match="no algorithm to compare with training alone"):
        settled(QUICK, "alone")


def test_another_algorithm_replaces_exchanges_and_nothing_else() -> None:
    plan = read_plan(QUICK + "\n[[phase]]\nonly = ['head']\n", "x")
    other = under(plan, "fedprox")
    assert (other.exchange, other.phase) == ((), ())
    assert [type(step.exchange).__name__ for step in other.composition()] == ["SharedParameters"]
    assert other.composition().name == "fedprox"
    assert (other.client, other.federation.rounds) == (plan.client, plan.federation.rounds)
    assert under(plan, "plan") == plan


def test_each_algorithm_has_the_settings_of_its_variant() -> None:
    variants = """
[variant.alone]
training = { lr = 0.5 }
[variant.fedprox]
settings = { mu = 0.3 }
training = { batch_size = 4 }
"""
    found = settled(QUICK + variants, "fedprox", "plan", "fedavg")
    (step,) = found.variants["fedprox"].composition()
    assert step.exchange.proximal == 0.3
    trained = {name: plan.client[2].training for name, plan in {"alone": found.baseline, **found.variants}.items()}
    assert {name: (t.lr, t.batch_size, t.momentum) for name, t in trained.items()} == {
        "alone": (0.5, 32, 0.5),
        "fedprox": (0.001, 4, 0.5),
        "plan": (0.001, 32, 0.5),
        "fedavg": (0.001, 32, 0.5),
    }
    assert found.about().variants == {
        "alone": {"training": {"lr": 0.5}},
        "fedprox": {"settings": {"mu": 0.3}, "training": {"batch_size": 4}},
    }
    assert set(settled(QUICK + variants, "plan").about().variants) == {"alone"}


def test_every_seed_begins_with_training_alone() -> None:
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    comparison = settle(launcher, read_plan(QUICK, "x"), "x", algorithms=["fedavg", "alone", "plan"], seeds=2)
    jobs = list(comparison.jobs("toy", Path("data"), Path("out")))
    assert [job.title for job in jobs] == [f"{name}, seed {seed}" for seed in (0, 1) for name in ("alone", "fedavg", "plan")]
    assert jobs[4].out == Path("out/fedavg/seed-1")
    assert jobs[4].resolved().federation.seed == 1
    # Trained alone once a seed, and lent to the others.
    assert [job.resolved().federation.alone for job in jobs] == [False, True, True] * 2
    assert [job.lent for job in jobs[:3]] == [None, *[Path("out/alone/seed-0/checkpoints/federated")] * 2]
    assert Job.from_json(jobs[4].as_json()) == jobs[4]
    assert Job.from_json(replace(jobs[4], data_dir=None).as_json()).data_dir is None


def test_every_file_and_column_is_documented(done: tuple[Path, pd.DataFrame]) -> None:
    document = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    section = document.partition("# What a comparison leaves behind")[2]
    assert [column for column in done[1].columns if f"`{column}`" not in section] == []
    assert [file.name for file in done[0].iterdir() if file.is_file() and f"`{file.name}`" not in section] == []
