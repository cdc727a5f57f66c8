"""Every loader on the real data: counts as the publishers state them, and the shape that the records promise."""

from __future__ import annotations

import numpy as np
import pytest

from hetfed_datasets.records import MISSING_LABEL, Cohort, Series
from hetfed_datasets.registry import SOURCES, load

COHORTS = {
    "tcga-lgg-mri": (3929, 110, 5, {"image": (64, 64, 3)}, {"tumour": 2}),
    "tcga-glioma-genomics": (569, 569, 35, {"genes": (1544,)}, {"idh1": 2}),
    "tcga-glioma": (569, 569, 35, {"image": (64, 64, 3), "genes": (1544,)}, {"idh1": 2}),
    "pneumoniamnist": (5856, 5856, 1, {"image": (28, 28, 1)}, {"pneumonia": 2}),
    "breastmnist": (780, 780, 1, {"image": (28, 28, 1)}, {"tumour": 2}),
    "medmnist-pair": (6636, 6636, 3, {"image": (28, 28, 1)}, {"finding": 4}),
    "fed-tcga-brca": (1088, 1088, 6, {"clinical": (39,)}, {}),
    "uci-heart-4hospitals": (920, 920, 4, {"clinical": (13,)}, {"disease": 2}),
}
SERIES = {
    "la-los-loop": (2016, 207, 1, 5, "mph"),
    "shenzhen-sz-taxi": (2976, 40, 1, 15, "km/h"),
    "melbourne-scats": (2976, 105, 1, 15, "vehicles/15 min"),
    "camera-counts": (2976, 1, 4, 15, "vehicles/15 min"),
}


def real(name, root):
    if SOURCES[name].joins or (root / name).is_dir():
        return load(name, root)
    return pytest.skip(f"{name} is not in {root}")


@pytest.mark.parametrize("name", COHORTS)
def test_cohort_has_the_stated_counts(name, real_data):
    samples, patients, sites, modalities, labels = COHORTS[name]
    record = real(name, real_data)
    assert isinstance(record, Cohort) and record.name == name and not record.synthetic
    assert (len(record), len(set(record.patient)), len(set(record.site))) == (samples, patients, sites)
    assert {key: array.shape[1:] for key, array in record.modalities.items()} == modalities
    for key, array in record.modalities.items():
        assert len(array) == samples
        assert array.dtype == (np.uint8 if len(modalities[key]) == 3 else np.float32)
        assert len(record.columns.get(key, ())) in {0, array.shape[1]}
    for key, classes in labels.items():
        assert len(record.classes[key]) == classes
        assert set(np.unique(record.labels[key])) - {MISSING_LABEL} == set(range(classes))


@pytest.mark.parametrize("name", SERIES)
def test_series_has_the_stated_counts(name, real_data):
    steps, sensors, channels, interval, unit = SERIES[name]
    record = real(name, real_data)
    assert isinstance(record, Series) and record.name == name and not record.synthetic
    assert record.values.shape == (steps, sensors, channels) and record.values.dtype == np.float32
    assert (record.interval, record.unit, len(record.sensors), len(record.channels)) == (interval, unit, sensors, channels)
    assert set(np.diff(record.time.to_numpy())) == {np.timedelta64(interval, "m")}
    assert not (record.values < 0).any()
    if record.adjacency is not None:
        assert record.adjacency.shape == (sensors, sensors) and (record.adjacency >= 0).all()


def test_slices_of_each_hospital(real_data):
    record = real("tcga-lgg-mri", real_data)
    patients = {site: len(set(record.patient[record.site == site])) for site in set(record.site)}
    assert patients == {"DU": 45, "HT": 34, "CS": 16, "FG": 14, "EZ": 1}


def test_molecular_hospitals_and_no_mutation_among_inputs(real_data):
    record = real("tcga-glioma-genomics", real_data)
    assert {site: int((record.site == site).sum()) for site in ("S9", "06", "DB", "QH")} == {
        "S9": 48,
        "06": 40,
        "DB": 34,
        "QH": 21,
    }
    assert not any("mut" in column.lower() for column in record.columns["genes"] if not column.endswith("_rnaseq"))
    assert all(column.endswith("_rnaseq") for column in record.columns["genes"])
    assert np.isfinite(record.modalities["genes"]).all()


def test_join_has_the_slice_with_most_tumour(real_data):
    joined, slices = real("tcga-glioma", real_data), real("tcga-lgg-mri", real_data)
    assert joined.present["image"].sum() == 105
    assert not joined.modalities["image"][~joined.present["image"]].any()
    row = int(np.flatnonzero(joined.present["image"])[0])
    own = slices.take(slices.patient == joined.patient[row])
    same = (own.modalities["image"] == joined.modalities["image"][row]).all(axis=(1, 2, 3))
    assert same.sum() == 1 and own.labels["tumour"][same][0] == 1


@pytest.mark.parametrize(("name", "counts"), [("pneumoniamnist", (4708, 524, 624)), ("breastmnist", (546, 78, 156))])
def test_medmnist_keeps_the_official_split(name, counts, real_data):
    split = real(name, real_data).official_split
    assert tuple(int((split == part).sum()) for part in ("train", "validation", "test")) == counts


def test_heart_has_missing_values_and_stated_prevalence(real_data):
    record = real("uci-heart-4hospitals", real_data)
    assert {site: int((record.site == site).sum()) for site in set(record.site)} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    prevalence = [record.labels["disease"][record.site == site].mean() for site in ("cleveland", "switzerland")]
    assert prevalence == pytest.approx([0.459, 0.935], abs=5e-4)
    assert np.isnan(record.modalities["clinical"]).any()


def test_brca_has_the_publishers_patients_and_events(real_data):
    record = real("fed-tcga-brca", real_data)
    train = [int(((record.site == f"region {i}") & (record.official_split == "train")).sum()) for i in range(6)]
    assert train == [248, 156, 164, 129, 129, 40] and (record.official_split == "test").sum() == 222
    event, days = record.survival["death"].T
    assert set(event) == {0, 1} and event[record.official_split == "test"].sum() == 32 and (days >= 0).all()
    assert record.questions == ("death",) and (record.strata("death") == event).all()


def test_the_pair_names_what_it_joins(real_data):
    record = real("medmnist-pair", real_data)
    assert record.classes["finding"] == ("chest, normal", "chest, pneumonia", "breast, malignant", "breast, benign")
    breast = np.char.startswith(record.patient, "breast")
    assert (breast == (record.labels["finding"] >= 2)).all() and breast.sum() == 780
    assert record.official_split is None and (record.site == "validation").sum() == 524 + 78


def test_shenzhen_zeros_are_missing(real_data):
    record = real("shenzhen-sz-taxi", real_data)
    assert np.isnan(record.values).mean() == pytest.approx(0.061, abs=5e-4)
    assert (np.nanmin(record.values) > 0) and (record.adjacency.sum(axis=1) == 0).sum() == 4


def test_last_value_errors_are_those_measured(real_data):
    """MAE of repeating the last reading: a wrong order of rows or columns would change it."""
    expected = {"la-los-loop": 2.58, "melbourne-scats": 15.2}
    for name, value in expected.items():
        values = real(name, real_data).values
        assert np.nanmean(np.abs(np.diff(values, axis=0))) == pytest.approx(value, rel=0.06)


def test_melbourne_graph_follows_positions(real_data):
    record = real("melbourne-scats", real_data)
    assert np.isnan(record.coordinates).all(axis=1).sum() == 1
    lost = int(np.flatnonzero(np.isnan(record.coordinates).all(axis=1))[0])
    assert record.adjacency[lost].sum() == 1
    assert np.allclose(record.adjacency, record.adjacency.T, atol=1e-6)


def test_camera_levels(real_data):
    record = real("camera-counts", real_data)
    assert record.levels == ("low", "normal", "high", "heavy") and set(record.level) == {0, 1, 2, 3}
    heavy, low = (record.values[record.level == level].sum(axis=2).mean() for level in (3, 0))
    assert heavy > 2 * low


def test_take_keeps_rows_together(real_data):
    record = real("breastmnist", real_data)
    part = record.take(np.array([3, 700]))
    assert part.patient.tolist() == ["breastmnist-00003", "breastmnist-00700"]
    assert part.official_split.tolist() == [record.official_split[3], record.official_split[700]]
    assert np.array_equal(part.modalities["image"][1], record.modalities["image"][700])


def test_melbourne_has_nothing_in_the_hour_that_clocks_left_out(real_data):
    """On 29 October 2006 they went from 02:00 to 03:00; the file has four columns for it."""
    record = real("melbourne-scats", real_data)
    gone = record.time[np.isnan(record.values).all(axis=(1, 2))]
    assert [str(stamp) for stamp in gone] == [f"2006-10-29 02:{minute:02d}:00" for minute in (0, 15, 30, 45)]
    assert record.zone == "Australia/Melbourne" and np.isnan(record.values).any(axis=(1, 2)).sum() == 4


def test_heart_writes_0_for_what_was_not_measured(real_data):
    record = real("uci-heart-4hospitals", real_data)
    columns = {name: record.modalities["clinical"][:, place] for place, name in enumerate(record.columns["clinical"])}
    assert np.isnan(columns["chol"][record.site == "switzerland"]).all() and np.isnan(columns["chol"]).sum() == 202
    assert np.isnan(columns["trestbps"]).sum() == 60
    assert not (columns["chol"] == 0).any() and not (columns["trestbps"] == 0).any()
    assert (columns["oldpeak"] == 0).any() and (columns["ca"] == 0).any()  # which may be 0
