"""Fixtures that all tests share."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The laws that models and tasks of every package keep to; they assert, though they are no test file.
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("functional")

# Several threads on little models cost more than they bring, and far more on a busy machine.
torch.set_num_threads(1)
# The same examples every time: whether a commit passes must not depend on chance.
settings.register_profile("hetfed", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("hetfed")

ROOT = Path(__file__).parent.parent
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Answer:
    """What a command left on a terminal: its exit status, and plain text."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error that an error is."""
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("HETFED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set HETFED_DATA")
    return folder


@pytest.fixture
def hetfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The command line, run in this process."""
    from hetfed.cli.main import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["hetfed", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = (COLOURS.sub("", text) for text in capsys.readouterr())
        return Answer(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A package called guest as pip would leave it: given its entry points and the text of its modules, returns its folder.

    This process finds it, and those that a test starts.
    """

    def installed(entry_points: str, **modules: str) -> Path:
        site = tmp_path / "site"
        info = site / "guest-1.0.dist-info"
        info.mkdir(parents=True)
        for name, text in modules.items():
            (site / f"{name}.py").write_text(text, encoding="utf-8")
            # For this process: a module of that name may come from another test.
            monkeypatch.delitem(sys.modules, name, raising=False)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        return site

    return installed
