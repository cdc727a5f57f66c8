"""hetfed for hospitals: shared imaging backbones, private gene encoders, fusion and heads.

The entry point `medical` of the group `hetfed.verticals` leads here. Importing this package loads no torch.

>>> "sample.toml" in [file.name for file in vertical.plans.iterdir()]
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetfed.vertical import Packaged

if TYPE_CHECKING:
    from hetfed_medical.script import hospital as hospital
    from hetfed_medical.script import hospitals as hospitals

HELP = "Hospitals that diagnose together.  Example: hetfed medical run glioma-mri --data-dir data"

vertical = Packaged("medical", HELP, __name__)


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line lists plans without waiting for torch.
    if name not in {"hospital", "hospitals"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hetfed_medical import script

    return getattr(script, name)
