"""A vertical: an application of the core, found by its entry point. The core knows what it can do, not which there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from hetfed.errors import PlanError, among

if TYPE_CHECKING:
    from hetfed.client import Client
    from hetfed.plan import Plan

GROUP = "hetfed.verticals"


class Vertical(Protocol):
    """What `hetfed NAME run` needs. Importing one must be light; torch comes in with `clients`.

    A class or a module of these names will do; nothing is inherited. Its distribution names it in the entry point group
    `hetfed.verticals`, and `hetfed` then has a further group of commands.
    """

    @property
    def name(self) -> str:
        """The word after `hetfed` on the command line."""
        ...

    @property
    def help(self) -> str:
        """One line for the command line."""
        ...

    @property
    def plans(self) -> Traversable:
        """The folder of shipped plans, one TOML file each; `sample.toml` needs no data."""
        ...

    @property
    def studies(self) -> Traversable:
        """The folder of case studies: a folder each, with `random.toml` and `real.toml`."""
        ...

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The clients of `plan` with their data.

        Args:
            plan: already checked, but for its `data`, `model` and `public` tables.
            data_dir: the folder of data sets that the user has named, if any.

        Raises:
            PlanError, DataError: what the plan or a file lacks.
        """
        ...


@dataclass(frozen=True)
class Packaged:
    """A vertical of one package: its plans and studies are folders there, and its module `clients` has `build_clients`."""

    name: str
    help: str
    package: str

    @property
    def plans(self) -> Traversable:
        """The shipped plans."""
        return files(self.package) / "plans"

    @property
    def studies(self) -> Traversable:
        """The shipped case studies."""
        return files(self.package) / "studies"

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The clients of `plan` with their data.

        Args:
            plan: a plan whose `data` and `model` tables are those of this vertical.
            data_dir: the folder of data sets; without it HETFED_DATA, else the user's cache folder.

        Raises:
            PlanError, DataError: what the plan or a file lacks.
        """
        # Imported here: it loads torch, which commands that only list plans do not need.
        build: Callable[[Plan, Path | None], Sequence[Client]] = import_module(f"{self.package}.clients").build_clients
        return build(plan, data_dir)


def verticals() -> dict[str, Vertical]:
    """The installed verticals by name.

    >>> "medical" in verticals()
    True
    """
    # Entry points, so that a vertical installed beside this package is found without being named here.
    found = [cast("Vertical", entry.load()) for entry in entry_points(group=GROUP)]
    # Sorted by name, so that help and listings do not depend on the order of installation.
    return {vertical.name: vertical for vertical in sorted(found, key=lambda vertical: vertical.name)}


def shipped(folder: Traversable) -> dict[str, Traversable]:
    """The TOML files of a folder by name.

    >>> list(shipped(verticals()["traffic"].plans))[-1]
    'sample'
    """
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {file.name.removesuffix(".toml"): file for file in files}


def plan_text(vertical: Vertical, name: str) -> tuple[str, str]:
    """The text of a shipped plan, or of the TOML file called `name`, and what to call it in messages.

    Raises:
        PlanError: there is neither.

    >>> text, called = plan_text(verticals()["medical"], "sample")
    >>> called, "[[client]]" in text
    ('medical plan sample', True)
    """
    plans = shipped(vertical.plans)
    # A shipped plan comes before a file of its name, which can be given as ./NAME.
    if name in plans:
        return plans[name].read_text(encoding="utf-8"), f"{vertical.name} plan {name}"
    path = Path(name)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise PlanError(f"not text: {error}", file=path, remedy="A plan is TOML in UTF-8: save it so.") from None
    remedy = f"{among(name, plans, 'Shipped')} Or give a TOML file."
    raise PlanError("neither a shipped plan nor a file", key="PLAN", value=name, remedy=remedy)
