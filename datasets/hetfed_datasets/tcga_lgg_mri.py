"""Brain MRI of 110 patients with lower-grade glioma at five hospitals (TCGA-LGG; Buda et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hetfed.errors import DataError
from hetfed_datasets.checks import FETCH_AGAIN, expect_images, expect_length, read_npz, require_file
from hetfed_datasets.records import Cohort

SLICES = "lgg_mri_slices_64.npz"
ARRAYS = ("images", "tumour_fraction", "patient_index", "patients", "patient_site")
SIDE = 64


def load(folder: Path) -> Cohort:
    """All 3929 slices, 64x64 with channels pre-contrast, FLAIR and post-contrast; label `tumour`: any of it in the slice.

    Returns:
        Modality `image` (3929, 64, 64, 3) uint8; label `tumour`; five sites. The slices of a patient follow one another.

    Raises:
        DataError: the file is missing or damaged, or an array does not fit the others.
    """
    arrays = read_slices(folder)
    index = arrays["patient_index"]
    return Cohort(
        name="tcga-lgg-mri",
        patient=patient_names(arrays["patients"])[index],
        site=arrays["patient_site"][index],
        modalities={"image": arrays["images"]},
        labels={"tumour": (arrays["tumour_fraction"] > 0).astype(np.int64)},
        classes={"tumour": ("no tumour", "tumour")},
        columns={},
        present={},
        registry="TCGA",
    )


def read_slices(folder: Path) -> Mapping[str, NDArray[Any]]:
    """The arrays of the file: `images` (n, 64, 64, 3) as bytes, `tumour_fraction` and `patient_index` (n,), and by patient.

    Raises:
        DataError: what is missing, or not what it should be.
    """
    file = require_file(folder, SLICES)
    arrays = read_npz(file, ARRAYS)
    images = expect_images(arrays["images"], file, "images", (SIDE, SIDE, 3))
    patients, index, fraction = len(arrays["patients"]), arrays["patient_index"], arrays["tumour_fraction"]
    for key, count in (("patient_site", patients), ("patient_index", len(images)), ("tumour_fraction", len(images))):
        expect_length(arrays[key], count, file, key)
    # A negative index would count from the end, and give a slice to another patient without a word.
    _refuse((index < 0) | (index >= patients), index, file, "patient_index", "no such patient")
    _refuse(~np.isfinite(fraction), fraction, file, "tumour_fraction", "share of tumour is not a number")
    return {**arrays, "images": images}


def _refuse(wrong: NDArray[np.bool_], values: NDArray[Any], file: Path, key: str, problem: str) -> None:
    """Raise `DataError` that names the first of `values` where `wrong` is true."""
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(problem, file=file, key=f"{key}[{row}]", value=values[row].item(), remedy=FETCH_AGAIN)


def patient_names(patients: NDArray[np.str_]) -> NDArray[np.str_]:
    """Patient names as the molecular tables write them: TCGA-CS-4941.

    >>> patient_names(np.array(["TCGA_CS_4941"]))
    array(['TCGA-CS-4941'], dtype='<U12')
    """
    return np.char.replace(patients, "_", "-")
