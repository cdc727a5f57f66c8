"""What the tables of a plan have in common: they take no key that they do not know, and no number that is none.

A table that is only read is a `Table`. What a script also builds by itself, with arguments in their order (exchanges, rules,
compression), is a pydantic dataclass with `config=STRICT`, which refuses the same.
"""

from __future__ import annotations

import re
from abc import ABCMeta
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hetfed.validation_errors import keys_of, plan_error

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""No unknown keys, no NaN, no infinity."""
LONGEST_NAME = 100
"""Of a name in bytes of UTF-8: a file system takes 255, and file names hold more than a client's."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
"""What Windows has for devices: no file may be called so there."""


def plain(name: str) -> str:
    """The name of a client or an exchange, once it is known that it can be part of a file's name everywhere.

    Raises:
        ValueError: it cannot.

    >>> plain("St. Mary 2")
    'St. Mary 2'
    """
    # No slash: a client's name is part of paths, those of its files and those of tensors in a state.
    if not re.fullmatch(r"(\w[\w .-]*)?", name):
        raise ValueError("a name begins with a letter, a digit or _, and has nothing but these, spaces, dots and hyphens")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"a name is part of those of files, and has {LONGEST_NAME} bytes at most")
    if name.partition(".")[0].strip().lower() in RESERVED:
        raise ValueError("a name is part of those of files, and this one belongs to a device on Windows")
    return name


Name = Annotated[str, AfterValidator(plain)]
"""What a client or an exchange may be called."""
Size = Annotated[int, Field(gt=0, le=2**16)]
"""Of a layer, in neurons or channels: a larger one by mistake would take all memory."""
Count = Annotated[int, Field(gt=0, le=10**6)]
"""Of rounds, epochs, steps, examples of a batch."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""More than nothing, and less than all."""


class Told(type):
    """A type whose errors are told in a plan's words where a script makes a value of it by a call.

    Pydantic makes values of a plan's tables without one, and their errors name the plan.
    """

    # Type checkers know the arguments from each class itself.
    if not TYPE_CHECKING:

        def __call__(cls, *args: object, **settings: object) -> object:
            """A value, or `PlanError`."""
            try:
                return super().__call__(*args, **settings)
            except ValidationError as error:
                raise plan_error(error, cls.__name__, keys_of(cls)) from None


class ToldModel(Told, type(BaseModel)):  # type: ignore[misc]
    """The same of a model."""


class ToldClass(Told, ABCMeta):
    """The same of a class with abstract methods."""


class Table(BaseModel, metaclass=ToldModel):  # type: ignore[metaclass]
    """A table of a plan."""

    model_config = ConfigDict(frozen=True, **STRICT)


class OpenTable(BaseModel, metaclass=ToldModel):  # type: ignore[metaclass]
    """A table that takes further keys: the arguments of something that it names, or what installed packages bring."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)


class SplitTable(Table):
    """A table of data of which shares are set apart to `train` and for `validation`; the rest is to test on.

    >>> SplitTable(train=0.7, validation=0.1)
    SplitTable(train=0.7, validation=0.1)
    """

    train: Share
    validation: Share

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        if self.train + self.validation >= 1:
            raise ValueError("train and validation leave nothing to test on: their sum must be below 1")
        return self
