"""The survival task: Cox's likelihood by hand, censoring, and what is undefined."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hetfed.data import Batch, Examples
from hetfed.evaluation import evaluate, judge
from hetfed.model import Output
from hetfed.tasks import Survival

TASK = Survival()


def batch(*pairs: tuple[int, float]) -> Batch:
    """Patients by (event, time)."""
    return Batch({}, torch.tensor(pairs, dtype=torch.float32))


def risks(*values: float) -> Output:
    return Output(torch.tensor(values)[:, None])


def test_the_loss_is_coxs_partial_likelihood() -> None:
    found = TASK.loss(risks(0.5, -1.0, 2.0), batch((1, 3.0), (0, 5.0), (1, 1.0)))
    third = math.log(math.exp(0.5) + math.exp(-1) + math.exp(2)) - 2.0
    first = math.log(math.exp(0.5) + math.exp(-1)) - 0.5
    assert float(found) == pytest.approx((first + third) / 3)


def test_of_patients_with_the_same_time_all_are_at_risk() -> None:
    one = TASK.loss(risks(0.0, 1.0), batch((1, 2.0), (1, 2.0)))
    other = TASK.loss(risks(1.0, 0.0), batch((1, 2.0), (1, 2.0)))
    everybody = math.log(1 + math.e)
    assert float(one) == pytest.approx((2 * everybody - 1) / 2) == float(other)


def test_large_risks_do_not_overflow() -> None:
    assert float(TASK.loss(risks(1000.0, 0.0), batch((1, 1.0), (0, 2.0)))) == pytest.approx(0, abs=1e-6)


def test_without_an_event_there_is_nothing_to_learn() -> None:
    assert not TASK.learnable(batch((0, 1.0), (0, 2.0)))
    said = torch.tensor([[1.0], [2.0]], requires_grad=True)
    loss = TASK.loss(Output(said), batch((0, 1.0), (0, 2.0)))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert said.grad.tolist() == [[0], [0]]
    assert TASK.learnable(batch((0, 1.0), (1, 2.0))) == 1


def judged(risk: list[float], *pairs: tuple[int, float]) -> tuple[float | None, dict[str, str]]:
    examples = Examples({}, batch(*pairs).target, [str(i) for i in range(len(pairs))])
    found = TASK.metrics(risks(*risk), examples)
    return found.values["C-index"], dict(found.reasons)


def test_the_c_index_counts_pairs_in_order() -> None:
    patients = (1, 1.0), (1, 2.0), (0, 3.0)
    assert judged([3.0, 2.0, 1.0], *patients)[0] == 1
    assert judged([1.0, 2.0, 3.0], *patients)[0] == 0
    assert judged([2.0, 3.0, 1.0], *patients)[0] == pytest.approx(2 / 3)


def test_who_left_early_is_compared_with_nobody_after() -> None:
    """The censored patient may have had the event at any time from then on."""
    assert judged([0.0, 5.0, 1.0], (0, 1.0), (1, 2.0), (0, 3.0))[0] == 1


def test_where_nobody_can_be_ordered_the_metric_says_why() -> None:
    value, reasons = judged([1.0, 2.0], (0, 1.0), (0, 2.0))
    assert value is None and "no two patients" in reasons["C-index"]


def test_distillation_does_not_see_a_constant() -> None:
    teacher = torch.tensor([[1.0], [3.0]])
    assert float(TASK.distillation_loss(teacher + 7, teacher, 2.0)) == pytest.approx(0, abs=1e-9)
    assert float(TASK.distillation_loss(-teacher, teacher, 2.0)) == pytest.approx(4)


def test_the_table_has_a_row_per_patient() -> None:
    examples = Examples({}, batch((1, 30.0), (0, 40.0)).target, ["p", "q"])
    table = TASK.table(risks(0.5, -0.5), examples)
    assert table.to_dict("list") == {"id": ["p", "q"], "death": [1, 0], "days": [30.0, 40.0], "risk": [0.5, -0.5]}


class Age(torch.nn.Module):
    """The risk is the age."""

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        return Output(inputs["age"][:, None])


def test_a_model_is_judged_on_it_like_on_any_other() -> None:
    target = torch.tensor([[1.0, 5.0], [0.0, 9.0]])
    examples = Examples({"age": torch.tensor([70.0, 50.0])}, target, ["p", "q"])
    found = evaluate(Age(), TASK, examples)
    assert found.value == 1 and found.loss == pytest.approx(0, abs=1e-6)
    assert judge(Output(torch.full((2, 1), math.nan)), TASK, examples).value is None
