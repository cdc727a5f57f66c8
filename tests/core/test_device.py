"""Where a client trains changes nothing but rounding, and what rests or travels lies on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import conformance
import pytest
import torch
import toy
from test_conformance import ROWS
from torch import nn
from whole import enrol

from hetfed.client import Client
from hetfed.data import Batch, Spec
from hetfed.device import CPU, moved, resolve
from hetfed.errors import PlanError
from hetfed.exchanges import SharedParameters
from hetfed.plan import read_plan
from hetfed.profile import ModelFn
from hetfed.run.prepare import prepare
from hetfed.script import federate
from hetfed.seeding import isolated
from hetfed.tasks import Classification, Forecasting, MultiTask
from hetfed.training import Training, load_optimizer_tensors, optimizer_tensors

ACCELERATOR = torch.accelerator.is_available()
without = pytest.mark.skipif(ACCELERATOR, reason="is about machines without an accelerator")
needs_an_accelerator = pytest.mark.skipif(not ACCELERATOR, reason="needs an accelerator")
NAMES = [name for name in ROWS if name != "feature-means"]
CLOSE = 1e-3
"""So far may parameters and losses after two rounds on an accelerator be from those on the CPU, where nothing is dropped."""


@cache
def strict_runs() -> dict[str, Any]:
    """Every algorithm on a second device that refuses to mix with the CPU, in a process of its own."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-W", "ignore", str(Path(here) / "strict_runs.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {entry.pop("name"): entry for entry in found}


@without
@pytest.mark.parametrize("name", ROWS)
def test_no_tensor_is_left_behind_and_no_bit_changes_on_another_device(name: str) -> None:
    done = {"failed": [], "same": True, "at rest": ["cpu"], "trained on": ["strict"], "moved once": True, "generator": True}
    assert strict_runs()[name] == done


@without
def test_a_tensor_that_is_left_behind_is_found() -> None:
    found = strict_runs()["left-behind"]
    assert not found["same"]
    (reason,) = found["failed"]
    assert reason.endswith("found (3,) on the CPU, in the loss of left-behind")


@without
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert resolve("auto") == resolve("cpu") == CPU
    row = ROWS["fedavg"]
    here, there = (
        conformance.run("fedavg", replace(row, training=row.training.model_copy(update={"device": device})), rounds=2)
        for device in ("cpu", "auto")
    )
    assert conformance.same(here.states[-1], there.states[-1])


def test_on_the_cpu_nothing_is_copied() -> None:
    client = toy.client("a")
    assert client.placed.train is client.data.train
    assert client.placed.validation is client.data.validation
    assert client.placed.public is client.public
    assert client.placed.task is client.task


@without
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused_by_name_before_anything_starts(device: str, tmp_path: Path) -> None:
    problem = (
        rf"client 'b'\.training\.device: this machine, or its installation of torch, has no such device \(it has: cpu only\) "
        rf"\(value: '{device}'\)\. Set \"cpu\", or \"auto\" for the best that is there\.$"
    )
    text = toy.SAMPLE.replace('name = "b"', f'name = "b"\ntraining = {{ device = "{device}" }}')
    with pytest.raises(PlanError, match=rf"^toy plan x: {problem}"):
        prepare(read_plan(text, "x"), toy.ToyVertical(), None, "toy plan x")
    clients = [toy.client("a"), toy.client("b", training=Training(device=device))]
    with pytest.raises(PlanError, match=f"^{problem}"):
        federate(clients, SharedParameters("head"), rounds=1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # A server need not have what a site has.
    enrol(conformance.named_algorithm("fedavg", {}), clients)


def test_a_word_that_is_no_device_is_refused() -> None:
    text = toy.SAMPLE.replace('name = "b"', 'name = "b"\ntraining = { device = "gpu" }')
    with pytest.raises(PlanError, match=r"training.device: .*'auto', 'cpu', 'cuda' or 'mps'"):
        read_plan(text, "x")


def test_whatever_holds_tensors_is_moved_as_a_whole() -> None:
    meta = torch.device("meta")
    level = Classification(("low", "high"))
    task = MultiTask(Forecasting("km/h", 5, (15,), torch.zeros(3), torch.ones(3)), {"level": (level, 0.5)})
    there = moved(task, meta)
    assert isinstance(there, MultiTask) and isinstance(there.main, Forecasting)
    assert {there.main.mean.device, there.main.scale.device} == {meta}
    assert there.further == task.further
    batch = Batch({"x": torch.zeros(2)}, torch.ones(2), {"level": torch.ones(2)})
    found = moved(batch, meta)
    assert {found.inputs["x"].device, found.target.device, found.further["level"].device} == {meta}
    assert moved(batch, CPU) is batch
    assert moved(task, CPU) is task


def test_the_moments_of_an_optimiser_come_back_as_they_were() -> None:
    model = nn.Linear(2, 1)
    optimizer = Training().new_optimizer(model.parameters(), 0.1)
    torch.autograd.backward(model(torch.ones(1, 2)).sum())
    optimizer.step()
    held = optimizer_tensors(optimizer, model)
    other = Training().new_optimizer(model.parameters(), 0.1)
    load_optimizer_tensors(other, model, held)
    assert toy.same(optimizer_tensors(other, model), held)
    assert held["weight/step"] == 1


def still(model_fn: ModelFn) -> ModelFn:
    """The same models without dropout, which draws other numbers on an accelerator."""

    def build(spec: Spec) -> nn.Module:
        model = model_fn(spec)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    return build


def still_clients(row: conformance.Row, device: str) -> list[Client]:
    # Plain SGD: Adam turns the sign of a gradient that is nearly nothing into a whole step.
    training = Training(optimizer="sgd", lr=0.05, batch_size=8, device=device)
    found = conformance.clients(replace(row, training=training))
    return [replace(c, model_fn=still(c.model_fn), common_fn=still(c.common_fn)) for c in found if c.common_fn]


@needs_an_accelerator
@pytest.mark.parametrize("name", NAMES)
def test_an_accelerator_differs_from_the_cpu_by_rounding_alone(name: str) -> None:
    row = ROWS[name]
    here, there = (conformance.run(name, row, still_clients(row, device), 2).states[-1] for device in ("cpu", "auto"))
    found, expected = conformance.flat(there), conformance.flat(here)
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].device == CPU
        assert torch.allclose(found[key].double(), tensor.double(), atol=CLOSE, rtol=CLOSE), key
    for one, other in zip(there.rows, here.rows, strict=True):
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=CLOSE)


@needs_an_accelerator
def test_chance_on_an_accelerator_is_seeded_and_put_back() -> None:
    device = resolve("auto")
    before = torch.get_device_module(device).get_rng_state()
    draws = []
    for _ in range(2):
        with isolated("a", device=device):
            draws.append(torch.rand(5, device=device))
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_device_module(device).get_rng_state())
