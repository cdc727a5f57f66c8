"""PneumoniaMNIST and BreastMNIST: 28x28 grey images with the publisher's splits (Yang et al. 2023, MedMNIST v2)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed_datasets.checks import expect_images, expect_labels, expect_length, read_npz, require_file
from hetfed_datasets.records import Cohort

SPLITS = {"train": "train", "val": "validation", "test": "test"}
SIDE = 28


def load_pneumonia(folder: Path) -> Cohort:
    """Chest X-rays of children: normal or pneumonia.

    Returns:
        5856 samples. Modality `image` (n, 28, 28, 1) uint8; label `pneumonia`; the publisher's split; one site.

    Raises:
        DataError: the file is missing, cut short, or holds what is no image and no label.
    """
    return _load(folder, "pneumoniamnist_28_reconstructed.npz", "pneumonia", ("normal", "pneumonia"))


def load_breast(folder: Path) -> Cohort:
    """Breast ultrasound: malignant (0), or normal and benign together (1).

    Returns:
        780 samples. Modality `image` (n, 28, 28, 1) uint8; label `tumour`; the publisher's split; one site.

    Raises:
        DataError: the file is missing, cut short, or holds what is no image and no label.
    """
    return _load(folder, "breastmnist_28.npz", "tumour", ("malignant", "benign"))


def load_pair(folder: Path) -> Cohort:
    """Both as one question of four classes: what is on this image?

    It is to be partitioned and has no official split; the publisher's parts are its sites ("train", "validation", "test"), so
    that one of them can be put aside. `folder` stands beside those of the two data sets that it joins.

    Returns:
        6636 samples. Modality `image` (n, 28, 28, 1) uint8; label `finding` of the classes "chest, normal", "chest, pneumonia",
        "breast, malignant" and "breast, benign". With classes dealt out, clients share no class and still share an encoder.

    Raises:
        DataError: a file of the two data sets is missing or damaged.
    """
    parts = [load_pneumonia(folder.parent / "pneumoniamnist"), load_breast(folder.parent / "breastmnist")]
    names = tuple(f"{place}, {name}" for part, place in zip(parts, ("chest", "breast"), strict=True) for name in _classes(part))
    # Each has two classes: those of the second follow upon those of the first.
    labels = np.concatenate([found + 2 * number for number, part in enumerate(parts) for found in part.labels.values()])
    return Cohort(
        name=folder.name,
        patient=np.concatenate([part.patient for part in parts]),
        site=np.concatenate([part.official_split for part in parts if part.official_split is not None]),
        modalities={"image": np.concatenate([part.modalities["image"] for part in parts])},
        labels={"finding": labels},
        classes={"finding": names},
        columns={},
        present={},
        registry="MedMNIST",
    )


def _classes(cohort: Cohort) -> tuple[str, ...]:
    return next(iter(cohort.classes.values()))


def _load(folder: Path, name: str, label: str, classes: tuple[str, ...]) -> Cohort:
    file = require_file(folder, name)
    arrays = read_npz(file, [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")])
    images = [expect_images(arrays[f"{split}_images"], file, f"{split}_images", (SIDE, SIDE)) for split in SPLITS]
    labels = [expect_labels(arrays[f"{split}_labels"], classes, file, f"{split}_labels") for split in SPLITS]
    for part, pixels, known in zip(SPLITS, images, labels, strict=True):
        expect_length(known, len(pixels), file, f"{part}_labels")
    split = np.concatenate([np.full(len(part), word) for part, word in zip(labels, SPLITS.values(), strict=True)])
    total = len(split)
    # The publisher gives no patient: each image stands for one.
    return Cohort(
        name=folder.name,
        patient=np.array([f"{folder.name}-{i:05d}" for i in range(total)]),
        site=np.full(total, folder.name),
        # A last axis for the channel, as every image of a cohort has.
        modalities={"image": np.concatenate(images)[..., np.newaxis]},
        labels={label: np.concatenate(labels)},
        classes={label: classes},
        columns={},
        present={},
        registry="MedMNIST",
        official_split=split,
    )
