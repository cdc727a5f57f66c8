"""Simple forecasts to be held beside the models: no result means much that does not beat them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hetfed.data import Examples
from hetfed.model import Output
from hetfed.tasks import Forecasting, scaled

SLOTS = 96
RIDGE = 1.0
"""Keeps the equations solvable where sensors never vary; beside thousands of rows it hardly changes a weight."""


def references(train: Examples, task: Forecasting, examples: Examples) -> Mapping[str, Output]:
    """What the last value, the historical average and an autoregression shared by all sensors say of `examples`.

    Args:
        train: what they learn from.
        task: the question, by whose scales they answer as models do.
        examples: of any part; their targets are not read.
    """
    forecasts = {
        "last value": last_value(examples, train),
        "historical average": historical_average(train, examples),
        "autoregression": autoregression(train, examples, task),
    }
    return {name: Output(scaled(forecast, task)) for name, forecast in forecasts.items()}


def readings_of(examples: Examples) -> Tensor:
    """The past of what is forecast (n, history, sensors): readings, or all vehicles together."""
    return examples.inputs["readings"].sum(dim=3)


def last_value(examples: Examples, train: Examples) -> Tensor:
    """What was read last goes on (n, steps, sensors); the training mean where the sensor has said nothing."""
    past = readings_of(examples)
    value = past[:, 0]
    # From the oldest reading on: a missing one leaves what was read before it.
    for step in range(1, past.shape[1]):
        value = torch.where(past[:, step].isnan(), value, past[:, step])
    value = value.nan_to_num(nan=float(train.target.nanmean()))
    return value[:, None].expand(-1, examples.target.shape[1], -1)


def historical_average(train: Examples, test: Examples) -> Tensor:
    """The training mean of each sensor at this time of the day, on weekdays and at weekends (n, steps, sensors)."""
    steps, sensors = train.target.shape[1:]
    totals, counts = torch.zeros(2 * SLOTS, steps, sensors), torch.zeros(2 * SLOTS, steps, sensors)
    known = ~train.target.isnan()
    slot = _slot(train)
    totals.index_add_(0, slot, train.target.nan_to_num())
    counts.index_add_(0, slot, known.float())
    # A slot that the training part does not have (a weekend, in a short series) falls back on the same time of any day.
    any_day, any_count = totals.view(2, SLOTS, steps, sensors).sum(0), counts.view(2, SLOTS, steps, sensors).sum(0)
    overall = train.target.nanmean(dim=(0, 1)).nan_to_num(nan=float(train.target.nanmean()))
    fallback = torch.where(any_count > 0, any_day / any_count.clamp(min=1), overall).repeat(2, 1, 1)
    return torch.where(counts > 0, totals / counts.clamp(min=1), fallback)[_slot(test)]


def _slot(examples: Examples) -> Tensor:
    clock = examples.inputs["clock"]
    weekend = (clock[:, 1] >= 5).long()
    return weekend * SLOTS + (clock[:, 0] * SLOTS).long().clamp(max=SLOTS - 1)


def autoregression(train: Examples, test: Examples, task: Forecasting) -> Tensor:
    """Ridge regression of every step on the past readings, one for all sensors (n, steps, sensors)."""
    # It takes a second to import.
    from sklearn.linear_model import Ridge

    inputs, target = _design(train, task), _scaled(train.target, task)
    # Rows whose steps are all known: one fit serves every step. The design has an intercept of its own.
    known = ~target.isnan().any(dim=1)
    model = Ridge(RIDGE, fit_intercept=False, solver="cholesky").fit(inputs[known].numpy(), target[known].numpy())
    n, steps, sensors = test.target.shape
    forecast = torch.from_numpy(model.predict(_design(test, task).numpy()))
    return task.in_unit(forecast.view(n, sensors, steps).transpose(1, 2))


def _design(examples: Examples, task: Forecasting) -> Tensor:
    """Scaled past readings and a one (n * sensors, history + 1), 0 where missing."""
    past = ((readings_of(examples) - task.mean) / task.scale).nan_to_num().transpose(1, 2).flatten(0, 1)
    # The column of ones stands for an intercept.
    return torch.cat([past, torch.ones(len(past), 1)], dim=1)


def _scaled(target: Tensor, task: Forecasting) -> Tensor:
    return ((target - task.mean) / task.scale).transpose(1, 2).flatten(0, 1)
