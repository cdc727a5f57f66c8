"""Puts the toy vertical within reach of the core's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hypothesis import settings

settings.register_profile("core", deadline=None, max_examples=40)
settings.load_profile("core")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """The toy's own plan as a file."""
    import toy

    file = tmp_path / "toy.toml"
    file.write_text(toy.SAMPLE, encoding="utf-8")
    return file
