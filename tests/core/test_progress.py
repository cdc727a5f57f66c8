"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from hetfed.run.progress import Bar, Lines, Silent, listener_of, shown

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
        "pooled for a, b: 1 rounds",
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
