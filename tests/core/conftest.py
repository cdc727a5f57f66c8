"""Puts the toy vertical within reach of the core's tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
# What a benchmark does at length, a test does in short.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

# They assert, though they are no test files.
pytest.register_assert_rewrite("conformance", "goldens", "toy_algorithm", "traps")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """The toy's own plan as a file."""
    import toy

    file = tmp_path / "toy.toml"
    file.write_text(toy.SAMPLE, encoding="utf-8")
    return file


PLUGIN = """
from dataclasses import replace
from pathlib import Path
import toy

class Fragile(toy.Net):
    def forward(self, inputs):
        if self.training:
            raise RuntimeError("out of memory")
        return super().forward(inputs)

class Vertical(toy.ToyVertical):
    def __init__(self):
        super().__init__()
        self.studies = Path(__file__).parent / "studies"

    def clients(self, plan, data_dir):
        found = zip(super().clients(plan, data_dir), plan.client)
        return [replace(c, model_fn=lambda spec: Fragile(2, 4)) if t.model.get("fragile") else c for c, t in found]

vertical = Vertical()
"""


@pytest.fixture
def toy_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy as an installed package with an entry point, so that the command line has `hetfed toy`; returns its folder."""
    import toy

    site = tmp_path / "site"
    info, study = site / "toy_plugin-1.0.dist-info", site / "studies" / "tiny"
    for folder in (info, study):
        folder.mkdir(parents=True)
    (site / "toy_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[hetfed.verticals]\ntoy = toy_plugin:vertical\n", encoding="utf-8")
    for kind in ("random", "real"):
        (study / f"{kind}.toml").write_text(toy.SAMPLE, encoding="utf-8")
    monkeypatch.syspath_prepend(site)
    # For processes that are started from a test.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(toy.__file__).parent)]), prepend=os.pathsep)
    yield site
    sys.modules.pop("toy_plugin", None)
