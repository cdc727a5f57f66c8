"""Classifiers for hospitals that have no network: scikit-learn's, by name. Each is one row of `LEARNERS`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hetfed.errors import PlanError
from hetfed.learner import Estimator
from hetfed.seeding import derive

EXAMPLES = 20
"""So many of each class serve to try out a classifier."""


class Row(NamedTuple):
    """Where a classifier is found, and the settings that a plan may change.

    Args:
        module: imported when a plan names the classifier, and not before.
        name: of the class in it.
        settings: those that differ from scikit-learn's defaults, which a plan's `settings` override.
    """

    module: str
    name: str
    settings: Mapping[str, Any]


LEARNERS = {
    # Leaves of two examples: with one, each tree votes 0 or 1, and probabilities are coarser.
    "random-forest": Row("sklearn.ensemble", "RandomForestClassifier", {"n_estimators": 200, "min_samples_leaf": 2}),
    "extra-trees": Row("sklearn.ensemble", "ExtraTreesClassifier", {"n_estimators": 200, "min_samples_leaf": 2}),
    "gradient-boosting": Row("sklearn.ensemble", "HistGradientBoostingClassifier", {"max_iter": 50, "min_samples_leaf": 5}),
    "svm": Row("sklearn.svm", "SVC", {}),
    # Strong regularisation, since genes outnumber the patients of a hospital.
    "logistic-regression": Row("sklearn.linear_model", "LogisticRegression", {"C": 0.01, "max_iter": 1000}),
}
"""The `learner` of a model table."""


def new_learner(name: str, settings: Mapping[str, Any], key: str, *seed_path: object) -> Estimator:
    """An unfitted classifier, the same for the same `seed_path`.

    Args:
        name: one of `LEARNERS`.
        settings: of the classifier, by scikit-learn's names.
        key: of the client's table, for messages.
        seed_path: what the random state is derived from, as the run's seed and the client's name.

    Raises:
        PlanError: a setting that it does not take.

    >>> new_learner("random-forest", {"n_estimators": 50}, "client 'north'", 0, "north").get_params()["n_estimators"]
    50
    >>> new_learner("svm", {"trees": 50}, "client 'north'", 0, "north")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.PlanError: client 'north'.model.settings: ... (value: {'trees': 50}). scikit-learn's documentation of SVC ...
    """
    row = LEARNERS[name]
    try:
        # scikit-learn takes seeds of 32 bits.
        seed = derive(*seed_path) % 2**32
        estimator: Estimator = getattr(import_module(row.module), row.name)(**{**row.settings, **settings}, random_state=seed)
    except TypeError as error:
        remedy = f"scikit-learn's documentation of {row.name} lists what it takes."
        raise PlanError(str(error), key=f"{key}.model.settings", value=dict(settings), remedy=remedy) from None
    return _with_probabilities(estimator, seed) if name == "svm" else estimator


def try_out(estimator: Estimator, columns: int, classes: int, *, settings: Mapping[str, Any], key: str) -> None:
    """Fit a copy to a few examples of so many columns and classes: scikit-learn looks at what is set when it fits.

    A plan with such a setting fails in its first second instead of in its first round.

    Raises:
        PlanError: it refuses what a plan has set under `key`.

    >>> try_out(new_learner("svm", {"C": 2.0}, "", 0), columns=3, classes=2, settings={"C": 2.0}, key="client 'north'")
    """
    from sklearn.base import clone
    from sklearn.calibration import CalibratedClassifierCV

    if isinstance(estimator, CalibratedClassifierCV):
        # Itself, so that a message names it and not the function that calibrates it.
        estimator = estimator.estimator
    rng, target = np.random.default_rng(0), np.arange(EXAMPLES * classes) % classes
    try:
        with warnings.catch_warnings():
            # What it thinks of noise does not matter.
            warnings.simplefilter("ignore")
            clone(estimator).fit(rng.normal(size=(len(target), columns)), target, sample_weight=np.ones(len(target)))
    except (TypeError, ValueError) as error:
        remedy = "scikit-learn's documentation of this classifier lists what it takes."
        raise PlanError(str(error).rstrip("."), key=key, value=dict(settings), remedy=remedy) from None


def _with_probabilities(estimator: Estimator, seed: int) -> Estimator:
    """The same, its decisions turned into probabilities by cross-validation (Platt 1999)."""
    from sklearn.calibration import CalibratedClassifierCV

    # Not SVC(probability=True), which scikit-learn deprecates. ensemble=False: one machine learns from all examples, and the
    # folds serve its probabilities only.
    calibrated: Estimator = CalibratedClassifierCV(estimator, ensemble=False, cv=_Folds(seed))
    return calibrated


@dataclass(frozen=True)
class _Folds:
    """As many folds as the rarest class has examples, three at most. With a single example of a class, which can be in one part
    only, there is one fold: all examples to train and all to judge on."""

    seed: int
    most: int = 3

    def get_n_splits(self, x: object = None, y: object = None, groups: object = None) -> int:
        """How many folds these classes (n,) allow."""
        return min(self.most, int(np.unique(np.asarray(y), return_counts=True)[1].min()))

    def split(
        self, x: NDArray[np.float64], y: NDArray[np.int64], groups: object = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """The positions to train and to judge on."""
        from sklearn.model_selection import StratifiedKFold

        folds = self.get_n_splits(x, y)
        if folds == 1:
            yield np.arange(len(y)), np.arange(len(y))
            return
        # Shuffled, as own examples come before those of a lesson.
        yield from StratifiedKFold(folds, shuffle=True, random_state=self.seed).split(x, y)
