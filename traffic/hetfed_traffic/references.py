"""Simple forecasts to be held beside the models: no result means much that does not beat them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hetfed.data import Examples
from hetfed.model import Output
from hetfed.tasks import Classification, Forecasting, MultiTask, scaled
from hetfed_datasets.records import MISSING_LABEL
from hetfed_traffic.calendar import MINUTES_PER_DAY, kind_of, slot_of
from hetfed_traffic.preprocessing import clock_of

RIDGE = 1.0
"""Keeps the equations solvable where sensors never vary; beside thousands of rows it hardly changes a weight."""
RHYTHM = 0.02
"""The share of a level's variance that the hour must explain: it explains 1 % of white noise, and 7 to 56 % of roads that fill
and empty."""
NAMED = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\S* (.*)$"
"""How `congestion_data` names an example: its time, and its sensor."""
AVERAGE = "historical average"
USUAL = "usual level"
NO_RHYTHM = f"{USUAL} (the level has no rhythm over the day)"


def references(
    train: Examples, task: Forecasting | MultiTask, target: Sequence[int], examples: Examples
) -> Mapping[str, Output]:
    """What simple methods say of `examples`, by name: the last value, the historical average, with the level of congestion that
    is usual at the time where the task asks for it, and an autoregression shared by all sensors.

    Args:
        train: what they learn from.
        task: the question, by whose scales they answer as models do.
        target: the numbers of the channels that are forecast together.
        examples: of any part; their targets are not read.
    """
    main = task.main if isinstance(task, MultiTask) else task
    assert isinstance(main, Forecasting)
    levels = {
        name: usual_levels(train, train.further[name], examples, level.class_count, main.interval)
        for name, (level, _) in (task.further.items() if isinstance(task, MultiTask) else ())
    }
    forecasts = {
        "last value": last_value(examples, train, target),
        AVERAGE: historical_average(train, examples, main.interval),
        "autoregression": autoregression(train, examples, main, target),
    }
    return {name: Output(scaled(said, main), further=levels if name == AVERAGE else {}) for name, said in forecasts.items()}


def congestion_references(train: Examples, task: Classification, interval: int, examples: Examples) -> Mapping[str, Output]:
    """What is usual at a sensor at that time, where each sensor and time is an example of its own.

    Args:
        train: as `congestion_data` gives it; an example is named by its time and its sensor.
        task: congested or not.
        interval: minutes between two readings.
        examples: of any part; their targets are not read.
    """
    parts = [pd.Series(part.ids).str.extract(NAMED).set_axis(["time", "sensor"], axis=1) for part in (train, examples)]
    before, asked = (clock_of(pd.DatetimeIndex(part["time"])) for part in parts)
    shares = torch.full((len(asked), task.class_count), 1 / task.class_count)
    for sensor, rows in parts[1].groupby("sensor").groups.items():
        own, here = torch.from_numpy((parts[0]["sensor"] == sensor).to_numpy()), torch.from_numpy(rows.to_numpy())
        if own.any():
            shares[here] = _shares(train.target[own], before[own], asked[here], task.class_count, interval)
    called = USUAL if has_rhythm(train.target[:, None], before) else NO_RHYTHM
    return {called: Output(shares.log())}


def readings_of(examples: Examples, target: Sequence[int]) -> Tensor:
    """The past of what is forecast (n, history, sensors): the channels of these numbers together."""
    return examples.inputs["readings"][..., list(target)].sum(dim=3)


def last_value(examples: Examples, train: Examples, target: Sequence[int]) -> Tensor:
    """What was read last goes on (n, steps, sensors); the training mean where the sensor has said nothing."""
    past = readings_of(examples, target)
    value = past[:, 0]
    # From the oldest reading on: a missing one leaves what was read before it.
    for step in range(1, past.shape[1]):
        value = torch.where(past[:, step].isnan(), value, past[:, step])
    value = value.nan_to_num(nan=float(train.target.nanmean()))
    return value[:, None].expand(-1, examples.target.shape[1], -1)


def historical_average(train: Examples, test: Examples, interval: int) -> Tensor:
    """The training mean of each sensor at this time of the day, on weekdays and at weekends (n, steps, sensors).

    Args:
        train: what is averaged.
        test: whose times are asked for.
        interval: minutes between two readings: the day has as many slots as the city has readings of it.
    """
    overall = train.target.nanmean(dim=(0, 1)).nan_to_num(nan=float(train.target.nanmean()))
    return _usual(train.target, train.inputs["clock"], test.inputs["clock"], interval, overall)


def usual_levels(train: Examples, level: Tensor, examples: Examples, classes: int, interval: int) -> Tensor:
    """How often each sensor had each level at this time of the day, as the logits of the examples (n, sensors, classes).

    Args:
        train: of the city.
        level: of the training examples (n, sensors), MISSING_LABEL where it is not known.
        examples: whose times are asked for.
        classes: how many levels there are.
        interval: minutes between two readings.
    """
    return _shares(level, train.inputs["clock"], examples.inputs["clock"], classes, interval).log()


def _shares(level: Tensor, clock: Tensor, asked: Tensor, classes: int, interval: int) -> Tensor:
    """The share of each level (n, ...) at the times that are asked for (m, ..., classes), none of them 0."""
    known = level != MISSING_LABEL
    each = torch.where(known[..., None], one_hot(level.clamp(min=0), classes).float(), torch.nan)
    overall = each.nanmean(dim=0).nan_to_num(nan=1 / classes)
    # A little of what is usual at any time: what was never seen is not impossible.
    return (0.99 * _usual(each, clock, asked, interval, overall) + 0.01 * overall).clamp(min=1e-6)


def has_rhythm(level: Tensor, clock: Tensor) -> bool:
    """Whether the hour of the day says something of the level (n, sensors): a level without that is hardly congestion."""
    hour = slot_of(clock, 24)[:, None].expand_as(level)[level != MISSING_LABEL]
    values = level[level != MISSING_LABEL].double()
    counts = torch.bincount(hour, minlength=24)
    means = torch.bincount(hour, weights=values, minlength=24) / counts.clamp(min=1)
    explained = (counts * (means - values.mean()).square()).sum()
    return bool(explained > RHYTHM * (values - values.mean()).square().sum())


def _usual(values: Tensor, clock: Tensor, asked: Tensor, interval: int, overall: Tensor) -> Tensor:
    """The mean of `values` (n, ...), NaN where unknown, at the times that are asked for (m, ...).

    Where the same kind of day has none at that time, any day will do; where no day has one, `overall`.
    """
    slots = -(-MINUTES_PER_DAY // interval)
    slot, wanted = (_slot(times, interval, slots) for times in (clock, asked))
    totals, counts = torch.zeros(2 * slots, *values.shape[1:]), torch.zeros(2 * slots, *values.shape[1:])
    totals.index_add_(0, slot, values.nan_to_num())
    counts.index_add_(0, slot, (~values.isnan()).float())
    any_day, any_count = (sums.view(2, slots, *values.shape[1:]).sum(0) for sums in (totals, counts))
    fallback = torch.where(any_count > 0, any_day / any_count.clamp(min=1), overall).repeat(2, *[1] * (values.dim() - 1))
    return torch.where(counts > 0, totals / counts.clamp(min=1), fallback)[wanted]


def _slot(clock: Tensor, interval: int, slots: int) -> Tensor:
    """The time of the day, counted in the city's own intervals, weekends after weekdays."""
    # To whole minutes: a third of a day is a little less in binary.
    minute = (clock[:, 0] * MINUTES_PER_DAY).round().long()
    return kind_of(clock, "weekend") * slots + (minute // interval).clamp(max=slots - 1)


def autoregression(train: Examples, test: Examples, task: Forecasting, target: Sequence[int]) -> Tensor:
    """Ridge regression of every step on the past readings, one for all sensors (n, steps, sensors)."""
    # It takes a second to import.
    from sklearn.linear_model import Ridge

    inputs, wanted = _design(train, task, target), _scaled(train.target, task)
    # Rows whose steps are all known: one fit serves every step. The design has an intercept of its own.
    known = ~wanted.isnan().any(dim=1)
    model = Ridge(RIDGE, fit_intercept=False, solver="cholesky").fit(inputs[known].numpy(), wanted[known].numpy())
    n, steps, sensors = test.target.shape
    forecast = torch.from_numpy(model.predict(_design(test, task, target).numpy()))
    return task.in_unit(forecast.view(n, sensors, steps).transpose(1, 2))


def _design(examples: Examples, task: Forecasting, target: Sequence[int]) -> Tensor:
    """Scaled past readings and a one (n * sensors, history + 1), 0 where missing."""
    past = ((readings_of(examples, target) - task.mean) / task.scale).nan_to_num().transpose(1, 2).flatten(0, 1)
    # The column of ones stands for an intercept.
    return torch.cat([past, torch.ones(len(past), 1)], dim=1)


def _scaled(target: Tensor, task: Forecasting) -> Tensor:
    return ((target - task.mean) / task.scale).transpose(1, 2).flatten(0, 1)
