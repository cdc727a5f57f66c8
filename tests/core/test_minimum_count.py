"""A class of too few examples stays at home; the words of a report say no more than what is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import toy
from rich.console import Console

from hetfed.composition import compose
from hetfed.data import Examples
from hetfed.exchanges import Exchange, FeatureGenerator, Prototypes, TrainedHead, TrainedPrototypes
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan

EXCHANGES = (Prototypes, TrainedPrototypes, TrainedHead, FeatureGenerator)


def with_counts(name: str, *counts: int) -> toy.Client:
    """A client with so many training examples of each class."""
    client = toy.client(name)
    drawn = toy.examples(2 * max(counts), name, "more")
    rows = torch.cat([(drawn.target == c).nonzero()[:n, 0] for c, n in enumerate(counts)])
    train = Examples({"point": drawn.inputs["point"][rows]}, drawn.target[rows], [f"{name}{i}" for i in range(len(rows))])
    return replace(client, data=replace(client.data, train=train))


@pytest.mark.parametrize("kind", EXCHANGES)
def test_a_class_of_one_patient_is_not_sent(kind: type[Exchange]) -> None:
    client = with_counts("a", 9, 1)
    context = toy.client_context(client)
    alone = context.predict(client.data.train.take(torch.tensor([9]))).features[0]
    payload = kind().upload(context)
    counts = next(tensor for name, tensor in payload.tensors.items() if "counts" in name)
    assert counts.tolist() == [9.0, 0.0]
    assert not any(
        torch.allclose(row, alone) for t in payload.tensors.values() if t.ndim == 2 for row in t if len(row) == len(alone)
    )
    kind().declare(client.profile).check(payload, client.profile.examples)
    # Who asks for it sends it: the mean of one is that one's feature.
    counts = next(t for name, t in kind(minimum_count=1).upload(context).tensors.items() if "counts" in name)
    assert counts.tolist() == [9.0, 1.0]
    if kind is not FeatureGenerator:
        assert torch.allclose(kind(minimum_count=1).upload(context).tensors["means"][1], alone, atol=1e-6)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_clients_of_few_examples_only_share_nothing_and_learn_all_the_same(kind: type[Exchange]) -> None:
    clients = [with_counts(name, 4, 3) for name in "abc"]
    state, uploads = toy.federate(clients, compose(kind()), 2)
    assert not any(upload.refused for upload in uploads)
    assert all(tensor.isfinite().all() for tensor in state.server[uploads[0].exchange].values())


def test_a_declaration_says_which_classes_are_told_of() -> None:
    profile = toy.client("a").profile
    for kind in EXCHANGES:
        assert any("if it has at least 5 of it" in words for words in kind().declare(profile).reveals)
        assert not any("at least" in words for words in kind(minimum_count=1).declare(profile).reveals)


def test_predictions_name_patients_by_pseudonyms_on_request(tmp_path: Path) -> None:
    tables = {}
    for setting in ("false", "true"):
        plan = read_plan(
            toy.SAMPLE.replace("rounds = 3", f"rounds = 1\nalone = false\npooled = false\npseudonyms = {setting}"), "toy"
        )
        Launcher(toy.ToyVertical(), Console(quiet=True)).run(plan, "toy", tmp_path / setting)
        tables[setting] = pd.read_csv(tmp_path / setting / "predictions" / "a.csv", dtype={"id": str})
    plain, hidden = tables["false"], tables["true"]
    assert set(plain["id"]) == set(toy.client("a").data.test.ids)
    assert not set(plain["id"]) & set(hidden["id"])
    assert hidden["id"].nunique() == plain["id"].nunique()
    assert plain.drop(columns="id").equals(hidden.drop(columns="id"))
    page = (tmp_path / "true" / "report.html").read_text(encoding="utf-8")
    assert "under a pseudonym" in page
    assert "Raw data never left" not in page
