"""A federation from a script: the same run as the command line's, and errors in the same words."""

from __future__ import annotations

import gc
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import toy
from rich.console import Console
from torch import Tensor, nn

import hetfed as hf
from hetfed.client import Client
from hetfed.errors import PlanError, RunError, RunFolderError
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan
from hetfed.results.ledger import Ledger
from hetfed.selection import MeanOf

SHARED = hf.compose(hf.SharedParameters("head"), hf.every(2, hf.Prototypes()))
ARMS = ["alone", "federated", "finetuned", "pooled"]


def clients() -> list[Client]:
    """Those of the toy's own plan."""
    return [
        toy.client("b"),
        toy.client("a", width=5),
        toy.client("c", n=17, training=hf.Training(optimizer="sgd", momentum=0.5)),
    ]


def federate(members: Any = None, shared: Any = SHARED, **options: Any) -> hf.Result:
    return hf.federate(members or clients(), shared, **{"rounds": 3, "progress": False, **options})


def uploads(folder: Path) -> list[dict[str, Any]]:
    return Ledger(folder / "ledger.jsonl").entries()


def content(folder: Path, *parts: str) -> dict[str, bytes]:
    files = [file for part in parts for file in sorted((folder / part).rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def result() -> hf.Result:
    return federate(title="A toy")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planned") / "run"
    Launcher(PlanVertical(), Console(quiet=True)).run(read_plan(toy.SAMPLE, "toy.toml"), "toy.toml", out)
    return out


class PlanVertical(toy.ToyVertical):
    """The toy, whose clients train as those of the script do where the plan says nothing."""

    def clients(self, plan: Any, data_dir: Path | None) -> list[Client]:
        return clients()


def test_a_script_leaves_what_the_command_line_leaves(result: hf.Result, planned: Path, tmp_path: Path) -> None:
    report = result.save(tmp_path / "saved")
    assert report == tmp_path / "saved" / "report.html"
    names = [{str(file.relative_to(folder)) for file in folder.rglob("*")} for folder in (tmp_path / "saved", planned)]
    assert names[0] == names[1]
    assert "A toy" in report.read_text(encoding="utf-8")


def test_a_script_and_a_plan_come_to_the_same_bits(result: hf.Result, planned: Path) -> None:
    assert len(uploads(planned)) > 6
    assert uploads(result.run.path) == uploads(planned)
    mine, theirs = (content(folder, "models", "predictions") for folder in (result.run.path, planned))
    assert mine == theirs
    assert {"models/a/alone/model.safetensors", "predictions/c.csv"} <= set(mine)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (result.run.path, planned)]
    differing = {key for key in summaries[0] if summaries[0][key] != summaries[1][key]}
    assert differing <= {"plan", "seconds", "turn_seconds"}


def test_the_table_has_numbers_and_says_what_they_are(result: hf.Result) -> None:
    table = result.table()
    assert list(table.columns) == ["metric", *ARMS, "kept", "n_test"]
    assert list(table.index) == ["b", "a", "c"]
    assert table.index.name == "client"
    assert set(table["metric"]) == {"AUROC"}
    assert (table[ARMS].dtypes == "float64").all()
    assert table[ARMS].stack().between(0, 1).all()
    assert set(table["n_test"]) == {20}
    assert table["kept"].to_dict() == {client["name"]: client["kept"]["value"] for client in result.summary["clients"]}


def test_a_unit_stands_behind_its_metric() -> None:
    members = [replace(one, unit="km") for one in clients()[:1]] + clients()[1:]
    table = federate(members, rounds=1, arms=(), finetune=0).table()
    assert list(table["metric"]) == ["AUROC (km)", "AUROC", "AUROC"]


def test_a_value_that_is_undefined_is_no_number() -> None:
    table = federate([toy.client("a"), toy.client("lonely", one_class=True)], rounds=1, arms=()).table()
    assert pd.isna(table.loc["lonely", "federated"]) and table["federated"].dtype == "float64"
    assert table.loc["a", "federated"] > 0


def test_a_result_shows_its_table_whole(result: hf.Result) -> None:
    for text in (repr(result), str(result), result._repr_html_()):
        assert all(word in text for word in ("AUROC", "federated", "pooled", "n_test"))
        assert "..." not in text and "tensor" not in text
    assert "<table" in result._repr_html_()


def test_rounds_ledger_and_predictions_are_tables(result: hf.Result) -> None:
    rounds = result.rounds
    assert {"arm", "round", "client", "train_loss", "validation", "seconds", "bytes_up"} <= set(rounds.columns)
    assert set(rounds["arm"]) == {"federated", "finetuned", "alone"} and set(rounds["client"]) == set("abc")
    assert len(rounds.query("arm == 'alone'")) == 9
    assert list(result.ledger.columns) == list(uploads(result.run.path)[0])
    assert set(result.ledger["exchange"]) == {"shared-parameters", "prototypes"} and result.ledger["accepted"].all()
    assert set(result.predictions) == set("abc")
    assert list(result.predictions["a"]["id"]) == [f"a-{i}" for i in range(20)]


def test_a_client_may_be_called_what_pandas_takes_for_nothing() -> None:
    result = federate([toy.client("NA"), toy.client("null")], rounds=1, arms=(), finetune=0)
    assert set(result.rounds["client"]) == {"NA", "null"}
    assert set(result.table().index) == {"NA", "null"}


def test_kept_models_predict_what_the_run_predicted(result: hf.Result) -> None:
    assert set(result.models) == set("abc")
    for client in clients():
        found = result.models[client.name].predict({"point": client.data.test.inputs["point"].numpy()})
        expected = result.predictions[client.name]["probability:high"]
        assert found["probability:high"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        kept = {one["name"]: one["kept"]["arm"] for one in result.summary["clients"]}
        assert result.models[client.name].about["arm"] == kept[client.name]


def test_a_script_says_which_models_count_and_what_is_kept() -> None:
    options = {"select": MeanOf(mean="predictions", last=2), "keep": "validation"}
    result = federate(arms="alone", finetune=0, rounds=2, **options)
    assert {one["kept"]["arm"] for one in result.summary["clients"]} <= {"alone", "federated"}
    for name, model in result.models.items():
        (arm,) = {one["kept"]["arm"] for one in result.summary["clients"] if one["name"] == name}
        assert model.about["mean"] == {f"{arm} 1": 0.5, f"{arm} 2": 0.5}


def test_what_chance_does_to_the_figures_is_a_table_too(result: hf.Result) -> None:
    found = result.chance()
    assert set(found["test"]) == {"20 examples, 10 of 'high'"}
    for name, row in found.iterrows():
        assert row["federated"] == result.table().loc[name, "federated"]
        assert row["gain"] == pytest.approx(row["federated"] - result.table().loc[name, "alone"], abs=1e-5)
        assert (row["federated_is"] == "no clear difference") == (not (row["gain_low"] > 0 or row["gain_high"] < 0))


def test_arms_and_fine_tuning_can_be_left_out() -> None:
    only = federate(arms=(), finetune=0, rounds=1)
    assert list(only.table().columns) == ["metric", "federated", "kept", "n_test"]
    assert list(federate(arms="alone", finetune=0, rounds=1).table().columns) == [
        "metric",
        "alone",
        "federated",
        "kept",
        "n_test",
    ]


def test_a_temporary_run_goes_with_its_result_and_a_saved_one_stays(tmp_path: Path) -> None:
    result = federate(rounds=1, arms=(), finetune=0)
    home = result.run.path
    result.save(tmp_path / "kept")
    assert home.is_dir()
    del result
    gc.collect()
    assert not home.exists()
    assert (tmp_path / "kept" / "summary.json").is_file()


def test_a_run_that_fails_leaves_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunError):
        federate([failing("a", 1)], rounds=1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_saved_over_something(result: hf.Result, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunFolderError, match="the folder is not empty"):
        result.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_without_progress_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    federate(rounds=1)
    assert capsys.readouterr() == ("", "")
    federate(rounds=1, progress=True)
    assert "federated: round 1/1  validation AUROC" in capsys.readouterr().out


class Stop(Exception):
    """The process ends here."""


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A run in `folder` that is stopped in the round after this one."""
    from hetfed.run import training as execution

    real, done = execution.run_round, []

    def until(*args: Any, **keys: Any) -> Any:
        if len(done) == after:
            raise Stop
        done.append(1)
        return real(*args, **keys)

    with monkeypatch.context() as patched:
        patched.setattr(execution, "run_round", until)
        with pytest.raises(Stop):
            federate(folder=folder)


@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_run_that_is_resumed_ends_with_the_same_bits(
    after: int, result: hf.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "run", monkeypatch, after)
    resumed = federate(folder=tmp_path / "run", resume=True)
    assert content(tmp_path / "run", "models", "predictions") == content(result.run.path, "models", "predictions")
    assert resumed.table().equals(result.table())
    assert {line["sha256"] for line in uploads(tmp_path / "run")} == {line["sha256"] for line in uploads(result.run.path)}


def test_a_run_is_not_resumed_with_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path / "run", monkeypatch, 1)
    b, a, c = clients()
    others: dict[str, Callable[[], hf.Result]] = {
        "data": lambda: federate([b, a, toy.client("c", n=18, training=c.training)], folder=tmp_path / "run", resume=True),
        "one number": lambda: federate([b, nudged(a), c], folder=tmp_path / "run", resume=True),
        "model": lambda: federate([b, toy.client("a", width=6), c], folder=tmp_path / "run", resume=True),
        "shared": lambda: federate(shared=hf.SharedParameters("head"), folder=tmp_path / "run", resume=True),
        "seed": lambda: federate(seed=1, folder=tmp_path / "run", resume=True),
        "public": lambda: federate([b, a, replace(c, public=toy.examples(11, "public"))], folder=tmp_path / "run", resume=True),
    }
    for other in others.values():
        with pytest.raises(
            RunFolderError, match=r"a run of another plan.*go on with resume=True, and with clients and settings"
        ):
            other()
    with pytest.raises(RunFolderError, match="the folder holds a run already"):
        federate(folder=tmp_path / "run")


def nudged(client: Client) -> Client:
    """One target of its validation data is another."""
    part = client.data.validation
    target = part.target.clone()
    target[0] = 1 - target[0]
    return replace(client, data=replace(client.data, validation=replace(part, target=target)))


def test_nothing_can_be_resumed_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"^resume: nothing to resume\. Give the folder of the interrupted run"):
        federate(resume=True)
    with pytest.raises(RunFolderError, match="nothing to resume"):
        federate(resume=True, folder=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_named_algorithm_stands_for_its_composition() -> None:
    result = federate(shared="fedper", rounds=1, arms=(), finetune=0)
    assert result.summary["algorithm"] == "fedper"
    assert 'name = "fedper"' in (result.run.path / "plan.resolved.toml").read_text()
    assert (
        federate(shared=hf.SharedParameters("head"), rounds=1, arms=(), finetune=0).summary["exchanges"][0]["settings"]["part"]
        == "head"
    )


# What a plan would be told as well.


def with_model(model_fn: Callable[[Any], nn.Module]) -> list[Client]:
    return [toy.client("b"), replace(toy.client("a"), model_fn=model_fn)]


class Says(nn.Module):
    """Answers whatever it is given to answer."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.head, self.answer = nn.Linear(2, 2), answer

    def forward(self, inputs: Mapping[str, Tensor]) -> object:
        return self.answer(self.head(inputs["point"]))


def without(part: str) -> list[Client]:
    client = toy.client("a")
    empty = client.data.train.take(torch.arange(0))
    return [toy.client("b"), replace(client, data=replace(client.data, **{part: empty}))]


@dataclass(frozen=True)
class Unreachable(hf.Prototypes):
    """Nobody can take part."""

    def missing(self, profile: hf.Profile) -> str | None:
        return "it has no such thing"


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nobody can join": (lambda: federate(shared=hf.LogitDistillation(), members=alone()), r"logit-distillation: no client can"),
    "nobody can join at all": (
        lambda: federate(shared=Unreachable()),
        r"Unreachable: no client can take part\. a, b, c: it has no",
    ),
    "an unknown part": (lambda: federate(shared=hf.SharedParameters("tail")), r"shared-parameters: .*tail"),
    "duplicate names": (
        lambda: federate([toy.client("a")] * 2),
        r"^client\.name: two clients have the same name \(value: 'a'\)",
    ),
    "every 0": (
        lambda: federate(shared=hf.every(0, hf.Prototypes())),
        r"prototypes\.every: not a number of rounds \(value: 0\)",
    ),
    "another answer": (
        lambda: federate(with_model(lambda spec: Says(lambda logits: [logits]))),
        r"^client 'a': its model cannot read its inputs: a model returns a tensor of logits or hetfed\.Output, not list",
    ),
    "unreadable inputs": (
        lambda: federate(with_model(lambda spec: nn.Sequential(nn.Linear(3, 2)))),
        r"^client 'a': its model cannot read its inputs: .*\. Return a tensor of logits",
    ),
    "another number of classes": (
        lambda: federate(with_model(lambda spec: nn.Linear(2, 5))),
        r"^client 'a': its model answers 5 numbers, and there are 2 classes",
    ),
    "no first dimension": (
        lambda: federate(with_model(lambda spec: Says(lambda logits: logits.mean(dim=0, keepdim=True)))),
        r"^client 'a': its model answers \(1, 2\) for two examples",
    ),
    "no training examples": (lambda: federate(without("train")), r"^client 'a': it has no training examples"),
    "no validation examples": (lambda: federate(without("validation")), r"^client 'a': it has no validation examples"),
    "no test examples": (lambda: federate(without("test")), r"^client 'a': it has no test examples"),
    "a name that is a path": (lambda: federate([toy.client("a/b")]), r"^client 'a/b'\.name: a name begins with a letter"),
    "no clients": (lambda: hf.federate([], SHARED), r"^clients: there are no clients"),
    "no client": (lambda: hf.federate(["a"], SHARED), r"^clients: not a client \(value: 'str'\)"),  # type: ignore[list-item]
    "no rounds": (lambda: federate(rounds=0), r"^federate\.rounds: .*greater than 0 \(value: 0\)"),
    "no such arm": (lambda: federate(arms=("federated",)), r"^arms: no such arm \(value: 'federated'\)"),
    "no such algorithm": (lambda: federate(shared="fedavgg"), r"^composition: unknown algorithm .*Did you mean 'fedavg'"),
    "a class": (lambda: hf.compose(hf.Prototypes), r"not an exchange.*Write Prototypes\(\)"),  # type: ignore[arg-type]
    "no exchange": (lambda: federate(shared=3), r"^composition: not an exchange \(value: 3\)"),
    "a quorum out of reach": (lambda: federate(quorum=4), r"federation\.quorum: only 3 of 3 clients are asked"),
    "no such client": (
        lambda: federate(shared=hf.Step(hf.Prototypes(), clients=("d",))),
        r"prototypes\.clients: no such client \(value: 'd'\)\. There are: b, a, c",
    ),
    "compressed and asynchronous": (
        lambda: federate(
            shared=hf.Step(hf.SharedParameters(), compression=hf.Compression("8-bit")),
            participation=hf.Participation(asynchronous=True, time_limit=1.0),
        ),
        r"^participation\.asynchronous: compressed uploads are changes",
    ),
}


def alone() -> list[Client]:
    return [replace(client, public=None) for client in clients()]


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(
    call: Callable[[], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(PlanError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


PLANNED = {
    "unknown part": (lambda: federate(shared=hf.SharedParameters("tail")), {'part = "head"': 'part = "tail"'}),
    "no such client": (
        lambda: federate(shared=hf.compose(hf.Step(hf.SharedParameters("head"), clients=("d",)), hf.Prototypes())),
        {'part = "head"': 'part = "head"\nclients = ["d"]'},
    ),
    "unreachable quorum": (
        lambda: federate(quorum=3, participation=hf.Participation(fraction=0.3)),
        {"rounds = 3": "rounds = 3\nquorum = 3\n[participation]\nfraction = 0.3"},
    ),
}


@pytest.mark.parametrize("call, changes", PLANNED.values(), ids=PLANNED)
def test_a_script_is_told_what_a_plan_is_told(call: Callable[[], object], changes: dict[str, str], tmp_path: Path) -> None:
    text = toy.SAMPLE
    for old, new in changes.items():
        text = text.replace(old, new)
    with pytest.raises(PlanError) as scripted:
        call()
    with pytest.raises(PlanError) as planned:
        Launcher(PlanVertical(), Console(quiet=True)).run(read_plan(text, "toy.toml"), "toy.toml", tmp_path / "out")
    assert str(planned.value) == f"toy.toml: {scripted.value}"


# Where an error happened.


class Breaks(toy.Net):
    """Fails where it is told to, once it has learnt for so many rounds."""

    def __init__(self, rounds: int) -> None:
        super().__init__(2, 4)
        self.rounds = rounds * 3
        self.calls = 0

    def forward(self, inputs: Mapping[str, Tensor]) -> hf.Output:
        self.calls += self.training
        if self.training and self.calls >= self.rounds:
            raise RuntimeError("out of memory")
        return super().forward(inputs)


def failing(name: str, round_number: int) -> Client:
    return replace(toy.client(name), model_fn=lambda spec: Breaks(round_number))


@dataclass(frozen=True)
class Stumbles(hf.SharedParameters):
    """Raises in one stage of the second round."""

    stage: str = "loss"

    def _stumble(self, stage: str, context: hf.ClientContext) -> None:
        if self.stage == stage and context.round == 2 and context.profile.name == "a":
            raise ZeroDivisionError("by nothing")

    def apply(self, context: hf.ClientContext, payload: hf.Payload) -> None:
        self._stumble("apply", context)
        super().apply(context, payload)

    def begin(self, context: hf.ClientContext) -> None:
        self._stumble("begin", context)
        super().begin(context)

    def loss(self, context: hf.ClientContext, *rest: Any) -> Tensor | None:
        self._stumble("loss", context)
        return super().loss(context, *rest)

    def upload(self, context: hf.ClientContext) -> hf.Payload | None:
        self._stumble("upload", context)
        return super().upload(context)


@pytest.mark.parametrize("stage", ["apply", "begin", "loss", "upload"])
def test_an_error_in_a_turn_says_whose_when_and_where(stage: str) -> None:
    with pytest.raises(RunError, match=rf"^client 'a' failed in round 2, in the {stage} of mine: .*by nothing") as error:
        federate(shared=hf.compose(hf.Prototypes(), hf.Step(Stumbles("head", stage=stage), label="mine")))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_an_error_of_the_model_is_one_of_training() -> None:
    with pytest.raises(RunError, match=r"^client 'a' failed in round 1, in the training: .*out of memory"):
        federate([toy.client("b"), failing("a", 1)])


# Models that return a tensor.


def plain(spec: hf.Spec) -> nn.Module:
    """The toy's model without a forward of its own."""
    encoder = nn.Sequential(nn.Linear(2, spec["width"]), nn.ReLU(), nn.Linear(spec["width"], 3))
    return nn.Sequential(OrderedDict(encoder=encoder, head=nn.Linear(3, 2)))


class Spoken(nn.Module):
    """The same with an output of its own."""

    def __init__(self, spec: hf.Spec) -> None:
        super().__init__()
        self.encoder, self.head = plain(spec).children()

    def forward(self, inputs: Mapping[str, Tensor]) -> hf.Output:
        features = self.encoder(inputs["point"])
        return hf.Output(self.head(features), features)


def answers_by(client: Client, model_fn: Callable[[hf.Spec], nn.Module]) -> Client:
    """The client with this model, and a common one that is the same for all."""
    return replace(client, model_fn=model_fn, common_fn=lambda spec: model_fn({**spec, "width": 2}))


@pytest.mark.parametrize("shared", [SHARED, "fedproto", "fedgh", "fml", "fedmrl", "apfl", "feddf", "fedrep", "scaffold"])
def test_a_model_that_returns_a_tensor_is_as_good_as_any(shared: Any) -> None:
    spoken, silent = (
        federate([answers_by(one, model_fn) for one in clients()], shared, arms=(), finetune=0) for model_fn in (Spoken, plain)
    )
    assert uploads(spoken.run.path) == uploads(silent.run.path) != []
    for name, model in silent.models.items():
        weights = model.module.state_dict()
        assert all(torch.equal(weights[key], tensor) for key, tensor in spoken.models[name].module.state_dict().items())


def test_nothing_of_a_batch_stays_in_a_model() -> None:
    model = replace(toy.client("a"), model_fn=plain).module
    for ask in (lambda: model({"point": torch.zeros(2, 2)}), lambda: model.head(torch.zeros(2, 3))):
        ask()
        held = [value for module in model.modules() for value in vars(module).values()]
        assert not any(isinstance(value, Tensor) for value in held)


def test_a_copy_of_a_model_is_a_model_by_itself() -> None:
    model = replace(toy.client("a"), model_fn=plain).module
    before, twin = model({"point": torch.ones(2, 2)}).logits, deepcopy(model)
    with torch.no_grad():
        twin.head.weight.zero_()
    assert torch.equal(model({"point": torch.ones(2, 2)}).logits, before)
    assert not torch.equal(twin({"point": torch.ones(2, 2)}).logits, before)


def test_a_model_of_torch_takes_one_input() -> None:
    client = toy.client("a")
    both = {name: replace(part, inputs={**part.inputs, "more": part.inputs["point"]}) for name, part in parts(client).items()}
    wider = replace(client, data=replace(client.data, **both), model_fn=plain)
    with pytest.raises(PlanError, match=r"a Sequential takes one input, not point, more: write a forward that takes a mapping"):
        federate([wider])


def parts(client: Client) -> dict[str, hf.Examples]:
    return {"train": client.data.train, "validation": client.data.validation, "test": client.data.test}


def test_a_head_that_takes_several_tensors_gives_no_features() -> None:
    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Bilinear(2, 2, 2)

        def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
            return self.head(inputs["point"], inputs["point"])

    output = replace(toy.client("a"), model_fn=lambda spec: Bilinear()).profile.probe
    assert output.features is None and output.logits.shape == (2, 2)


# Exchanges of a script's own.


@dataclass(frozen=True)
class Unregistered(hf.SharedParameters):
    """No plan knows it."""


def test_an_exchange_that_nobody_registered_runs() -> None:
    result = federate(shared=Unregistered("head"), rounds=1)
    (told,) = result.summary["exchanges"]
    assert (told["kind"], told["label"], told["settings"]["part"]) == ("Unregistered", "Unregistered", "head")
    assert len(result.ledger) == 3


def test_settings_that_cannot_be_written_down_are_refused_before_the_run() -> None:
    @dataclass(frozen=True)
    class Odd(hf.SharedParameters):
        how: Any = None

    with pytest.raises(PlanError, match=r"^Odd: its settings are not what JSON can hold: .*function"):
        federate(shared=Odd("head", how=lambda: 0))


def cell(kind: str, **methods: Any) -> type[hf.Exchange]:
    """A notebook's cell that defines an exchange and registers it."""
    body = {"__module__": "__main__", "__qualname__": "Mine", "__doc__": "Mine.", **methods}
    return hf.exchange(kind)(dataclass(frozen=True)(type("Mine", (hf.SharedParameters,), body)))


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[hf.Exchange]]:
    from hetfed import exchanges

    known = dict(exchanges.KINDS)
    monkeypatch.setattr(exchanges, "KINDS", known)
    return known


def test_a_cell_that_is_run_again_registers_its_exchange_anew(kinds: dict[str, type[hf.Exchange]]) -> None:
    first = cell("mine")
    second = cell("mine")
    assert first is not second and kinds["mine"] is second
    labels = [[step.label for step in hf.compose(one("head"))] for one in (first, second)]
    assert labels == [["mine"], ["mine"]]


def test_another_class_does_not_take_a_kind_that_is_taken(kinds: dict[str, type[hf.Exchange]]) -> None:
    first = cell("mine")
    with pytest.raises(ValueError, match="the exchange 'mine' is Mine, and cannot be Unregistered too"):
        hf.exchange("mine")(Unregistered)
    with pytest.raises(ValueError, match="the exchange 'prototypes' is Prototypes, and cannot be Mine too"):
        cell("prototypes")
    assert kinds["mine"] is first and kinds["prototypes"] is hf.Prototypes


def test_a_composition_that_is_defined_again_is_registered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from hetfed import algorithms

    monkeypatch.setattr(algorithms, "NAMED", dict(algorithms.NAMED))

    def define() -> Callable[[], hf.Composition]:
        @hf.algorithm("of mine")
        def mine() -> hf.Composition:
            """Heads alone."""
            return hf.compose(hf.SharedParameters("head"))

        return mine

    first, second = define(), define()
    assert first is not second and algorithms.NAMED["of mine"] is second
    with pytest.raises(ValueError, match="there is another algorithm 'fedavg'"):
        hf.algorithm("fedavg")(second)
