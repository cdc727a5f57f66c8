"""Columns go by their names: in whatever order a plan or a data set has them, what reads them can be shared, or is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import wards

import hetfed as hf
from hetfed.algorithms import fedavg, fedrolex
from hetfed.client import Client
from hetfed.composition import compose, enrol
from hetfed.errors import PlanError
from hetfed.exchanges import SharedParameters, TeacherDistillation
from hetfed.pooled import build_pools
from hetfed_datasets.records import Cohort
from hetfed_medical.script import hospital, hospitals

ENCODER = compose(SharedParameters("encoders.clinical"))
LEFT, RIGHT = (
    wards.holding(
        wards.ward().take(wards.ward().site == site), clinical=wards.ward().modalities["clinical"][wards.ward().site == site]
    )
    for site in ("left", "right")
)


def pair(left: Any, right: Any, *, dataset: Cohort = RIGHT) -> list[Client]:
    """Two hospitals that ask for these columns."""
    asked = {"modalities": ["clinical"], "model": {"clinical": "mlp", "features": 8}}
    other = replace(dataset, name="other")
    return hospitals({"a": {"dataset": LEFT, "columns": left, **asked}, "b": {"dataset": other, "columns": right, **asked}})


def turned(cohort: Cohort) -> Cohort:
    """The same table with its columns in another order."""
    values, names = cohort.modalities["clinical"], cohort.columns["clinical"]
    return replace(cohort, modalities={"clinical": values[:, ::-1].copy()}, columns={"clinical": names[::-1]})


@pytest.mark.parametrize("dataset", [RIGHT, turned(RIGHT)], ids=["alike", "turned"])
def test_the_same_columns_in_another_order_are_aligned(dataset: Cohort) -> None:
    straight = pair(["age", "score", "pulse"], ["age", "score", "pulse"])
    mixed = pair(["age", "score", "pulse"], ["pulse", "age", "score"], dataset=dataset)
    assert [client.columns for client in mixed] == [{"clinical": ("age", "score", "pulse")}] * 2
    for one, other in zip(straight, mixed, strict=True):
        assert torch.equal(one.data.train.inputs["clinical"], other.data.train.inputs["clinical"])
    enrolled = enrol(ENCODER, [client.profile for client in mixed])
    assert enrolled.composition.steps[0].clients == ("a", "b")


def test_a_whole_table_is_read_in_the_order_in_which_its_columns_were_first_named() -> None:
    a, b = pair([], [], dataset=turned(RIGHT))
    assert a.columns == b.columns == {"clinical": wards.COLUMNS}
    assert np.allclose(b.data.train.inputs["clinical"], pair([], [])[1].data.train.inputs["clinical"])


@pytest.mark.parametrize(
    "composition", [ENCODER, fedavg(among="all"), fedrolex(), compose(TeacherDistillation())], ids=lambda one: one.name
)
def test_other_columns_are_refused_with_both_lists(composition: hf.Composition) -> None:
    clients = pair(["age", "score"], ["pulse", "dose"])
    with pytest.raises(
        PlanError,
        match=r"the columns of 'clinical' are \((age, score|dose, pulse)\) at the one and \((dose, pulse|age, score)\)",
    ):
        enrol(composition, [client.profile for client in clients])
    head = enrol(compose(SharedParameters("head")), [client.profile for client in clients])
    assert head.composition.steps[0].clients == ("a", "b")


def test_hospitals_made_one_by_one_in_another_order_are_refused_where_they_meet() -> None:
    asked: dict[str, Any] = {"modalities": ["clinical"], "model": {"clinical": "mlp", "features": 8}}
    clients = [hospital("a", LEFT, **asked), hospital("b", replace(turned(RIGHT), name="other"), **asked)]
    with pytest.raises(PlanError, match=r"\. Put the columns into one order, or share what does not stand on them"):
        hf.federate(clients, ENCODER, rounds=1, progress=False)


def test_pooled_training_reads_no_column_as_another() -> None:
    """Data of the same columns join, whatever their order was; those of others do not."""
    alike, apart = pair(["age", "score"], ["score", "age"]), pair(["age", "score"], ["pulse", "dose"])
    assert [len(pool.clients) for pool in build_pools(alike[:1], alike)] == [2]
    assert [[client.name for client in pool.clients] for pool in build_pools(apart[:1], apart)] == [["a"]]
