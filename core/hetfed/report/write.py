"""From a run folder to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed.results.folder import RunFolder


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` and the plots of a run that has ended; returns the page's path.

    Args:
        folder: of a run; the page goes to `report.html`, the pictures to `plots/`.

    Raises:
        RunFolderError: the folder holds no run that has ended.
    """
    # Imported here: matplotlib, pandas and jinja2 are slow to load, and a command that writes no report needs none of them.
    from hetfed.report.facts import read_facts
    from hetfed.report.page import render
    from hetfed.report.plots import draw_all

    facts = read_facts(folder)
    page = folder.path / "report.html"
    page.write_text(render(facts, draw_all(facts, folder.plots)), encoding="utf-8")
    return page
