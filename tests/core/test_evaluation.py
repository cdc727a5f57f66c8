"""What a model says, and how it is judged; what a client and its state are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hetfed.client import new_state
from hetfed.data import Examples
from hetfed.evaluation import BATCH_SIZE, Evaluation, Outcome, evaluate, judge, predict
from hetfed.model import Output
from hetfed.tasks import Classification, Metrics, Regression


class Echo(nn.Module):
    """Says what it is given, through every channel that an output has."""

    def __init__(self, features: bool = True) -> None:
        super().__init__()
        self.norm, self.features = nn.BatchNorm1d(2), features

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        x = inputs["x"]
        return Output(x, -x if self.features else None, {"level": x * 2})


def examples(n: int) -> Examples:
    return Examples({"x": torch.arange(2 * n).view(n, 2).float()}, torch.arange(n) % 2, [str(i) for i in range(n)])


@given(st.sampled_from([1, 2, BATCH_SIZE, BATCH_SIZE + 1, 2 * BATCH_SIZE + 3]), st.booleans())
def test_predictions_are_of_all_examples_in_their_order(n: int, features: bool) -> None:
    output = predict(Echo(features), examples(n))
    x = examples(n).inputs["x"]
    assert torch.equal(output.logits, x)
    assert torch.equal(output.further["level"], 2 * x)
    assert output.features is None if not features else torch.equal(output.features, -x)


def test_a_prediction_neither_trains_nor_draws_nor_changes_the_mode_of_any_module() -> None:
    client = toy.client("a")
    model = client.module.train()
    model.encoder[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, other = predict(model, client.data.train), predict(model, client.data.train)
    assert torch.equal(one.logits, other.logits)  # no dropout
    assert not one.logits.requires_grad
    assert toy.same(dict(model.state_dict()), before)
    assert [module.training for module in (model, model.encoder[1], model.encoder[3])] == [True, False, True]
    model.eval()
    predict(model, client.data.train)
    assert not any(module.training for module in model.modules())


def test_the_score_is_the_metric_then_the_loss() -> None:
    client = toy.client("a")
    found = evaluate(client.module, client.task, client.data.test)
    assert found.score == (found.value, -found.loss)
    assert found.value == found.metrics.values["AUROC"]
    numbers = Examples({}, torch.tensor([1.0, 3.0]), ["a", "b"])
    close, far = (judge(Output(torch.full((2,), value)), Regression(), numbers) for value in (2.0, 9.0))
    assert close.score == (-close.value, -close.loss)  # the smaller error is the better
    assert close.score > far.score


def test_where_the_metric_is_undefined_the_loss_decides() -> None:
    task, one_class = Classification(("a", "b")), Examples({}, torch.zeros(2).long(), ["x", "y"])
    good, bad = (judge(Output(torch.tensor([[value, 0.0]] * 2)), task, one_class) for value in (3.0, 1.0))
    assert good.value is bad.value is None
    assert good.score[0] == bad.score[0] == 0
    assert good.score > bad.score


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_client_whose_model_broke_keeps_the_model_before(value: float) -> None:
    client = toy.client("a")
    sane = evaluate(client.module, client.task, client.data.validation)
    with torch.no_grad():
        client.module.head.bias.fill_(value)
    broken = evaluate(client.module, client.task, client.data.validation)
    assert broken.value is None
    assert broken.loss == math.inf
    assert broken.score < sane.score


def test_an_outcome_says_which_metrics_are_undefined_and_why() -> None:
    metrics = Metrics({"AUROC": None, "F1": 0.5}, {"AUROC": "one class only"})
    selection = Evaluation(Metrics({"AUROC": 0.7}), 0.2, 0.7, (0.7, -0.2))
    assert Outcome.of(Evaluation(metrics, 0.1, None, (0.0, -0.1)), 3, selection) == Outcome(
        None, {"AUROC": None, "F1": 0.5}, {"AUROC": "one class only"}, 3, "AUROC is undefined: one class only", 0.7, 0.2
    )
    assert Outcome.of(Evaluation(Metrics({"F1": 0.5}), 0.1, 0.5, (0.5, -0.1)), 1, selection).note is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_outcome_holds_only_finite_numbers(value: float) -> None:
    wild = Evaluation(Metrics({"RMSE": value, "MAE": 2.0}), value, value, (0.0, 0.0))
    found = Outcome.of(wild, 1, wild)
    assert (found.value, found.validation, found.validation_loss) == (None, None, None)
    assert found.metrics == {"RMSE": None, "MAE": 2.0}
    assert found.note == "RMSE is undefined: the model's predictions are beyond all measure"


def test_a_new_model_is_the_same_for_the_same_path_and_leaves_chance_alone() -> None:
    client, before = toy.client("a"), torch.get_rng_state()
    one, other, third = client.new_model(1, "x"), client.new_model(1, "x"), client.new_model(2, "x")
    assert toy.same(one.state_dict(), other.state_dict())
    assert not toy.same(one.state_dict(), third.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_state_depends_on_seed_and_architecture_and_is_no_live_module() -> None:
    a, b, wider = toy.client("a"), toy.client("b"), toy.client("c", width=5)
    states = [new_state(a, 0), new_state(a, 1), new_state(wider, 0)]
    assert len({state.model["head.weight"].sum().item() for state in states}) == 3
    assert toy.same(states[0].model, new_state(b, 0).model)
    assert toy.same(states[0].model, new_state(toy.client("a"), 0).model)
    assert not any(state.optimizer or state.exchanges or state.best or state.score for state in states)
    pointers = {tensor.data_ptr() for tensor in a.module.state_dict().values()}
    assert not pointers & {tensor.data_ptr() for tensor in states[0].model.values()}


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_probe_shows_the_shapes_of_what_a_model_says_and_looks_at_no_data(n: int) -> None:
    probe = toy.client("a", n=n).profile.probe
    assert probe.logits.shape == (2, 2)
    assert probe.features.shape == (2, 3)
    assert torch.equal(probe.logits[0], probe.logits[1])


def test_a_model_is_built_from_the_sizes_of_the_data() -> None:
    client = toy.client("a")
    wide = replace(client, data=replace(client.data, spec={"inputs": 9, "width": 4}))
    assert wide.new_model(0).encoder[0].weight.shape == (4, 9)
