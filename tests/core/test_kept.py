"""Kept models: what is written can be read by itself, what is damaged or could run something is refused."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
import toy
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from torch import nn
from whole import enrol

from hetfed.algorithms import apfl, fedavg, fedmrl, heterofl
from hetfed.client import Client, new_state
from hetfed.composition import Composition, Step
from hetfed.data import ClientData, Examples
from hetfed.errors import DataError, RunFolderError
from hetfed.evaluation import predict
from hetfed.exchanges import SharedParameters
from hetfed.kept.answers import answers
from hetfed.kept.description import Architecture, Description
from hetfed.kept.load import load_model
from hetfed.kept.save import save_model
from hetfed.kept.values import pack, unpack
from hetfed.learner import Learner
from hetfed.model import Output
from hetfed.profile import Profile
from hetfed.tasks import Classification, Forecasting, Regression, Survival, WithFurther
from hetfed_medical.learners import LEARNERS, new_learner

BUILDERS = """
import toy
from torch import nn

def build(settings, spec):
    return toy.Net(spec["inputs"], settings["width"])

def plain(settings, spec):
    return nn.Sequential(nn.Linear(spec["inputs"], settings["width"]), nn.ReLU(), nn.Linear(settings["width"], 2))
"""


@pytest.fixture
def toy_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package that builds the toy's models."""
    site = tmp_path / "site"
    info = site / "toy_builders-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_builders.py").write_text(BUILDERS, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-builders\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[hetfed.models]\ntoy = toy_builders:build\nplain = toy_builders:plain\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("toy_builders", None)


def described(name: str = "a", width: int = 4) -> Client:
    """A client of the toy whose model a registered builder makes."""
    return replace(toy.client(name, width=width), description=Description(Architecture("toy", {"width": width})))


def kept(client: Client, folder: Path, **more: Any) -> Path:
    """The folder of a fresh model of the client."""
    save_model(folder, client, new_state(client, 0).model, **more)
    return folder


def net(spec: Any) -> nn.Module:
    """What built the toy's model."""
    return toy.Net(spec["inputs"], 4)


def said(client: Client) -> torch.Tensor:
    """What the client's own model says of its test data."""
    return predict(client.module, client.data.test).logits


def test_a_model_that_a_builder_makes_needs_nothing_else(toy_builder, tmp_path) -> None:
    client = described()
    model = load_model(kept(client, tmp_path / "model"))
    assert torch.equal(model.output(client.data.test.inputs).logits, said(client))
    table = model.predict({"point": client.data.test.inputs["point"].numpy(), "id": client.data.test.ids})
    assert list(table.columns) == ["id", "probability:low", "probability:high"]
    expected = client.task.table(predict(client.module, client.data.test), client.data.test)
    assert table.equals(expected[list(table.columns)])
    assert model.client == "a" and not model.module.training


def test_a_builder_may_make_a_module_of_torchs_own(toy_builder, tmp_path) -> None:
    from toy_builders import plain

    settings = {"width": 4}
    description = Description(Architecture("plain", settings))
    client = replace(toy.client("a"), model_fn=partial(plain, settings), description=description)
    model = load_model(kept(client, tmp_path / "model"))
    assert torch.equal(model.output(client.data.test.inputs).logits, said(client))


def test_a_model_of_a_script_is_built_by_the_function_that_is_given(tmp_path) -> None:
    client = toy.client("a")
    folder = kept(client, tmp_path / "model")
    with pytest.raises(RunFolderError, match=r"model\.json: architecture: .*Give what built it: load_model\(folder, model_fn="):
        load_model(folder)
    assert torch.equal(load_model(folder, model_fn=net).output(client.data.test.inputs).logits, said(client))


def test_a_function_that_builds_another_model_is_refused(tmp_path) -> None:
    with pytest.raises(RunFolderError, match=r"model\.safetensors: .*the weights are not those of this model"):
        load_model(kept(toy.client("a"), tmp_path / "model"), model_fn=lambda spec: toy.Net(spec["inputs"], 5))


def extended(client: Client, composition: Composition) -> tuple[Client, Composition, list[Client]]:
    """A client as a composition extends it, beside another one; the settled composition; both as they were before."""
    before = [client, replace(toy.client("b"), common_fn=client.common_fn)]
    enrolment = enrol(composition, before)
    return enrolment.clients[0], enrolment.composition, before


def test_what_an_exchange_adds_to_a_model_of_a_script_is_kept(tmp_path) -> None:
    client, composition, before = extended(toy.client("a"), apfl(mixture=0.3))
    folder = kept(client, tmp_path / "model", composition=composition, before=before)
    assert torch.equal(load_model(folder, model_fn=net).output(client.data.test.inputs).logits, said(client))


def test_a_composition_that_adds_nothing_leaves_no_trace_of_other_clients(toy_builder, tmp_path) -> None:
    client, composition, before = extended(described(), fedavg())
    about = load_model(kept(client, tmp_path / "model", composition=composition, before=before)).about
    assert about["extensions"] == [] and about["members"] == {}


def test_a_common_model_that_no_builder_makes_is_kept_as_a_program_alone(tmp_path) -> None:
    client, composition, before = extended(
        replace(toy.client("a"), common_fn=lambda spec: toy.Net(spec["inputs"], 3)), fedmrl()
    )
    more = {"composition": composition, "before": before}
    with pytest.raises(RunFolderError, match="common: nothing builds the small common model beside it"):
        load_model(kept(client, tmp_path / "model", **more), model_fn=net)
    model = load_model(kept(client, tmp_path / "program", program=True, **more))
    assert torch.allclose(model.output(client.data.test.inputs).logits, said(client), atol=1e-5)


def test_of_clients_of_one_size_one_is_named(toy_builder, tmp_path) -> None:
    before = [described("a", 4), described("b", 8), described("c", 8), described("d", 4), described("e", 2)]
    enrolment = enrol(heterofl(), before)
    composition, client = enrolment.composition, enrolment.clients[0]
    model = load_model(kept(client, tmp_path / "model", composition=composition, before=before))
    assert torch.equal(model.output(client.data.test.inputs).logits, said(client))
    assert not torch.equal(said(client), said_by(before[0], client))
    assert model.about["extensions"][0]["members"] == ["a", "b", "d", "e"]


def said_by(client: Client, other: Client) -> torch.Tensor:
    """What the client's model says of the other's test data with the other's weights."""
    client.module.load_state_dict(other.module.state_dict())
    return predict(client.module, other.data.test).logits


@dataclass(frozen=True)
class Peeking(SharedParameters):
    """Adds to a model what follows from the client's data, and not from its sizes."""

    def extend(self, profile: Profile, model: nn.Module, members: Any) -> None:
        # A profile of a client has their number; that of a kept model has not.
        shift = float(profile.examples)
        model.register_forward_hook(lambda module, inputs, output: replace(output, logits=output.logits + shift))


def test_what_follows_from_data_and_not_from_sizes_is_refused_with_the_reason(toy_builder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules["hetfed.exchanges"].KINDS, "peeking", Peeking)
    client, composition, before = extended(described(), Composition((Step(Peeking(), label="own"),)))
    folder = kept(client, tmp_path / "model", composition=composition, before=before)
    with pytest.raises(RunFolderError, match=r"refused: the run could not keep this model: built again, it predicts otherwise"):
        load_model(folder)


def test_keeping_a_model_draws_nothing_from_the_default_generator(toy_builder, tmp_path) -> None:
    client, state = described(), torch.get_rng_state()
    load_model(kept(client, tmp_path / "model"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_task_of_a_scripts_own_class_is_given_again(tmp_path) -> None:
    @dataclass(frozen=True)
    class Own(Classification):
        pass

    client = replace(toy.client("a"), task=Own(("low", "high")))
    folder, inputs = kept(client, tmp_path / "model"), {"point": np.zeros((2, 2))}
    with pytest.raises(RunFolderError, match=r"load_model\(folder, task=\.\.\.\)"):
        load_model(folder, model_fn=net).predict(inputs)
    assert len(load_model(folder, model_fn=net, task=client.task).predict(inputs)) == 2


# Damage


def rewrite(folder: Path, **changes: Any) -> None:
    """Change model.json."""
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, **changes}))


def swap(folder: Path, name: str, content: bytes) -> None:
    """Another file of that name, with the digest that belongs to it."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "model.json").read_text())["files"]
    rewrite(folder, files={**files, name: hashlib.sha256(content).hexdigest()})


def drop_key(folder: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    del about["form"]
    (folder / "model.json").write_text(json.dumps(about))


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "head.weight": torch.zeros(3, 3)}, folder / "model.safetensors")
    swap(folder, "model.safetensors", (folder / "model.safetensors").read_bytes())


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda f: (f / "model.json").unlink(), "model.json: no kept model here"),
    "no JSON": (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read"),
    "another JSON": (lambda f: (f / "model.json").write_text("[]"), "format: it does not say which format it has"),
    "an early folder": (lambda f: rewrite(f, format=None), "Run the plan again"),
    "a later folder": (
        lambda f: rewrite(f, format=2, hetfed="9.1"),
        "format: a later version of hetfed wrote it (value: 2). Install hetfed 9.1",
    ),
    "a key is missing": (drop_key, "model.json: form: this key is missing"),
    "no table of files": (lambda f: rewrite(f, files=1), "files: not a table of digests"),
    "weights are missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: cannot be read: No such file"),
    "statistics are missing": (lambda f: (f / "statistics.safetensors").unlink(), "statistics.safetensors: cannot be read"),
    "weights are cut short": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-4]),
        "model.safetensors: files.model.safetensors: it is not the file that was written",
    ),
    "weights are no tensors": (lambda f: swap(f, "model.safetensors", b"nothing"), "model.safetensors: not safetensors"),
    "weights of another model": (other_weights, "model.safetensors: head.weight: the weights are not those of this model"),
    "an unknown builder": (
        lambda f: rewrite(f, architecture={"builder": "toys", "settings": {}}),
        "hetfed.models: no installed package builds this architecture (value: 'toys'). Did you mean 'toy'?",
    ),
    "a module for a builder": (
        lambda f: rewrite(f, architecture={"builder": "os:system", "settings": {}}),
        "no installed package builds this architecture",
    ),
    "settings of another builder": (
        lambda f: rewrite(f, architecture={"builder": "toy", "settings": {}}),
        "architecture: no model can be built from these settings: KeyError 'width'",
    ),
    "an unknown dtype": (
        lambda f: rewrite(f, target={"shape": [], "dtype": "load"}),
        "model.json: damaged: ValueError no dtype 'load'",
    ),
    "an unknown task": (lambda f: rewrite(f, task={"$task": "guessing"}), "model.json: damaged: KeyError 'guessing'"),
    "a task that lacks something": (lambda f: rewrite(f, task={"$task": "classification"}), "model.json: damaged: TypeError"),
    "an unknown exchange": (
        lambda f: rewrite(f, extensions=[{"kind": "magic", "settings": {}, "members": []}]),
        "extensions: no such exchange is installed (value: 'magic')",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_refused_with_file_key_and_remedy(what, toy_builder, tmp_path) -> None:
    folder = kept(described(), tmp_path / "model")
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(RunFolderError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and message in str(caught.value)


def test_an_unknown_form_of_inputs_is_refused(toy_builder, tmp_path) -> None:
    folder = kept(described(), tmp_path / "model")
    rewrite(folder, form="pictures")
    with pytest.raises(RunFolderError, match="no installed package reads this form of inputs"):
        load_model(folder).predict({"point": np.zeros((1, 2))})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"point": np.zeros((2, 3))}, "point: wrong shape or dtype"),
        ({"points": np.zeros((2, 2))}, "points: the model has no such modality"),
        ({}, "point: this modality is missing"),
        ({"point": np.zeros((0, 2))}, "not as many examples"),
    ],
)
def test_inputs_of_another_shape_are_refused(inputs, message, toy_builder, tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        load_model(kept(described(), tmp_path / "model")).predict(inputs)
    assert message in str(caught.value)


def test_a_model_is_replaced_by_another_as_a_whole(toy_builder, tmp_path) -> None:
    folder = kept(learning("random-forest"), tmp_path / "model")
    assert (folder / "estimator.skops").is_file()
    kept(described(), folder)
    assert {file.name for file in folder.iterdir()} == {"model.json", "model.safetensors", "statistics.safetensors"}
    load_model(folder)


# Learners without gradients


def learning(name: str, classes: int = 2) -> Client:
    """A client with one of scikit-learn's classifiers."""
    settings = {"n_estimators": 5} if name in {"random-forest", "extra-trees"} else {}
    estimator, client = new_learner(name, settings, "client", 0), toy.client("f", n=40)
    if classes == 1:
        client = toy.client("f", n=40, one_class=True)
    return with_estimator(client, estimator)


def with_estimator(client: Client, estimator: Any) -> Client:
    """The client, with an estimator in place of its network."""
    train, public = client.data.train, 0 if client.public is None else len(client.public)
    shapes = {name: tensor.shape[1:] for name, tensor in train.inputs.items()}

    def model_fn(spec: Any) -> nn.Module:
        return Learner(estimator, client.task, shapes, target=train.target.shape[1:], public=public)

    return replace(client, model_fn=model_fn)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_classifier_is_kept_without_the_data_that_it_was_fitted_on(name, tmp_path) -> None:
    client = learning(name)
    state = new_state(client, 0).model
    state["lesson"], state["weight"] = torch.randn(state["lesson"].shape), torch.tensor(0.5)
    save_model(tmp_path / "model", client, state)
    model = load_model(tmp_path / "model")
    assert torch.equal(model.output(client.data.test.inputs).logits, said(client))
    assert model.predict({"point": client.data.test.inputs["point"].numpy()}).shape == (20, 3)


def test_a_classifier_of_one_class_is_kept(tmp_path) -> None:
    client = learning("logistic-regression", classes=1)
    model = load_model(kept(client, tmp_path / "model"))
    assert not (tmp_path / "model" / "estimator.skops").exists()
    assert torch.equal(model.output(client.data.test.inputs).logits, said(client))


def test_a_regressor_is_kept(tmp_path) -> None:
    client = toy.client("r")
    numbers = {
        part: replace(getattr(client.data, part), target=getattr(client.data, part).inputs["point"].sum(dim=1) * 3 + 1)
        for part in ("train", "validation", "test")
    }
    client = replace(client, data=ClientData(**numbers), task=Regression(1.0, 2.0, "mm"), public=None)
    client = with_estimator(client, Ridge())
    model = load_model(kept(client, tmp_path / "model"))
    table = model.predict({"point": client.data.test.inputs["point"].numpy()})
    assert table["prediction:0"].to_numpy() == pytest.approx(client.data.test.target.numpy(), abs=0.5)


class Guess(ClassifierMixin, BaseEstimator):
    """A classifier of a script's own."""

    def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Guess:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: Any) -> Any:
        return np.full((len(x), len(self.classes_)), 1 / len(self.classes_))


def test_an_estimator_of_a_class_that_is_not_trusted_is_refused_and_the_rest_is_kept(tmp_path) -> None:
    folder = kept(with_estimator(toy.client("g"), Guess()), tmp_path / "model")
    assert not (folder / "estimator.skops").exists() and (folder / "model.safetensors").is_file()
    with pytest.raises(
        RunFolderError, match=r"refused: the run could not keep this model: Guess holds types that could run .*Guess"
    ):
        load_model(folder)


def test_an_estimator_that_could_run_something_is_refused_before_it_is_built(tmp_path, monkeypatch) -> None:
    folder, forest = kept(learning("logistic-regression"), tmp_path / "model"), Guess().fit([[0], [1]], [0, 1])
    swap(folder, "estimator.skops", skops.io.dumps(forest))
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("it is built"))
    with pytest.raises(RunFolderError, match=r"estimator\.skops: it holds types that could run something when read"):
        load_model(folder)


@pytest.mark.parametrize(("array", "value"), [("children_left", 10_000), ("children_right", 0), ("feature", 7)])
def test_a_tree_that_leads_outside_of_itself_is_refused(array, value, tmp_path) -> None:
    folder, rng = kept(learning("random-forest"), tmp_path / "model"), np.random.default_rng(0)
    forest = RandomForestClassifier(2, random_state=0).fit(rng.normal(size=(40, 2)), np.arange(40) % 2)
    tree = forest.estimators_[1].tree_
    getattr(tree, array)[0] = value
    swap(folder, "estimator.skops", skops.io.dumps(forest))
    with pytest.raises(RunFolderError, match=r"estimator\.skops: not a kept estimator: a tree (that|whose)"):
        load_model(folder)


def test_a_boosted_tree_that_leads_outside_of_itself_is_refused(tmp_path) -> None:
    client = learning("gradient-boosting")
    folder = kept(client, tmp_path / "model")
    boosted = client.module.fitted()
    inner = next(one for stage in boosted._predictors for one in stage if len(one.nodes) > 1)
    inner.nodes["left"][0] = 1_000
    swap(folder, "estimator.skops", skops.io.dumps(boosted))
    with pytest.raises(RunFolderError, match="a tree whose branches lead outside of it"):
        load_model(folder)


# Tasks

TASKS = {
    "classes": Classification(("no", "yes"), balanced=True, metric="F1"),
    "numbers": Regression(2.5, 0.1, "kg", loss_kind="mae"),
    "forecasts": Forecasting("km/h", 15, (15, 30), torch.rand(3), torch.rand(3)),
    "times": Survival("relapse", "months"),
}
TASKS["several"] = WithFurther(TASKS["forecasts"], {"level": (TASKS["classes"], 0.25)})


@pytest.mark.parametrize("name", TASKS)
def test_a_task_survives_json(name) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(TASKS[name], "task", tensors))
    again, expected = unpack(json.loads(text), tensors), TASKS[name]
    assert type(again) is type(expected) and again.question == expected.question
    assert repr(again) == repr(expected)


def test_what_is_no_value_is_not_packed() -> None:
    with pytest.raises(TypeError, match=r"spec\.net: a Linear cannot be described"):
        pack({"net": nn.Linear(1, 1)}, "spec", {})


@pytest.mark.parametrize("name", TASKS)
def test_answers_have_no_targets(name) -> None:
    """Each task's own table, but for what is not known."""
    shape = {"forecasts": (4, 2, 3), "several": (4, 2, 3), "classes": (4, 2), "times": (4, 1)}.get(name, (4,))
    target = {"classes": torch.full((4,), -1), "times": torch.zeros(4, 2)}.get(name, torch.zeros(shape))
    table = answers(TASKS[name], Output(torch.rand(shape)), Examples({}, target, list("abcd")), ["x", "y", "z"])
    assert [column.partition(":")[0] for column in table.columns] == {
        "classes": ["id", "probability", "probability"],
        "numbers": ["id", "prediction"],
        "forecasts": ["id", "horizon", "forecast", "forecast", "forecast"],
        "several": ["id", "horizon", "forecast", "forecast", "forecast"],
        "times": ["id", "risk"],
    }[name]
    assert name not in {"forecasts", "several"} or "forecast:z" in table
