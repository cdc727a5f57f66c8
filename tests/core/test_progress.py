"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from hetfed.run.progress import Bar, Board, Lines, Silent, listener_of, shown

NAN = float("nan")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Console(file=io.StringIO(), force_terminal=True, width=160)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def tell(told: Silent | Lines | Bar) -> None:
    told.begin("federated", 3, 1)
    told.round_done("federated", 2, values={"a": 0.5, "b": 0.75, "c": None}, metric="AUROC")
    told.say("round 2: x from a refused: unknown name '[red]y'")
    told.round_done("federated", 3, values={"a": 1.0}, metric="AUROC")
    told.begin("pooled for a, b", 1, 0)
    told.round_done("pooled for a, b", 1, values={}, metric="")


def test_a_line_per_event() -> None:
    console = Console(file=io.StringIO(), width=20)
    with listener_of(console) as told:
        assert isinstance(told, Lines)
        tell(told)
    assert written(console).splitlines() == [
        "federated: 3 rounds, going on after round 1",
        "federated: round 2/3  validation AUROC 0.625 (mean of 2)",
        "round 2: x from a refused: unknown name '[red]y'",
        "federated: round 3/3  validation AUROC 1.000 (mean of 1)",
        "pooled for a, b: 1 round",
        "pooled for a, b: round 1/1",
    ]


def test_lines_are_bare_in_a_pipe() -> None:
    console = Console(file=io.StringIO())
    with listener_of(console) as told:
        tell(told)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()


def test_a_bar_per_arm_on_a_terminal(terminal: Console) -> None:
    with listener_of(terminal) as told:
        assert isinstance(told, Bar)
        tell(told)
    last = written(terminal).splitlines()[-2:]
    assert re.search(r"^federated .* 3/3 .*validation AUROC 1\.000 \(mean of 1\)", last[0])
    assert re.search(r"^pooled for a, b .* 1/1 ", last[1])


def test_a_bar_starts_where_the_run_goes_on(terminal: Console) -> None:
    with listener_of(terminal) as told:
        told.begin("federated", 4, 3)
    assert "3/4" in written(terminal).splitlines()[-1]


def test_a_refusal_stays_above_the_bars(terminal: Console) -> None:
    with listener_of(terminal) as told:
        tell(told)
    lines = [line.strip() for line in written(terminal).splitlines()]
    assert "round 2: x from a refused: unknown name '[red]y'" in lines[:-2]


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Silent())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        ({"a": None, "b": NAN}, ""),
        ({"a": 2.0, "b": NAN, "c": float("inf"), "d": 4.0}, "validation MAE 3.000 (mean of 2)"),
    ],
)
def test_only_known_values_are_averaged(values: dict[str, float | None], words: str) -> None:
    assert shown(values, "MAE") == words


def several(board: Board) -> None:
    """Two runs that take turns, one in this process and one that is told of."""
    one = board.listener("plan, seed 0")
    one.begin("federated", 3, 0)
    board.tell("plan, seed 1", {"event": "begin", "arm": "federated", "rounds": 3, "done": 2})
    one.round_done("federated", 1, values={"a": 0.5}, metric="AUROC")
    board.tell("plan, seed 1", {"event": "round", "arm": "federated", "number": 3})
    board.tell("plan, seed 1", {"event": "say", "text": "round 3: [red] refused"})
    one.begin("alone", 2, 0)
    one.say("round 1: the turn of a failed")


def test_a_line_per_run_that_has_ended_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=20)
    with Board.of(console, total=5, done=2) as board:
        several(board)
        board.tell("plan, seed 1", {"event": "done"})
        board.job_done("plan, seed 0")
        board.tell("plan, seed 2", {"event": "error", "message": "its process has died"})
    assert written(console).splitlines() == [
        "plan, seed 1: round 3: [red] refused",
        "plan, seed 0: round 1: the turn of a failed",
        "[3/5] plan, seed 1",
        "[4/5] plan, seed 0",
    ]


def bars(console: Console) -> dict[str, str]:
    """The bars as they were drawn last: what stands behind each name."""
    lines = [line for line in written(console).splitlines() if re.search(r" \d+/\d+ ", line)]
    found = [re.match(r"\s*(.+?)\s+━.* (\d+/\d+) ", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_a_bar_for_all_runs_and_one_for_each_that_is_running(terminal: Console) -> None:
    with Board.of(terminal, total=5, done=2) as board:
        several(board)
    assert bars(terminal) == {"all runs": "2/5", "plan, seed 0": "0/2", "plan, seed 1": "3/3"}
    lines = [line.strip() for line in written(terminal).splitlines()]
    assert "plan, seed 1: round 3: [red] refused" in lines
    assert "plan, seed 0: round 1: the turn of a failed" in lines
    assert re.search(r"plan, seed 0 .* alone *$", written(terminal), flags=re.MULTILINE)


def test_the_bar_of_a_run_that_has_ended_or_failed_is_taken_down(terminal: Console) -> None:
    with Board.of(terminal, total=2, done=0) as board:
        several(board)
        board.tell("plan, seed 1", {"event": "error", "message": "its process has died"})
        board.job_done("plan, seed 0")
        board.job_done("plan, seed 7")
    last = written(terminal).splitlines()[-1]
    assert re.search(r"^all runs .* 2/2 ", last)
