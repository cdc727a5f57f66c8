"""What is odd in a record and may still be so: said by `hetfed datasets check`, and by every run that reads it."""

from __future__ import annotations

from hetfed_datasets.clock import twice
from hetfed_datasets.identity import once, repeated
from hetfed_datasets.records import Cohort, Series


def notes_on(record: Cohort | Series) -> tuple[str, ...]:
    """A sentence on each oddity of a record that the gate has let through.

    >>> from hetfed_datasets.random_input import table
    >>> cohort = table(patients=3)
    >>> cohort.modalities["clinical"][2] = cohort.modalities["clinical"][0]
    >>> notes_on(cohort)
    ('random-table: 1 sample is alike to another one in everything.',)
    """
    found = _on_cohort(record) if isinstance(record, Cohort) else _on_series(record)
    return tuple(f"{record.name}: {note}" for note in found)


def _on_cohort(cohort: Cohort) -> list[str]:
    distinct, twins = once(cohort)
    alike = repeated(distinct)
    notes = []
    if twins:
        notes.append(f"{_counted(twins, 'sample')} also that of another patient, and left out: runs use each once.")
    if alike:
        notes.append(f"{_counted(alike, 'sample')} alike to another one in everything.")
    return notes


def _on_series(series: Series) -> list[str]:
    again = int(twice(series.time, series.zone).sum()) if series.zone else 0
    return [f"{_counted(again, 'step')} at a local time that came twice, when clocks went back."] if again else []


def _counted(count: int, what: str) -> str:
    return f"{count} {what} is" if count == 1 else f"{count} {what}s are"
