"""Every patient is at one hospital: what one tests on must not be what another learns from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import wards

import hetfed as hf
from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.plan import read_plan
from hetfed.run.prepare import load_clients
from hetfed_datasets.records import Cohort
from hetfed_medical import vertical
from hetfed_medical.script import hospital, hospitals

GENES = {"dataset": "sample-hospitals", "modalities": ["genes"]}
REMEDY = "Give each its own sites, or parts of one partition."


def clients(*tables: dict[str, Any], **top: Any) -> list[Client]:
    """The hospitals of a plan with these data tables, called "a", "b", ..."""
    named = [{"name": name, "data": {**GENES, **data}} for name, data in zip("abc", tables, strict=False)]
    return list(load_clients(read_plan(tomli_w.dumps({**top, "client": named}), "test.toml"), vertical, None))


def part(number: int, **other: Any) -> dict[str, Any]:
    return {"partition": {"clients": 2, "part": number, **other}}


SHARED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same site": ({"sites": ["north"]}, {"sites": ["north"]}),
    "a site of several": ({"sites": ["north", "south"]}, {"sites": ["south", "east"]}),
    "all sites and one of them": ({}, {"sites": ["west"]}),
    "all sites twice": ({}, {}),
    "one part twice": (part(0), part(0)),
    "parts of two draws": (part(0, seed=1), part(1, seed=2)),
    "a part and a site": (part(0), {"sites": ["north"]}),
    "other modalities of the same patients": ({"sites": ["north"]}, {"sites": ["north"], "modalities": ["image"]}),
}


@pytest.mark.parametrize("tables", SHARED.values(), ids=SHARED)
def test_hospitals_that_share_patients_are_refused(tables: tuple[dict[str, Any], dict[str, Any]]) -> None:
    with pytest.raises(PlanError) as raised:
        clients(*tables)
    said = str(raised.value)
    assert said.startswith("client 'b'.data: ")
    assert re.search(r"\d+ of its \d+ patients are .*client 'a'", said)
    assert said.endswith(REMEDY)


APART: dict[str, tuple[dict[str, Any], ...]] = {
    "sites of their own": ({"sites": ["north"]}, {"sites": ["south"]}, {"sites": ["east", "west"]}),
    "parts of one partition": (part(0), part(1)),
    "parts of one partition of a site": ({"sites": ["north"], **part(0)}, {"sites": ["north"], **part(1)}),
    "other data sets": ({"sites": ["north"]}, {"dataset": "random-table", "modalities": ["clinical"]}),
}


@pytest.mark.parametrize("tables", APART.values(), ids=APART)
def test_hospitals_with_patients_of_their_own_are_not(tables: tuple[dict[str, Any], ...]) -> None:
    found = clients(*tables)
    assert [client.name for client in found] == ["a", "b", "c"][: len(tables)]


def test_a_third_hospital_is_told_with_whom_it_shares() -> None:
    with pytest.raises(PlanError, match=r"client 'c'\.data: .*patients are .*client 'b'"):
        clients({"sites": ["north"]}, {"sites": ["south"]}, {"sites": ["south"]})


@pytest.mark.parametrize("public", [{"sites": ["north"]}, {"sites": ["north"], "limit": 5}, {}], ids=str)
def test_public_inputs_are_nobody_s_patients(public: dict[str, Any]) -> None:
    """What is public would teach everybody what the hospital tests on."""
    with pytest.raises(PlanError) as raised:
        clients({"sites": ["south"]}, {"sites": ["north"]}, public={"dataset": "sample-hospitals", **public})
    said = str(raised.value)
    named = "client 'a'" if not public else "client 'b'"
    assert said.startswith(f"{named}.data: ")
    assert re.search(r"\d+ of its \d+ patients are .*the public inputs", said)
    assert said.endswith(REMEDY)


def test_public_inputs_of_another_site_or_data_set_are_welcome() -> None:
    tables: tuple[dict[str, Any], ...] = ({"sites": ["south"]}, {"sites": ["north"]})
    for public in ({"dataset": "sample-hospitals", "sites": ["west"]}, {"dataset": "random-table"}):
        assert len(clients(*tables, public=public)) == 2


def test_no_site_at_all_is_no_hospital() -> None:
    """An empty list stands for nobody, and must not pass for everybody."""
    with pytest.raises(PlanError, match=r"client 'a'\.data\.sites: .*at least 1 item"):
        clients({"sites": []})
    (everybody,) = clients({})
    (north,) = clients({"sites": ["north"]})
    assert len(everybody.data.train) > len(north.data.train)


REAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MRI and its join": (
        {"dataset": "tcga-lgg-mri", "sites": ["DU"], "modalities": ["image"]},
        {"dataset": "tcga-glioma", "sites": ["DU"], "modalities": ["genes"]},
    ),
    "genes and their join": (
        {"dataset": "tcga-glioma-genomics", "sites": ["DU"], "modalities": ["genes"]},
        {"dataset": "tcga-glioma", "sites": ["DU"], "modalities": ["genes"]},
    ),
    "X-rays and the pair": (
        {"dataset": "breastmnist", "modalities": ["image"]},
        {"dataset": "medmnist-pair", "sites": ["test"], "modalities": ["image"]},
    ),
}


@pytest.mark.parametrize("tables", REAL.values(), ids=REAL)
def test_patients_are_the_same_in_whatever_data_set(tables: tuple[dict[str, Any], dict[str, Any]], real_data: Path) -> None:
    message = r"\d+ of its \d+ patients are also those of"
    named = [{"name": name, "data": data} for name, data in zip("ab", tables, strict=True)]
    with pytest.raises(PlanError, match=rf"^client 'b'\.data: {message} client 'a'"):
        load_clients(read_plan(tomli_w.dumps({"client": named}), "test.toml"), vertical, real_data)
    public = {key: value for key, value in tables[1].items() if key != "modalities"}
    with pytest.raises(PlanError, match=rf"^client 'a'\.data: {message} the public inputs"):
        load_clients(read_plan(tomli_w.dumps({"client": named[:1], "public": public}), "test.toml"), vertical, real_data)


def renamed(cohort: Cohort, name: str) -> Cohort:
    """The same samples as another data set, its patients under other names."""
    return replace(cohort, name=name, patient=np.array([f"{name}-{patient}" for patient in cohort.patient]))


def test_the_same_images_under_other_names_are_known_again() -> None:
    ward = wards.holding(wards.ward(), image=wards.ward().modalities["image"])
    other = renamed(ward.take(np.arange(30, 80)), "copy")
    asked = {"modalities": ["image"], "model": {"image": "small-conv"}}
    with pytest.raises(PlanError, match=r"client 'b'\.data: 25 of its 25 patients are also those of client 'a'"):
        hospitals({"a": {"dataset": ward, **asked}, "b": {"dataset": other, **asked}})


def test_hospitals_that_are_made_one_by_one_are_checked_where_they_meet() -> None:
    north = [hospital(name, "sample-hospitals", sites=["north"], modalities=["genes"]) for name in "ab"]
    with pytest.raises(PlanError, match=r"client 'b'\.data: 124 of its 124 patients are also those of client 'a'"):
        hf.federate(north, "fedavg", rounds=1, progress=False)


def test_columns_that_say_little_are_no_identity() -> None:
    """A dozen clinical columns may be alike in two patients by chance."""
    ward = wards.ward()
    tables = [wards.holding(one, clinical=ward.modalities["clinical"]) for one in (ward, renamed(ward, "other"))]
    found = hospitals({one.name: {"dataset": one, "modalities": ["clinical"]} for one in tables})
    assert len(found) == 2


def test_an_image_under_two_patients_is_used_once_and_said() -> None:
    images = wards.ward(each=1).modalities["image"].copy()
    images[7], images[9] = images[2], images[2]
    ward = wards.holding(wards.ward(each=1), image=images)
    found = hospitals({site: {"dataset": ward, "sites": [site], "modalities": ["image"]} for site in ("left", "right")})
    counts = [sum(len(part) for part in wards.parts(client.data)) for client in found]
    assert counts == [20, 18]  # 2 stands at the left, 7 and 9 at the right
    note = "ward: 2 samples are also that of another patient, and left out: runs use each once."
    assert [client.notes for client in found] == [(note,), (note,)]
