"""Where nothing that a client sent reached another, the report claims no gain of having shared."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
import toy
from rich.console import Console

from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.report.facts import read_facts
from hetfed.report.words import headline
from hetfed.results.folder import RunFolder

PLAN = """
[federation]
rounds = 2
finetune = 0
pooled = false
{participation}
[[exchange]]
kind = "shared-parameters"
part = "head"
[[client]]
name = "a"
{other}
"""
OTHER = '[[client]]\nname = "b"\nmodel = { width = 6 }'
NOTHING = "But no client sent anything that another received: the difference is one of initialisation."


def run(out: Path, participation: str = "", other: str = OTHER) -> RunFolder:
    text = PLAN.format(participation=participation, other=other)
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(text, "x"), "toy plan x", out)
    return RunFolder(out)


@pytest.mark.parametrize(
    ("participation", "other"),
    [("[participation]\ntime_limit = 1e-6", OTHER), ("", "")],
    ids=["every upload was refused", "there is nobody else"],
)
def test_it_is_said_second_that_nothing_was_shared(tmp_path: Path, participation: str, other: str) -> None:
    folder = run(tmp_path / "run", participation, other)
    entries = [json.loads(line) for line in (folder.path / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    assert entries
    assert any(entry["accepted"] for entry in entries) == (not participation)
    assert headline(read_facts(folder))[1] == NOTHING
    assert NOTHING in unescape((folder.path / "report.html").read_text(encoding="utf-8"))


def test_where_one_upload_in_two_is_accepted_it_is_not_said(tmp_path: Path) -> None:
    slow = OTHER + "\npresence = { speed = 0.001 }"
    folder = run(tmp_path / "run", "[participation]\ntime_limit = 1.0", slow)
    assert folder.summary()["uploads_refused"] == 2
    assert NOTHING not in headline(read_facts(folder))
