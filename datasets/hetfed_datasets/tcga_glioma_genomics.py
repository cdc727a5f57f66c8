"""Molecular profiles of 569 glioma patients at 35 hospitals (TCGA; the tables of Chen et al. 2022, PORPOISE)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed_datasets.checks import expect_columns, expect_labels, numbers, read_csv, require_file
from hetfed_datasets.records import MISSING_LABEL, Cohort

FILE = "tcga_gbmlgg_all_clean_mutsig.csv.zip"
LABEL = "idh1"
MUTATION = "IDH1_mut"


def load(folder: Path) -> Cohort:
    """One row per patient: `genes` is RNA expression (z-scores), label `idh1` whether IDH1 is mutated.

    No mutation column is among the inputs: one of them is the label.

    Returns:
        Modality `genes` (569, 1544) without gaps; label `idh1` of "wild type" (193) and "mutated" (376); 35 sites.

    Raises:
        DataError: the file is missing, cut short, or holds a cell that is no number.
    """
    file = require_file(folder, FILE)
    frame = read_csv(file)
    expect_columns(frame, file, names=["case_id", MUTATION])
    # Slides come in several rows of a patient; expression is the same in all of them.
    patients = frame.drop_duplicates("case_id")
    genes = [column for column in patients.columns if column.endswith("_rnaseq")]
    # A change in the number of genes is a change of the file, and would change every model's input.
    expect_columns(patients[genes], file, count=1544)
    classes = ("wild type", "mutated")
    names = patients["case_id"].to_numpy(dtype=np.str_)
    return Cohort(
        name="tcga-glioma-genomics",
        patient=names,
        # The tissue source site stands in the patient's name; the table's own `site` column has lost leading zeros.
        site=np.array([name[5:7] for name in names]),
        modalities={"genes": numbers(patients[genes], file, complete=True)},
        labels={LABEL: expect_labels(patients[MUTATION].fillna(MISSING_LABEL), classes, file, MUTATION)},
        classes={LABEL: classes},
        columns={"genes": tuple(genes)},
        present={},
        registry="TCGA",
    )
