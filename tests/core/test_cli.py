"""The command line as a user meets it: helps, exit statuses, one message for an error."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import toy
import typer

from hetfed import __version__
from hetfed.cli.main import build_app
from hetfed.cli.tables import kept
from hetfed.report.figures import interval, number, verdict

MAIN = "from hetfed.cli.main import main; main()"
IMPORTED = """
import sys
from hetfed.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*sys.modules, file=sys.stderr)
"""
HEAVY = {"torch", "torchvision", "monai", "pandas", "sklearn", "scipy", "matplotlib"}
BROKEN = toy.SAMPLE.replace('name = "b"', 'name = "b"\nmodel = { fragile = true }')


def commands(group: typer.core.TyperGroup, *path: str) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(build_app())))


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    """The toy's plan with the federated arm alone."""
    file = tmp_path / "quick.toml"
    file.write_text(
        toy.SAMPLE.replace("rounds = 3", "rounds = 2\nfinetune = 0\nalone = false\npooled = false"), encoding="utf-8"
    )
    return file


def test_all_promised_commands_are_there() -> None:
    verticals = [(vertical, name) for vertical in ("medical", "traffic") for name in ("plans", "run", "compare")]
    datasets = [("datasets", name) for name in ("list", "describe", "fetch", "check")]
    assert {*verticals, *datasets, ("report",), ("reproduce",), ("predict",), ("export",)} <= set(COMMANDS)


@pytest.mark.parametrize(
    "words", [["--help"], ["medical", "run", "--help"], ["traffic", "plans"], ["--version"], ["export", "--help"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    loaded = set(done.stderr.split())
    assert "hetfed" in loaded
    assert not loaded & HEAVY


def test_version(hetfed) -> None:
    assert hetfed("--version") == hetfed("--version", "report")
    assert hetfed("--version").out == f"hetfed {__version__}\n"
    assert hetfed("--version").status == 0


def test_without_a_command_there_is_help(hetfed) -> None:
    assert "hetfed medical run" in hetfed().out
    assert hetfed("-h").out == hetfed("--help").out
    assert "compare" in hetfed("medical").out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example_that_the_command_takes(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    # A folder of data sets, which examples call `data`, must be there.
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    answer = hetfed(*path, "--help")
    assert answer.status == 0
    (example,) = re.findall(r"Example: (hetfed .*?)\s*$", answer.out, flags=re.MULTILINE)
    words = shlex.split(example)[1:]
    assert tuple(words[: len(path)]) == path
    COMMANDS[path].make_context(example, words[len(path) :])


@pytest.mark.parametrize("group", ["medical", "traffic", "datasets"])
def test_every_group_shows_an_example(group: str, hetfed) -> None:
    assert f"Example: hetfed {group} " in hetfed(group, "--help").out


WRONG = """
fly
medical fly
medical run --fly
medical run --rounds 0
medical run --seed -1
medical run --rounds two
medical run sample sample
medical compare --seeds 0
report
datasets describe
"""


@pytest.mark.parametrize("words", WRONG.strip().splitlines())
def test_wrong_use_ends_with_status_2(words: str, hetfed) -> None:
    answer = hetfed(*words.split())
    assert answer.status == 2
    assert answer.err
    assert "Traceback" not in answer.err


def test_plans_are_listed(hetfed) -> None:
    for vertical, names in {"medical": ("sample", "glioma-mri"), "traffic": ("sample", "cities")}.items():
        answer = hetfed(vertical, "plans")
        assert answer.status == 0
        for name in names:
            assert re.search(rf"^ *{name} +\d+ +\d+ +\S", answer.out, flags=re.MULTILINE)
    assert re.search(r"^ *glioma-mixed +5 +18 +.* \(tcga-glioma\) *$", hetfed("medical", "plans").out, flags=re.MULTILINE)


def test_a_shipped_plan_is_printed_as_a_start_for_another(toy_installed: Path, tmp_path: Path, hetfed) -> None:
    answer = hetfed("toy", "plans", "sample")
    assert (answer.status, answer.out) == (0, toy.SAMPLE)


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.usefixtures("toy_installed")
def test_a_narrow_terminal_shows_fewer_columns_and_whole_words(
    width: int, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    name = "hospital of many words"
    quick.write_text(quick.read_text(encoding="utf-8").replace('name = "b"', f'name = "{name}"'), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", str(width))
    out = hetfed("toy", "run", quick, "--out", tmp_path / "out").out
    assert re.search(rf"^ *{name} .*\d", out, flags=re.MULTILINE)
    assert re.search(r"^ *client .*alone federated", out, flags=re.MULTILINE)
    assert "…" not in out
    left = re.sub(r"\s+", " ", out).partition("also in report.html: ")[2]
    assert left.startswith("train, finetuned")
    assert ("federated is" in left) == (width == 40)


def test_a_vertical_that_is_installed_has_its_commands(toy_installed: Path, hetfed) -> None:
    assert re.search(r"toy +A toy\.", hetfed("--help").out)
    assert "Example: hetfed toy run" in hetfed("toy", "run", "--help").out
    assert re.search(r"sample +3 +3 +A toy", hetfed("toy", "plans").out)


def test_run_without_a_plan_runs_the_sample_into_a_new_folder(
    toy_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = hetfed("toy", "run", "--rounds", 2, "--seed", 5)
    assert (answer.status, answer.err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"toy-sample-\d{8}-\d{6}", folder.name)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["plan"], summary["rounds"], summary["seed"]) == ("sample", 2, 5)
    assert f"report: {folder / 'report.html'}" in answer.out
    for client in summary["clients"]:
        values = [number(client[arm], 3) for arm in ("alone", "federated")]
        counts, gains = client["test_counts"], client["gains"]["federated"]
        values.insert(0, f"{counts['owners']} ({list(counts['cases'].values())[1]})")
        values += [interval(client["intervals"]["federated"], 3) or "–", verdict(gains), kept(client, 3)]
        assert re.search(rf"^ *{client['name']} .*{' .*'.join(map(re.escape, values))} *$", answer.out, flags=re.MULTILINE)
    assert "too few validation data to choose by: " in answer.out


def test_run_takes_a_file_and_goes_on(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    out = tmp_path / "out"
    first = hetfed("toy", "run", quick, "--out", out)
    assert (first.status, first.err) == (0, "")
    assert "federated: round 2/2" in first.out
    again = hetfed("toy", "run", quick, "--out", out, "--resume")
    assert again.status == 0
    assert "going on after round 2" in again.out
    assert "round 2/2" not in again.out


def test_a_plan_is_called_by_its_file_even_with_spaces(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    file = quick.rename(quick.with_name("my first plan.toml"))
    assert hetfed("toy", "run", file, "--out", tmp_path / "out").status == 0
    assert json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))["plan"] == "my first plan"


def test_report_writes_the_page_again(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    out = tmp_path / "out"
    hetfed("toy", "run", quick, "--out", out)
    page = out / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    answer = hetfed("report", out)
    assert (answer.status, answer.out) == (0, f"report: {page}\n")
    assert page.read_text(encoding="utf-8") == before


def test_compare_sets_algorithms_side_by_side(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    out = tmp_path / "out"
    words = ("toy", "compare", quick, "--algorithms", "plan, fedproto", "--seeds", 2, "--rounds", 1, "--jobs", 1, "--out", out)
    answer = hetfed(*words)
    assert (answer.status, answer.err) == (0, "")
    frame = pd.read_csv(out / "comparison.csv")
    assert sorted(zip(frame["algorithm"], frame["seed"], frame["client"], strict=True)) == sorted(
        (algorithm, seed, client) for algorithm in ("plan", "fedproto") for seed in (0, 1) for client in "abc"
    )
    mean = frame[frame["algorithm"] == "fedproto"]["federated"].mean()
    assert re.search(rf"fedproto +{re.escape(number(mean, 3))} ", answer.out)
    assert "[6/6] " in answer.out
    assert f"report: {out / 'comparison.html'}" in answer.out
    again = hetfed(*words)
    assert "[6/6]" not in again.out
    assert re.search(rf"fedproto +{re.escape(number(mean, 3))} ", again.out)


def test_run_and_compare_do_not_take_the_folder_of_the_other(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    run, comparison = tmp_path / "run", tmp_path / "comparison"
    assert hetfed("toy", "run", quick, "--out", run).status == 0
    assert hetfed("toy", "compare", quick, "--seeds", 1, "--jobs", 1, "--out", comparison).status == 0
    answer = hetfed("toy", "compare", quick, "--seeds", 1, "--jobs", 1, "--out", run)
    assert answer.status == 2
    assert answer.complaint == (
        f"error: {run / 'plan.resolved.toml'}: the folder holds a single run, not a comparison. "
        "Give an empty or a new folder, or that of a comparison, with --out."
    )
    assert not (run / "comparison.json").exists()
    for more in ([], ["--resume"]):
        answer = hetfed("toy", "run", quick, "--out", comparison, *more)
        assert answer.status == 2
        assert str(comparison) in answer.complaint


def test_compare_with_other_algorithms_reports_on_all(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    words = ("toy", "compare", quick, "--seeds", 1, "--jobs", 1, "--out", tmp_path / "out", "--algorithms")
    assert hetfed(*words, "fedproto").status == 0
    answer = hetfed(*words, "fedavg")
    assert re.search(r"^ *fedproto .*", answer.out, flags=re.MULTILINE)
    assert {"Under fedproto:", "Under fedavg:"} <= set((tmp_path / "out/comparison.md").read_text().splitlines())


def test_compare_all_says_which_algorithms_do_not_suit(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    quick.write_text(quick.read_text(encoding="utf-8").replace('part = "head"', 'part = "tail"'), encoding="utf-8")
    words = ("--algorithms", "all", "--seeds", 1, "--rounds", 1, "--jobs", 1, "--out", tmp_path / "out")
    answer = hetfed("toy", "compare", quick, *words)
    assert (answer.status, answer.err) == (0, "")
    assert "plan does not suit these clients: no client can take part" in answer.out
    frame = pd.read_csv(tmp_path / "out/comparison.csv")
    assert {"fedavg", "fedproto", "fedmd"} <= set(frame["algorithm"])
    assert not {"plan", "alone"} & set(frame["algorithm"])


def test_compare_starts_a_worker_per_job(toy_installed: Path, quick: Path, tmp_path: Path, hetfed) -> None:
    words = ("toy", "compare", quick, "--seeds", 1, "--rounds", 1, "--out")
    assert hetfed(*words, tmp_path / "one", "--jobs", 1).status == 0
    answer = hetfed(*words, tmp_path / "two", "--jobs", 2)
    assert (answer.status, answer.err) == (0, "")
    one, two = (pd.read_csv(tmp_path / name / "comparison.csv").drop(columns="seconds") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_reproduce_lists_and_runs_studies(toy_installed: Path, tmp_path: Path, hetfed) -> None:
    listed = hetfed("reproduce")
    assert re.search(r"^tiny +A toy$", listed.out, flags=re.MULTILINE)
    assert {"medical", "traffic", "distillation"} <= {line.split(" ")[0] for line in listed.out.splitlines()}
    answer = hetfed("reproduce", "tiny", "--out", tmp_path / "out", "--seed", 3)
    assert (answer.status, answer.err) == (0, "")
    for kind in ("random", "real"):
        summary = json.loads((tmp_path / "out" / kind / "summary.json").read_text(encoding="utf-8"))
        assert (summary["plan"], summary["seed"]) == (f"tiny-{kind}", 3)


def test_reproduce_tells_of_missing_data_before_it_trains(toy_installed: Path, tmp_path: Path, hetfed) -> None:
    answer = hetfed("reproduce", "medical", "--data-dir", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert answer.status == 2
    assert "--data-dir: no such folder" in answer.complaint
    assert "round" not in answer.out
    assert not (tmp_path / "out").exists()


def test_reproduce_all_gives_every_study_a_folder(
    toy_installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    from hetfed.cli import reproduce

    alone = {name: study for name, study in reproduce.studies().items() if name == "tiny"}
    monkeypatch.setattr(reproduce, "studies", lambda: alone)
    assert hetfed("reproduce", "--all", "--out", tmp_path / "out").status == 0
    assert (tmp_path / "out/tiny/real/summary.json").is_file()


def interrupted(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """A command that is interrupted from the keyboard as soon as there is a plan below `folder`."""
    # A shell that runs tests in the background leaves them deaf to interruptions.
    listening = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"
    command = [sys.executable, "-c", listening, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(folder.rglob("plan.resolved.toml")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """The toy's plan with more rounds than anybody waits for."""
    file = tmp_path / "endless.toml"
    file.write_text(toy.SAMPLE.replace("rounds = 3", "rounds = 100000"), encoding="utf-8")
    return file


def test_an_interrupted_run_says_how_to_go_on(toy_installed: Path, endless: Path, tmp_path: Path) -> None:
    out = tmp_path / "a run"
    done = interrupted(out, "toy", "run", endless, "--seed", 3, "--out", out)
    assert done.returncode == 130
    again = f"hetfed toy run {endless} --seed 3 --out '{out}' --resume"
    assert done.stderr == f"stopped: what has been done is kept. Go on with: {again}\n"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_comparison_says_how_to_go_on(jobs: int, toy_installed: Path, endless: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = interrupted(out, "toy", "compare", endless, "--seeds", 2, "--jobs", jobs, "--out", out)
    assert done.returncode == 130
    again = f"hetfed toy compare {endless} --algorithms plan --seeds 2 --jobs {jobs} --out {out}"
    assert done.stderr == f"stopped: what has ended is kept. Go on with: {again}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy", "run", "--out", "out"], "nothing has been written. Start again with: hetfed toy run sample --out out"),
        (
            ["reproduce", "tiny", "--seed", "3", "--out", "out"],
            "a case study does not go on from where it was. Start it in a new folder with: hetfed reproduce tiny --seed 3",
        ),
        (["reproduce", "--all"], "Start it in a new folder with: hetfed reproduce --all"),
    ],
)
@pytest.mark.usefixtures("toy_installed")
def test_an_interruption_before_anything_is_written(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hetfed.launch.launcher.Launcher.run", interrupt)
    monkeypatch.setattr("hetfed.run.prepare.prepare", interrupt)
    answer = hetfed(*words)
    assert answer.status == 130
    (line,) = answer.err.splitlines()
    assert line.startswith("stopped: ")
    assert line.endswith(said)


def test_a_comparison_whose_worker_has_died_says_how_to_go_on(
    toy_installed: Path, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    from hetfed.launch import workers

    started = subprocess.Popen
    monkeypatch.setattr(workers.subprocess, "Popen", lambda words, **options: started([*words[:1], "-c", ""], **options))
    answer = hetfed("toy", "compare", quick, "--jobs", 2, "--seeds", 1, "--out", tmp_path / "out")
    assert answer.status == 1
    assert "alone, seed 0: its process has died (exit status 0)" in answer.complaint
    again = f"hetfed toy compare {quick} --algorithms plan --seeds 1 --jobs 2 --out {tmp_path / 'out'}"
    assert answer.complaint.endswith(f". Where memory ran out, give fewer --jobs. What has ended is kept; go on with: {again}")


def test_a_failing_client_ends_with_status_1(toy_installed: Path, tmp_path: Path, hetfed) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(BROKEN, encoding="utf-8")
    answer = hetfed("toy", "run", file, "--out", tmp_path / "out")
    assert answer.status == 1
    assert answer.complaint == "error: client 'b' failed in round 1, in the training: out of memory"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toy", "run", "nothing"], ["PLAN", "'nothing'", "Shipped: sample"]),
        (["toy", "run", "sampel"], ["PLAN", "Did you mean 'sample'? Shipped: sample. Or give a TOML file."]),
        (["toy", "plans", "nothing"], ["PLAN", "'nothing'", "Shipped: sample"]),
        (["toy", "compare", "nothing"], ["PLAN", "'nothing'", "Shipped: sample"]),
        (["toy", "compare", "--algorithms", "fedfoo"], ["--algorithms", "'fedfoo'", "Known: plan, all, fedavg"]),
        (
            ["toy", "compare", "--algorithms", "plan,fedporto"],
            ["--algorithms", "'fedporto'", "Did you mean 'fedproto'? Known: "],
        ),
        (["toy", "compare", "--algorithms", "all,fedporto"], ["--algorithms: unknown algorithm (value: 'fedporto')"]),
        (["toy", "run", "--resume"], ["--resume: there is no folder to go on in", "folder of the interrupted run with --out"]),
        (["toy", "compare", "--algorithms", ","], ["--algorithms", "no algorithm to compare", "plan, all, fedavg"]),
        (["toy", "compare", "--algorithms", "alone"], ["--algorithms", "no algorithm to compare"]),
        (["reproduce", "nothing"], ["NAME", "'nothing'", "There are: distillation"]),
        (["report", "nowhere"], ["nowhere/summary.json", "no ended run here", "Give the folder"]),
        (["toy", "run", "--resume", "--out", "nowhere"], ["nowhere", "nothing to resume", "--out"]),
    ],
)
@pytest.mark.usefixtures("toy_installed")
def test_an_error_is_one_line_with_a_remedy(
    words: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = hetfed(*words)
    assert answer.status == 2
    for part in said:
        assert part in answer.complaint
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_an_error_in_a_plan_names_file_key_value_and_remedy(toy_installed: Path, quick: Path, hetfed, tmp_path: Path) -> None:
    quick.write_text(quick.read_text(encoding="utf-8").replace("rounds = 2", "rounds = -2"), encoding="utf-8")
    answer = hetfed("toy", "run", quick, "--out", tmp_path / "out")
    assert answer.status == 2
    assert answer.complaint == (
        f"error: {quick}: federation.rounds: input should be greater than 0 (value: -2). "
        "docs/plans.md lists every key and its values."
    )


def test_a_plan_that_is_no_text(toy_installed: Path, tmp_path: Path, hetfed) -> None:
    file = tmp_path / "picture.toml"
    file.write_bytes(b"\xff\xd8\xff\xe0")
    answer = hetfed("toy", "run", file)
    assert answer.status == 2
    assert f"{file}: not text" in answer.complaint


def test_the_real_process_ends_like_that_too() -> None:
    done = subprocess.run([sys.executable, "-c", MAIN, "reproduce", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: NAME: no such case study (value: 'nothing'). There are: ")
    assert done.stderr.count("\n") == 1


def test_a_long_message_is_not_wrapped_and_brackets_are_text(toy_installed: Path, monkeypatch, hetfed) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "[bold]x[/bold]" in hetfed("toy", "run", "[bold]x[/bold]" * 20).complaint


def test_the_package_itself_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "hetfed", "reproduce", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")


def test_words_of_tables() -> None:
    assert [kept({"kept": entry}, 3) for entry in (None, {"arm": "finetuned", "value": 0.5})] == ["–", "0.500"]
    for value, low, high, word in (
        (0.1, 0.01, 0.2, "better"),
        (-0.1, -0.2, -0.01, "worse"),
        (0.1, -0.01, 0.2, "no clear difference"),
        (0.1, None, None, "no clear difference"),
        (0.0, 0.0, 0.0, "no clear difference"),
        (None, None, None, "–"),
    ):
        assert verdict({"value": value, "low": low, "high": high}) == word
