"""hetfed for hospitals: shared imaging backbones, private gene encoders, fusion and heads.

The entry point `medical` of the group `hetfed.verticals` leads here. Importing this package loads no torch.

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
    from hetfed_medical.script import hospital as hospital
    from hetfed_medical.script import hospitals as hospitals


class MedicalVertical:
    """Implements `hetfed.vertical.Vertical`."""

    name = "medical"
    help = "Hospitals that diagnose together.  Example: hetfed medical run glioma-mri --data-dir data"

    @property
    def plans(self) -> Traversable:
        """The shipped plans."""
        return files(__package__) / "plans"

    @property
    def studies(self) -> Traversable:
        """The article's case studies on hospitals and on small layers."""
        return files(__package__) / "studies"

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The hospitals of a plan.

        Args:
            plan: a plan whose `data` and `model` tables are those of hospitals.
            data_dir: the folder of data sets; without it HETFED_DATA, else the user's cache folder.

        Raises:
            PlanError: a table does not suit the data set, or the hospitals do not suit each other.
            DataError: a file is missing or damaged.
        """
        # Imported here: it loads torch, which commands that only list plans do not need.
        from hetfed_medical.clients import build_clients

        return build_clients(plan, data_dir)


vertical = MedicalVertical()


def __getattr__(name: str) -> Any:
    # Loaded when first used: the command line lists plans without waiting for torch.
    if name not in {"hospital", "hospitals"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hetfed_medical import script

    return getattr(script, name)
