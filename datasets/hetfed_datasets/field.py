"""A field of a record, as the messages of the gate name it."""

from __future__ import annotations

from dataclasses import dataclass

from hetfed.errors import DataError


@dataclass(frozen=True)
class Field:
    """A field of a record, as messages name it: `cohort 'ward': labels['grade']`.

    Args:
        record: the kind and the name of the record.
        name: of the field, with the place in it.

    >>> Field("cohort 'ward'", "labels").at("grade", 3).name
    "labels['grade'][3]"
    """

    record: str
    name: str

    def at(self, *place: object) -> Field:
        """A place in the field: an index or a name."""
        return Field(self.record, self.name + "".join(f"[{where!r}]" for where in place))

    def fault(self, problem: str, *, value: object = None, remedy: str) -> DataError:
        """The error to raise about it.

        >>> Field("cohort 'ward'", "site").fault("no name", remedy="Name every site.")
        DataError("cohort 'ward': site: no name. Name every site.")
        """
        return DataError(problem, key=f"{self.record}: {self.name}", value=value, remedy=remedy)
