"""The script that README opens with runs as it stands, and strict mypy passes on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WIDTHS = ("width 16", "width 32", "width 64")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first block of Python, as a file in a folder of its own."""
    file = tmp_path_factory.mktemp("readme") / "digits.py"
    first = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert first is not None
    file.write_text(first[1], encoding="utf-8")
    return file


def python(*words: str, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HETFED_DATA": str(cwd / "nothing")}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_it_stands_first_and_is_short(script: Path) -> None:
    assert README.index("```python") < README.index("## Two commands")
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 20


def test_it_runs_as_it_stands(script: Path) -> None:
    said = python("-W", "error", script.name, cwd=script.parent)
    table = said[said.rindex("          metric") :] if "          metric" in said else said
    assert all(word in table for word in (*WIDTHS, "accuracy", "alone", "federated", "pooled", "probability:0"))
    run = script.parent / "runs" / "digits"
    names = {file.name for file in run.iterdir()}
    assert {"report.html", "summary.json", "ledger.jsonl", "rounds.csv", "models", "predictions"} <= names
    assert {file.name for file in (run / "models").iterdir()} == set(WIDTHS)
    for name in WIDTHS:
        predictions = pd.read_csv(run / "predictions" / f"{name}.csv")
        guess = predictions.filter(like="probability:").idxmax(axis=1).str.removeprefix("probability:").astype(int)
        # A tenth is chance.
        assert (guess == predictions["target"]).mean() > 0.3


@pytest.mark.slow
def test_strict_mypy_passes_on_it(script: Path) -> None:
    python("-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache" / "readme"), script.name, cwd=script.parent)
