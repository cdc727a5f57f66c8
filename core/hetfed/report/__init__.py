"""The report of a run: one self-contained page, readable offline."""

from hetfed.report.write import write_report

__all__ = ["write_report"]
