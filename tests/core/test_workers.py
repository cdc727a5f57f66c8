"""Several runs at a time, in processes of their own."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import toy
from rich.console import Console

from hetfed.errors import RunError, WorkerDied
from hetfed.launch.workers import Job, OneByOne, Workers, run_job, work
from hetfed.plan import read_plan
from hetfed.run.progress import Silent
from hetfed.vertical import Vertical, verticals

TINY = '[federation]\nrounds = 1\nfinetune = 0\nalone = false\npooled = false\n[[client]]\nname = "a"\n[[client]]\nname = "b"\n'
BROKEN = TINY + "model = { fragile = true }\n"
PLUGIN = """
import atexit, os, sys
from pathlib import Path
import toy, toy_plugin

class Loud(type(toy_plugin.vertical)):
    name = "loud"

    def clients(self, plan, data_dir):
        print("a library prints")
        os.write(1, b"another writes\\n")
        if plan.title == "dies":
            os._exit(3)
        if plan.title == "is killed":
            os.kill(os.getpid(), 9)
        if plan.title == "breaks":
            raise LookupError("a fault in a library")
        return super().clients(plan, data_dir)

vertical = Loud()
"""


@pytest.fixture
def loud(toy_installed: Path) -> Vertical:
    """A vertical that prints, as libraries do, and that takes its process with it where a plan says so."""
    info = toy_installed / "loud_plugin-1.0.dist-info"
    info.mkdir()
    (toy_installed / "loud_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[hetfed.verticals]\nloud = loud_plugin:vertical\n", encoding="utf-8")
    return verticals()["loud"]


def job(out: Path, text: str = TINY, *, title: str | None = None, vertical: str = "toy", seed: int = 0) -> Job:
    plan = read_plan(text, "x").with_federation(seed=seed)
    return Job(title or out.name, vertical, plan.resolved(), "toy plan x", out, None)


def paper() -> Console:
    return Console(file=io.StringIO(), width=200)


def written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def numbers(folder: Path) -> dict[str, object]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for key in ("seconds", "turn_seconds"):
        del summary[key]
    return summary


def alive() -> set[str]:
    """The workers of this process that are running."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False)
    return {line for line in found.stdout.splitlines() if "hetfed.launch.workers" in line}


def test_a_job_survives_its_line() -> None:
    one = job(Path("out/x"), title='with "quotes" and\nlines')
    for other in (one, replace(one, data_dir=Path("data"))):
        line = other.as_json()
        assert "\n" not in line
        assert Job.from_json(line) == other
    assert one.resolved().digest() == read_plan(TINY, "x").digest()


def test_workers_find_what_a_single_process_finds(toy_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On as many threads as these tests have; each worker has its share of the cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    seeds = range(3)
    console = paper()
    ended = list(Workers(2, console)([job(tmp_path / f"w{s}", toy.SAMPLE, seed=s) for s in seeds], done=4))
    assert sorted(each.title for each in ended) == ["w0", "w1", "w2"]
    for seed in seeds:
        run_job(job(tmp_path / f"p{seed}", toy.SAMPLE, seed=seed), verticals()["toy"], Silent())
        assert numbers(tmp_path / f"w{seed}") == numbers(tmp_path / f"p{seed}")
    assert [line.split()[0] for line in written(console)] == ["[5/7]", "[6/7]", "[7/7]"]
    assert alive() == set()


def test_one_by_one_they_run_in_their_order(toy_installed: Path, tmp_path: Path) -> None:
    console = paper()
    ended = list(OneByOne(verticals()["toy"], console)([job(tmp_path / name) for name in "cab"], done=1))
    assert [each.title for each in ended] == ["c", "a", "b"]
    assert written(console) == ["[2/4] c", "[3/4] a", "[4/4] b"]


def test_without_jobs_nothing_starts() -> None:
    assert list(Workers(2, paper())([], done=3)) == []


def test_what_a_library_prints_does_not_disturb(loud: Vertical, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    console = paper()
    assert len(list(Workers(1, console)([job(tmp_path / "a", vertical="loud")], done=0))) == 1
    assert written(console) == ["[1/1] a"]
    err = capfd.readouterr().err
    assert "a library prints" in err
    assert "another writes" in err


def test_a_failed_run_is_named_and_stops_those_that_wait(toy_installed: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^bad: client 'b' failed in round 1, in the training: out of memory$"):
        list(Workers(1, paper())([job(tmp_path / "good"), job(tmp_path / "bad", BROKEN), job(tmp_path / "late")], done=0))
    assert (tmp_path / "good/summary.json").exists()
    assert not (tmp_path / "late").exists()
    assert alive() == set()


def test_one_by_one_too(toy_installed: Path, tmp_path: Path) -> None:
    jobs = [job(tmp_path / "good"), job(tmp_path / "bad", BROKEN), job(tmp_path / "late")]
    with pytest.raises(RunError, match=r"^bad: client 'b' failed in round 1, in the training: out of memory$"):
        list(OneByOne(verticals()["toy"], paper())(jobs, done=0))
    assert not (tmp_path / "late").exists()


def test_every_failure_is_told(toy_installed: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        list(Workers(2, paper())([job(tmp_path / "x", BROKEN), job(tmp_path / "y", BROKEN)], done=0))
    assert sorted(part.split(":")[0] for part in str(error.value).split("; ")) == ["x", "y"]


@pytest.mark.parametrize(
    ("title", "how"), [("dies", "exit status 3"), ("breaks", "exit status 1"), ("is killed", "killed by SIGKILL")]
)
def test_a_process_that_dies_is_a_failed_run(title: str, how: str, loud: Vertical, tmp_path: Path) -> None:
    bad = job(tmp_path / "bad", f'title = "{title}"\n{TINY}', vertical="loud")
    with pytest.raises(WorkerDied, match=rf"^bad: its process has died \({how}\)$"):
        list(Workers(1, paper())([bad, job(tmp_path / "late")], done=0))
    assert not (tmp_path / "late").exists()


def test_a_begun_run_is_gone_on_with(toy_installed: Path, tmp_path: Path) -> None:
    one = job(tmp_path / "x", toy.SAMPLE)
    run_job(one, verticals()["toy"], Silent())
    before = numbers(tmp_path / "x")
    (tmp_path / "x/summary.json").unlink()
    shutil.rmtree(tmp_path / "x/checkpoints/alone")
    ledger = (tmp_path / "x/ledger.jsonl").read_bytes()
    run_job(one, verticals()["toy"], Silent())
    assert numbers(tmp_path / "x") == before
    assert (tmp_path / "x/ledger.jsonl").read_bytes() == ledger


def test_who_stops_listening_stops_the_workers(toy_installed: Path, tmp_path: Path) -> None:
    runs = Workers(2, paper())([job(tmp_path / f"{i}") for i in range(6)], done=0)
    assert isinstance(runs, Iterator)
    with closing(runs):  # type: ignore[type-var]
        next(runs)
        assert alive()
    assert alive() == set()
    assert not (tmp_path / "5").exists()


def test_a_worker_speaks_in_lines_of_json_and_ends_with_its_input(
    loud: Vertical, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wild = TINY.replace("[[client]]", '[[exchange]]\nkind = "shared-parameters"\n[[client]]', 1)
    wild += 'training = { optimizer = "sgd", lr = 1e30 }\n'
    jobs = [job(tmp_path / "a", wild, vertical="loud"), job(tmp_path / "b", BROKEN)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(each.as_json() + "\n" for each in jobs)))
    output, interruption = os.dup(1), signal.getsignal(signal.SIGINT)
    try:
        work()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        os.dup2(output, 1)
        os.close(output)
        signal.signal(signal.SIGINT, interruption)
    begin, refused, *others = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert begin == {"event": "begin", "arm": "federated", "rounds": 1, "done": 0}
    assert refused["event"] == "say"
    assert refused["text"].startswith("round 1: shared-parameters from b refused: ")
    assert others == [
        {"event": "round", "arm": "federated", "number": 1},
        {"event": "done"},
        {"event": "begin", "arm": "federated", "rounds": 1, "done": 0},
        {"event": "error", "message": "client 'b' failed in round 1, in the training: out of memory"},
    ]
