"""Synthetic hospitals: each patient has a tumour of a hidden subtype that shows in the lesion's shape and in gene modules.

What it imitates, and how:

- subtype z: A or B, drawn per patient with the hospital's own prevalence (label shift);
- image (32, 32, 1): a lesion on textured tissue. Subtype B is on average more lobed (its radius waves more with the angle) and
  darker at its centre (necrosis); both strengths are drawn per patient, and the two distributions overlap;
- scanner: each hospital has a gain, an offset, a blur and a noise level;
- genes (60): five modules of ten genes and ten genes of no module. The activity of modules 0 and 1 leans on z, that of the
  others varies without it; a gene is loading x activity + own noise + the batch effect of its hospital (shift and scale);
- missing modalities: a hospital may sequence nobody, and single patients lack the image or the genes, never both.

All of it is made up; no patient stands behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hetfed_datasets.records import Cohort

SIDE = 32
MODULES, PER_MODULE, LONE = 5, 10, 10
GENES = tuple(f"module{m}-gene{g}" for m in range(MODULES) for g in range(PER_MODULE)) + tuple(f"gene{g}" for g in range(LONE))
CLASSES = ("subtype A", "subtype B")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hospital:
    """One institution: how many patients, its share of subtype B, its scanner, and how often a modality is missing.

    Args:
        patients: how many.
        prevalence: the share of subtype B, from 0 to 1.
        gain: the factor of the scanner on brightness.
        offset: what the scanner adds to brightness, which runs from 0 to 1.
        blur: the standard deviation of a Gaussian, in pixels.
        noise: the standard deviation of the noise, in brightness.
        no_image: the share of patients without an image.
        no_genes: the share of patients without genes. With `no_image` it sums to 1 at most.
    """

    patients: int
    prevalence: float
    gain: float
    offset: float
    blur: float
    noise: float
    no_image: float
    no_genes: float


HOSPITALS = {
    "north": Hospital(150, 0.50, 1.00, 0.00, 0.5, 0.06, no_image=0.05, no_genes=0.15),
    "south": Hospital(110, 0.40, 0.85, 0.08, 0.8, 0.08, no_image=0.10, no_genes=0.10),
    "east": Hospital(90, 0.60, 1.15, -0.05, 0.4, 0.10, no_image=0.00, no_genes=1.00),
    "west": Hospital(60, 0.45, 0.90, 0.04, 1.0, 0.07, no_image=0.50, no_genes=0.00),
}


def generate(seed: int = 0) -> Cohort:
    """410 patients at the hospitals north, south, east and west; east has images only, half of west has genes only.

    Modalities `image` (n, 32, 32, 1) uint8 and `genes` (n, 60) float32; label `subtype`. The same seed gives the same cohort.

    >>> cohort = generate()
    >>> {name: values.shape for name, values in cohort.modalities.items()}
    {'image': (410, 32, 32, 1), 'genes': (410, 60)}
    >>> east = cohort.take(cohort.site == "east")
    >>> int(east.present["genes"].sum()), len(east)
    (0, 90)
    """
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0.7, 0.2, (MODULES, PER_MODULE))
    # One set of loadings for all: biology is the same everywhere, and only the batch effect is a hospital's own.
    parts = [_hospital(hospital, loadings, rng) for hospital in HOSPITALS.values()]
    subtype, image, genes, has_image, has_genes = (np.concatenate(column) for column in zip(*parts, strict=True))
    site = np.repeat(list(HOSPITALS), [hospital.patients for hospital in HOSPITALS.values()])
    return Cohort(
        name="sample-hospitals",
        patient=np.array([f"{name}-{row:04d}" for row, name in enumerate(site)]),
        site=site,
        # Zeros where a modality is missing, as `Cohort` promises.
        modalities={"image": image * has_image[:, None, None, None], "genes": genes * has_genes[:, None]},
        labels={"subtype": subtype},
        classes={"subtype": CLASSES},
        columns={"genes": GENES},
        present={"image": has_image, "genes": has_genes},
        synthetic=True,
    )


def _hospital(hospital: Hospital, loadings: Array, rng: np.random.Generator) -> tuple[NDArray[np.generic], ...]:
    subtype = (rng.random(hospital.patients) < hospital.prevalence).astype(np.int64)
    scans = _scan(_lesions(subtype, rng), hospital, rng)
    genes = _expression(subtype, loadings, rng)
    # A fate below no_image loses the image, one above 1 - no_genes the genes: never both, as the two shares sum to 1 at most.
    fate = rng.random(hospital.patients)
    return subtype, scans, genes, fate >= hospital.no_image, fate < 1 - hospital.no_genes


def _lesions(subtype: NDArray[np.int64], rng: np.random.Generator) -> Array:
    """Tissue with a lesion (n, height, width), brightness about 0..1."""
    n = len(subtype)
    y, x = np.mgrid[:SIDE, :SIDE]
    centre = rng.uniform(12, 20, (2, n, 1, 1))
    dy, dx = y - centre[0], x - centre[1]
    distance, angle = np.hypot(dy, dx), np.arctan2(dy, dx)
    # The number of lobes does not depend on the subtype, only how far they stand out.
    lobes = rng.integers(4, 7, (n, 1, 1))
    # Drawn so that the subtypes overlap here, in the necrosis and in the genes: nothing of these settles a case by itself.
    waviness = np.abs(rng.normal(0.08 + 0.22 * subtype, 0.08))[:, None, None]
    radius = rng.uniform(6, 9, (n, 1, 1)) * (1 + waviness * np.sin(lobes * angle + rng.uniform(0, 2 * np.pi, (n, 1, 1))))
    inside = 1 / (1 + np.exp(2 * (distance - radius)))
    necrosis = rng.normal(0.05 + 0.25 * subtype, 0.14)[:, None, None] * np.exp(-((distance / 3.5) ** 2))
    tissue = 0.3 + 0.2 * gaussian_filter(rng.normal(size=(n, SIDE, SIDE)), (0, 2, 2))
    return np.asarray(tissue + inside * (0.4 - necrosis))


def _scan(tissue: Array, hospital: Hospital, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What the hospital's scanner makes of it (n, height, width, 1)."""
    seen = hospital.gain * gaussian_filter(tissue, (0, hospital.blur, hospital.blur)) + hospital.offset
    noisy = seen + rng.normal(0, hospital.noise, seen.shape)
    return np.asarray(np.clip(noisy, 0, 1) * 255, dtype=np.uint8)[..., np.newaxis]


def _expression(subtype: NDArray[np.int64], loadings: Array, rng: np.random.Generator) -> NDArray[np.float32]:
    """Expression (n, genes) with the batch effect of one hospital."""
    n = len(subtype)
    activity = rng.normal(size=(n, MODULES))
    sign = 2 * subtype - 1
    # Less than half a standard deviation either way: two modules that lean on the subtype, and none that gives it away.
    activity[:, 0] += 0.45 * sign
    activity[:, 1] -= 0.45 * sign
    modules = (activity[:, :, None] * loadings).reshape(n, -1)
    signal = np.concatenate([modules, np.zeros((n, LONE))], axis=1) + rng.normal(0, 0.8, (n, len(GENES)))
    shift, scale = rng.normal(0, 0.4, len(GENES)), rng.uniform(0.8, 1.2, len(GENES))
    return (signal * scale + shift).astype(np.float32)
