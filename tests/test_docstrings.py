"""The examples in docstrings run."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core/hetfed", "datasets/hetfed_datasets", "medical/hetfed_medical", "traffic/hetfed_traffic")
FILES = [(ROOT / package).parent for package in PACKAGES]
MODULES = [
    ".".join(file.relative_to(home).with_suffix("").parts).removesuffix(".__init__")
    for home in FILES
    for file in sorted(home.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_there_are_examples() -> None:
    assert len(MODULES) >= 15
