"""Regression and forecasting: masked, in the user's unit, horizons as means over steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from hetfed.data import Batch, Examples
from hetfed.evaluation import judge
from hetfed.model import Output
from hetfed.tasks import Forecasting, Regression

NAN = math.nan


def examples(target: Tensor) -> Examples:
    return Examples({}, target, [str(i) for i in range(len(target))])


def forecasting(**changes: object) -> Forecasting:
    settings = {"unit": "km/h", "interval": 5, "horizons": (5, 15), "mean": torch.tensor([50.0]), "scale": torch.tensor([10.0])}
    return Forecasting(**{**settings, **changes})


def test_regression_metrics_are_those_of_scikit_learn_in_the_unit_of_the_target() -> None:
    chance = torch.Generator().manual_seed(0)
    logits, target = torch.randn(50, generator=chance), torch.randn(50, generator=chance) * 7 + 40
    found = Regression(mean=40, scale=7).metrics(Output(logits), examples(target)).values
    values = logits * 7 + 40
    assert found["MAE"] == pytest.approx(sk.mean_absolute_error(target, values), rel=1e-5)
    assert found["RMSE"] == pytest.approx(sk.root_mean_squared_error(target, values), rel=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("mse", (1 + 9) / 2), ("mae", (1 + 3) / 2), ("huber", (0.5 + 2.5) / 2)])
def test_losses_are_over_known_targets_in_scaled_units(kind: str, expected: float) -> None:
    target = torch.tensor([12.0, NAN, 16.0])  # scaled: 1, missing, 3
    loss = Regression(mean=10, scale=2, loss_kind=kind).loss(Output(torch.zeros(3, 1)), Batch({}, target))
    assert float(loss) == pytest.approx(expected)


def test_a_missing_target_gets_no_gradient() -> None:
    logits = torch.zeros(3, requires_grad=True)
    torch.autograd.backward(Regression().loss(Output(logits), Batch({}, torch.tensor([1.0, NAN, 2.0]))))
    assert logits.grad.tolist() == [-1.0, 0.0, -2.0]


@pytest.mark.parametrize("task", [Regression(), forecasting()])
def test_when_all_is_missing_there_is_no_loss_and_no_perfect_zero(task: Regression | Forecasting) -> None:
    target = torch.full((2, 3, 4), NAN)
    assert not task.learnable(Batch({}, target))
    logits = torch.zeros(2, 3, 4, requires_grad=True)
    loss = task.loss(Output(logits), Batch({}, target))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3, 4))
    found = task.metrics(Output(torch.zeros(2, 3, 4)), examples(target))
    masked = [name for name in found.values if "unmasked" not in name]
    assert masked
    assert all(found.values[name] is None and found.reasons[name] for name in masked)
    judged = judge(Output(torch.zeros(2, 3, 4)), task, examples(target))
    assert judged.value is None
    assert judged.score[1] == -math.inf


def test_distilling_numbers_is_the_squared_distance_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.0, 1.0], requires_grad=True)
    for task in (Regression(), forecasting()):
        loss = task.distillation_loss(student, teacher, 7.0)
        assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
        torch.autograd.backward(loss)
    assert teacher.grad is None
    assert task.classes(Batch({}, teacher)) is None
    assert Regression().classes(Batch({}, teacher)) is None


def test_the_error_at_a_horizon_is_over_all_steps_up_to_it() -> None:
    target = torch.tensor([[[50.0], [60.0], [40.0]]])  # (n, steps, sensors); the forecast is 50 throughout
    found = forecasting().metrics(Output(torch.zeros(1, 3, 1)), examples(target)).values
    assert found["MAE up to 5 min"] == 0
    assert found["MAE up to 15 min"] == pytest.approx(20 / 3)
    assert found["RMSE up to 15 min"] == pytest.approx(math.sqrt(200 / 3), rel=1e-6)
    assert found["MAPE up to 15 min"] == pytest.approx(100 * (0 + 10 / 60 + 10 / 40) / 3, rel=1e-6)


def test_masked_and_unmasked_errors_are_those_of_scikit_learn() -> None:
    chance = torch.Generator().manual_seed(1)
    logits, target = torch.randn(9, 3, 4, generator=chance), torch.randn(9, 3, 4, generator=chance) * 10 + 50
    target[torch.rand(9, 3, 4, generator=chance) < 0.3] = NAN
    found = forecasting().metrics(Output(logits), examples(target)).values
    forecast, known = (logits * 10 + 50).numpy(), ~target.isnan().numpy()
    zeros = np.nan_to_num(target.numpy())
    assert found["MAE up to 15 min"] == pytest.approx(sk.mean_absolute_error(target.numpy()[known], forecast[known]), rel=1e-5)
    assert found["RMSE up to 15 min"] == pytest.approx(
        sk.root_mean_squared_error(target.numpy()[known], forecast[known]), rel=1e-5
    )
    assert found["MAE up to 15 min unmasked"] == pytest.approx(
        sk.mean_absolute_error(zeros.ravel(), forecast.ravel()), rel=1e-5
    )
    percentage = 100 * sk.mean_absolute_percentage_error(target.numpy()[known], forecast[known])
    assert found["MAPE up to 15 min"] == pytest.approx(percentage, rel=1e-4)


def test_a_percentage_of_zero_readings_is_null_with_the_reason() -> None:
    found = forecasting().metrics(Output(torch.zeros(1, 3, 1)), examples(torch.zeros(1, 3, 1)))
    assert found.values["MAE up to 5 min"] == 50
    assert found.values["MAPE up to 5 min"] is None
    assert "no reading reaches one unit" in found.reasons["MAPE up to 5 min"]


def test_forecasting_loss_is_in_scaled_units_per_sensor() -> None:
    task = forecasting(mean=torch.tensor([50.0, 0.0]), scale=torch.tensor([10.0, 2.0]), loss_kind="mse")
    target = torch.tensor([[[60.0, 4.0], [NAN, 0.0]]])
    logits = torch.zeros(1, 2, 2)
    assert float(task.loss(Output(logits), Batch({}, target))) == pytest.approx((1 + 4 + 0) / 3)
    assert torch.equal(task.in_unit(torch.ones(1, 2, 2))[0, 0], torch.tensor([60.0, 2.0]))
    assert torch.equal(
        task.loss(Output(logits), Batch({}, target)),
        F.mse_loss(torch.zeros(3), torch.tensor([1.0, 2.0, 0.0])),
    )


def test_tables_set_targets_beside_predictions() -> None:
    target = torch.arange(12.0).view(2, 3, 2)
    table = forecasting(mean=torch.zeros(1), scale=torch.ones(1)).table(Output(target + 1), examples(target))
    assert list(table.columns) == ["id", "horizon", "target:0", "forecast:0", "target:1", "forecast:1"]
    assert table["horizon"].tolist() == [5, 5, 15, 15]
    assert table.iloc[3].tolist() == ["1", 15, 10.0, 11.0, 11.0, 12.0]
    numbers = Regression(mean=1, scale=2).table(Output(torch.ones(2, 1)), examples(torch.tensor([4.0, 5.0])))
    assert numbers.to_dict("list") == {"id": ["0", "1"], "target:0": [4.0, 5.0], "prediction:0": [3.0, 3.0]}


def test_questions_tell_tasks_apart() -> None:
    questions = {forecasting().label_space, forecasting(unit="veh/h").label_space, forecasting(interval=15).label_space}
    assert len(questions | {Regression(unit="years").label_space, Regression().label_space}) == 5
    assert forecasting().metric == "MAE up to 5 min"
    assert not forecasting().higher_is_better
