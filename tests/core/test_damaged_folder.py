"""Whatever has happened to a run folder, or whoever has made it: one clear error, and nothing is written elsewhere."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy
from rich.console import Console
from test_resume import numbers

from hetfed.cli.kept import kept_model
from hetfed.errors import HetfedError, RunError, RunFolderError
from hetfed.launch.compare import compare_plan, read_comparison, settle
from hetfed.launch.launcher import Launcher
from hetfed.launch.workers import OneByOne
from hetfed.plan import read_plan
from hetfed.report import write_report
from hetfed.report.comparison import write_comparison
from hetfed.results.folder import RunFolder

PLAN = toy.SAMPLE.replace("rounds = 3", "rounds = 1\nfinetune = 0\npooled = true")
LAUNCHER = Launcher(toy.ToyVertical(), Console(quiet=True))


def resumed(run: Path) -> None:
    # As of an interrupted run: one that has ended is not looked at so closely.
    LAUNCHER.run(read_plan(PLAN, "plan"), "plan", run, resume=True)


def compared(out: Path) -> None:
    comparison = settle(LAUNCHER, read_plan(PLAN, "plan"), "plan", algorithms=["plan"], seeds=1)
    compare_plan(LAUNCHER, comparison, out, OneByOne(LAUNCHER.vertical, LAUNCHER.console))
    write_comparison(out, *read_comparison(out))


COMMANDS: dict[str, Callable[[Path], object]] = {
    "report": lambda run: write_report(RunFolder(run)),
    "resume": resumed,
    "predict": lambda run: kept_model(run, "a"),
}
READER = {"models": "predict", "checkpoints": "resume", "data.json": "resume"}
"""The command that reads a file or a folder; the others are the report's."""
MADE_ANEW = {"report.html", "plots/outcomes.svg", "plots/curve-a.svg", "predictions/a.csv"}
COMPARING: dict[str, Callable[[Path], object]] = {
    "report of a comparison": lambda out: write_comparison(out, *read_comparison(out)),
    "compare": compared,
}


def other_type(file: Path) -> None:
    """Every value of a JSON file becomes one of another type; another file becomes a list."""
    value: Any = [1, 2]
    if file.suffix == ".json":
        value = {
            key: 7 if isinstance(held, list | dict | str) else [held] for key, held in json.loads(file.read_text()).items()
        }
    file.write_text(json.dumps(value), encoding="utf-8")


def keys_gone(file: Path) -> None:
    """Every table of a JSON file loses a key; another file loses its first line."""
    if file.suffix == ".json":
        held = json.loads(file.read_text(encoding="utf-8"))
        held.pop(max(held), None)
        for table in held.get("clients", []):
            table.pop("federated")
        file.write_text(json.dumps(held), encoding="utf-8")
        return
    file.write_bytes(file.read_bytes().partition(b"\n")[2])


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


def link_instead(file: Path) -> None:
    """A link to the very same contents."""
    file.symlink_to(file.rename(file.with_name("real")))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "garbage": lambda file: file.write_bytes(bytes(range(256)) * 8),
    "another encoding": lambda file: file.write_bytes(file.read_bytes().decode("utf-8", "replace").encode("utf-16")),
    "nested deeply": lambda file: file.write_text("[" * 100_000, encoding="utf-8"),
    "another type": other_type,
    "keys gone": keys_gone,
    "a folder": folder_instead,
    "a link": link_instead,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended, but that any arm can be gone on with."""
    out = tmp_path_factory.mktemp("run") / "out"
    LAUNCHER.run(read_plan(PLAN, "plan"), "plan", out)
    return out


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    compared(out)
    return out


def attempt(command: Callable[[Path], object], out: Path) -> str:
    """What became of a command: "" where it went through, else its message, which names a file and a remedy."""
    try:
        command(out)
    except HetfedError as error:
        remedy = r": .+\. [A-Z]" if isinstance(error, RunFolderError) else ": cannot be (written|made): "
        assert re.search(rf"{re.escape(str(out))}\S*{remedy}", str(error)), error
        return str(error)
    return ""


def copied(whole: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return shutil.copytree(whole, to)


def files(out: Path) -> list[str]:
    """Those that differ in kind: of files of clients and of arms, those of one."""
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return sorted(name for name in names if not re.search(r"/(b|c|alone)(/|\.)|-[bc]\.svg|\.lock", name))


def written_elsewhere(home: Path) -> set[Path]:
    return {path for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_folder_is_one_clear_error(damage: str, run: Path, tmp_path: Path) -> None:
    """Every file of it, each read by the command that needs it. Lines of tables may be fewer; some files are made anew."""
    for name in files(run):
        out = copied(run, tmp_path / "out")
        DAMAGES[damage](out / name)
        said = attempt(COMMANDS[READER.get(name.partition("/")[0], "report")], out)
        assert said or damage in {"missing", "cut short", "empty", "keys gone"} or name in MADE_ANEW, name
        if damage == "a link":
            assert "a symbolic link" in said, name


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_comparison_is_one_clear_error(damage: str, comparison: Path, tmp_path: Path) -> None:
    for name in files(comparison):
        if "/" in name and not name.endswith("summary.json"):
            continue
        out = copied(comparison, tmp_path / "out")
        DAMAGES[damage](out / name)
        attempt(COMPARING["report of a comparison"], out)


@pytest.mark.parametrize("name", ["comparison.json", "plan/seed-0/summary.json", "plan/seed-0/plan.resolved.toml"])
def test_a_damaged_comparison_is_not_gone_on_with(name: str, comparison: Path, tmp_path: Path) -> None:
    out = copied(comparison, tmp_path / "out")
    DAMAGES["garbage"](out / name)
    assert str(out / name) in attempt(COMPARING["compare"], out)


@pytest.mark.parametrize("name", ["summary.json", "rounds.csv", "environment.json", "plan.resolved.toml", "models/a"])
def test_a_part_that_is_read_is_missed(name: str, run: Path, tmp_path: Path) -> None:
    out = copied(run, tmp_path / "out")
    shutil.move(out / name, tmp_path / "gone")
    command = "predict" if name.startswith("models") else "report"
    assert str((out / name).parent if "/" in name else out / name) in attempt(COMMANDS[command], out)


@pytest.mark.parametrize("name", ["/../../../evil", "../evil", "a/b", "x" * 300])
def test_the_report_of_a_foreign_folder_is_written_nowhere_else(name: str, run: Path, tmp_path: Path) -> None:
    out = copied(run, tmp_path / "deep" / "in" / "out")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    summary["clients"][0]["name"] = name
    (out / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    before = written_elsewhere(tmp_path)
    assert "a name" in attempt(COMMANDS["report"], out)
    assert written_elsewhere(tmp_path) == before


@pytest.mark.parametrize("part", ["report.html", "plots", "plots/outcomes.svg", "models", "checkpoints", "ledger.jsonl"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_or_read_through_a_link(part: str, command: str, run: Path, tmp_path: Path) -> None:
    out, elsewhere = copied(run, tmp_path / "out"), tmp_path / "elsewhere"
    shutil.move(out / part, elsewhere)
    (out / part).symlink_to(elsewhere)
    said = attempt(COMMANDS[command], out)
    assert str(out / part) in said and "a symbolic link, which no run leaves" in said


def test_a_first_file_that_was_half_written_is_no_obstacle(tmp_path: Path) -> None:
    for resume in (False, True):
        out = tmp_path / str(resume)
        out.mkdir()
        (out / "plan.resolved.toml.part").write_text("# dig", encoding="utf-8")
        RunFolder.open(out, read_plan(PLAN, "plan"), resume=resume)
        assert not list(out.glob("*.part"))


def test_a_resume_on_changed_data_is_refused(run: Path, tmp_path: Path) -> None:
    """One number of one client's test data."""

    class Changed(toy.ToyVertical):
        def clients(self, plan: Any, data_dir: Path | None) -> Any:
            clients = super().clients(plan, data_dir)
            clients[1].data.test.inputs["point"][3, 1] += 1e-3
            return clients

    out = copied(run, tmp_path / "out")
    with pytest.raises(RunFolderError, match="the data of client 'a' are not those that the run was started with") as error:
        Launcher(Changed(), LAUNCHER.console).run(read_plan(PLAN, "plan"), "plan", out, resume=True)
    assert error.value.file == out / "data.json"


def test_a_digit_that_changed_in_what_pooled_training_came_to_is_found(run: Path, tmp_path: Path) -> None:
    out = copied(run, tmp_path / "out")
    file = out / "checkpoints/pooled.json"
    file.write_text(re.sub(r"(0\.\d)\d", r"\g<1>3", file.read_text(encoding="utf-8"), count=1), encoding="utf-8")
    assert f"{file}: damaged" in attempt(resumed, out)
    file.unlink()
    resumed(out)
    assert numbers(out)["summary"] == numbers(run)["summary"]


def test_seconds_add_up_over_interruptions(run: Path, tmp_path: Path) -> None:
    from hetfed.results.sealed import write_sealed

    out = copied(run, tmp_path / "out")
    write_sealed(out / "checkpoints/seconds.json", 3000.0)
    resumed(out)
    assert 3000 < json.loads((out / "summary.json").read_text(encoding="utf-8"))["seconds"] < 3100


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [300, 1200, 1800, 2300, 5000, 10_000, 20_000])
def test_a_disk_that_is_full_is_one_clear_error_and_the_run_goes_on_later(size: int, run: Path, tmp_path: Path) -> None:
    """While the plan, the ledger, a checkpoint, a model, a table or the report is written: files of that size do not fit."""
    out = tmp_path / "out"
    with full_disk(size), pytest.raises(HetfedError, match="cannot be written") as error:
        LAUNCHER.run(read_plan(PLAN, "plan"), "plan", out)
    # The plan, which is the first to be written, may do better in another folder.
    assert isinstance(error.value, RunError) or size < 1500
    assert not list(out.rglob("*.part"))
    LAUNCHER.run(read_plan(PLAN, "plan"), "plan", out, resume=True)
    there, here = numbers(out), numbers(run)
    assert {**there, "ledger": set(there["ledger"])} == {**here, "ledger": set(here["ledger"])}
