"""Brain MRI of 110 patients with lower-grade glioma at five hospitals (TCGA-LGG; Buda et al. 2019)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hetfed_datasets.checks import expect_images, read_npz, require_file
from hetfed_datasets.records import Cohort

SLICES, SLICES_LARGE = "lgg_mri_slices_64.npz", "lgg_mri_top3_128.npz"
ARRAYS = ("images", "tumour_fraction", "patient_index", "patients", "patient_site")


def load(folder: Path) -> Cohort:
    """All 3929 slices, 64x64 with channels pre-contrast, FLAIR and post-contrast; label `tumour`: any of it in the slice."""
    file = require_file(folder, SLICES)
    arrays = read_npz(file, ARRAYS)
    index = arrays["patient_index"]
    return Cohort(
        name="tcga-lgg-mri",
        patient=patient_names(arrays["patients"])[index],
        site=arrays["patient_site"][index],
        modalities={"image": expect_images(arrays["images"], file, "images", (64, 64, 3))},
        labels={"tumour": (arrays["tumour_fraction"] > 0).astype(np.int64)},
        classes={"tumour": ("no tumour", "tumour")},
        columns={},
        present={},
    )


def patient_names(patients: NDArray[np.str_]) -> NDArray[np.str_]:
    """Patient names as the molecular tables write them: TCGA-CS-4941."""
    return np.char.replace(patients, "_", "-")
