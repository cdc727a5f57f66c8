"""Backbones and table encoders: whatever the architecture, features of the size agreed on, and gradients that are numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from wards import layers

from hetfed.seeding import generator, isolated
from hetfed_medical.backbones import BACKBONES, ThreeChannels
from hetfed_medical.modalities import scalable
from hetfed_medical.tabular import TABULAR

SHAPES = [(1, 28, 28), (1, 32, 32), (3, 64, 64)]
FEATURES = 24


def images(shape: tuple[int, ...], batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=generator("images", shape))


def one_step(model: nn.Module, x: torch.Tensor) -> None:
    """A step of gradient descent must reach every parameter, with finite gradients, and lower the loss on the same batch."""
    model.train()
    target = torch.randn(len(x), FEATURES, generator=generator("target"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with isolated("dropout"):
        before = (model(x) - target).square().mean()
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert any(bool(parameter.grad.any()) for parameter in model.parameters())
    optimizer.step()
    with isolated("dropout"):
        assert (model(x) - target).square().mean() < before


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_gives_features_and_trains(name, shape):
    with isolated(name):
        model = BACKBONES[name](shape, FEATURES)
    x = images(shape)
    assert model.eval()(x).shape == (4, FEATURES)
    one_step(model, x)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_looks_at_each_image_by_itself(name):
    with isolated(name):
        model = BACKBONES[name]((1, 28, 28), FEATURES).eval()
    x = images((1, 28, 28))
    with torch.no_grad():
        whole, alone = model(x), torch.cat([model(row[None]) for row in x])
    unit = whole.std()
    assert torch.allclose(whole / unit, alone / unit, atol=1e-3)
    assert not torch.allclose(whole[0] / unit, whole[1] / unit, atol=1e-2)


def test_mobilenet_is_not_silent_in_evaluation_after_some_batches():
    with isolated("mobilenet"), torch.no_grad():
        model = BACKBONES["torchvision-mobilenet"]((1, 28, 28), FEATURES).train()
        for _ in range(150):
            trained = model(torch.randn(8, 1, 28, 28))
        judged = model.eval()(torch.randn(8, 1, 28, 28))
    assert judged.std() > 0.2 * trained.std()


def test_the_plain_convolutions_can_be_made_wider():
    assert {name for name, build in BACKBONES.items() if scalable(build)} == {"conv", "lenet", "small-conv", "deep-conv"}
    assert not any(scalable(build) for build in TABULAR.values())


def test_conv_is_the_article_s_network():
    assert layers(BACKBONES["conv"]((1, 28, 28), 128)) == ["Conv2d(1, 16, 3)", "ReLU", "Linear(10816, 128)"]
    assert 10816 == 16 * 26 * 26


def test_small_conv_is_smaller_than_deep_conv():
    sizes = [
        sum(p.numel() for p in BACKBONES[name]((1, 32, 32), FEATURES).parameters()) for name in ("small-conv", "deep-conv")
    ]
    assert sizes[0] * 5 < sizes[1]


def test_grey_becomes_three_equal_channels():
    grey, colour = images((1, 5, 6)), images((3, 5, 6))
    three = ThreeChannels()(grey)
    assert three.shape == (4, 3, 5, 6)
    assert all(torch.equal(three[:, channel], grey[:, 0]) for channel in range(3))
    assert torch.equal(ThreeChannels()(colour), colour)


@pytest.mark.parametrize("columns", [1, 10, FEATURES, 300])
@pytest.mark.parametrize("name", [name for name in TABULAR if name != "identity"])
def test_table_encoder_gives_features_and_trains(name, columns):
    with isolated(name):
        model = TABULAR[name](columns, FEATURES)
    x = torch.randn(8, columns, generator=generator("table"))
    assert model.eval()(x).shape == (8, FEATURES)
    one_step(model, x)


def test_snn_starts_with_lecun_weights_and_no_bias():
    with isolated("snn"):
        linears = [layer for layer in TABULAR["snn"](400, 256) if isinstance(layer, nn.Linear)]
    for layer in linears:
        assert not layer.bias.any()
        assert float(layer.weight.detach().std()) == pytest.approx(layer.in_features**-0.5, rel=0.05)
        assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=0.05 * layer.in_features**-0.5)


def test_snn_keeps_its_features_normalised():
    """Standard normal columns come out with mean 0 and variance 1, with and without alpha dropout."""
    with isolated("snn"):
        model = TABULAR["snn"](400, 2000)
        x = torch.randn(1000, 400)
        for mode in (True, False):
            features = model.train(mode)(x).detach()
            assert float(features.mean()) == pytest.approx(0, abs=0.01)
            assert float(features.std()) == pytest.approx(1, abs=0.03)


def test_identity_gives_the_columns_themselves():
    x = torch.randn(3, 10, generator=generator("x"))
    assert torch.equal(TABULAR["identity"](10, 10)(x), x)


def test_identity_of_another_size_is_refused():
    with pytest.raises(ValueError, match="identity encoder of 10 columns cannot give 5 features"):
        TABULAR["identity"](10, 5)
