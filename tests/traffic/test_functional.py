"""A city's model as a function of its parameters: stacked with others, compiled and exported, gaps included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from towns import asking, model_of, noisy, some

from functional import FORMS, TORCH_WARNS, check_exports, check_functional
from hetfed.data import Batch
from hetfed.seeding import generator, isolated
from hetfed.tasks import Classification, Forecasting, MultiTask
from hetfed_datasets.records import Series
from hetfed_traffic.encoders import ENCODERS
from hetfed_traffic.model import CongestionModel
from hetfed_traffic.plan_schema import CityModelTable
from hetfed_traffic.preprocessing import forecasting_data, statistics_of

ROWS = 6
LEVELS = ("low", "normal", "high", "heavy")


def city(seed: int) -> Series:
    """A city with gaps and levels of congestion."""
    return noisy(seed=seed, gaps=0.2, channels=2, level=np.arange(240) % 4, levels=LEVELS)


def own_weights(model: nn.Module, seed: int) -> nn.Module:
    """`model` with other parameters."""
    with isolated("own", seed), torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batches(loss: str) -> tuple[list[Batch], MultiTask]:
    """One city misses some readings, one all levels, and one everything there is to learn from; and what is asked of them."""
    data = [forecasting_data(city(seed), asking()) for seed in range(3)]
    found = [part.train.batch(torch.arange(ROWS)) for part in data]
    silent = [torch.full_like(level, -1) for level in (found[1].further["level"], found[2].further["level"])]
    found[1] = Batch(found[1].inputs, found[1].target, {"level": silent[0]})
    found[2] = Batch(found[2].inputs, torch.full_like(found[2].target, torch.nan), {"level": silent[1]})
    own = statistics_of(city(0), asking())
    forecasting = Forecasting("km/h", 15, (15, 30), own["target_mean"], own["target_scale"], loss)
    return found, MultiTask(forecasting, {"level": (Classification(LEVELS), 0.3)})


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ENCODERS)
def test_cities_with_this_encoder_are_the_same_alone_and_stacked(name: str, training: bool, loss: str) -> None:
    models = [own_weights(model_of(city(seed), encoder=name, dropout=0.0), seed).train(training) for seed in range(3)]
    found, task = batches(loss)
    alone = check_functional(models, found, task)
    learns = [bool(client.gradients["head.weight"].any()) for client in alone]
    assert learns == [True, True, False]


@pytest.mark.parametrize("calendar", ["weekend", "weekday"])
def test_both_calendars_are_the_same_alone_and_stacked(calendar: str) -> None:
    models = [own_weights(model_of(city(seed), calendar=calendar, dropout=0.0), seed) for seed in range(3)]
    check_functional(models, *batches("huber"))


def test_the_article_s_network_is_the_same_alone_and_stacked() -> None:
    models, found = [], []
    for seed in range(3):
        with isolated(seed):
            models.append(CongestionModel({"history": 10, "classes": 2}, CityModelTable(encoder="linear", features=16)))
        target = (torch.arange(ROWS) % 2).masked_fill(torch.arange(ROWS) < 3 * seed, -1)
        found.append(Batch({"history": torch.randn(ROWS, 10, generator=generator("history", seed))}, target))
    check_functional(models, found, Classification(("free", "congested")))


# Of a GRU's own checks of sizes.
@pytest.mark.filterwarnings(*TORCH_WARNS, "ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_city_with_this_encoder_is_exported(name: str, form: str) -> None:
    series = city(0)

    def inputs(rows: int) -> dict[str, Tensor]:
        return some(series, rows)

    # torch.compile breaks its graph at a GRU unless it is told otherwise.
    with torch._dynamo.config.patch(allow_rnn=True):
        check_exports(own_weights(model_of(series, encoder=name), 1), inputs, form)


@pytest.mark.filterwarnings(*TORCH_WARNS)
@pytest.mark.parametrize("form", FORMS)
def test_the_article_s_network_is_exported(form: str) -> None:
    with isolated("article"):
        model = CongestionModel({"history": 10, "classes": 2}, CityModelTable(encoder="linear", features=16))
    check_exports(model, lambda rows: {"history": torch.randn(rows, 10, generator=generator("history", rows))}, form)
