"""The shipped plans and the case study of cities: they parse, find their data, and take in whom they should."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from hetfed.exchanges import SharedParameters
from hetfed.plan import read_plan
from hetfed.run.prepare import Prepared, prepare
from hetfed.vertical import shipped, verticals
from hetfed_traffic import vertical

PLANS, STUDIES = shipped(vertical.plans), {folder.name: shipped(folder) for folder in vertical.studies.iterdir()}
CITIES = {
    "sample": {"Loops": "mph", "Probes": "km/h", "Signals": "vehicles/15 min", "Camera": "vehicles/15 min"},
    "cities": {"Los Angeles": "mph", "Shenzhen": "km/h", "Melbourne": "vehicles/15 min", "Camera city": "vehicles/15 min"},
}
SENSORS = {"Los Angeles": 207, "Shenzhen": 40, "Melbourne": 105, "Camera city": 1}


def prepared_plan(name: str, data_dir: Path) -> Prepared:
    return prepare(read_plan(PLANS[name].read_text(), name), vertical, data_dir, name)


def assert_encoder_is_shared(prepared: Prepared) -> None:
    """All cities average one encoder, and no other parameters."""
    (step,) = [step for step in prepared.enrolment.composition if isinstance(step.exchange, SharedParameters)]
    assert not prepared.enrolment.left_out.get(step.label)
    declared = [step.exchange.declare(client.profile).shapes for client in prepared.clients]
    assert declared[0] and all(shapes == declared[0] for shapes in declared)
    assert all(name.startswith("encoder.") for name in declared[0])


def test_the_vertical_is_found():
    assert verticals()["traffic"] is vertical
    assert set(PLANS) == set(CITIES) and set(STUDIES) == {"traffic"} and set(STUDIES["traffic"]) == {"random", "real"}


def test_the_sample_needs_no_data(tmp_path: Path):
    prepared = prepared_plan("sample", tmp_path)
    assert {client.name: client.unit for client in prepared.clients} == CITIES["sample"]
    assert all(client.synthetic for client in prepared.clients)
    assert_encoder_is_shared(prepared)


def test_real_cities_share_their_encoder(real_data):
    prepared = prepared_plan("cities", real_data)
    assert {client.name: client.unit for client in prepared.clients} == CITIES["cities"]
    assert {client.name: int(client.about["sensors"]) for client in prepared.clients} == SENSORS
    assert all(not client.synthetic for client in prepared.clients)
    assert len({client.profile.probe.logits.shape for client in prepared.clients}) == 4
    assert_encoder_is_shared(prepared)


@pytest.mark.parametrize("name", CITIES)
def test_plan_survives_being_written_out(name):
    plan = read_plan(PLANS[name].read_text(), name)
    assert plan.title and plan.description.strip()
    assert read_plan(plan.resolved(), name).digest() == plan.digest()


@pytest.mark.parametrize("variant", ["random", "real"])
def test_study_has_the_article_s_layers(real_data, variant):
    plan = read_plan(STUDIES["traffic"][variant].read_text(), variant)
    prepared = prepare(plan, vertical, real_data if variant == "real" else None, variant)
    assert len(prepared.clients) == 3
    for client in prepared.clients:
        leaves = [module for module in client.module.modules() if not list(module.children())]
        assert all(isinstance(leaf, nn.Linear) for leaf in leaves)
        assert [(leaf.in_features, leaf.out_features) for leaf in leaves] == [(10, 128), (128, 2)]
        assert client.task.names == ("free", "congested") and set(client.data.train.target.tolist()) == {0, 1}
        assert client.synthetic == (variant == "random")
    assert_encoder_is_shared(prepared)
    assert [step.every for step in prepared.enrolment.composition] == [2]


def test_both_variants_of_the_study_federate_alike():
    one, other = (read_plan(file.read_text(), "study") for file in STUDIES["traffic"].values())
    assert one.exchange == other.exchange and one.federation == other.federation
    assert [(client.model, client.training) for client in one.client] == [(c.model, c.training) for c in other.client]
