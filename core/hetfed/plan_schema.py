"""What the tables of a plan have in common: they take no key that they do not know, and no number that is none.

A table that is only read is a `Table`. What a script also builds by itself, with arguments in their order (exchanges, rules,
compression), is a pydantic dataclass with `config=STRICT`, which refuses the same.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""No unknown keys, no NaN, no infinity."""
Share = Annotated[float, Field(gt=0, lt=1)]
"""More than nothing, and less than all."""


class Table(BaseModel):
    """A table of a plan."""

    model_config = ConfigDict(frozen=True, **STRICT)


class OpenTable(BaseModel):
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
