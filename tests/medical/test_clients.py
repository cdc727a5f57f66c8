"""From the tables of a plan to hospitals, and every way in which a plan can ask for what is not there."""

from __future__ import annotations

from typing import Any

import pytest
import tomli_w

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.exchanges import LogitDistillation
from hetfed.plan import read_plan
from hetfed_medical import vertical

DATA = {"dataset": "sample-hospitals", "sites": ["north"], "modalities": ["genes"]}
RANDOM = {"dataset": "random-table", "modalities": ["clinical"]}


def clients(*tables: dict[str, Any], **top: Any) -> list[Client]:
    """The hospitals of a plan with these client tables, called "a", "b", ..."""
    named = [{"name": name, **table} for name, table in zip("abc", tables, strict=False)]
    return list(vertical.clients(read_plan(tomli_w.dumps({**top, "client": named}), "test.toml"), None))


def test_a_hospital_says_what_it_is():
    data = {"dataset": "sample-hospitals", "sites": ["north"], "modalities": ["image", "genes"]}
    (client,) = clients({"data": data, "model": {"image": "small-conv", "features": 8}, "training": {"lr": 0.1}})
    assert client.name == "a" and client.training.lr == 0.1 and client.task.names == ("subtype A", "subtype B")
    assert client.data.spec == {"shapes": {"image": (1, 32, 32), "genes": (60,)}, "outputs": 2}
    assert client.about == {
        "model": "image: small-conv, genes: snn",
        "data": "sample-hospitals (north)",
        "question": "subtype A or subtype B",
        "modalities": "image, genes",
    }
    assert client.synthetic and client.profile.synthetic and not client.unit
    assert client.profile.probe.features.shape == (2, 8) and client.profile.probe.logits.shape == (2, 2)
    assert client.public is None and client.augment is None and not client.task.balanced


def test_augmentation_and_balance_are_asked_for():
    (client,) = clients({"data": {**DATA, "augment": True, "balanced": True}})
    assert client.augment is not None and client.task.balanced


def test_hospitals_of_the_same_model_and_training_are_of_one_kind():
    south, west = ({"data": {**DATA, "sites": [site]}} for site in ("south", "west"))
    a, b, c = clients({"data": DATA}, {**south, "model": {"genes": "snn"}}, {**west, "training": {"lr": 0.5}})
    assert a.kind == b.kind != c.kind
    a, b, c = clients({"data": DATA}, {**south, "model": {"genes": "mlp"}}, {**west, "model": {"features": 9}})
    assert len({a.kind, b.kind, c.kind}) == 3
    a, b = clients({"data": DATA}, {**south, "model": {"image": "conv"}})
    assert a.kind == b.kind  # neither has an image


def test_the_seed_of_the_plan_decides_the_splits():
    one, other = (clients({"data": DATA}, federation={"seed": seed})[0].data.train.ids for seed in (0, 1))
    assert one != other


def test_all_hospitals_hold_the_same_public_inputs():
    other = {"data": {**DATA, "sites": ["south"]}}
    images = {"data": {"dataset": "sample-hospitals", "sites": ["east"], "modalities": ["image"]}}
    public = {"dataset": "sample-hospitals", "sites": ["west"], "limit": 20}
    found = clients({"data": DATA}, other, images, public=public)
    assert len({tuple(client.public.ids) for client in found}) == 1 and len(found[0].public) == 20
    assert list(found[0].public.inputs) == ["genes"] and list(found[2].public.inputs) == ["image"]


def test_public_inputs_go_to_those_who_can_read_them():
    parts = [{"kind": "quantity", "alpha": 5, "clients": 2, "part": part} for part in (0, 1)]
    public = {"dataset": "random-table", "limit": 7, "partition": parts[1]}
    a, b = clients({"data": DATA}, {"data": {**RANDOM, "partition": parts[0]}}, public=public)
    assert a.public is None and len(b.public) == 7
    assert (
        LogitDistillation()
        .missing(a.profile)
        .startswith("it cannot read the public inputs: random-table lacks its modality genes (")
    )
    assert LogitDistillation().missing(b.profile) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"dataset": "nowhere"},
            r"client 'a'\.data\.dataset: unknown data set \(value: 'nowhere'\)\. Known: .*sample-h",
        ),
        ({"dataset": "sample-cities"}, r"client 'a'\.data\.dataset: not a cohort of patients \(value: 'sample-cities'\)"),
        ({"label": "grade"}, r"client 'a'\.data\.label: no such label \(value: 'grade'\)\. sample-hospitals has: subtype"),
        ({"modalities": ["clinical"]}, r"client 'a'\.data\.modalities: no such modality \(value: 'clinical'\)"),
        (
            {"modalities": ["sound"]},
            r"a'\.data\.modalities\[0\]: unknown modality \(value: 'sound'\)\. Known: clinical, genes, image\.",
        ),
        ({"modalities": []}, r"client 'a'\.data\.modalities: list should have at least 1 item"),
        ({"sites": ["norht"]}, r"client 'a'\.data\.sites: no such site \(value: 'norht'\)\. .* has: east, north, south, west"),
        ({"columns": ["gene99"]}, r"client 'a'\.data\.columns: no such column \(value: 'gene99'\)"),
        ({"train": 0.8, "validation": 0.2}, r"client 'a'\.data: train and validation leave nothing to test on"),
        ({"partition": {"clients": 2, "part": 2}}, r"client 'a'\.data\.partition: part must be below clients"),
        ({"partition": {"kind": "luck", "clients": 2, "part": 0}}, r"client 'a'\.data\.partition\.kind: .* \(value: 'luck'\)"),
        ({"limit": 0}, r"client 'a'\.data\.limit: input should be greater than 0"),
        ({"site": ["north"]}, r"client 'a'\.data\.site: unknown key .*Known keys here: .*sites"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_data_that_are_not_there_are_a_plan_error(data, message):
    with pytest.raises(PlanError, match=message):
        clients({"data": {**DATA, **data}})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"genes": "linaer", "image": "vgg"},
            r"client 'a'\.model\.genes: unknown encoder of genes \(value: 'linaer'\)\. Did you mean 'linear'\? "
            r"Known: identity, linear, mlp, snn\. Also: client 'a'\.model\.image: unknown encoder of image\.",
        ),
        ({"image": 3}, r"client 'a'\.model\.image: unknown encoder of image \(value: 3\)\. Known: conv, deep-conv"),
        ({"features": 0}, r"client 'a'\.model\.features: input should be greater than 0"),
        ({"head": "big"}, r"client 'a'\.model\.head: unknown key .*Known keys here: clinical, features, genes, image"),
        (
            {"genes": "identity", "features": 64},
            r"client 'a'\.model\.genes: an identity encoder of 60 columns cannot give 64 features .*'identity'\)\. Change",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_model_that_cannot_be_is_a_plan_error(model, message):
    with pytest.raises(PlanError, match=message):
        clients({"data": DATA, "model": model})


def test_an_identity_encoder_that_fits_is_accepted():
    (client,) = clients({"data": DATA, "model": {"genes": "identity", "features": 60}})
    assert client.profile.probe.features.shape == (2, 60)


@pytest.mark.parametrize(
    ("public", "message"),
    [
        ({"dataset": "sample-cities"}, r"public\.dataset: not a cohort of patients"),
        ({"dataset": "sample-hospitals", "sites": ["moon"]}, r"public\.sites: no such site \(value: 'moon'\)"),
        (
            {"dataset": "sample-hospitals", "label": "grade", "partition": {"clients": 2, "part": 0}},
            r"public\.label: no such label",
        ),
    ],
    ids=["series", "site", "label"],
)
def test_public_data_that_are_not_there_are_a_plan_error(public, message):
    with pytest.raises(PlanError, match=message):
        clients({"data": DATA}, public=public)


def test_chance_is_by_patient():
    (client,) = clients({"data": DATA})
    assert client.data.owned_by == "patients"
    for part in (client.data.train, client.data.validation, client.data.test):
        assert [identity.rpartition("/")[0] for identity in part.ids] == list(part.whose)
