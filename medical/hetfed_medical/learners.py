"""Classifiers for hospitals that have no network: scikit-learn's, by name. Each is one row of `LEARNERS`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from hetfed.errors import PlanError
from hetfed.learner import Estimator
from hetfed.seeding import derive


class Row(NamedTuple):
    """Where a classifier is found, and the settings that a plan may change."""

    module: str
    name: str
    settings: Mapping[str, Any]


LEARNERS = {
    "random-forest": Row("sklearn.ensemble", "RandomForestClassifier", {"n_estimators": 200, "min_samples_leaf": 2}),
    "extra-trees": Row("sklearn.ensemble", "ExtraTreesClassifier", {"n_estimators": 200, "min_samples_leaf": 2}),
    "gradient-boosting": Row("sklearn.ensemble", "HistGradientBoostingClassifier", {"max_iter": 50, "min_samples_leaf": 5}),
    "svm": Row("sklearn.svm", "SVC", {}),
    "logistic-regression": Row("sklearn.linear_model", "LogisticRegression", {"C": 0.01, "max_iter": 1000}),
}
"""The `learner` of a model table."""


def new_learner(name: str, settings: Mapping[str, Any], key: str, *seed_path: object) -> Estimator:
    """An unfitted classifier, the same for the same `seed_path`.

    Raises:
        PlanError: a setting that it does not take.
    """
    row = LEARNERS[name]
    try:
        seed = derive(*seed_path) % 2**32
        estimator: Estimator = getattr(import_module(row.module), row.name)(**{**row.settings, **settings}, random_state=seed)
    except TypeError as error:
        remedy = f"scikit-learn's documentation of {row.name} lists what it takes."
        raise PlanError(str(error), key=f"{key}.model.settings", value=dict(settings), remedy=remedy) from None
    return _with_probabilities(estimator, seed) if name == "svm" else estimator


def _with_probabilities(estimator: Estimator, seed: int) -> Estimator:
    """The same, its decisions turned into probabilities by cross-validation (Platt 1999)."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold

    # Shuffled, as own examples come before those of a lesson.
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    calibrated: Estimator = CalibratedClassifierCV(estimator, ensemble=False, cv=folds)
    return calibrated
