"""MRI and molecular profile of the same glioma patients, joined by patient: a hospital has both, or genes only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed_datasets import tcga_glioma_genomics, tcga_lgg_mri
from hetfed_datasets.records import Cohort


def load(folder: Path) -> Cohort:
    """The 569 patients of `tcga-glioma-genomics`, 105 of them with the MRI slice that shows most tumour (64x64x3).

    `folder` stands beside those of the two data sets that it joins. Where to cut is known from the tumour masks, as it would
    be from a radiologist's mark.

    Returns:
        Modalities `image` (569, 64, 64, 3) uint8, zeros without MRI, and `genes` (569, 1544); label `idh1`; `present` says who
        has an image.

    Raises:
        DataError: a file of the two data sets is missing or damaged.
    """
    root = folder.parent
    genomics = tcga_glioma_genomics.load(root / "tcga-glioma-genomics")
    arrays = tcga_lgg_mri.read_slices(root / "tcga-lgg-mri")
    slices = arrays["images"]
    scanned = list(tcga_lgg_mri.patient_names(arrays["patients"]))
    images = np.zeros((len(genomics), *slices.shape[1:]), dtype=np.uint8)
    present = np.isin(genomics.patient, scanned)
    for row in np.flatnonzero(present):
        own = np.flatnonzero(arrays["patient_index"] == scanned.index(genomics.patient[row]))
        # Of some 35 slices of a patient the one with most tumour: a single slice without any would say nothing of IDH1.
        images[row] = slices[own[arrays["tumour_fraction"][own].argmax()]]
    return Cohort(
        name="tcga-glioma",
        patient=genomics.patient,
        site=genomics.site,
        modalities={"image": images, **genomics.modalities},
        labels=genomics.labels,
        classes=genomics.classes,
        columns=genomics.columns,
        present={"image": present},
        registry="TCGA",
    )
