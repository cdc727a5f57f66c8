"""The arms of a run: they begin alike, take equally many steps, and none of them counts that nobody has trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import toy
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from hetfed.algorithms import fedbabu, fedrep
from hetfed.client import Client
from hetfed.data import Spec
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.parts import copy_of
from hetfed.plan import Plan, read_plan
from hetfed.pooled import build_pools
from hetfed.results.arms import OWN_ARMS
from hetfed.results.folder import RunFolder
from hetfed.run.checkpoint import Checkpoint
from hetfed.run.clock import Clock
from hetfed.run.prepare import Prepared, prepare
from hetfed.run.progress import Silent
from hetfed.run.training import ArmTraining
from hetfed.seeding import INITIAL, isolated
from hetfed.training import Phase, Training

ROUNDS = "rounds = 3"


class Broken(toy.Net):
    """Cannot be trained."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        if self.training:
            raise RuntimeError("out of memory")
        return super().forward(inputs)


class OneIsBroken(toy.ToyVertical):
    """The toy, but no turn of "a" comes to an end."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        clients = super().clients(plan, data_dir)
        return [replace(c, model_fn=lambda spec: Broken(2, 5)) if c.name == "a" else c for c in clients]


def run(text: str, out: Path, vertical: toy.ToyVertical | None = None) -> dict[str, dict[str, Any]]:
    """The clients of the summary by name."""
    launcher = Launcher(vertical or toy.ToyVertical(), Console(quiet=True))
    return {client["name"]: client for client in launcher.run(read_plan(text, "x"), "x", out)["clients"]}


def under(algorithm: str) -> Prepared:
    return prepare(read_plan(toy.SAMPLE, "x").under(algorithm), toy.ToyVertical(), None, "x")


@pytest.mark.parametrize("algorithm", ["fedavg", "fedper", "ditto", "fedproto"])
def test_an_architecture_starts_from_one_draw_alone_federated_and_pooled(algorithm: str) -> None:
    prepared = under(algorithm)
    federated, alone = prepared.federated(), prepared.local()
    b, c = (alone.sites.states[name].model for name in "bc")
    assert toy.same(b, c)  # of one architecture
    mine = federated.sites.states["b"].model
    assert toy.same({name: mine[name] for name in b}, b)
    for server in federated.state.server.values():
        sent = {name.rpartition("/")[2]: tensor for name, tensor in server.items()}
        alike = {name: tensor for name, tensor in sent.items() if name in b and tensor.shape == b[name].shape}
        assert all(torch.equal(tensor, b[name]) for name, tensor in alike.items())
    with isolated(prepared.plan.federation.seed, INITIAL):
        pools = build_pools([client for client in prepared.clients if client.name == "b"], prepared.clients)
    assert toy.same(copy_of(pools[0].model), b)


def test_all_arms_take_equally_many_rounds(tmp_path: Path) -> None:
    run(toy.SAMPLE.replace(ROUNDS, "rounds = 5\nfinetune = 2"), tmp_path)
    rows = pd.read_csv(tmp_path / "rounds.csv")
    trained = rows[rows["train_loss"].notna()].groupby("arm")["round"].unique().map(sorted)
    assert trained["alone"] == trained["federated"] == [1, 2, 3, 4, 5]
    assert trained["finetuned"] == [4, 5]  # after three rounds of the federation
    fine_tuned = rows.query("arm == 'finetuned'")
    assert (fine_tuned["bytes_up"] + fine_tuned["bytes_down"] == 0).all()


class Stops(Silent):
    """Interrupts a run when fine-tuning begins."""

    def begin(self, arm: str, rounds: int, done: int) -> None:
        if arm == "finetuned":
            raise KeyboardInterrupt


def test_fine_tuning_goes_on_from_what_the_federation_had_merged(tmp_path: Path) -> None:
    """It begins where a federation of as many rounds ends: the last uploads have been merged and sent to all."""
    long, short = (
        prepare(read_plan(toy.SAMPLE.replace(ROUNDS, f"rounds = {n}\nfinetune = 1"), "x"), toy.ToyVertical(), None, "x")
        for n in (2, 1)
    )
    folder = RunFolder.open(tmp_path / "long", long.plan, resume=False)
    with pytest.raises(KeyboardInterrupt):
        ArmTraining(long, folder, Stops(), Clock.of(folder.checkpoints)).arms()
    begun = long.federated().sites
    assert Checkpoint(folder.checkpoints / "finetuned", long.plan.digest()).load(begun)
    other = RunFolder.open(tmp_path / "short", short.plan, resume=False)
    ended = ArmTraining(short, other, Silent(), Clock.of(other.checkpoints)).arms()["federated"]
    for name in "abc":
        assert toy.same(begun.states[name].model, ended.sites.states[name].model)
        assert not begun.states[name].best  # no candidate of the federation is one of fine-tuning


def test_a_federation_of_one_round_leaves_nothing_to_fine_tune(tmp_path: Path) -> None:
    assert run(toy.SAMPLE.replace(ROUNDS, "rounds = 1"), tmp_path)["a"]["notes"]["finetuned"] == "not part of this plan"


def test_nobody_fine_tunes_where_nothing_is_shared(tmp_path: Path) -> None:
    nobody = '[federation]\nalgorithm = "alone"\nrounds = 2\n[[client]]\nname = "a"'
    assert run(nobody, tmp_path)["a"]["notes"]["finetuned"] == "not part of this plan"


def test_phases_take_as_many_steps_alone_and_freeze_nothing_for_others() -> None:
    profile = toy.client("a").profile
    apart = fedrep(head_epochs=3)
    assert apart.sharing_nothing().phases_of(profile, 1, 9) == apart.phases_of(profile, 1, 9)
    frozen = fedbabu(finetune=2).over(9)
    assert frozen.phases_of(profile, 1, 9) == [Phase(frozen=("head",), until=-2)]
    assert frozen.sharing_nothing().phases_of(profile, 1, 9) == [Phase(until=-2)]
    # What a client itself wants frozen stays frozen.
    own = toy.client("a", training=Training(phases=(Phase(frozen=("head",)),))).profile
    assert frozen.sharing_nothing().phases_of(own, 9, 9) == [Phase(after=-2)]
    assert under("fedavg").local().federation.composition.phases_of(own, 1, 9) == [Phase(frozen=("head",))]


def test_training_alone_needs_no_connection(tmp_path: Path) -> None:
    absent = toy.SAMPLE.replace(ROUNDS, f"{ROUNDS}\npooled = false\n[defaults.presence]\navailability = 0.2")
    one, other = (run(text, tmp_path / str(i)) for i, text in enumerate((absent, toy.SAMPLE)))
    assert {name: c["alone"] for name, c in one.items()} == {name: c["alone"] for name, c in other.items()}
    rows = pd.read_csv(tmp_path / "0/rounds.csv")
    assert (rows[rows["arm"] == "alone"].groupby("client").size() == 3).all()
    assert (rows[rows["arm"] == "finetuned"].groupby("client").size() == 1).all()
    assert len(rows[(rows["arm"] == "federated") & (rows["round"] <= 3)]) < 9


class OneClass(toy.ToyVertical):
    """The toy, but the validation data of "b" are of one class, and "c" has no labels at all."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        return [self._changed(client) for client in super().clients(plan, data_dir)]

    @staticmethod
    def _changed(client: Client) -> Client:
        data = client.data
        if client.name == "b":
            one = replace(data.validation, target=torch.zeros_like(data.validation.target))
            return replace(client, data=replace(data, validation=one))
        if client.name == "c":
            unknown = {
                part: replace(getattr(data, part), target=-torch.ones_like(getattr(data, part).target)) for part in PARTS
            }
            return replace(client, data=replace(data, **unknown))
        return client


PARTS = ("train", "validation")


@pytest.mark.parametrize("seed", range(4))
def test_where_validation_says_nothing_the_last_round_counts_and_the_draw_never_does(seed: int, tmp_path: Path) -> None:
    text = toy.SAMPLE.replace(ROUNDS, f"{ROUNDS}\nseed = {seed}\npooled = false")
    clients = run(text, tmp_path, OneClass())
    assert [clients["b"]["selected_round"][arm] for arm in ("federated", "finetuned", "alone")] == [4, 3, 3]
    # Alone, who has no labels learns nothing; the federation gives it a model.
    assert clients["c"]["notes"]["alone"] == "nobody has trained it"
    assert clients["c"]["kept"]["shares"] == {"federated": 1.0}


@pytest.mark.parametrize("seed", range(4))
def test_no_model_counts_that_nobody_has_trained(seed: int, tmp_path: Path) -> None:
    """The first weights are good by chance: what every client would choose, if they were a candidate."""

    class Lucky(toy.ToyVertical):
        def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
            return [replace(c, model_fn=Oracle.of, training=Training(lr=1.0)) for c in super().clients(plan, data_dir)]

    text = f'[federation]\nalgorithm = "fedavg"\nrounds = 2\nseed = {seed}\n[[client]]\nname = "a"\n[[client]]\nname = "b"\n'
    for client in run(text, tmp_path, Lucky()).values():
        assert all(client["selected_round"][arm] >= 1 for arm in OWN_ARMS)
        rows = pd.read_csv(tmp_path / "rounds.csv").query(f"client == '{client['name']}'")
        assert rows[rows["round"] == 1]["received"].isna().all()


class Oracle(nn.Module):
    """Right from the start, and spoilt by any step."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([1.5, -1.5]))

    @staticmethod
    def of(spec: Spec) -> nn.Module:
        return Oracle()

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        return Output(self.head(inputs["point"]))


@pytest.mark.parametrize("kind", ["prototypes", "shared-parameters"])
def test_a_client_that_was_never_asked_fails_no_run(kind: str, tmp_path: Path) -> None:
    """Shared parameters reach it in the end; what is no part of a model does not."""
    text = f"""
[federation]
rounds = 2
finetune = 1
[[exchange]]
kind = "{kind}"
[[client]]
name = "a"
[[client]]
name = "b"
presence = {{ availability = 0 }}
"""
    client = run(text, tmp_path)["b"]
    if kind == "prototypes":
        assert (client["federated"], client["notes"]) == (None, {"federated": "nobody has trained it"})
    assert client["kept"] is not None
    assert client["finetuned"] is not None
    assert (tmp_path / "models/b/model.json").is_file()
    assert (tmp_path / "report.html").is_file()


def test_a_client_whose_turns_all_fail_keeps_nothing_and_fails_no_run_that_tolerates_it(tmp_path: Path) -> None:
    tolerant = toy.SAMPLE.replace(ROUNDS, "rounds = 3\npooled = false\n[participation]\ntolerate_failures = true")
    text = tolerant.replace('kind = "shared-parameters"\npart = "head"\n[[exchange]]\n', "")
    client = run(text, tmp_path, OneIsBroken())["a"]
    for arm in OWN_ARMS:
        assert (client[arm], client["notes"][arm]) == (None, "nobody has trained it")
    assert client["kept"] is None
    rows = pd.read_csv(tmp_path / "rounds.csv").query("client == 'a'")
    assert set(rows["failed"]) == {"out of memory, in the training"}
    assert not (tmp_path / "models/a").exists()
    assert load_file(tmp_path / "models/b/alone/model.safetensors")
    assert (tmp_path / "report.html").is_file()


def test_without_the_others_only_the_federated_model_can_be_kept(tmp_path: Path) -> None:
    text = toy.SAMPLE.replace(ROUNDS, "rounds = 1\nfinetune = 0\nalone = false\npooled = false")
    assert {client["kept"]["arm"] for client in run(text, tmp_path).values()} == {"federated"}
