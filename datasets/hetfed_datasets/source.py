"""A source: where a record comes from, and how it is read. Importing this loads no data and no loader."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hetfed_datasets.records import Cohort, Series


@dataclass(frozen=True)
class File:
    """One file of a data set: its SHA-256, and the publisher's address where one serves exactly these bytes.

    Args:
        sha256: 64 hexadecimal digits. The published figures stand on exactly these bytes.
        url: the address that serves them; None where a file is prepared by hand.

    >>> File("0" * 64).url is None
    True
    """

    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a record comes from.

    Args:
        name: what plans call it, and the name of its folder below the data folder.
        kind: whether it yields a `Cohort` or a `Series`.
        title: one line on what it is.
        loader: a function, or `module:function`, by which the module is imported only when data are read. It is given the
            folder of the data set; where the data are `generated`, nothing.
        origin: who publishes it.
        licence: its terms.
        files: the files that are pinned, by name.
        joins: the data sets that it is made of.
        generated: whether it is made up from a seed.
        options: what else the loader takes by name, as "city" of a data set of several cities.

    >>> from hetfed_datasets.random_input import table
    >>> noise = Source("noise", "cohort", "random columns", table, origin="made up", generated=True)
    >>> len(noise.load(Path(), patients=12))
    12
    """

    name: str
    kind: Literal["cohort", "series"]
    title: str
    loader: str | Callable[..., Cohort | Series]
    origin: str
    licence: str = "none stated"
    files: Mapping[str, File] = field(default_factory=dict)
    joins: tuple[str, ...] = ()
    generated: bool = False
    options: tuple[str, ...] = ()

    def load(self, root: Path, **options: Any) -> Cohort | Series:
        """The record, read from `root/<name>` or generated, as the gate has let it through.

        Args:
            root: the folder that holds a folder for each data set; not looked at where the data are generated.
            options: go on to the loader.

        Raises:
            DataError: a file is missing, or not what it should be, or the record is not.
        """
        # Imported here, for pandas is not needed to list data sets.
        from hetfed_datasets.gate import check_record

        load = self._loader()
        return check_record(load(**options) if self.generated else load(root / self.name, **options), self.kind)

    def altered(self, root: Path) -> list[Path]:
        """The files below `root` that are there and have other bytes than those that were tested.

        Args:
            root: the folder that holds a folder for each data set.
        """
        there = {root / self.name / name: file for name, file in self.files.items() if (root / self.name / name).is_file()}
        return [path for path, file in there.items() if hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256]

    def _loader(self) -> Callable[..., Cohort | Series]:
        if not isinstance(self.loader, str):
            return self.loader
        # By name and not by import: a plan that reads one data set loads one loader.
        module, _, function = self.loader.partition(":")
        loader: Callable[..., Cohort | Series] = getattr(import_module(module), function)
        return loader

    def way_to(self, file_name: str, root: Path) -> str:
        """What to do about a file that is not there below `root`, as a sentence without its end.

        >>> made = Source("ward", "cohort", "a ward", "ward:load", "the ward's archive", files={"ward.csv": File("0" * 64)})
        >>> made.way_to("ward.csv", Path("data"))
        "No publisher serves it: prepare it from its source (the ward's archive) and put it there, as docs/datasets.md says"
        """
        file = self.files.get(file_name)
        if file is None or file.url is not None:
            # The command as it is to be typed: with the folder, where that is not the one it would take by itself.
            option = "" if root == data_root() else f" --data-dir {shlex.quote(str(root))}"
            return f"Get it with `hetfed datasets fetch {self.name}{option}`"
        return f"No publisher serves it: prepare it from its source ({self.origin}) and put it there, as docs/datasets.md says"


def fault_of(name: str, source: object) -> str:
    """What keeps `source` from being registered as `name`, in words; empty where nothing does.

    >>> fault_of("ward", "ward.csv")
    'it is a str, not a hetfed_datasets.source.Source'
    """
    if not isinstance(source, Source):
        return f"it is a {type(source).__name__}, not a hetfed_datasets.source.Source"
    return "" if source.name == name else f"it calls itself {source.name!r}"


def data_root(explicit: Path | None = None) -> Path:
    """Where data sets lie: the folder given, else HETFED_DATA, else the user's cache folder.

    >>> data_root(Path("data")).name
    'data'
    """
    if explicit is not None:
        return explicit
    if os.environ.get("HETFED_DATA"):
        return Path(os.environ["HETFED_DATA"])
    import pooch

    return Path(pooch.os_cache("hetfed"))
