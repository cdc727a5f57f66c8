"""The shipped plans and case studies of hospitals: they parse, find their data, and take in whom they should."""

from __future__ import annotations

from pathlib import Path

import pytest
from wards import layers

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.learner import Learner
from hetfed.plan import read_plan
from hetfed.run.prepare import Prepared, prepare
from hetfed.vertical import shipped, verticals
from hetfed_medical import vertical

PLANS, STUDIES = shipped(vertical.plans), {folder.name: shipped(folder) for folder in vertical.studies.iterdir()}
HOSPITALS = {
    "sample": {"north", "south", "east", "west"},
    "glioma-mri": {"DU", "HT", "CS", "FG"},
    "glioma-mri-backbone": {"DU", "HT", "CS", "FG"},
    "heart": {"Cleveland", "Hungary", "Switzerland", "VA"},
    "glioma-molecular": {"DU", "HT", "CS", "FG", "S9", "06", "DB", "QH"},
    "glioma-mixed": {"DU", "HT", "S9", "DB", "06"},
    "brca-survival": {f"region {number}" for number in range(6)},
    "widths": {"north", "south", "east"},
    "four-architectures": {f"{number:02d}" for number in range(1, 9)},
    "eight-architectures": {f"{number:02d}" for number in range(1, 21)},
    "xray-ultrasound": {"X-ray 1", "X-ray 2", "X-ray 3", "Ultrasound 1", "Ultrasound 2"},
}
LAYERS = {
    "medical": ["Conv2d(1, 16, 3)", "ReLU", "Linear(10816, 128)", "Linear(128, 2)"],
    "shared-personal": ["Linear(10, 5)", "Linear(5, 2)"],
    "distillation": ["Linear(10, 2)"],
}
"""The article's networks; 10816 = 16 * 26 * 26."""


@pytest.fixture(scope="module")
def prepared(real_data):
    """Plans with their data and their seating, each loaded once."""
    done: dict[str, Prepared] = {}

    def get(name: str) -> Prepared:
        if name not in done:
            done[name] = prepare(read_plan(PLANS[name].read_text(), name), vertical, real_data, name)
        return done[name]

    return get


def shared(prepared: Prepared, label: str) -> tuple[dict[str, dict[str, tuple[int, ...]]], set[str]]:
    """What each enrolled client would send in an exchange, and who is left out of it."""
    (step,) = [step for step in prepared.enrolment.composition if step.label == label]
    clients = [client for client in prepared.clients if step.includes(client.name)]
    return {client.name: step.exchange.declare(client.profile).shapes for client in clients}, set(
        prepared.enrolment.left_out.get(label, {})
    )


def is_learner(client: Client) -> bool:
    return isinstance(client.module, Learner)


def test_the_vertical_is_found():
    assert verticals()["medical"] is vertical
    assert set(PLANS) == set(HOSPITALS) and set(STUDIES) == set(LAYERS)
    assert all(set(files) == {"random", "real"} for files in STUDIES.values())


def test_the_sample_needs_no_data(tmp_path: Path):
    prepared = prepare(read_plan(PLANS["sample"].read_text(), "sample"), vertical, tmp_path, "sample")
    assert all(client.synthetic for client in prepared.clients)
    genes, without_genes = shared(prepared, "genes")
    assert set(genes) == {"north", "south", "west"} and without_genes == {"east"}
    image, without_image = shared(prepared, "image")
    assert set(image) == {"north", "south"} and without_image == {"west", "east"}
    assert image["north"] == image["south"]


@pytest.mark.parametrize("name", HOSPITALS)
def test_plan_seats_its_hospitals(prepared, name):
    found = prepared(name)
    assert {client.name for client in found.clients} == HOSPITALS[name]
    assert found.plan.title and found.plan.description.strip() and len(list(found.enrolment.composition)) > 0
    for client in found.clients:
        data = client.data
        assert min(len(data.train), len(data.validation), len(data.test)) > 0
        if client.task.class_count:
            assert set(data.train.target.tolist()) <= set(range(client.task.class_count))
    assert read_plan(found.plan.resolved(), "again").digest() == found.plan.digest()


def test_mri_hospitals_have_three_backbones_and_one_feature_size(prepared):
    found = prepared("glioma-mri-backbone")
    image, left_out = shared(found, "shared-parameters")
    assert set(image) == {"DU", "HT"} and left_out == {"CS", "FG"}
    assert len({str(client.module.encoders) for client in found.clients}) == 3
    assert len({client.profile.probe.features.shape[1] for client in found.clients}) == 1
    prototypes, left_out = shared(found, "prototypes")
    assert set(prototypes) == HOSPITALS["glioma-mri-backbone"] and not left_out
    assert len({tuple(client.public.ids) for client in found.clients}) == 1 and len(found.clients[0].public) > 0


@pytest.mark.parametrize(("name", "modality"), [("glioma-mri", "image"), ("heart", "clinical")])
def test_hospitals_of_different_models_hold_one_that_is_common_to_all(prepared, name, modality):
    found = prepared(name)
    second, left_out = shared(found, "shared-parameters")
    assert set(second) == HOSPITALS[name] and not left_out
    assert len({tuple(shapes.items()) for shapes in second.values()}) == 1
    assert all(tensor.startswith("companion.") for shapes in second.values() for tensor in shapes)
    assert len({str(client.module.encoders[modality]) for client in found.clients}) == 3


def test_the_plan_chooses_the_common_model(prepared, real_data):
    small = PLANS["glioma-mri"].read_text().replace('image = "deep-conv"\n\n[defaults', 'image = "small-conv"\n\n[defaults')
    found = (prepared("glioma-mri"), prepare(read_plan(small, "x"), vertical, real_data, "x"))
    deep, less = (sum(p.numel() for p in one.clients[0].common_fn(one.clients[0].data.spec).parameters()) for one in found)
    assert deep > less


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('learner = "svm"', r"common\.learner: a learner has no parameters"),
        ('image = "deep"', r"common\.image: .*Did you mean"),
        ('image = "deep-conv"\nfeatures = 0', r"common\.features"),
    ],
)
def test_a_common_model_that_cannot_be_is_refused(real_data, table, message):
    text = PLANS["glioma-mri"].read_text().replace('image = "deep-conv"\n\n[defaults', f"{table}\n\n[defaults")
    with pytest.raises(PlanError, match=message):
        prepare(read_plan(text, "x"), vertical, real_data, "x")


def test_mri_public_inputs_are_of_no_hospital_that_learns(prepared):
    used = {site for client in prepared("glioma-mri").plan.client for site in client.data["sites"]}
    assert not used & set(prepared("glioma-mri").plan.public["sites"])


def test_molecular_hospitals_share_genes_all_and_images_some(prepared):
    genes, _ = shared(prepared("glioma-molecular"), "genes")
    assert set(genes) == HOSPITALS["glioma-molecular"] and len({tuple(shapes.items()) for shapes in genes.values()}) == 1
    image, without = shared(prepared("glioma-molecular"), "image")
    assert set(image) == {"DU", "HT", "CS", "FG"} and without == HOSPITALS["glioma-molecular"] - set(image)
    for client in prepared("glioma-molecular").clients:
        assert client.data.spec["shapes"]["genes"] == (1544,)
        assert client.task.names == ("wild type", "mutated")


def test_networks_and_forests_meet_in_what_they_say_of_the_public_patients(prepared):
    found = prepared("glioma-mixed")
    learners = {client.name: type(client.module.estimator).__name__ for client in found.clients if is_learner(client)}
    assert learners == {"HT": "RandomForestClassifier", "06": "HistGradientBoostingClassifier"}
    said, left_out = shared(found, "logit-distillation")
    assert set(said) == HOSPITALS["glioma-mixed"] and not left_out
    public = found.clients[0].public
    assert all(shapes == {"logits": (len(public), 2)} for shapes in said.values()) and len(public) > 0
    used = {site for client in found.plan.client for site in client.data["sites"]}
    assert not used & set(found.plan.public["sites"])


def test_twenty_clients_have_eight_architectures_one_feature_size_and_no_image_twice(prepared):
    found = prepared("eight-architectures")
    assert len({str(client.module) for client in found.clients}) == 8
    assert {client.profile.probe.features.shape[1] for client in found.clients} == {64}
    said, left_out = shared(found, "logit-distillation")
    assert set(said) == HOSPITALS["eight-architectures"] and not left_out
    samples = [set(client.data.train.inputs["image"].flatten(1).sum(dim=1).tolist()) for client in found.clients]
    assert sum(map(len, samples)) == len(set.union(*samples)) > 1000
    assert len({tuple(client.public.ids) for client in found.clients}) == 1


def test_xray_and_ultrasound_share_a_backbone_and_not_a_question(prepared):
    found = prepared("xray-ultrasound")
    image, left_out = shared(found, "shared-parameters")
    assert set(image) == HOSPITALS["xray-ultrasound"] and not left_out
    assert len({tuple(shapes.items()) for shapes in image.values()}) == 1
    names = set(next(iter(image.values())))
    assert names and all(name.startswith("encoders.image") for name in names)
    assert not [name for name in names if "running" in name]
    assert {client.task.names for client in found.clients} == {("normal", "pneumonia"), ("malignant", "benign")}


def test_xray_hospitals_share_no_patient(prepared):
    train = [set(client.data.train.ids) for client in prepared("xray-ultrasound").clients]
    patients = [{identity.partition("/")[0] for identity in ids} for ids in train]
    assert sum(map(len, patients)) == len(set.union(*patients))


@pytest.mark.parametrize("variant", ["random", "real"])
@pytest.mark.parametrize("study", LAYERS)
def test_study_has_the_article_s_layers(real_data, study, variant):
    plan = read_plan(STUDIES[study][variant].read_text(), study)
    found = prepare(plan, vertical, real_data if variant == "real" else None, study)
    assert len(found.clients) >= 2
    for client in found.clients:
        assert layers(client.module) == LAYERS[study], client.name
        assert client.synthetic == (variant == "random")
        assert client.profile.probe.logits.shape == (2, 2)


@pytest.mark.parametrize("study", LAYERS)
def test_both_variants_of_a_study_federate_alike(study):
    one, other = (read_plan(file.read_text(), study) for file in STUDIES[study].values())
    assert one.exchange == other.exchange and one.federation == other.federation
    assert {client.training for client in one.client} == {client.training for client in other.client}
    assert [client.model for client in one.client] == [client.model for client in other.client][: len(one.client)]


def test_study_heads_stay_personal(real_data):
    for study, part in (("medical", "encoders.image"), ("shared-personal", "encoders.clinical")):
        found = prepare(read_plan(STUDIES[study]["random"].read_text(), study), vertical, None, study)
        sent, left_out = shared(found, "shared-parameters")
        assert set(sent) == {client.name for client in found.clients} and not left_out
        assert all(name.startswith(part) for shapes in sent.values() for name in shapes)
