"""comparison.json: what has been compared in a folder so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hetfed.errors import RunFolderError
from hetfed.plan_schema import STRICT
from hetfed.results.reading import table_of
from hetfed.results.writing import write_json
from hetfed.validation_errors import keys_of, plan_error

ABOUT = "comparison.json"


@dataclass(frozen=True, config=STRICT)
class About:
    """The contents of the folder of a comparison, over every call that has run into it.

    Args:
        plan: its path.
        seeds: the largest number of them.
        algorithms: that have been compared, in order.
        variants: how the plan sets an algorithm where it does, by the algorithm's name.
        left_out: why an algorithm does not suit the clients, by its name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     About("plan.toml", seeds=3, algorithms=("fedavg",)).write(Path(home))
    ...     read_about(Path(home)).algorithms
    ('fedavg',)
    """

    plan: str = ""
    seeds: int = 0
    algorithms: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """Write it into the folder of a comparison."""
        write_json(out / ABOUT, asdict(self))


def read_about(out: Path) -> About:
    """What the folder holds so far: nothing where nobody has compared anything yet.

    Raises:
        RunFolderError: its file is broken.
    """
    file = out / ABOUT
    if not file.exists():
        return About()
    try:
        return TypeAdapter(About).validate_python(table_of(file))
    except (RunFolderError, ValidationError) as error:
        found = error if isinstance(error, RunFolderError) else plan_error(error, "", keys_of(About))
        why = f"{found.key}: {found.problem}" if found.key else found.problem
        remedy = "Remove the file and run the comparison again: what has ended stays."
        raise RunFolderError(f"not what a comparison leaves: {why}", file=file, remedy=remedy) from None
