"""How to go on with a command that was stopped: the command to give next, in full."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hetfed.errors import RunError, Stopped, WorkerDied


def command(*words: object, **options: object) -> str:
    """A command of `hetfed` to be copied to a shell; options that are None are left out.

    >>> command("medical", "run", "my plan.toml", seed=1, data_dir=None)
    "hetfed medical run 'my plan.toml' --seed 1"
    """
    given = [word for name, value in options.items() if value is not None for word in (f"--{name.replace('_', '-')}", value)]
    return shlex.join(["hetfed", *map(str, words), *map(str, given)])


@contextmanager
def stoppable(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Turn an interruption from the keyboard into one line that ends with `how_to_go_on`.

    Raises:
        Stopped: instead of KeyboardInterrupt.

    >>> with stoppable(lambda: "go on with: hetfed medical run --resume"):
    ...     raise KeyboardInterrupt
    Traceback (most recent call last):
    hetfed.errors.Stopped: go on with: hetfed medical run --resume
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(how_to_go_on()) from None


@contextmanager
def outliving(again: str) -> Iterator[None]:
    """Say of a worker that has died that `again` goes on from there.

    A worker that was killed leaves no message of its own: most often the machine ran out of memory.

    Raises:
        RunError: instead of WorkerDied.
    """
    try:
        yield
    except WorkerDied as error:
        remedy = "Where memory ran out, give fewer --jobs. What has ended is kept; go on with"
        raise RunError(f"{error}. {remedy}: {again}") from error
