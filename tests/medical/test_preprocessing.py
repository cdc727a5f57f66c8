"""From a cohort to a hospital: splits by patient, scales of its own training data, public inputs that all share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wards import COLUMNS, admit, holding, net, parts, people, rows, same, table, ward

from hetfed.errors import DataError, PlanError
from hetfed_datasets.records import MISSING_LABEL, Cohort
from hetfed_datasets.registry import load
from hetfed_medical.plan_schema import HospitalData, PublicData
from hetfed_medical.preprocessing import hospital, public_inputs, unreadable

GENTLE = settings(deadline=None, max_examples=40)
KINDS = [
    {"kind": "dirichlet", "clients": 3, "alpha": 5.0},
    {"kind": "quantity", "clients": 3, "alpha": 1.0},
    {"kind": "classes", "clients": 3, "classes": 2},
]


@pytest.fixture(scope="module")
def mri(real_data) -> Cohort:
    return load("tcga-lgg-mri", real_data)


@pytest.fixture(scope="module")
def glioma(real_data) -> Cohort:
    return load("tcga-glioma", real_data)


def assert_split_by_patient(cohort: Cohort, data: HospitalData, seed: int = 0) -> None:
    """Every sample of the hospital is in one split, and no patient in two."""
    found = parts(hospital(cohort, data, seed, "here").data)
    own = np.isin(cohort.site, data.sites) if data.sites else np.ones(len(cohort), dtype=bool)
    own &= np.any([cohort.present.get(name, own) for name in data.modalities], axis=0)
    assert sum(len(part) for part in found) == int(own.sum()) > 0
    assert sorted(row for part in found for row in rows(part)) == list(range(int(own.sum())))
    assert set.union(*map(people, found)) == set(cohort.patient[own].tolist())
    assert sum(len(people(part)) for part in found) == len(set(cohort.patient[own].tolist()))
    for part in found:
        (label,) = cohort.labels.values()
        expected = label[own][rows(part)]
        assert part.target.tolist() == expected.tolist()


@GENTLE
@given(st.integers(20, 60), st.integers(1, 4), st.floats(0.2, 0.7), st.floats(0.1, 0.2), st.integers(0, 9))
def test_no_patient_is_in_two_splits(patients, each, train, validation, seed):
    assert_split_by_patient(ward(patients, each), table(train=train, validation=validation), seed)


@pytest.mark.parametrize(
    ("site", "modalities"), [("north", "image genes"), ("south", "image genes"), ("east", "image"), ("west", "genes")]
)
def test_sample_hospitals_are_split_by_patient(sample, site, modalities):
    assert_split_by_patient(sample, table(*modalities.split(), sites=(site,)))


@pytest.mark.parametrize("site", ["DU", "HT", "CS", "FG"])
def test_mri_slices_of_a_patient_stay_together(mri, site):
    """There are dozens of slices of each patient."""
    assert len(set(mri.patient)) * 20 < len(mri)
    assert_split_by_patient(mri, table("image", sites=(site,)))


@pytest.mark.parametrize(("site", "modalities"), [("DU", "image genes"), ("FG", "image genes"), ("S9", "genes")])
def test_molecular_hospitals_are_split_by_patient(glioma, site, modalities):
    assert_split_by_patient(glioma, table(*modalities.split(), sites=(site,)))


def test_the_seed_decides_the_split():
    cohort = ward()
    one, same_one, other = (admit(cohort, seed=seed).data.train.ids for seed in (1, 1, 2))
    assert one == same_one != other


def with_official_split(cohort: Cohort) -> Cohort:
    words = np.resize(["test", "train", "validation", "train", "train"], len(set(cohort.patient)))
    return replace(cohort, official_split=np.repeat(words, len(cohort) // len(words)))


def test_official_splits_are_kept():
    cohort = with_official_split(ward())
    for seed in (0, 1):
        for part, word in zip(parts(admit(cohort, seed=seed).data), ("train", "validation", "test"), strict=True):
            assert rows(part) == np.flatnonzero(cohort.official_split == word).tolist()


@pytest.mark.parametrize("name", ["pneumoniamnist", "breastmnist"])
def test_official_splits_of_medmnist_are_kept(real_data, name):
    cohort = load(name, real_data)
    counts = {"pneumoniamnist": [4708, 524, 624], "breastmnist": [546, 78, 156]}[name]
    whole = admit(cohort, "image").data
    assert [len(part) for part in parts(whole)] == counts
    share = admit(cohort, "image", partition={"kind": "quantity", "clients": 2, "part": 1}).data
    for mine, everybody in zip(parts(share), parts(whole), strict=True):
        assert people(mine) < people(everybody)


@pytest.mark.parametrize("changed", ["test", "validation", "train"])
def test_scales_are_those_of_the_training_data(changed):
    """Other values in the test or validation part change nothing that the model is trained on."""
    cohort, names = ward(), ("image", "clinical", "genes")
    before = admit(cohort, *names)
    touched = rows(getattr(before.data, changed))
    modalities = {name: values.copy() for name, values in cohort.modalities.items()}
    for values in modalities.values():
        values[touched] = 200
    after = admit(replace(cohort, modalities=modalities), *names)
    assert before.data.train.ids == after.data.train.ids
    for name in names:
        alike = np.array_equal(before.scales[name].mean, after.scales[name].mean)
        assert alike == np.array_equal(before.scales[name].deviation, after.scales[name].deviation) == (changed != "train")
        assert same(before.data.train.inputs[name], after.data.train.inputs[name]) == (changed != "train")
        assert not same(getattr(before.data, changed).inputs[name], getattr(after.data, changed).inputs[name])


def test_training_data_have_mean_zero_and_deviation_one():
    train = admit(ward(), "image", "genes", "clinical").data.train
    for values in (train.inputs["image"].transpose(0, 1).flatten(1).T, train.inputs["genes"]):
        assert torch.allclose(values.mean(dim=0), torch.zeros(values.shape[1]), atol=1e-5)
        assert torch.allclose(values.std(dim=0, correction=0), torch.ones(values.shape[1]), atol=1e-5)


@pytest.mark.parametrize("site", ["DU", "FG"])
def test_millions_of_pixels_are_scaled_as_exactly(mri, site):
    pixels = admit(mri, "image", sites=(site,)).data.train.inputs["image"].transpose(0, 1).flatten(1).double()
    assert torch.allclose(pixels.mean(dim=1), torch.zeros(3, dtype=torch.double), atol=1e-4)
    assert torch.allclose(pixels.std(dim=1), torch.ones(3, dtype=torch.double), atol=1e-4)


def test_images_come_channels_first():
    cohort = ward()
    home = admit(cohort, "image")
    assert home.data.spec == {"shapes": {"image": (2, 6, 7)}, "outputs": 2}
    raw = home.data.test.inputs["image"] * torch.tensor(home.scales["image"].deviation)[:, None, None]
    raw = raw + torch.tensor(home.scales["image"].mean)[:, None, None]
    expected = torch.from_numpy(cohort.modalities["image"][rows(home.data.test)]).permute(0, 3, 1, 2).float()
    assert torch.allclose(raw, expected, atol=1e-3)


def test_an_empty_cell_is_the_mean():
    cohort = ward()
    train = admit(cohort, "clinical").data.train
    empty = torch.from_numpy(np.isnan(cohort.modalities["clinical"][rows(train)]))
    assert empty.any() and not train.inputs["clinical"][empty].any()
    assert train.inputs["clinical"].isfinite().all() and train.inputs["clinical"][~empty].all()


def test_without_standardising_a_table_is_as_it_is():
    cohort = ward()
    test = admit(cohort, "clinical", standardise=False).data.test
    assert np.array_equal(test.inputs["clinical"].numpy(), np.nan_to_num(cohort.modalities["clinical"][rows(test)]))


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_a_column_that_says_nothing_does_no_harm(value):
    """A column that never varies, or is empty, in the training part alone."""
    cohort = ward()
    clinical = cohort.modalities["clinical"].copy()
    clinical[rows(admit(cohort, "clinical").data.train), 1] = value
    data = admit(holding(cohort, clinical=clinical), "clinical").data
    assert not data.train.inputs["clinical"][:, 1].any()
    assert data.test.inputs["clinical"][:, 1].abs().max() < 30


def test_an_image_channel_that_never_varies_does_no_harm():
    cohort = ward()
    image = cohort.modalities["image"].copy()
    image[rows(admit(cohort, "image").data.train), ..., 1] = 0
    data = admit(holding(cohort, image=image), "image").data
    assert not data.train.inputs["image"][:, 1].any()
    assert data.test.inputs["image"].abs().max() <= 255


def lacking(cohort: Cohort, **absent: list[int]) -> Cohort:
    """The cohort without the given modalities of the given samples."""
    present = {name: ~np.isin(np.arange(len(cohort)), samples) for name, samples in absent.items()}
    modalities = {
        name: values * present[name].reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype) if name in present else values
        for name, values in cohort.modalities.items()
    }
    return replace(cohort, present=present, modalities=modalities)


def test_a_missing_modality_is_a_row_of_nan():
    cohort = lacking(ward(), image=list(range(0, 80, 3)), genes=list(range(1, 80, 3)))
    for part in parts(admit(cohort, "image", "genes").data):
        own = rows(part)
        for name in ("image", "genes"):
            gone = torch.from_numpy(~cohort.present[name][own])
            assert part.inputs[name][gone].isnan().all() and part.inputs[name][~gone].isfinite().all()


def test_a_missing_modality_is_not_part_of_the_scale():
    """The rows of zeros that stand for it would pull the mean down."""
    cohort = lacking(ward(), image=list(range(0, 80, 2)))
    home = admit(cohort, "image", "genes")
    known = [row for row in rows(home.data.train) if row % 2]
    expected = cohort.modalities["image"][known].reshape(-1, 2).mean(axis=0)
    assert np.allclose(home.scales["image"].mean, expected, atol=1e-3)


def test_a_hospital_whose_training_part_has_no_image_is_no_trouble():
    cohort = ward()
    data = admit(lacking(cohort, image=rows(admit(cohort, "image", "genes").data.train)), "image", "genes").data
    assert data.train.inputs["image"].isnan().all()
    assert data.test.inputs["image"].isfinite().all() and data.test.inputs["image"].any()


def test_samples_without_any_of_the_modalities_or_without_a_label_are_left_out():
    cohort = lacking(ward(), image=[0, 1, 2, 3], genes=[2, 3, 4])
    label = cohort.labels["outcome"].copy()
    label[10:14] = MISSING_LABEL
    cohort = replace(cohort, labels={"outcome": label})
    both = sum(len(part) for part in parts(admit(cohort, "image", "genes").data))
    assert both == 80 - 2 - 4
    assert sum(len(part) for part in parts(admit(cohort, "image").data)) == 80 - 4 - 4
    assert all((part.target != MISSING_LABEL).all() for part in parts(admit(cohort, "image").data))


@pytest.mark.parametrize("name", ["tcga-glioma-genomics", "tcga-glioma"])
def test_no_mutation_is_among_the_inputs(real_data, glioma, name):
    cohort = glioma if name == "tcga-glioma" else load(name, real_data)
    home = admit(cohort, "genes", label="idh1", sites=("DU", "S9"), standardise=False)
    columns = home.columns["genes"]
    assert len(columns) == 1544 == home.data.train.inputs["genes"].shape[1]
    assert all(column.endswith("_rnaseq") for column in columns)
    for part in parts(home.data):
        genes, label = part.inputs["genes"], part.target[:, None]
        assert not ((genes == label).all(dim=0) | (genes == 1 - label).all(dim=0)).any()
        centred, answer = genes - genes.mean(dim=0), (label - label.float().mean())
        correlation = (centred * answer).mean(dim=0) / (genes.std(dim=0, correction=0) * answer.std(correction=0)).clamp(
            min=1e-6
        )
        assert correlation.abs().max() < 0.99


def holdings(cohort: Cohort, kind: dict[str, object], seed: int = 3, **keys: object) -> list[set[str]]:
    """The patients of every part."""
    homes = [admit(cohort, seed=seed, partition={**kind, "part": part}, **keys).data for part in range(kind["clients"])]
    return [set.union(*map(people, parts(home))) for home in homes]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
def test_parts_share_no_patient_and_leave_none_out(kind):
    cohort = ward(120, 3, classes=3)
    held = holdings(cohort, kind)
    assert sum(map(len, held)) == 120 and set.union(*held) == set(cohort.patient.tolist())
    assert held == holdings(cohort, kind) != holdings(cohort, kind, seed=4)


def test_parts_of_some_classes_have_only_those():
    cohort = ward(120, 2, classes=3)
    for part in range(3):
        data = admit(cohort, partition={"kind": "classes", "clients": 3, "part": part, "classes": 1}).data
        assert len({int(label) for split in parts(data) for label in split.target}) == 1
        assert data.spec["outputs"] == 3


def test_parts_by_quantity_differ_in_size_and_a_dirichlet_draw_in_classes():
    cohort = ward(300, 1)
    sizes = [len(held) for held in holdings(cohort, {"kind": "quantity", "clients": 3, "alpha": 0.3})]
    assert max(sizes) > 2 * min(sizes)
    skewed = [admit(cohort, partition={"clients": 3, "part": part, "alpha": 0.3}).data.train.target for part in range(3)]
    shares = [float(target.float().mean()) for target in skewed]
    assert max(shares) - min(shares) > 0.3


def test_columns_are_those_asked_for_in_the_order_of_the_data_set():
    cohort, asked = ward(), ("age", "dose")
    home = admit(cohort, "clinical", columns=("dose", "age"), standardise=False)
    assert home.columns["clinical"] == asked and home.data.spec["shapes"]["clinical"] == (2,)
    own = cohort.modalities["clinical"][rows(home.data.train)][:, [COLUMNS.index(name) for name in asked]]
    assert np.array_equal(home.data.train.inputs["clinical"].numpy(), np.nan_to_num(own))


def test_columns_of_one_table_leave_another_whole():
    home = admit(ward(), "clinical", "genes", columns=("dose", "g2", "g0"))
    assert home.columns == {"clinical": ("dose",), "genes": ("g0", "g2")}
    assert admit(ward(), "clinical", "genes", columns=("dose",)).columns["genes"] == ("g0", "g1", "g2", "g3")


def test_limit_takes_so_many_at_random():
    cohort = ward()

    def taken(seed: int, limit: int) -> list[str]:
        return sorted(identity for part in parts(admit(cohort, seed=seed, limit=limit).data) for identity in people(part))

    def count(limit: int) -> int:
        return sum(len(part) for part in parts(admit(cohort, limit=limit).data))

    assert count(30) == 30 and count(500) == 80
    assert taken(1, 30) == taken(1, 30) != taken(2, 30)
    assert taken(1, 30) != sorted(set(cohort.patient))[:15]


def test_a_label_need_not_be_named_where_there_is_only_one():
    cohort = ward()
    both = replace(cohort, labels={"other": 1 - cohort.labels["outcome"], **cohort.labels})
    both = replace(both, classes={"other": ("no", "yes"), **cohort.classes})
    assert same(admit(cohort).data.test.target, admit(cohort, label="outcome").data.test.target)
    assert admit(both, label="other").task.names == ("no", "yes")
    with pytest.raises(PlanError, match=r"client 'ward'\.data\.label: no such label\. ward has: other, outcome\."):
        admit(both)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label": "fate"}, r"data\.label: no such label \(value: 'fate'\)\. ward has: outcome\."),
        ({"sites": ("left", "middle")}, r"data\.sites: no such site \(value: 'middle'\)\. ward has: left, right\."),
        (
            {"columns": ("age", "height")},
            r"data\.columns: no such column \(value: 'height'\)\. Did you mean 'weight'\? Known: age,",
        ),
        ({"partition": {"clients": 90, "part": 0}}, r"clients: too few samples \(value: 90\)"),
        ({"partition": {"kind": "classes", "clients": 2, "part": 0, "classes": 3}}, "the classes cannot be dealt"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_cohort_does_not_have_is_a_plan_error(keys, message):
    with pytest.raises(PlanError, match=message):
        admit(ward(), **keys)


def unlike(cohort: Cohort, **modalities: Any) -> Cohort:
    """The cohort with some modalities in another form."""
    return replace(cohort, modalities={**cohort.modalities, **modalities})


CLINICAL, IMAGE = (ward().modalities[name] for name in ("clinical", "image"))
LEGITIMATE: dict[str, Cohort] = {
    "double precision": unlike(ward(), clinical=CLINICAL.astype(float)),
    "half precision": unlike(ward(), clinical=CLINICAL.astype(np.float16)),
    "whole numbers": unlike(ward(), clinical=np.nan_to_num(CLINICAL).astype(int)),
    "images from 0 to 1": unlike(ward(), image=IMAGE / np.float32(255)),
    "images of 16 bits": unlike(ward(), image=IMAGE.astype(np.uint16) * 257),
    "a column that nobody has": unlike(ward(), clinical=np.where(np.arange(5) == 2, np.nan, CLINICAL)),
    "images that nobody has": replace(ward(), present={"image": np.zeros(80, dtype=bool)}),
    "a class that nobody has": replace(ward(), classes={"outcome": ("good", "bad", "worse")}),
    "no validation part": replace(ward(), official_split=np.repeat(["train", "test"], [60, 20])),
}


@pytest.mark.parametrize("cohort", LEGITIMATE.values(), ids=LEGITIMATE)
def test_a_cohort_that_is_odd_and_legitimate_gives_numbers_to_learn_from(cohort):
    home = admit(cohort, "image", "clinical")
    model = net(home.data.spec["shapes"], classes=home.data.spec["outputs"], image="conv", features=4)
    for part in parts(home.data):
        assert len(part) and part.inputs["clinical"].isfinite().all()
        assert part.inputs["image"].isfinite().all() or part.inputs["image"].isnan().all()
        assert model(part.inputs).logits.isfinite().all()


@pytest.mark.parametrize("read", [admit, lambda cohort: public_of(cohort, "image")], ids=["own", "public"])
def test_a_cohort_is_checked_whoever_made_it(read):
    odd = replace(ward(), labels={"outcome": np.full(80, 2)})
    with pytest.raises(DataError, match=r"cohort 'ward': labels\['outcome'\]\[0\]: outside the classes \(value: 2\)"):
        read(odd)


def test_a_modality_that_a_cohort_does_not_have_is_a_plan_error():
    cohort = holding(ward(), genes=ward().modalities["genes"])
    with pytest.raises(
        PlanError, match=r"client 'ward'\.data\.modalities: no such modality \(value: 'image'\)\. ward has: genes\."
    ):
        admit(cohort, "genes", "image")


def test_a_hospital_without_samples_is_an_error_that_says_so(sample):
    with pytest.raises(PlanError, match="no sample of sample-hospitals has a known label and one of the modalities"):
        admit(sample, "genes", sites=("east",))
    with pytest.raises(
        PlanError, match=r"'ward'\.data\.limit: no sample is left for validation \(ward: 1 in all\) \(value: 1\)"
    ):
        admit(ward(), limit=1)
    with pytest.raises(PlanError, match=r"'ward'\.data\.partition\.clients: too few samples \(value: 99\)"):
        admit(ward(), partition={"clients": 99, "part": 0})


def test_public_inputs_are_the_same_examples_everywhere(sample):
    public = PublicData(dataset="sample-hospitals", sites=("west", "north"), limit=50)
    seen = []
    for site in ("north", "south"):
        like = table("genes", sites=(site,))
        home = hospital(sample, like, 5, site)
        inputs = public_inputs(sample, public, home, like, 5)
        raw = inputs.inputs["genes"] * torch.tensor(home.scales["genes"].deviation) + torch.tensor(home.scales["genes"].mean)
        seen.append((inputs, raw))
    (one, one_raw), (other, other_raw) = seen
    assert one.ids == other.ids and len(one) == 50
    assert not torch.allclose(one.inputs["genes"].nan_to_num(), other.inputs["genes"].nan_to_num(), atol=1e-2)
    assert torch.allclose(one_raw.nan_to_num(), other_raw.nan_to_num(), atol=1e-4)
    positions = [int(identity.removeprefix("public-")) for identity in one.ids]
    assert positions == sorted(positions) and set(sample.site[positions]) == {"west", "north"}
    expected = torch.from_numpy(sample.modalities["genes"][positions])
    known = torch.from_numpy(sample.present["genes"][positions])
    assert not known.all() and one.inputs["genes"][~known].isnan().all()
    assert torch.allclose(one_raw[known], expected[known], atol=1e-4)


def public_of(cohort: Cohort, *modalities: str, asked: PublicData | None = None, **keys: object) -> object:
    like = table(*modalities, **keys)
    return public_inputs(cohort, asked or PublicData(dataset="ward"), admit(ward(), *modalities, **keys), like, 0)


def test_labels_of_public_inputs_are_not_read():
    cohort = ward(seed=1)
    without = replace(cohort, labels={}, classes={})
    one, other = public_of(cohort), public_of(without)
    assert (one.target == MISSING_LABEL).all() and len(one.target) == 80
    assert one.ids == other.ids and same(one.inputs["clinical"], other.inputs["clinical"])


def test_public_inputs_have_the_columns_of_the_hospital():
    assert public_of(ward(seed=1), "clinical", columns=("dose", "age")).inputs["clinical"].shape == (80, 2)
    renamed = replace(ward(seed=1), columns={**ward().columns, "clinical": tuple(reversed(COLUMNS))})
    assert public_of(renamed, "clinical", columns=("dose", "age")).inputs["clinical"].shape == (80, 2)
    turned = replace(renamed, modalities={**renamed.modalities, "clinical": renamed.modalities["clinical"][:, ::-1]})
    assert same(public_of(turned, "clinical").inputs["clinical"], public_of(ward(seed=1), "clinical").inputs["clinical"])
    other = replace(renamed, columns={**renamed.columns, "clinical": ("height", *COLUMNS[1:])})
    assert public_of(other, "clinical") is None


def test_public_inputs_that_a_hospital_cannot_read_are_none():
    cohort = ward(seed=1)
    grey = replace(cohort, modalities={**cohort.modalities, "image": cohort.modalities["image"][..., :1]})
    without_genes = holding(cohort, image=cohort.modalities["image"])
    assert public_of(cohort, "image") is not None
    assert public_of(grey, "image") is None
    assert public_of(without_genes, "image", "genes") is None
    assert public_of(without_genes, "genes") is None


def why_not(cohort: Cohort, *modalities: str) -> str:
    return unreadable(cohort, admit(ward(), *modalities), table(*modalities))


def test_why_a_hospital_cannot_read_public_inputs_is_said_with_a_remedy():
    cohort = ward(seed=1)
    grey = replace(cohort, modalities={**cohort.modalities, "image": cohort.modalities["image"][..., :1]})
    without_genes = holding(cohort, image=cohort.modalities["image"])
    renamed = replace(cohort, columns={**cohort.columns, "clinical": ("height", *COLUMNS[1:])})
    assert why_not(cohort, "image", "clinical") == ""
    assert why_not(grey, "image") == (
        "cannot read the public inputs: ward has images of shape (1, 6, 7) (channels, height, width), it of (2, 6, 7) "
        "(name another data set under [public])"
    )
    assert ": ward lacks its modality genes (name another" in why_not(without_genes, "image", "genes")
    assert ": ward has other columns of clinical (name another" in why_not(renamed, "clinical")


def test_a_public_site_that_does_not_exist_is_a_plan_error():
    with pytest.raises(PlanError, match=r"public\.sites: no such site \(value: 'middle'\)"):
        public_of(ward(), asked=PublicData(dataset="ward", sites=("middle",)))


def test_a_table_in_a_tiny_unit_is_scaled_like_any_other():
    cohort = ward()
    small = replace(cohort, modalities={**cohort.modalities, "genes": cohort.modalities["genes"] * np.float32(1e-9)})
    one, other = (admit(each, "genes").data.train.inputs["genes"] for each in (cohort, small))
    assert torch.allclose(one, other, atol=1e-3) and other.std() > 0.9
