"""From a run folder to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed.results.folder import RunFolder


REPORT = "report.html"


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` and the plots of a run that has ended; returns the page's path.

    Args:
        folder: of a run; the page goes to `report.html`, the pictures to `plots/`.

    Raises:
        RunFolderError: the folder holds no run that has ended, or is damaged. RunError: the disk is full.
    """
    # Imported here: matplotlib, pandas and jinja2 are slow to load, and a command that writes no report needs none of them.
    from hetfed.report.facts import read_facts
    from hetfed.report.page import render
    from hetfed.report.plots import draw_all
    from hetfed.results.folder import SUMMARY
    from hetfed.results.reading import contents_of, refuse_links
    from hetfed.results.writing import write_pages

    refuse_links(folder.path)
    facts = read_facts(folder)
    # What each file is has been looked at; what follows relies on all that the summary says.
    with contents_of(folder.path / SUMMARY):
        plots = draw_all(facts)
        page = render(facts, plots)
    write_pages(folder.path, {**{f"{folder.plots.name}/{name}": svg for name, svg in plots.items()}, REPORT: page})
    return folder.path / REPORT
