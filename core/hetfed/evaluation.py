"""What a model says, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hetfed.chance import Interval, Metric, Resamples, interval, paired_interval, standard_error
from hetfed.data import ClientData, Examples
from hetfed.device import CPU, device_of, moved
from hetfed.model import Output
from hetfed.tasks import Metrics, Task, loss_if_any

if TYPE_CHECKING:
    from hetfed.client import Client

BATCH_SIZE = 256
"""Examples in one prediction: it bounds memory, and in evaluation mode changes no number but by rounding."""


@torch.no_grad()
def predict(model: nn.Module, examples: Examples) -> Output:
    """The output of `model` for all `examples`, in evaluation mode; the mode of every module afterwards is as before.

    Batches go to where the model is, and what it says of them comes back to where the examples are.
    """
    # Each module's own mode: `set_training_mode` may have left normalisation layers in evaluation mode, and train() would not.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    there, here = device_of(model), examples.target.device
    outputs: list[Output] = [moved(model(moved(batch.inputs, there)), here) for batch in examples.batches(BATCH_SIZE)]
    for module, mode in modes:
        module.training = mode
    features = [output.features for output in outputs if output.features is not None]
    return Output(
        torch.cat([output.logits for output in outputs]),
        torch.cat(features) if features else None,
        {name: torch.cat([output.further[name] for output in outputs]) for name in outputs[0].further},
    )


UNREADABLE = (KeyError, RuntimeError, ValueError, TypeError, IndexError)
"""What a model raises that is given inputs for which it was not made."""
DIVERGED = (-math.inf, -math.inf)
"""The score of a model whose predictions are not finite: below every other."""


NONE = Interval()
"""No interval, where nobody has asked for one."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics and loss of one model on one set of examples."""

    metrics: Metrics
    loss: float
    value: float | None
    score: tuple[float, float]
    """(metric, minus loss), larger is better; where the metric is undefined the loss alone decides."""


@dataclass(frozen=True)
class Outcome:
    """How a selected model does on test data: what the summary says of one client in one arm.

    `value` is the task's own metric, None with a `note` where there is none; from `low` to `high` is its 95 % interval, None
    with the reason `unsure` where there is none; `round` is when the model was selected, by its metric and loss on validation
    data (`validation`, `validation_loss`).
    """

    value: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    round: int = 0
    note: str | None = None
    validation: float | None = None
    validation_loss: float | None = None
    low: float | None = None
    high: float | None = None
    unsure: str = ""

    @staticmethod
    def of(evaluation: Evaluation, round_number: int, selection: Evaluation | None = None, chance: Interval = NONE) -> Outcome:
        """What an evaluation on test data amounts to, of a model that was selected for its `selection` on validation data.

        A metric that is not a finite number counts as undefined. `chance` is the interval of the metric.
        """
        found = evaluation.metrics
        # Predictions may all be finite, and what a task makes of them not.
        wild = [name for name, value in found.values.items() if value is not None and not math.isfinite(value)]
        values = {name: _figures(value) for name, value in found.values.items()}
        reasons = {**found.reasons, **dict.fromkeys(wild, "the model's predictions are beyond all measure")}
        note = "; ".join(f"{name} is undefined: {reason}" for name, reason in reasons.items()) or None
        validation, loss = (None, None) if selection is None else (_figures(selection.value), _figures(selection.loss))
        low, high = _figures(chance.low), _figures(chance.high)
        return Outcome(
            _figures(evaluation.value), values, reasons, round_number, note, validation, loss, low, high, chance.reason
        )


@dataclass(frozen=True)
class Gain:
    """How much better one model does than another on the same test data, positive where it is better.

    `value` is None where one of them has no metric; from `low` to `high` is its 95 % interval by paired resamples, None with
    the reason `unsure` where there is none.

    >>> Gain(0.05, -0.01, 0.11).clear, Gain(-0.05, -0.08, -0.02).clear
    (False, True)
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    unsure: str = ""

    @property
    def clear(self) -> bool:
        """Whether it is a gain or a loss beyond chance."""
        return Interval(self.low, self.high).clear


def evaluate(model: nn.Module, task: Task, examples: Examples) -> Evaluation:
    """Judge `model`, wherever it is, on `examples`; predictions that are not finite are worse than any others."""
    return judge(predict(model, examples), task, examples)


def judge(output: Output, task: Task, examples: Examples) -> Evaluation:
    """Judge an `output`, wherever it is, for `examples` on the CPU."""
    output = moved(output, CPU)
    if not _finite(output.logits):
        reason = {task.metric: "the model's predictions are not finite"}
        return Evaluation(Metrics({task.metric: None}, reason), math.inf, None, DIVERGED)
    metrics = task.metrics(output, examples)
    loss = loss_if_any(task, output, examples.whole())
    loss_value = math.nan if loss is None else float(loss)
    value = metrics.values[task.metric]
    # The same for every model where the metric is undefined, so that the second half, the loss, decides.
    signed = 0.0 if value is None else value if task.higher_is_better else -value
    return Evaluation(metrics, loss_value, value, (signed, -math.inf if loss is None else -loss_value))


def outcome_of(validation: Output, test: Output, task: Task, data: ClientData, round_number: int = 0) -> Outcome:
    """How a selected model does on the test data of its client, and how it did on the validation data.

    Args:
        validation: what the model says of the validation examples.
        test: what it says of the test examples.
        task: by which it is judged.
        data: of its client.
        round_number: when it was selected; 0 for what is no model of one round.
    """
    selection, chance = judge(validation, task, data.validation), interval_of(test, task, data.test)
    return Outcome.of(judge(test, task, data.test), round_number, selection, chance)


def interval_of(output: Output, task: Task, examples: Examples) -> Interval:
    """The 95 % interval of the task's metric, by resamples of the examples' owners."""
    if not _finite(output.logits):
        return Interval(reason="the model's predictions are not finite")
    examples, (metric,) = _resampled([output], task, examples)
    return interval(metric, examples.whose)


def gain_of(output: Output, over: Output, task: Task, examples: Examples) -> Gain:
    """How much better `output` is than `over` by the task's metric on the same examples."""
    # The better one less the other: of an error, less is better.
    pair = [output, over] if task.higher_is_better else [over, output]
    examples, (one, other) = _resampled(pair, task, examples)
    finite = all(_finite(each.logits) for each in pair)
    more, less = (_figures(float(metric(Resamples.whole(len(examples)))[0])) if finite else None for metric in (one, other))
    if more is None or less is None:
        return Gain(unsure="one of them has no metric")
    chance = paired_interval(one, other, examples.whose)
    return Gain(_figures(more - less), _figures(chance.low), _figures(chance.high), chance.reason)


def error_of_gain(output: Output, over: Output, task: Task, examples: Examples) -> float | None:
    """The standard error of how much better `output` is than `over`, by the same resamples of the examples' owners.

    None where the owners are too few, or the metric is undefined in too many resamples.
    """
    if not (_finite(output.logits) and _finite(over.logits)):
        return None
    examples, (one, other) = _resampled([output, over], task, examples)
    return standard_error(one, other, examples.whose)


def _resampled(outputs: Sequence[Output], task: Task, examples: Examples) -> tuple[Examples, list[Metric]]:
    """The examples that have a target, and the metric of each output for them as a function of resamples."""
    index = task.answered(examples).nonzero()[:, 0]
    # Without inputs, which may be views of a series that would be copied.
    judged = Examples({}, examples.target, examples.ids, owners=examples.owners).take(index)
    logits = [moved(output.logits, CPU)[index] for output in outputs]
    return judged, [partial(task.resampled, Output(each), judged) for each in logits]


def overall(outputs: Sequence[Output], clients: Sequence[Client]) -> float | None:
    """The metric of all clients' outputs for their test data, taken as one; None where they answer different questions, and
    where an answer means nothing beside that of another client's model."""
    task, tests = clients[0].task, [client.data.test for client in clients]
    # Targets of different shapes (other sensors, other outputs) do not go into one tensor, and different questions have no
    # metric in common.
    alike = {(client.task.label_space, client.task.metric, tuple(client.data.test.target.shape[1:])) for client in clients}
    if len(alike) > 1 or task.relative or any(test.further for test in tests):
        return None
    ids = [identity for test in tests for identity in test.ids]
    examples = Examples({}, torch.cat([test.target for test in tests]), ids)
    logits = [rescaled(output.logits, client.task, task) for output, client in zip(outputs, clients, strict=True)]
    return judge(Output(torch.cat(logits)), task, examples).value


def rescaled(logits: Tensor, task: Task, other: Task) -> Tensor:
    """The logits of `task` as `other`, which asks the same, would scale them."""
    (mean, scale), (its_mean, its_scale) = task.scaling, other.scaling
    # Left alone where nothing changes: arithmetic would round.
    same = task is other or (_equal(mean, its_mean) and _equal(scale, its_scale))
    return logits if same else (logits * scale + mean - its_mean) / its_scale


def _equal(one: Tensor | float, other: Tensor | float) -> bool:
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def _figures(value: float | None) -> float | None:
    """`value` in six figures, or None where it is not a finite number.

    Models compute in single precision: what differs beyond that is rounding, and must count neither as a gain nor in the
    choice of an arm.
    """
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
