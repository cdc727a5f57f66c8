"""hetfed for cities: shared encoders of traffic flow, private heads for each city's own sensors and management."""

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
        """The cities of a plan."""
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
