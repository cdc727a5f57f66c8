"""hetfed for cities: shared encoders of traffic flow, private heads for each city's own sensors and management."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hetfed.client import Client
    from hetfed.plan import Plan


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
        """The cities of a plan."""
        # Imported here: it loads torch, which commands that only list plans do not need.
        from hetfed_traffic.clients import build_clients

        return build_clients(plan, data_dir)


vertical = TrafficVertical()
