"""Every patient is at one hospital: what one tests on must not be what another learns from."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tomli_w

from hetfed.client import Client
from hetfed.errors import PlanError
from hetfed.plan import read_plan
from hetfed_medical import vertical

GENES = {"dataset": "sample-hospitals", "modalities": ["genes"]}
REMEDY = "Give each its own sites, or parts of one partition."


def clients(*tables: dict[str, Any], **top: Any) -> list[Client]:
    """The hospitals of a plan with these data tables, called "a", "b", ..."""
    named = [{"name": name, "data": {**GENES, **data}} for name, data in zip("abc", tables, strict=False)]
    return list(vertical.clients(read_plan(tomli_w.dumps({**top, "client": named}), "test.toml"), None))


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
