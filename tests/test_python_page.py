"""docs/python.md runs, block after block."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from hetfed import exchanges

DOCUMENT = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a notebook knows that has run every block in order."""
    notebook = ModuleType("notebook_of_the_page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, notebook.__name__, notebook)
        patch.chdir(tmp_path_factory.mktemp("page"))
        patch.setattr(exchanges, "KINDS", dict(exchanges.KINDS))
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"docs/python.md, block {number}", "exec", dont_inherit=True), vars(notebook))
    return vars(notebook)


def test_every_block_runs(page: dict[str, Any]) -> None:
    assert len(BLOCKS) >= 10
    assert page["report"].name == "report.html"
    assert list(page["table"]["id"]) == list("01234")
    assert page["logits"].shape == (5, 10)
    assert set(page["curve"].columns) == {"width 16", "width 32", "width 64"}
    assert isinstance(page["together"].table(), pd.DataFrame)


def test_the_exchange_of_the_page_changes_what_is_learnt(page: dict[str, Any]) -> None:
    hf, clients, kind = page["hf"], page["clients"], page["MeanFeatures"]

    def ledger(weight: float) -> list[str]:
        shared = hf.compose(kind(weight=weight))
        return list(hf.federate(clients, shared, rounds=2, arms=(), finetune=0, progress=False).ledger["sha256"])

    assert ledger(0.0)[:3] == ledger(1.0)[:3]
    assert ledger(0.0)[3:] != ledger(1.0)[3:]


def test_the_clients_of_the_page_can_train(page: dict[str, Any]) -> None:
    hf = page["hf"]
    for clients in ([page["mine"]], [page["my_town"]], [page["north"]], [page["trees"]]):
        assert len(hf.federate(clients, "alone", rounds=1, arms=(), finetune=0, progress=False).table()) == 1
