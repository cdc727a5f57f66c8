"""The documentation of plans names every key, and its examples are plans."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hetfed import exchanges
from hetfed.aggregation import Kind as AggregationKind
from hetfed.algorithms import NAMED
from hetfed.compression import Compression
from hetfed.participation import Participation, Presence
from hetfed.plan import ClientTable, ExchangeTable, FederationTable, Plan, VariantTable, read_plan
from hetfed.run.prepare import prepare
from hetfed.server_optimizer import ServerOptimizer
from hetfed.training import Phase, Training
from hetfed_medical import vertical
from hetfed_medical.backbones import BACKBONES
from hetfed_medical.modalities import MODALITIES
from hetfed_medical.plan_schema import HospitalData, HospitalModel, LearnerName, Partition, PublicData
from hetfed_medical.tabular import TABULAR
from hetfed_traffic.encoders import ENCODERS
from hetfed_traffic.plan_schema import CityData, CityModelTable

DOCUMENT = (Path(__file__).parent.parent / "docs" / "plans.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCUMENT, flags=re.DOTALL)
OURS = {word: kind for word, kind in exchanges.KINDS.items() if kind.__module__.startswith("hetfed.")}
OUR_ALGORITHMS = [name for name, algorithm in NAMED.items() if algorithm.__module__.startswith("hetfed.")]


def named(word: str, text: str = DOCUMENT) -> bool:
    """Whether a word stands in the text as code, by itself, in quotes, or as the head of a table."""
    return re.search(rf'`(\[\[?)?"?{re.escape(word)}"?(\.\w+)?(\]\]?)?`', text) is not None


def keys(table: Any) -> set[str]:
    """The keys of a table, whether pydantic's model or dataclass."""
    return set(table.model_fields) if issubclass(table, BaseModel) else {field.name for field in fields(table)}


TABLES = [
    FederationTable, ExchangeTable, ClientTable, Participation, Presence, Phase, Training, VariantTable, Compression,
    ServerOptimizer, HospitalData, HospitalModel, PublicData, Partition, CityData, CityModelTable,
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_key_of_a_table_is_named(table: Any) -> None:
    assert {key for key in keys(table) if not named(key)} == set()


def test_every_table_of_a_plan_is_named() -> None:
    assert {key for key in Plan.model_fields if not named(key) and f"`[{key}." not in DOCUMENT} == set()


@pytest.mark.parametrize("kind", OURS)
def test_every_exchange_has_a_paragraph_with_all_its_settings(kind: str) -> None:
    start = DOCUMENT.index(f"**`{kind}`**")
    paragraph = re.split(r"\n(?:\*\*`|### |## )", DOCUMENT[start:])[0]
    assert {key for key in keys(OURS[kind]) if not named(key, paragraph) and f"`{key} = " not in paragraph} == set()


@pytest.mark.parametrize("name", OUR_ALGORITHMS)
def test_every_algorithm_has_a_row_with_all_its_arguments(name: str) -> None:
    section = DOCUMENT.partition("### Named algorithms")[2].partition("\n### ")[0]
    (row,) = [line for line in section.splitlines() if re.match(rf"\| .*`{name}`.* \|", line)]
    arguments = set(inspect.signature(NAMED[name]).parameters) - {"among"}
    assert {argument for argument in arguments if not named(argument, row)} == set()


CHOICES: dict[str, Any] = {
    "aggregation": get_args(AggregationKind),
    "learner": get_args(LearnerName),
    "modality": MODALITIES,
    "image": BACKBONES,
    "genes": TABULAR,
    "encoder": ENCODERS,
}


@pytest.mark.parametrize("words", CHOICES.values(), ids=CHOICES)
def test_every_choice_is_named(words: Any) -> None:
    assert {word for word in words if not named(word)} == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_is_a_plan(example: str) -> None:
    plan = read_plan(example, "docs/plans.md")
    plan.composition()
    if "sample-hospitals" in example:
        enrolment = prepare(plan, vertical, None, "docs/plans.md").enrolment
        assert all(step.clients for step in enrolment.composition)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7
