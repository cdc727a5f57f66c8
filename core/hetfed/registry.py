"""What a plan can name: items of this project, of installed packages and of a user's script, in one way for all.

Datasets, modalities, backbones and encoders stand in registries of their own; each is looked up by the name in a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TypeVar

from hetfed.errors import PlanError, among

Item = TypeVar("Item")
Same = TypeVar("Same")


def same_definition(one: type | Callable[..., object], other: type | Callable[..., object]) -> bool:
    """Whether two classes or functions are one and the same, or one is the other defined anew.

    >>> def scaled(): ...
    >>> before = scaled
    >>> def scaled(): ...
    >>> same_definition(before, scaled), same_definition(scaled, print)
    (True, False)
    """
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


class Registry(Mapping[str, Item]):
    """Items by name. Installed packages add theirs through entry points, which are loaded when the registry is first read.

    Args:
        what: what an item is, as messages call it.
        items: the items that this project ships.
        group: the group of entry points. An entry point leads to an item, which takes the entry point's name, or to a module
            that registers its items itself when it is imported.
        fault: what is wrong with an item under a name, in words; empty where nothing is.

    >>> shapes = Registry("shape", {"circle": 0})
    >>> shapes.add("triangle", 3)
    3
    >>> shapes.find("triangel", key="model.shape")
    Traceback (most recent call last):
    hetfed.errors.PlanError: model.shape: unknown shape (value: 'triangel'). Did you mean 'triangle'? Known: circle, triangle.
    """

    def __init__(
        self,
        what: str,
        items: Mapping[str, Item] | None = None,
        *,
        group: str | None = None,
        fault: Callable[[str, Item], str] = lambda name, item: "",
    ) -> None:
        self.what, self.group, self._fault = what, group, fault
        self._items: dict[str, Item] = dict(items or {})
        # None until the entry points have been looked up: a command that reads no registry does not pay for it.
        self._waiting: list[EntryPoint] | None = [] if group is None else None

    def __getitem__(self, name: str) -> Item:
        self._load()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._items)

    def __len__(self) -> int:
        self._load()
        return len(self._items)

    def add(self, name: str, item: Item, *, replace: bool = False) -> Item:
        """Register `item` under `name`, and return it.

        Args:
            name: as a plan names it.
            item: of the registry's kind, which `fault` judges.
            replace: whether it may stand in the place of another item of that name, as a notebook cell run twice needs.

        Raises:
            ValueError: the name is taken, or the item is not one.
        """
        # Without loading entry points: a package may register from the module that its own entry point is in.
        known = self._items.get(name, item)
        if known is not item and not replace:
            raise ValueError(f"there is another {self.what} {name!r}: choose another name, or say replace=True")
        if fault := self._fault(name, item):
            raise ValueError(f"{name!r} is no {self.what}: {fault}")
        # Only now: an item that is refused leaves the registry as it was.
        self._items[name] = item
        return item

    def register(self, name: str, *, replace: bool = False) -> Callable[[Same], Same]:
        """`add` as a decorator of a function or a class.

        >>> encoders = Registry("encoder")
        >>> @encoders.register("wide")
        ... def wide(columns, features): ...
        >>> list(encoders)
        ['wide']
        """

        def added(item: Same) -> Same:
            """Add the item under its name."""
            self.add(name, item, replace=replace)  # type: ignore[arg-type]  # `fault` says whether it is one
            return item

        return added

    def find(self, name: str, *, key: str) -> Item:
        """The item that a plan names under `key`.

        Raises:
            PlanError: there is none of that name; the error gives the nearest, and all.
        """
        if name not in self:
            raise PlanError(f"unknown {self.what}", key=key, value=name, remedy=among(name, sorted(self)))
        return self[name]

    def known(self, name: str) -> str:
        """`name` itself, for a field of a pydantic model: `Annotated[str, AfterValidator(registry.known)]`.

        Raises:
            PydanticCustomError: there is none of that name; `hetfed.validation_errors` makes of it what `find` raises.
        """
        if name not in self:
            from pydantic_core import PydanticCustomError

            remedy = among(name, sorted(self))
            raise PydanticCustomError("unknown_name", "unknown {what}", {"what": self.what, "remedy": remedy})
        return name

    def _load(self) -> None:
        """Load the entry points that have not been loaded."""
        if self._waiting is None:
            self._waiting = sorted(entry_points(group=str(self.group)), key=lambda entry: entry.name, reverse=True)
        while self._waiting:
            # Taken away first: what is loaded may itself read this registry.
            entry = self._waiting.pop()
            try:
                item = entry.load()
                if not isinstance(item, ModuleType):
                    self.add(entry.name, item)
            except Exception as error:  # importing somebody's module can raise anything
                self._waiting.append(entry)
                package = f" of the package {entry.dist.name}" if entry.dist else ""
                problem = f"the {self.what} {entry.name!r}{package} cannot be used ({type(error).__name__}: {error})"
                remedy = "Mend the package, or uninstall it."
                raise PlanError(problem, key=f"entry point {self.group}", value=entry.value, remedy=remedy) from error
