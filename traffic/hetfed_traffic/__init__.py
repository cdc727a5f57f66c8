"""hetfed for cities: shared encoders of traffic flow, private heads for each city's own sensors and management.

The entry point `traffic` of the group `hetfed.verticals` leads here. Importing this package loads no torch.

>>> "sample.toml" in [file.name for file in vertical.plans.iterdir()]
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetfed.vertical import Packaged

if TYPE_CHECKING:
    from hetfed_traffic.script import city as city

HELP = "Cities that forecast together.  Example: hetfed traffic run cities --data-dir data"

vertical = Packaged("traffic", HELP, __name__)


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line lists plans without waiting for torch.
    if name not in {"city"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hetfed_traffic import script

    return getattr(script, name)
