"""A run that was interrupted, however, and gone on with ends like one that was not, to the last bit."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import toy
from rich.console import Console
from whole import load_state

from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.results.folder import RunFolder
from hetfed.run.execute import execute
from hetfed.run.prepare import prepare
from hetfed.run.progress import Silent

FORKING = """
import gc, os, sys
import hetfed.launch.launcher, hetfed_medical.clients, hetfed_traffic.clients
from hetfed.cli.main import main
gc.freeze()
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        sys.argv = ["hetfed", *line.split()]
        os.dup2(1, 2)
        try:
            main()
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
    print("pid", pid, flush=True)
    _, status = os.waitpid(pid, 0)
    print("\\nstatus", os.waitstatus_to_exitcode(status), flush=True)
"""

HOSPITALS = """
[federation]
rounds = 3
[[exchange]]
kind = "shared-parameters"
part = "encoders.genes"
proximal = 0.01
[[exchange]]
kind = "prototypes"
every = 2
[defaults.data]
dataset = "sample-hospitals"
augment = true
limit = 60
[defaults.model]
image = "small-conv"
features = 8
[[client]]
name = "north"
data = { sites = ["north"], modalities = ["image", "genes"] }
training = { batch_size = 16 }
[[client]]
name = "east"
data = { sites = ["east"], modalities = ["image"] }
training = { optimizer = "sgd", lr = 0.02, momentum = 0.9, schedule = "cosine" }
[[client]]
name = "west"
data = { sites = ["west"], modalities = ["genes"] }
training = { optimizer = "rmsprop", clip_norm = 1.0 }
"""
CITIES = """
[federation]
rounds = 3
[[exchange]]
kind = "shared-parameters"
part = "encoder"
norm = "local"
[defaults.data]
dataset = "sample-cities"
horizons = [15, 30]
[defaults.model]
features = 16
layers = 1
sensor_embedding = 4
time_embedding = 2
[[client]]
name = "Probes"
data = { city = "probes" }
[[client]]
name = "Camera"
data = { city = "camera" }
"""


class Interrupted(Exception):
    """What stops a run in these tests."""


class Stops(Silent):
    """Stops the run after every round that was not stopped before."""

    def __init__(self) -> None:
        self.stopped: list[tuple[str, int]] = []

    def round_done(self, arm: str, number: int, *, values: Mapping[str, float | None], metric: str) -> None:
        if (arm, number) not in self.stopped:
            self.stopped.append((arm, number))
            raise Interrupted


def numbers(run: Path) -> dict[str, Any]:
    """Everything that a run found out, but for the time that it took and the order in which the plan lists its clients."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    del summary["seconds"], summary["turn_seconds"]
    summary["clients"].sort(key=lambda client: client["name"])
    for exchange in summary["exchanges"]:
        exchange["clients"].sort()
    rounds = list(csv.DictReader(io.StringIO((run / "rounds.csv").read_text(encoding="utf-8"))))
    for row in rounds:
        del row["seconds"]
    ledger = sorted(set((run / "ledger.jsonl").read_text(encoding="utf-8").splitlines()))
    files = {str(f.relative_to(run)): f.read_bytes() for f in run.glob("[mp]*/**/*") if f.suffix in {".csv", ".safetensors"}}
    pooled = json.loads((run / "checkpoints/pooled.json").read_text(encoding="utf-8"))
    return {"summary": summary, "rounds": rounds, "ledger": ledger, "pooled": pooled, **files}


class Processes:
    """The command line, each time in a process of its own; forked from one that has loaded torch, as that takes longest."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        words = [sys.executable, "-c", FORKING]
        self._mother = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
        )

    def run(self, *words: object, kill_after: str | None = None, delay: float = 0.0) -> tuple[int, list[str]]:
        """The exit status and what was said; the process is killed a while after it said `kill_after`."""
        assert self._mother.stdin is not None and self._mother.stdout is not None
        self._mother.stdin.write(" ".join(map(str, words)) + "\n")
        pid, said = 0, []
        for line in self._mother.stdout:
            first, _, rest = line.strip().partition(" ")
            if first == "pid":
                pid = int(rest)
            elif first == "status":
                return int(rest), said
            else:
                said.append(line.strip())
            if kill_after is not None and line.startswith(kill_after):
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)
        raise AssertionError(said)

    def end(self) -> None:
        self._mother.communicate()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.end()


def finish(processes: Processes, *words: object) -> list[str]:
    status, said = processes.run(*words)
    assert status == 0, said
    return said


def kill(processes: Processes, *words: object, after: str, delay: float) -> None:
    status, said = processes.run(*words, kill_after=after, delay=delay)
    assert status == -signal.SIGKILL, said
    assert not (Path(str(words[words.index("--out") + 1])) / "summary.json").exists()


def write(text: str, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def backwards(text: str) -> str:
    """The plan with its clients in the opposite order."""
    head, *clients = text.split("[[client]]")
    return "[[client]]".join([head, *reversed(clients)])


@pytest.fixture(scope="module")
def undisturbed(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("hospitals")
    finish(processes, "medical", "run", write(HOSPITALS, home / "plan.toml"), "--out", home / "out")
    return numbers(home / "out")


def test_the_plan_is_worth_it(undisturbed: dict[str, Any]) -> None:
    """Each arm has a value for each client, and not all were selected in the same round."""
    clients = undisturbed["summary"]["clients"]
    assert all(client[arm] is not None for client in clients for arm in ("alone", "federated", "pooled"))
    assert len({number for client in clients for number in client["selected_round"].values()}) > 1
    assert len(undisturbed) == 4 + 3 + 3 * (1 + 3 * 2)


@pytest.mark.parametrize(
    ("after", "delay"),
    [
        ("federated: round 1/3", 0.0),
        ("federated: round 2/3", 0.03),
        ("alone: round 1/3", 0.03),
        ("alone: round 3/3", 0.0),
        ("pooled for east: round 2/3", 0.01),
        ("pooled for north: round 1/3", 0.0),
    ],
)
def test_hospitals_killed_in_a_round_and_gone_on_with(
    after: str, delay: float, undisturbed: dict[str, Any], processes: Processes, tmp_path: Path
) -> None:
    words = ("medical", "run", write(HOSPITALS, tmp_path / "plan.toml"), "--out", tmp_path / "out")
    kill(processes, *words, after=after, delay=delay)
    said = finish(processes, *words, "--resume")
    assert any(line.startswith("federated: 3 rounds, going on after round ") for line in said)
    assert numbers(tmp_path / "out") == undisturbed


def test_hospitals_in_another_order(undisturbed: dict[str, Any], processes: Processes, tmp_path: Path) -> None:
    other = write(backwards(HOSPITALS), tmp_path / "plan.toml")
    finish(processes, "medical", "run", other, "--out", tmp_path / "out")
    names = [client["name"] for client in json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))["clients"]]
    assert names == ["west", "east", "north"]
    assert numbers(tmp_path / "out") == undisturbed


def test_cities_killed_in_every_arm_and_gone_on_with_in_another_order(processes: Processes, tmp_path: Path) -> None:
    one, other = write(CITIES, tmp_path / "plan.toml"), write(backwards(CITIES), tmp_path / "other" / "plan.toml")
    finish(processes, "traffic", "run", one, "--out", tmp_path / "undisturbed")
    more = ("--out", tmp_path / "out")
    for file, arm, number in ((one, "federated", 2), (other, "alone", 1), (one, "pooled for Camera, Probes", 2)):
        kill(processes, "traffic", "run", file, *more, after=f"{arm}: round {number}/3", delay=0.03)
        more = ("--out", tmp_path / "out", "--resume")
    finish(processes, "traffic", "run", other, *more)
    assert numbers(tmp_path / "out") == numbers(tmp_path / "undisturbed")


@pytest.mark.parametrize("name", ["participation", "asynchronous", "compression"])
def test_a_run_killed_at_a_random_moment_goes_on_to_the_same_bits(name: str, processes: Processes, tmp_path: Path) -> None:
    """In short what `tests/benchmarks/killed_runs.py` does at length: a kill in some round of the federation, and one later."""
    words, chance = ("medical", "run", write(killed_runs.PLANS[name], tmp_path / "plan.toml"), "--out"), random.Random(name)
    finish(processes, *words, tmp_path / "whole")
    for arm, more in (("federated", ()), ("alone", ("--resume",))):
        after = f"{arm}: round {chance.randint(1, 8)}/8"
        kill(processes, *words, tmp_path / "out", *more, after=after, delay=chance.uniform(0, 0.02))
    finish(processes, *words, tmp_path / "out", "--resume")
    assert killed_runs.outcome(tmp_path / "out") == killed_runs.outcome(tmp_path / "whole")


def toy_run(text: str, out: Path) -> dict[str, Any]:
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(text, "plan"), "plan", out)
    return numbers(out)


@pytest.fixture(scope="module")
def toy_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return toy_run(toy.SAMPLE, tmp_path_factory.mktemp("toy") / "out")


@pytest.mark.parametrize("every", [1, 2, 5])
def test_interrupted_after_each_round_of_each_arm(every: int, toy_undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """With fewer checkpoints more rounds are run again, with the same outcome."""
    plan = read_plan(toy.SAMPLE.replace("rounds = 3", f"rounds = 3\ncheckpoint_every = {every}"), "plan")
    stops = Stops()
    for attempt in itertools.count():
        assert attempt < 30
        # As a process of its own would: clients and folder anew.
        prepared = prepare(plan, toy.ToyVertical(), None, "plan")
        folder = RunFolder.open(tmp_path, plan, resume=attempt > 0)
        try:
            execute(prepared, "plan", folder, stops)
            break
        except Interrupted:
            assert not (tmp_path / "summary.json").exists()
    pooled = {arm for arm, _ in stops.stopped if arm.startswith("pooled")}
    arms = {"federated": (1, 2, 3), "finetuned": (3,), "alone": (1, 2, 3), **dict.fromkeys(pooled, (1, 2, 3))}
    assert sorted(stops.stopped) == sorted((arm, number) for arm, numbers in arms.items() for number in numbers)
    assert len(pooled) == 3
    assert numbers(tmp_path) == toy_undisturbed


def test_what_a_checkpoint_holds_is_not_run_again(tmp_path: Path) -> None:
    plan = read_plan(toy.SAMPLE, "plan")
    folder = RunFolder.open(tmp_path, plan, resume=False)
    stops = Stops()
    for done in (1, 2):
        with pytest.raises(Interrupted):
            execute(prepare(plan, toy.ToyVertical(), None, "plan"), "plan", folder, stops)
        state = load_state(folder.checkpoints / "federated", plan.digest())
        assert state is not None
        assert (state.round, len(state.rows)) == (done, 3 * done)
    lines = (tmp_path / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == 2 * 3 + 3


def test_a_round_that_is_run_again_stands_in_the_ledger_twice(tmp_path: Path) -> None:
    plan = read_plan(toy.SAMPLE.replace("rounds = 3", "rounds = 3\ncheckpoint_every = 3"), "plan")
    with pytest.raises(Interrupted):
        execute(prepare(plan, toy.ToyVertical(), None, "plan"), "plan", RunFolder.open(tmp_path, plan, resume=False), Stops())
    once = (tmp_path / "ledger.jsonl").read_text(encoding="utf-8")
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(plan, "plan", tmp_path, resume=True)
    assert (tmp_path / "ledger.jsonl").read_text(encoding="utf-8").startswith(once * 2)


def test_an_ended_run_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    before = toy_run(toy.SAMPLE, tmp_path)
    ledger = (tmp_path / "ledger.jsonl").read_bytes()
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(toy.SAMPLE, "plan"), "plan", tmp_path, resume=True)
    assert numbers(tmp_path) == before
    assert (tmp_path / "ledger.jsonl").read_bytes() == ledger


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_the_order_of_clients_changes_nothing(order: tuple[int, ...], toy_undisturbed: dict[str, Any], tmp_path: Path) -> None:
    head, *clients = toy.SAMPLE.split("[[client]]")
    assert toy_run("[[client]]".join([head, *(clients[i] for i in order)]), tmp_path) == toy_undisturbed


def test_another_seed_changes_something(toy_undisturbed: dict[str, Any], tmp_path: Path) -> None:
    other = toy_run(toy.SAMPLE.replace("rounds = 3", "rounds = 3\nseed = 1"), tmp_path)
    assert other["models/a/alone/model.safetensors"] != toy_undisturbed["models/a/alone/model.safetensors"]
    assert other["rounds"] != toy_undisturbed["rounds"]
