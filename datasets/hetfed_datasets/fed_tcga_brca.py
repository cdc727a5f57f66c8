"""Survival with breast cancer in six regions (TCGA-BRCA as split by FLamby, Ogier du Terrail et al. 2022)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hetfed.errors import DataError
from hetfed_datasets.checks import FETCH_AGAIN, expect_columns, expect_rows, numbers, read_csv, require_file
from hetfed_datasets.records import Cohort

PATIENTS, FEATURES = 1096, 39
REGIONS = tuple(f"region {number}" for number in range(6))


def load(folder: Path) -> Cohort:
    """1088 patients with a region, 39 clinical columns; `death`: whether seen, and after how many days.

    The publisher fixes who trains and who tests.

    Returns:
        Modality `clinical` (1088, 39) without gaps; event `death` (1088, 2): seen or censored, and days; sites "region 0" to
        "region 5"; the publisher's split into train and test.

    Raises:
        DataError: a file is missing or cut short, names an unknown fold, or holds an impossible outcome.
    """
    file, splits = require_file(folder, "brca.csv"), require_file(folder, "train_test_split.csv")
    frame, split = read_csv(file), read_csv(splits)
    expect_columns(frame, file, count=FEATURES + 3, names=["pid", "E", "T"])
    expect_rows(frame, file, PATIENTS)
    expect_columns(split, splits, names=["pid", "fold", "fold2"])
    # fold2 has the region in it, which `fold` has not.
    known = split["fold2"].str.extract(r"^(train|test)_([0-5])$")
    if known.isna().any(axis=None):
        row = int(known.isna().any(axis=1).to_numpy().argmax())
        key, value = f"line {split.index[row]}, column 'fold2'", str(split["fold2"].iloc[row])
        raise DataError("neither train_0..5 nor test_0..5", file=splits, key=key, value=value, remedy=FETCH_AGAIN)
    # A few patients come from hospitals without a region; the publisher leaves them out.
    parts = split.assign(part=known[0], region=known[1].astype(int)).set_index("pid")
    joined = frame.join(parts, on="pid", how="inner")
    columns = tuple(frame.columns[1 : 1 + FEATURES])
    outcome = numbers(joined[["E", "T"]], file, complete=True)
    # A negative time or a third kind of event would go through a Cox loss without any error.
    if not np.isin(outcome[:, 0], (0, 1)).all() or (outcome[:, 1] < 0).any():
        raise DataError("an event that is neither 0 nor 1, or a negative time", file=file, key="E, T", remedy=FETCH_AGAIN)
    return Cohort(
        name="fed-tcga-brca",
        patient=joined["pid"].to_numpy(dtype=str),
        site=np.array([REGIONS[region] for region in joined["region"]]),
        modalities={"clinical": numbers(joined[list(columns)], file, complete=True)},
        labels={},
        classes={},
        columns={"clinical": columns},
        present={},
        official_split=joined["part"].to_numpy(dtype=str),
        survival={"death": outcome},
        registry="TCGA",
    )
