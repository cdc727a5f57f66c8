"""Heart disease at four hospitals (Detrano et al. 1989; UCI Machine Learning Repository)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed_datasets.checks import expect_columns, expect_labels, expect_rows, numbers, read_csv, require_file
from hetfed_datasets.records import MISSING_LABEL, Cohort

HOSPITALS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}
"""Patients of each."""
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal")
MEASURED = ("trestbps", "chol")
"""Columns in which 0 stands for "not measured"."""
CLASSES = ("no disease", "disease")


def load(folder: Path) -> Cohort:
    """920 patients, 13 clinical columns with missing values (NaN), label `disease`: narrowed vessels, of whatever grade.

    Returns:
        Modality `clinical` (920, 13), NaN where missing: `ca` is for 99 % of the patients of two hospitals, `chol` for
        all of Switzerland. Label `disease`;
        four sites.

    Raises:
        DataError: a file is missing, cut short, or holds a cell or a grade that cannot be.
    """
    tables, labels, sites = [], [], []
    for hospital, patients in HOSPITALS.items():
        file = require_file(folder, f"processed.{hospital}.data")
        frame = read_csv(file, header=None, na_values="?")
        expect_columns(frame, file, count=len(COLUMNS) + 1)
        expect_rows(frame, file, patients)
        values = numbers(frame, file)
        # Nobody lives with a pressure or a cholesterol of 0: so these files write what was not measured.
        measured = values[:, [COLUMNS.index(column) for column in MEASURED]]
        values[:, [COLUMNS.index(column) for column in MEASURED]] = np.where(measured == 0, np.nan, measured)
        grade = expect_labels(frame.iloc[:, -1], ("none", "1", "2", "3", "4"), file, "column 14")
        tables.append(values[:, :-1])
        # Grades 1 to 4 count as disease, as in most work on these data; single grades are rare at a hospital.
        labels.append(np.where(grade == MISSING_LABEL, MISSING_LABEL, grade > 0).astype(np.int64))
        sites.append(np.full(len(frame), hospital))
    site = np.concatenate(sites)
    return Cohort(
        name="uci-heart-4hospitals",
        patient=np.array([f"{hospital}-{row}" for row, hospital in enumerate(site)]),
        site=site,
        modalities={"clinical": np.concatenate(tables)},
        labels={"disease": np.concatenate(labels)},
        classes={"disease": CLASSES},
        columns={"clinical": COLUMNS},
        present={},
    )
