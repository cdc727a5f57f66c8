"""hetfed for cities: shared encoders of traffic flow, private heads for each city's own sensors and management.

The entry point `traffic` of the group `hetfed.verticals` leads here. Importing this package loads no torch.

>>> "sample.toml" in [file.name for file in vertical.plans.iterdir()]
True
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetfed.client import Client
    from hetfed.plan import Plan
    from hetfed_traffic.script import city as city


class TrafficVertical:
    """Implements `hetfed.vertical.Vertical`."""

    name = "traffic"
    help = "Cities that forecast together.  Example: hetfed traffic run cities --data-dir data"

    @property
    def plans(self) -> Traversable:
        """The shipped plans."""
        return files(__package__) / "plans"

    @property
    def studies(self) -> Traversable:
        """The article's case study on traffic."""
        return files(__package__) / "studies"

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The cities of a plan.

        Args:
            plan: a plan whose `data` and `model` tables are those of cities.
            data_dir: the folder of data sets; without it HETFED_DATA, else the user's cache folder.

        Raises:
            PlanError: a table does not suit the data set.
            DataError: a file is missing or damaged.
        """
        # Imported here: it loads torch, which commands that only list plans do not need.
        from hetfed_traffic.clients import build_clients

        return build_clients(plan, data_dir)


vertical = TrafficVertical()


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line lists plans without waiting for torch.
    if name not in {"city"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hetfed_traffic import script

    return getattr(script, name)
