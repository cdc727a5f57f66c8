"""The one exception tree of hetfed.

HetfedError
├── UsageError        the user can mend it: exit status 2
│   ├── PlanError     a plan, or an option of the command line
│   ├── DataError     a data file
│   └── RunFolderError  the folder that a run reads or writes
├── PayloadRefused    an upload that does not keep its declaration: the round goes on without it
├── RunError          a run that failed while it ran: exit status 1
│   └── WorkerDied    a process that is gone, and its run with it
└── Stopped           a command that was interrupted from the keyboard: exit status 130
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Self

MANY, FEW = 40, 12
"""A list of more than so many words is cut to so many."""


class HetfedError(Exception):
    """Root of every error that hetfed raises on purpose.

    The command line shows its text without a traceback; whatever is no HetfedError is a fault of the program.
    """


class UsageError(HetfedError):
    """Something the user can mend.

    The message always has the same order: where (file, then key), what is there (value), what is wrong, and the remedy.

    Args:
        problem: what is wrong, in words.
        remedy: what to do about it, a sentence.
        file: where it stands.
        key: the key, the column or the option, as the user wrote it.
        value: what stands there; None is not shown.

    >>> raise PlanError("not a number of rounds", file="plan.toml", key="federation.rounds", value=0, remedy="Set 1 or more.")
    Traceback (most recent call last):
    hetfed.errors.PlanError: plan.toml: federation.rounds: not a number of rounds (value: 0). Set 1 or more.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str,
        file: str | Path | None = None,
        key: str | None = None,
        value: object = None,
    ) -> None:
        self.problem, self.remedy, self.file, self.key, self.value = problem, remedy, file, key, value
        where = ": ".join(str(part) for part in (file, key) if part is not None)
        shown = "" if value is None else f" (value: {value!r})"
        super().__init__(f"{where + ': ' if where else ''}{problem}{shown}. {remedy}")

    def seen_from(self, *, file: str | Path | None = None, key: str | None = None) -> Self:
        """The same error as its caller knows it: in `file`, its key below `key`.

        >>> str(PlanError("unknown", key="kind", remedy="Name another.").seen_from(file="plan.toml", key="exchange"))
        'plan.toml: exchange.kind: unknown. Name another.'
        """
        # The innermost file is the one to name, whereas each caller puts its own key in front.
        below = ".".join(part for part in (key, self.key) if part)
        return type(self)(self.problem, remedy=self.remedy, file=self.file or file, key=below or None, value=self.value)


class PlanError(UsageError):
    """A plan, an argument of a script, or an option of the command line, that cannot be followed."""


class DataError(UsageError):
    """A data file that is missing, cut short, or does not hold what it should."""


class RunFolderError(UsageError):
    """An output folder or a checkpoint that does not belong to this run."""


class PayloadRefused(HetfedError):
    """An upload that does not keep its declaration; the text is the reason that the ledger records."""


class RunError(HetfedError):
    """A run that failed while it ran."""


class WorkerDied(RunError):
    """A process that was killed or ended itself while a run was in it."""


class Stopped(HetfedError):
    """A command that was interrupted from the keyboard; the text is how to go on."""


def among(word: object, known: Iterable[str], lead: str = "Known") -> str:
    """The remedy of a word that is none of `known`: the nearest of them, then all, or the first few of very many.

    >>> among("fedavgg", ["fedavg", "fedprox"])
    "Did you mean 'fedavg'? Known: fedavg, fedprox."
    """
    words = list(known)
    # A word that is long by its ending alone, as `TP53_rnaseq` is, does not count as close to its beginning.
    longer = sorted((one for one in words if one.startswith(str(word))), key=len)
    near = get_close_matches(str(word), words, n=1) or longer[:1]
    shown = words if len(words) <= MANY else [*words[:FEW], f"... and {len(words) - FEW} more"]
    return f"{''.join(f'Did you mean {one!r}? ' for one in near)}{lead}: {', '.join(shown) or 'none'}."
