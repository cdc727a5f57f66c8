"""What may leave a site is visible in the types: an exchange that reaches for more fails in mypy, and when it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toy
from pydantic.dataclasses import dataclass
from torch import Tensor

from hetfed.client import Client
from hetfed.composition import Step, compose, enrol
from hetfed.context import ClientContext, ServerContext
from hetfed.engines.local import Sites
from hetfed.errors import RunError
from hetfed.exchanges import Exchange
from hetfed.federation import Federation
from hetfed.payload import Declaration, Merged, Payload, TensorRule
from hetfed.profile import Profile
from hetfed.rounds import init, run_round

REACHES = {
    "its own test targets": "context.test.target",
    "its own validation targets": "context.validation.target",
    "all of its own data": "context.data.test.target",
    "the client itself": "context.client",
    "a peer's training data": 'context.peers["b"].train.target',
    "a peer's data": 'context.peers["b"].data',
    "a peer's own scale": 'context.peers["b"].statistics',
}
"""What an exchange at a client might reach for, and how."""
SERVER_REACHES = {"a member's data": 'server.members["a"].data', "a member's client": "server.clients"}

SOURCE = """
from collections.abc import Mapping

from torch import Tensor

import hetfed as hf
from hetfed.client import Tensors


class Greedy(hf.Exchange):
    def declare(self, profile: hf.Profile) -> hf.Declaration:
        return hf.Declaration({{"t": hf.TensorRule((1,))}})

    def upload(self, context: hf.ClientContext) -> hf.Payload | None:
        print({client})
        return None

    def update(self, server: hf.ServerContext, state: Tensors, merged: Mapping[str, hf.Merged]) -> Tensors:
        print({server})
        return state
"""


@dataclass(frozen=True)
class Greedy(Exchange):
    """Sends what it finds where it should not look."""

    at_client: str = "None"
    at_server: str = "None"
    merge: ClassVar[str] = "each"

    def declare(self, profile: Profile) -> Declaration:
        return Declaration({"t": TensorRule((1,))})

    def upload(self, context: ClientContext) -> Payload | None:
        reached(self.at_client, context=context)
        return Payload({"t": context.train.target[:1].float()}, 1.0)

    def update(self, server: ServerContext, state: dict[str, Tensor], merged: dict[str, Merged]) -> dict[str, Tensor]:
        reached(self.at_server, server=server)
        return state


def reached(words: str, **start: Any) -> Any:
    """What an expression of attributes and keys leads to, as Python would evaluate it."""
    first, *others = words.replace('["', ".").replace('"]', "").split(".")
    found: Any = start.get(first)
    for word in others:
        found = found[word] if isinstance(found, dict) else getattr(found, word)
    return found


def federate(exchange: Exchange) -> None:
    """One round of two clients."""
    clients = [toy.client("a"), toy.client("b")]
    enrolment = enrol(compose(exchange), [client.profile for client in clients])
    sites = Sites.of(clients, enrolment, 0)
    federation = Federation.of(enrolment, 1, 0)
    run_round(federation, init(federation), sites)


def test_an_exchange_that_looks_at_its_own_training_data_runs() -> None:
    federate(Greedy("context.train.target"))


@pytest.mark.parametrize("what", REACHES)
def test_an_exchange_at_a_client_that_reaches_for_more_fails_when_it_runs(what: str) -> None:
    with pytest.raises(
        RunError, match=r"client 'a' failed in round 1, in the upload of Greedy: .*(has no attribute|is kept from)"
    ):
        federate(Greedy(REACHES[what]))


@pytest.mark.parametrize("what", SERVER_REACHES)
def test_the_server_side_that_reaches_for_data_fails_when_it_runs(what: str) -> None:
    with pytest.raises(RunError, match=r"the server failed in round 1, in the update of Greedy: .* has no attribute"):
        federate(Greedy(at_server=SERVER_REACHES[what]))


def test_it_fails_in_mypy_as_well(tmp_path: Path) -> None:
    pairs = [
        *((reach, "state") for reach in REACHES.values()),
        *(("context.train", reach) for reach in SERVER_REACHES.values()),
    ]
    for number, (client, server) in enumerate(pairs):
        (tmp_path / f"greedy{number}.py").write_text(SOURCE.format(client=client, server=server), encoding="utf-8")
    (tmp_path / "honest.py").write_text(SOURCE.format(client="context.train.target", server="server.members"), encoding="utf-8")
    words = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--output",
        "json",
    ]
    done = subprocess.run([*words, *sorted(map(str, tmp_path.glob("*.py")))], capture_output=True, text=True, check=False)
    errors = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(Path(error["file"]).stem, error["code"]) for error in errors if error["severity"] == "error"}
    assert found == {(f"greedy{number}", "attr-defined") for number in range(len(pairs))}, done.stdout + done.stderr


def test_a_profile_holds_no_tensor_and_survives_as_text() -> None:
    client = toy.client("a")
    text = client.profile.to_json()
    again = Profile.from_json(text, toy.net)
    assert again.to_json() == text
    assert again.signature == client.profile.signature
    assert again.probe.logits.shape == client.profile.probe.logits.shape
    for part in (client.data.train, client.data.validation, client.data.test):
        assert not any(identity in text for identity in part.ids)
        assert not any(str(float(value)) in text for value in part.inputs["point"].flatten())


def test_statistics_of_data_stay_out_of_a_profile() -> None:
    """A city's scale, its road graph and the scale of its answers are its own."""
    from hetfed.plan import read_plan
    from hetfed.vertical import plan_text, verticals

    vertical = verticals()["traffic"]
    (client, *_) = vertical.clients(read_plan(*plan_text(vertical, "sample")), None)
    assert isinstance(client, Client)
    text, model = client.profile.to_json(), client.new_model("at home")
    for name, tensor in client.statistics.items():
        assert str(float(tensor.flatten()[0])) not in text or float(tensor.flatten()[0]) in {0.0, 1.0}, name
        assert (client.profile.module.state_dict()[name] == tensor).all().item() is False or not tensor.any(), name
        assert (model.state_dict()[name] == tensor).all()
    assert client.profile.scaled
    assert float(client.profile.task.scaling[0]) == 0.0


def test_step_options_say_who_may_set_them() -> None:
    """Robust rules are an option of whatever merges by mean, and of nothing else."""
    from hetfed.aggregation import Aggregation
    from hetfed.errors import PlanError
    from hetfed.exchanges import KINDS, SharedParameters, TeacherDistillation

    profiles = [toy.client(name).profile for name in "abc"]
    median = Aggregation("median")
    assert enrol(compose(Step(SharedParameters("head"), aggregation=median)), profiles).composition.steps
    with pytest.raises(
        PlanError, match=r"aggregation: teacher-distillation takes no mean of what clients send \(value: 'median'\)"
    ):
        enrol(compose(Step(TeacherDistillation(("a",)), aggregation=median)), profiles)
    averaging = {kind for kind, found in KINDS.items() if found.merge == "mean" or found.robust}
    assert {"shared-parameters", "logit-distillation", "prototypes", "distilled-parameters"} <= averaging
