"""A client's models side by side: intervals by patient, gains in pairs, simple methods, and what is too little to choose by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from torch import Tensor, nn

from hetfed.chance import Resamples
from hetfed.client import Client
from hetfed.compared import Counts, compare
from hetfed.data import ClientData, Examples
from hetfed.evaluation import gain_of, interval_of, outcome_of, overall
from hetfed.model import Output
from hetfed.seeding import generator
from hetfed.tasks import Classification, Forecasting, MultiTask, Regression, Survival, Task

CHANCE = torch.Generator().manual_seed(0)
TWO = Classification(("well", "ill"))


def patients(target: Tensor, slices: int = 1) -> Examples:
    """Patients p0, p1, ... with so many examples each."""
    owners = [f"p{i // slices}" for i in range(len(target))]
    return Examples({}, target, [f"{owner}/{i}" for i, owner in enumerate(owners)], owners=owners)


def scores(target: Tensor, shift: float, seed: int) -> Output:
    """Margins by class, so far apart."""
    noise = torch.randn(len(target), generator=generator("scores", seed))
    return Output(torch.stack([torch.zeros(len(target)), noise + shift * target], dim=1))


def test_an_interval_is_by_patient_and_holds_the_figure() -> None:
    target = (torch.arange(40) % 3 == 0).long()
    output, examples = scores(target, 1.5, 0), patients(target)
    found = interval_of(output, TWO, examples)
    assert found.low < TWO.metrics(output, examples).values["AUROC"] < found.high
    # Ten slices of each patient that say the same are no more patients.
    slices = patients(target.repeat_interleave(10), slices=10)
    again = interval_of(Output(output.logits.repeat_interleave(10, dim=0)), TWO, slices)
    assert (again.low, again.high) == (pytest.approx(found.low, abs=0.03), pytest.approx(found.high, abs=0.03))


def test_examples_without_a_target_are_nobody_s_evidence() -> None:
    target = torch.tensor([0, 1] * 12 + [-1] * 30)
    output = scores(target, 1.0, 1)
    known = interval_of(Output(output.logits[:24]), TWO, patients(target[:24]))
    assert interval_of(output, TWO, patients(target)) == known


def test_a_gain_is_positive_where_the_model_is_better_whichever_way_the_metric_goes() -> None:
    target = (torch.arange(60) % 2).long()
    good, bad = scores(target, 3.0, 2), scores(target, 0.0, 3)
    gain, loss = gain_of(good, bad, TWO, patients(target)), gain_of(bad, good, TWO, patients(target))
    assert gain.clear and loss.clear
    assert gain.value == pytest.approx(-loss.value) and gain.low == pytest.approx(-loss.high)
    assert 0 < gain.low < gain.value < gain.high
    numbers = torch.randn(60, generator=CHANCE)
    near, far = (Output(numbers + size * torch.randn(60, generator=CHANCE)) for size in (0.1, 1.0))
    better = gain_of(near, far, Regression(metric="MAE"), patients(numbers))
    assert better.clear and 0 < better.low < better.value < better.high


def test_two_models_of_one_kind_do_not_differ_clearly() -> None:
    target = (torch.arange(30) % 2).long()
    found = gain_of(scores(target, 1.0, 4), scores(target, 1.0, 5), TWO, patients(target))
    assert found.low < 0 < found.high
    assert not found.clear


def test_where_a_model_has_no_metric_there_is_no_gain() -> None:
    target = (torch.arange(30) % 2).long()
    broken = Output(torch.full((30, 2), math.nan))
    assert gain_of(broken, scores(target, 1.0, 4), TWO, patients(target)).unsure == "one of them has no metric"
    assert interval_of(broken, TWO, patients(target)).reason == "the model's predictions are not finite"
    one_class = patients(torch.ones(30).long())
    assert gain_of(scores(target, 1, 4), scores(target, 1, 5), TWO, one_class).value is None


FOLLOWED = torch.stack([torch.tensor([1.0, 0.0, 1.0] * 8), torch.arange(24.0).flip(0).remainder(7) + 1], dim=1)
READINGS = torch.where(torch.rand(24, 2, 3, generator=CHANCE) < 0.2, torch.nan, 50 * torch.rand(24, 2, 3, generator=CHANCE))
ROAD = Forecasting("km/h", 15, (15, 30), torch.tensor([20.0]), torch.tensor([10.0]))


@pytest.mark.parametrize(
    ("task", "target", "shape"),
    [
        (Survival(), FOLLOWED, (24, 1)),
        (Regression(3.0, 2.0, metric="RMSE"), torch.arange(24.0), (24,)),
        (Regression(metric="MAE"), torch.where(torch.arange(48.0) % 5 == 0, torch.nan, 1.0).view(24, 2), (24, 2)),
        (ROAD, READINGS, (24, 2, 3)),
        (MultiTask(ROAD, {}), READINGS, (24, 2, 3)),
    ],
)
def test_a_resampled_metric_is_that_of_the_examples_drawn(task: Task, target: Tensor, shape: tuple[int, ...]) -> None:
    output, examples = Output(torch.randn(shape, generator=generator("resampled"))), patients(target, slices=2)
    drawn = Resamples.of(examples.whose)
    found = task.resampled(output, examples, drawn)
    for resample in range(10):
        rows = torch.from_numpy(np.repeat(np.arange(24), drawn.counts[resample][drawn.owner].astype(int)))
        expected = task.metrics(Output(output.logits[rows]), examples.take(rows)).values[task.metric]
        assert found[resample] == pytest.approx(expected)


def test_errors_over_many_readings_are_summed_in_double_precision() -> None:
    target = torch.zeros(4, 300_000)
    output = Output(torch.full((4, 300_000), 0.1) + torch.tensor([[0.0], [1e-4], [2e-4], [3e-4]]))
    expected = output.logits.double().square().mean().sqrt()
    assert Regression(metric="RMSE").metrics(output, patients(target)).values["RMSE"] == pytest.approx(
        float(expected), rel=1e-12
    )


def client_of(target: Tensor, task: Task, owned_by: str = "patients") -> Client:
    examples = patients(target, slices=2)
    data = ClientData(examples, examples, examples, owned_by=owned_by)
    return Client("a", data, task, lambda spec: nn.Linear(1, 2))


def test_patients_are_counted_and_not_their_slices() -> None:
    client = client_of(torch.tensor([0, 0, 1, 0, 1, 1, -1, -1, 0, 0]), TWO)
    found = Counts.of(client, client.data.test)
    assert found == Counts(4, {"well": 3, "ill": 2})
    assert found.too_few("patients") == "2 patients of 'ill', fewer than 10"
    plenty = client_of(torch.arange(60) // 2 % 2, TWO)
    assert Counts.of(plenty, plenty.data.test).too_few("patients") == ""


def test_events_and_days_are_counted_too() -> None:
    followed = client_of(FOLLOWED, Survival())
    assert Counts.of(followed, followed.data.test) == Counts(12, {"death": 12})
    city = client_of(READINGS[:6], ROAD, "days")
    assert Counts.of(city, city.data.test).too_few(city.data.owned_by) == "3 days, fewer than 5"


def test_every_arm_is_held_against_alone_and_against_simple_methods() -> None:
    target = (torch.arange(60) // 2 % 2).long()
    good, bad = scores(target, 3.0, 6), scores(target, 0.0, 7)
    client = replace(client_of(target, TWO), references=lambda examples: {"coin": bad, "oracle": good})
    found = compare(client, {"alone": bad, "federated": good, "finetuned": bad})
    assert set(found.gains) == {"federated", "finetuned"}
    assert found.gains["federated"].clear and found.gains["federated"].value > 0
    assert found.gains["finetuned"].value == 0 and not found.gains["finetuned"].clear
    assert found.references["coin"].low < found.references["coin"].value < found.references["coin"].high
    assert found.ahead["coin"].clear and not found.ahead["oracle"].clear
    without = compare(client, {"federated": good})
    assert not without.gains and set(without.ahead) == {"coin", "oracle"}


def test_risks_of_different_models_have_no_metric_in_common() -> None:
    clients = [client_of(FOLLOWED, Survival()) for _ in range(2)]
    assert overall([Output(torch.randn(24, 1)), Output(torch.randn(24, 1) + 9)], clients) is None


def test_clients_with_different_metrics_have_none_in_common() -> None:
    target = (torch.arange(20) % 2).long()
    clients = [client_of(target, TWO), client_of(target, replace(TWO, metric="accuracy"))]
    assert overall([scores(target, 1, 8), scores(target, 1, 9)], clients) is None


def test_an_outcome_of_test_data_has_an_interval_by_owner() -> None:
    client = toy.client("a")
    validation, test = (scores(part.target, 1.0, 10) for part in (client.data.validation, client.data.test))
    found = outcome_of(validation, test, client.task, client.data, 3)
    assert found.low < found.value < found.high
    assert found.round == 3 and found.validation is not None


def test_owners_stay_with_their_examples() -> None:
    data = ClientData.of({"x": np.zeros((12, 1))}, np.arange(12), patients=[f"p{i // 3}" for i in range(12)])
    assert data.owned_by == "patients"
    for part in (data.train, data.validation, data.test):
        assert [identity.partition("/")[0] for identity in part.ids] == list(part.whose)
    joined = Examples.concat([data.train, data.test])
    assert list(joined.whose) == [*data.train.whose, *data.test.whose]
    single = ClientData.of({"x": np.zeros((5, 1))}, np.arange(5))
    assert single.owned_by == "examples" and len(set(single.train.whose)) == 3
