"""Fitted scikit-learn estimators as files that run nothing when they are read (skops).

A skops file names the types that it holds; what is neither of skops' own list nor of `TRUSTED` is refused before anything of it
is built. The arrays of trees are checked as well: their C code follows indices without looking.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from hetfed.errors import RunFolderError

TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""Types of scikit-learn that hold nothing but numbers and estimators, beside those that skops trusts by itself."""
AGAIN = "Take the folder from the run again."


class NotKept(Exception):
    """An error of an estimator that cannot be written so that reading it runs nothing; the text says why."""


def write_estimator(estimator: Any) -> bytes:
    """A fitted estimator as a skops file.

    Raises:
        NotKept: it holds types that are not trusted.

    >>> from sklearn.linear_model import LogisticRegression
    >>> fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> read_estimator(write_estimator(fitted)).predict([[0.9]]).tolist()
    [1]
    """
    import skops.io

    try:
        written: bytes = skops.io.dumps(_bare(estimator))
        # Read back by the reader's own rule: nobody is left with a file that will be refused later.
        unknown = _untrusted(written)
    # skops raises what pickle does of what cannot be written at all, and others.
    except (TypeError, ValueError, AttributeError, NotImplementedError, RecursionError) as error:
        raise NotKept(f"{type(estimator).__name__} cannot be written: {error}") from error
    if unknown:
        raise NotKept(f"{type(estimator).__name__} holds types that could run something when read: {', '.join(unknown)}")
    return written


def read_estimator(content: bytes) -> Any:
    """The estimator that a skops file holds.

    Raises:
        RunFolderError: it is damaged, or holds types that are not trusted.

    >>> read_estimator(b"cut short")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.RunFolderError: not a kept estimator: ...
    """
    import skops.io

    try:
        if unknown := _untrusted(content):
            problem = f"it holds types that could run something when read: {', '.join(unknown)}"
            raise RunFolderError(problem, remedy="Do not use this file: no run leaves such types.")
        estimator = skops.io.loads(content, trusted=list(TRUSTED))
        _check_trees(estimator)
    except RunFolderError:
        raise
    # A damaged file fails wherever skops happens to be in it.
    except Exception as error:
        raise RunFolderError(f"not a kept estimator: {error}", remedy=AGAIN) from error
    return estimator


def _untrusted(content: bytes) -> list[str]:
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(data=content)) - set(TRUSTED))


def _bare(estimator: Any) -> Any:
    """A copy without what fitting alone needs: an object that makes folds may be of any type."""
    if not hasattr(estimator, "cv"):
        return estimator
    # A shallow copy: the client's own estimator keeps what it was made with, to be fitted again.
    bare = copy.copy(estimator)
    bare.cv = None
    return bare


def _check_trees(estimator: Any) -> None:
    """Raise `ValueError` where a tree anywhere in the estimator leads outside of itself."""
    for left, right, asked, inner, columns in _trees(estimator):
        own = np.flatnonzero(inner)
        for child in (left[own], right[own]):
            # Children come after their parent, so that every path ends.
            if not ((child > own) & (child < len(left))).all():
                raise ValueError("a tree whose branches lead outside of it")
        if not ((asked[own] >= 0) & (asked[own] < columns)).all():
            raise ValueError("a tree that looks at columns which are not there")


def _trees(part: Any, columns: int = 0) -> Iterator[tuple[Any, Any, Any, Any, int]]:
    """Of every tree: its nodes' left and right children, the column asked, whether there are children; and how many columns."""
    name = type(part).__name__
    if name == "Tree":
        yield part.children_left, part.children_right, part.feature, part.children_left != -1, columns
    elif name == "TreePredictor":
        left, right, asked = (part.nodes[field].astype(np.int64) for field in ("left", "right", "feature_idx"))
        yield left, right, asked, part.nodes["is_leaf"] == 0, columns
    else:
        columns = getattr(part, "n_features_in_", columns)
        for one in _inside(part):
            yield from _trees(one, columns)


def _inside(part: Any) -> Iterable[Any]:
    """What a value of an estimator holds that may hold trees."""
    if isinstance(part, list | tuple):
        return part
    # Only containers and scikit-learn's own objects are looked into: nothing else can hold a tree here.
    if isinstance(part, dict):
        return part.values()
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype == object else ()
    return vars(part).values() if type(part).__module__.startswith("sklearn.") and hasattr(part, "__dict__") else ()
