"""Loaders on damaged files: small ones in the shape of the real, with one thing wrong. More of it in test_refusals.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hetfed.errors import DataError
from hetfed_datasets import melbourne_scats, tcga_glioma, tcga_glioma_genomics, tcga_lgg_mri, uci_heart
from hetfed_datasets.records import MISSING_LABEL

GENES = [f"g{i}_rnaseq" for i in range(1544)]


def slices(root: Path, **changes: NDArray[Any]) -> Path:
    """Six slices of three patients."""
    arrays: dict[str, NDArray[Any]] = {
        "images": np.full((6, 64, 64, 3), 9, dtype=np.uint8),
        "tumour_fraction": np.array([0, 0.1, 0.2, 0, 0, 0.3], dtype=np.float32),
        "patient_index": np.array([0, 0, 0, 1, 1, 2], dtype=np.int16),
        "patients": np.array(["TCGA_CS_1", "TCGA_CS_2", "TCGA_DU_3"]),
        "patient_site": np.array(["CS", "CS", "DU"]),
    }
    folder = root / "tcga-lgg-mri"
    folder.mkdir(exist_ok=True)
    np.savez(folder / tcga_lgg_mri.SLICES, **(arrays | changes))
    return folder


def molecules(root: Path, mutated: list[object]) -> Path:
    """A row per patient, the first of them with slices."""
    frame = pd.DataFrame(np.ones((len(mutated), len(GENES))), columns=GENES)
    frame.insert(0, "case_id", [f"TCGA-CS-{i + 1}" for i in range(len(mutated))])
    frame["IDH1_mut"] = mutated
    folder = root / "tcga-glioma-genomics"
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / tcga_glioma_genomics.FILE, index=False)
    return folder


def melbourne(root: Path, **changes: tuple[int, object]) -> Path:
    """135 approaches for a month and a few rows of another; a change is of one row of a column."""
    rows = melbourne_scats.ROWS
    frame = pd.DataFrame({"SCATS Number": np.arange(rows) // 31, "Location": "X ST"})
    frame["NB_LATITUDE"], frame["NB_LONGITUDE"] = -37.8 - frame["SCATS Number"] / 1000, 145.0
    frame["Start Time"] = [f"{day:02}/10/2006" for day in np.arange(rows) % 31 + 1]
    counts = np.ones((rows, 96), dtype=int)
    frame = pd.concat(
        [frame, pd.DataFrame(counts, columns=[f"{h}:{m:02}" for h in range(24) for m in (0, 15, 30, 45)])], axis=1
    )
    for column, (row, value) in changes.items():
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
    frame.to_csv(root / melbourne_scats.FILE, index=False)
    return root


def test_slices_as_they_should_be(tmp_path: Path) -> None:
    record = tcga_lgg_mri.load(slices(tmp_path))
    assert record.labels["tumour"].tolist() == [0, 1, 1, 0, 0, 1]
    assert record.patient.tolist()[-2:] == ["TCGA-CS-2", "TCGA-DU-3"]
    assert record.site.tolist() == ["CS"] * 5 + ["DU"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"patient_index": np.array([0, 0, 0, 1, 1])}, r"patient_index: 6 rows expected.* \(value: 5\)"),
        ({"tumour_fraction": np.zeros(7)}, r"tumour_fraction: 6 rows expected.* \(value: 7\)"),
        ({"patient_site": np.array(["CS"])}, r"patient_site: 3 rows expected.* \(value: 1\)"),
        ({"patient_index": np.array([0, 0, 3, 1, 1, 2])}, r"patient_index\[2\]: no such patient \(value: 3\)"),
        ({"patient_index": np.array([0, 0, 0, -1, 1, 2])}, r"patient_index\[3\]: no such patient \(value: -1\)"),
        ({"tumour_fraction": np.array([0, np.nan, 0, 0, 0, 0])}, r"tumour_fraction\[1\]: share .* \(value: nan\)"),
        ({"images": np.zeros((6, 64, 64), dtype=np.uint8)}, r"images: images of shape \(64, 64, 3\) expected"),
    ],
)
def test_slices_with_something_wrong(changes: dict[str, NDArray[Any]], problem: str, tmp_path: Path) -> None:
    folder = slices(tmp_path, **changes)
    molecules(tmp_path, [0, 1])
    for load, where in ((tcga_lgg_mri.load, folder), (tcga_glioma.load, tmp_path / "tcga-glioma")):
        with pytest.raises(DataError, match=problem) as error:
            load(where)
        assert error.value.file == folder / tcga_lgg_mri.SLICES


def test_the_join_takes_the_slice_with_most_tumour(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 64, 64, 3), dtype=np.uint8)
    slices(tmp_path, images=images)
    molecules(tmp_path, [0, 1, 1])
    record = tcga_glioma.load(tmp_path / "tcga-glioma")
    assert record.present["image"].tolist() == [True, True, False]
    assert record.modalities["image"][:, 0, 0, 0].tolist() == [2, 3, 0]


def test_mutation_labels(tmp_path: Path) -> None:
    assert tcga_glioma_genomics.load(molecules(tmp_path, [0, 1, None])).labels["idh1"].tolist() == [0, 1, MISSING_LABEL]
    for wrong, problem in (
        (0.5, r"line 3, column 'IDH1_mut': label outside .* \(value: 0.5\)"),
        ("yes", "not numbers"),
    ):
        with pytest.raises(DataError, match=problem):
            tcga_glioma_genomics.load(molecules(tmp_path, [0, wrong]))


def test_a_grade_that_is_marked_as_missing_is_no_health(tmp_path: Path) -> None:
    for hospital, patients in uci_heart.HOSPITALS.items():
        table = np.ones((patients, 14), dtype=int)
        table[:4, 13] = (0, 1, 4, MISSING_LABEL)
        np.savetxt(tmp_path / f"processed.{hospital}.data", table, fmt="%d", delimiter=",")
    assert uci_heart.load(tmp_path).labels["disease"][:5].tolist() == [0, 1, 1, MISSING_LABEL, 1]


def test_melbourne_as_it_should_be(tmp_path: Path) -> None:
    record = melbourne_scats.load(melbourne(tmp_path))
    assert record.values.shape == (31 * 96, 135, 1)
    assert record.time[0] == pd.Timestamp(2006, 10, 1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"Start Time": (40, "32/10/2006")}, r"line 42, column 'Start Time': not a time \(value: '32/10/2006'\)"),
        ({"NB_LATITUDE": (40, "south")}, r"line 42, column 'NB_LATITUDE': not a number \(value: 'south'\)"),
        ({"NB_LONGITUDE": (40, None)}, "line 42, column 'NB_LONGITUDE': empty cell"),
        ({"7:15": (40, "many")}, r"line 42, column '7:15': not a number \(value: 'many'\)"),
    ],
)
def test_melbourne_with_something_wrong(changes: dict[str, tuple[int, object]], problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        melbourne_scats.load(melbourne(tmp_path, **changes))
