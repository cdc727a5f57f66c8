"""comparison.json: what has been compared in a folder so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hetfed.errors import RunFolderError
from hetfed.results.folder import write_json

ABOUT = "comparison.json"


@dataclass(frozen=True)
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
    if not file.is_file():
        return About()
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return About(**{**known, "algorithms": tuple(known.get("algorithms", ()))})
    except (ValueError, TypeError, AttributeError) as error:
        remedy = "Remove the file and run the comparison again: what has ended stays."
        raise RunFolderError(f"not what a comparison leaves: {error}", file=file, remedy=remedy) from None
