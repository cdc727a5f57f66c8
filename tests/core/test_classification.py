"""Classification metrics against scikit-learn, losses against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch.nn import functional as F

from hetfed.chance import Resamples
from hetfed.data import Batch, Examples
from hetfed.evaluation import judge
from hetfed.model import Output
from hetfed.tasks import Classification, Metrics, MultiTask
from hetfed.tasks.classification import margins


def examples(target: torch.Tensor) -> Examples:
    return Examples({}, target, [str(i) for i in range(len(target))])


def measured(names: str, logits: torch.Tensor, target: torch.Tensor) -> Metrics:
    return Classification(tuple(names)).metrics(Output(logits), examples(target))


@given(st.integers(0, 10_000), st.sampled_from(["ab", "abc", "abcd"]))
def test_metrics_are_those_of_scikit_learn(seed: int, names: str) -> None:
    chance = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, len(names), generator=chance)
    target = torch.cat([torch.arange(len(names)), torch.randint(len(names), (40 - len(names),), generator=chance)])
    probability, predicted = logits.softmax(dim=1).numpy(), logits.argmax(dim=1)
    score = probability[:, 1] if len(names) == 2 else probability
    found = measured(names, logits, target).values
    auroc = sk.roc_auc_score(target, score, multi_class="raise" if len(names) == 2 else "ovr")
    assert found["AUROC"] == pytest.approx(auroc, abs=1e-6)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target, predicted), abs=1e-6)
    assert found["balanced accuracy"] == pytest.approx(sk.balanced_accuracy_score(target, predicted), abs=1e-6)
    assert found["F1"] == pytest.approx(sk.f1_score(target, predicted, average="macro"), abs=1e-6)


def test_auroc_is_over_the_classes_that_occur() -> None:
    logits = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    target = torch.arange(30) % 2  # class c never occurs
    probability = logits.softmax(dim=1).numpy()
    expected = np.mean([sk.roc_auc_score(target == c, probability[:, c]) for c in (0, 1)])
    assert measured("abc", logits, target).values["AUROC"] == pytest.approx(expected, abs=1e-6)


def test_auroc_of_one_class_is_none_with_the_reason() -> None:
    found = measured("ab", torch.tensor([[0.0, 1.0]] * 4), torch.ones(4, dtype=torch.long))
    assert found.values["AUROC"] is None
    assert found.reasons == {"AUROC": "all 4 examples are of class 'b'"}
    assert found.values["accuracy"] == 1


def test_examples_of_unknown_class_are_not_judged() -> None:
    logits, target = torch.randn(20, 2, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 2
    unknown = target.clone()
    unknown[::3] = -1
    kept = unknown >= 0
    assert measured("ab", logits, unknown).values == measured("ab", logits[kept], target[kept]).values


def test_without_a_known_class_every_metric_is_null_and_the_loss_teaches_nothing() -> None:
    task, target = Classification(("a", "b")), torch.full((3,), -1)
    found = measured("ab", torch.zeros(3, 2), target)
    assert set(found.values) == {"AUROC", "accuracy", "balanced accuracy", "F1"} == set(found.reasons)
    assert set(found.values.values()) == {None}
    assert task.learnable(Batch({}, target)) == 0
    for balanced in (False, True):
        logits = torch.zeros(3, 2, requires_grad=True)
        loss = Classification(("a", "b"), balanced).loss(Output(logits), Batch({}, target))
        (gradient,) = torch.autograd.grad(loss, [logits])
        assert (loss.shape, loss.item(), gradient.tolist()) == ((), 0.0, [[0.0, 0.0]] * 3)
    judged = judge(Output(torch.zeros(3, 2)), task, examples(target))
    assert judged.value is None
    assert math.isnan(judged.loss)
    assert judged.score < judge(Output(torch.zeros(3, 2)), task, examples(torch.ones(3, dtype=torch.long))).score


def test_loss_is_cross_entropy_over_known_classes() -> None:
    logits, target = torch.tensor([[2.0, 0.0], [5.0, 1.0], [0.0, 1.0]]), torch.tensor([0, -1, 0])
    loss = Classification(("a", "b")).loss(Output(logits), Batch({}, target))
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert float(loss) == pytest.approx(expected)


def test_balanced_classes_weigh_the_same() -> None:
    logits, target = torch.tensor([[1.0, 0.0]] * 3 + [[3.0, 0.0]]), torch.tensor([0, 0, 0, 1])
    loss = Classification(("a", "b"), balanced=True).loss(Output(logits), Batch({}, target))
    per_class = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert float(loss) == pytest.approx(sum(per_class) / 2)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_distillation_is_kl_times_temperature_squared(temperature: float) -> None:
    chance = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(5, 3, generator=chance, requires_grad=True) for _ in range(2))
    p, q = ((x / temperature).softmax(dim=1) for x in (teacher, student))
    expected = temperature**2 * (p * (p.log() - q.log())).sum(dim=1).mean()
    loss = Classification(("a", "b", "c")).distillation_loss(student, teacher, temperature)
    assert torch.allclose(loss, expected, atol=1e-6)
    torch.autograd.backward(loss)
    assert teacher.grad is None
    # The gradient of T^2 KL with respect to the student's logits is T (q - p) / b.
    assert torch.allclose(student.grad, (temperature * (q - p) / 5).detach(), atol=1e-6)


def test_predictions_that_are_not_finite_are_worse_than_any_others() -> None:
    task, target = Classification(("a", "b")), torch.tensor([0, 1])
    broken = judge(Output(torch.tensor([[math.nan, 0.0], [0.0, 0.0]])), task, examples(target))
    worst = judge(Output(torch.tensor([[0.0, 50.0], [50.0, 0.0]])), task, examples(target))
    assert broken.value is None
    assert broken.metrics.reasons == {"AUROC": "the model's predictions are not finite"}
    assert broken.score < worst.score


def test_the_table_shows_targets_and_probabilities() -> None:
    table = Classification(("a", "b")).table(Output(torch.zeros(2, 2)), examples(torch.tensor([1, -1])))
    assert table.to_dict("list") == {
        "id": ["0", "1"],
        "target": ["b", ""],
        "probability:a": [0.5, 0.5],
        "probability:b": [0.5, 0.5],
    }


def test_further_heads_add_weighted_losses_and_named_metrics() -> None:
    chance = torch.Generator().manual_seed(4)
    main, level = torch.randn(12, 2, generator=chance), torch.randn(12, 3, generator=chance)
    target, further = torch.arange(12) % 2, torch.arange(12) % 3
    task = MultiTask(Classification(("a", "b")), {"level": (Classification(("x", "y", "z")), 0.5)})
    output, batch = Output(main, further={"level": level}), Batch({}, target, {"level": further})
    expected = F.cross_entropy(main, target) + 0.5 * F.cross_entropy(level, further)
    assert torch.allclose(task.loss(output, batch), expected)
    found = task.metrics(output, Examples({}, target, [str(i) for i in range(12)], {"level": further}))
    assert found.values == {
        **measured("ab", main, target).values,
        **{f"level {name}": value for name, value in measured("xyz", level, further).values.items()},
    }
    assert (task.metric, task.higher_is_better, task.class_count) == ("AUROC", True, 2)
    assert task.label_space == Classification(("a", "b")).label_space
    assert torch.equal(task.classes(batch), target)
    assert torch.equal(task.distillation_loss(main, main.flip(0), 2.0), task.main.distillation_loss(main, main.flip(0), 2.0))
    assert list(task.table(output, examples(target))["id"]) == [str(i) for i in range(12)]


def test_a_head_with_nothing_to_learn_is_left_out_of_the_loss() -> None:
    task = MultiTask(Classification(("a", "b")), {"level": (Classification(("x", "y")), 2.0)})
    output, unknown = Output(torch.zeros(2, 2), further={"level": torch.zeros(2, 2)}), torch.full((2,), -1)
    known = torch.tensor([0, 1])
    assert float(task.loss(output, Batch({}, unknown, {"level": known}))) == pytest.approx(2 * math.log(2))
    assert float(task.loss(output, Batch({}, known, {"level": unknown}))) == pytest.approx(math.log(2))
    assert float(task.loss(output, Batch({}, unknown, {"level": unknown}))) == 0.0
    counts = [task.learnable(Batch({}, one, {"level": other})) for one in (known, unknown) for other in (known, unknown)]
    assert counts == [4, 2, 2, 0]
    found = task.metrics(output, Examples({}, known, ["a", "b"], {"level": unknown}))
    assert found.values["level AUROC"] is None
    assert found.reasons["level AUROC"] == "no example has a known class"


def test_auroc_ranks_margins_that_a_softmax_makes_equal() -> None:
    sure = torch.tensor([[0.0, 20.0], [0.0, 25.0], [0.0, 30.0], [0.0, 35.0]])
    assert measured("ab", sure, torch.tensor([0, 0, 1, 1])).values["AUROC"] == 1
    several = torch.cat([sure, torch.full((4, 1), -5.0)], dim=1)
    target = torch.tensor([0, 0, 1, 1])
    assert measured("abc", several, target).values["AUROC"] == 1
    swapped = torch.tensor([[0.0, 300.0], [0.0, 900.0], [0.0, 400.0], [0.0, 1000.0]])
    expected = sk.roc_auc_score(target, swapped[:, 1] - swapped[:, 0])
    assert measured("ab", swapped, target).values["AUROC"] == pytest.approx(expected) == 0.75


@given(st.integers(0, 10_000), st.sampled_from(["ab", "abc"]))
def test_margins_are_in_the_order_of_the_softmax(seed: int, names: str) -> None:
    logits = 5 * torch.randn(30, len(names), generator=torch.Generator().manual_seed(seed)).double()
    for margin, probability in zip(margins(logits).T, logits.softmax(dim=1).T, strict=True):
        assert torch.allclose(margin, probability.logit())


def test_a_table_tells_probabilities_apart_that_single_precision_does_not() -> None:
    output = Output(torch.tensor([[0.0, 200.0], [0.0, 250.0]]))
    table = Classification(("a", "b")).table(output, examples(torch.tensor([0, 1])))
    assert table["probability:a"][0] > table["probability:a"][1] > 0


@pytest.mark.parametrize("metric", Classification.METRICS)
def test_a_resampled_metric_is_that_of_the_examples_drawn(metric: str) -> None:
    chance = torch.Generator().manual_seed(4)
    task, target = Classification(tuple("abc"), metric=metric), torch.randint(-1, 3, (60,), generator=chance)
    output, drawn = Output(torch.randn(60, 3, generator=chance)), Resamples.of([str(i // 3) for i in range(60)])
    found = task.resampled(output, examples(target), drawn)
    for resample in range(10):
        rows = torch.from_numpy(np.repeat(np.arange(60), drawn.counts[resample][drawn.owner].astype(int)))
        expected = task.metrics(Output(output.logits[rows]), examples(target[rows])).values[metric]
        assert found[resample] == pytest.approx(expected)
