"""Encoders: the same weights in every city, whatever its sensors, interval and channels; a graph of its own in each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from towns import model_of, noisy, ring, some

from hetfed.seeding import generator, isolated
from hetfed_datasets import sample_cities
from hetfed_traffic.encoders import ENCODERS, ResidualBlock

STEPS, WIDTH, LAYERS = 6, 8, 2
SHAPES = {"history": (STEPS,), "embedded": (WIDTH,), "sequence": (STEPS, WIDTH)}
GENTLE = settings(deadline=None, max_examples=30)
NAMES = pytest.mark.parametrize("name", ENCODERS)


def encoder(name: str, layers: int = LAYERS) -> nn.Module:
    with isolated(name):
        return ENCODERS[name](STEPS, WIDTH, layers, 0.5).eval()


def reading(model: nn.Module, sensors: int, seed: int = 0) -> Tensor:
    """What the encoder reads, of three windows."""
    return torch.randn(3, sensors, *SHAPES[model.reads], generator=generator(seed))


def weights_of(sensors: int, seed: int) -> Tensor:
    """A random adjacency whose rows sum to one."""
    links = torch.rand(sensors, sensors, generator=generator("links", seed)) * (
        torch.rand(sensors, sensors, generator=generator("which", seed)) < 0.5
    )
    return links / links.sum(dim=1, keepdim=True).clamp(min=1e-6)


@NAMES
@pytest.mark.parametrize("sensors", [1, 5])
def test_features_of_every_sensor(name, sensors):
    model = encoder(name)
    assert model(reading(model, sensors), torch.eye(sensors)).shape == (3, sensors, WIDTH)


@NAMES
def test_two_cities_have_the_same_parameters(name):
    """Loops: 12 sensors, 5 minutes, one channel. A camera: one sensor, 15 minutes, four channels."""
    loops, camera = (sample_cities.generate(city) for city in ("loops", "camera"))
    one, other = model_of(loops, encoder=name), model_of(camera, encoder=name)
    states = [model.encoder.state_dict() for model in (one, other)]
    assert {key: tensor.shape for key, tensor in states[0].items()} == {key: tensor.shape for key, tensor in states[1].items()}
    before = other(some(camera)).logits
    with torch.no_grad():
        for tensor in states[0].values():
            tensor.add_(0.5)
    other.encoder.load_state_dict(states[0])
    after = other(some(camera)).logits
    assert before.shape == after.shape == (5, 2, 1) and after.isfinite().all()
    assert one(some(loops)).logits.shape == (5, 6, 12)
    assert not torch.allclose(before, after, atol=1e-3)


@NAMES
@GENTLE
@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_order_of_sensors_means_nothing(name, sensors, seed):
    model, adjacency = encoder(name), weights_of(sensors, seed)
    x = reading(model, sensors, seed)
    order = torch.randperm(sensors, generator=generator("order", seed))
    mixed = model(x[:, order], adjacency[order][:, order])
    assert torch.allclose(mixed, model(x, adjacency)[:, order], atol=1e-5)


@NAMES
@GENTLE
@given(st.integers(2, 6), st.integers(0, 1000))
def test_without_links_no_sensor_hears_of_another(name, sensors, seed):
    model = encoder(name)
    x = reading(model, sensors, seed)
    other = x.clone()
    other[:, 0] += 1
    before, after = model(x, torch.eye(sensors)), model(other, torch.eye(sensors))
    assert torch.allclose(before[:, 1:], after[:, 1:], atol=1e-6)
    assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-4)


def test_a_layer_of_the_graph_encoder_reaches_one_link_further():
    """On a ring where sensor i listens to sensor i + 1."""
    adjacency = torch.from_numpy(ring(6)) / 2
    for layers in (0, 1, 2, 3):
        model = encoder("graph", layers)
        x = reading(model, 6).requires_grad_()
        model(x, adjacency)[:, 0].abs().sum().backward()
        heard = x.grad.abs().sum(dim=(0, 2)) > 1e-9
        assert heard.tolist() == [place <= layers for place in range(6)]


@pytest.mark.parametrize("name", ["mlp", "gru", "linear"])
def test_only_the_graph_encoder_asks_for_the_graph(name):
    model = encoder(name)
    x = reading(model, 4)
    assert torch.equal(model(x, torch.eye(4)), model(x, weights_of(4, 1)))


def test_a_city_s_own_adjacency_is_used():
    """The same model with other links forecasts otherwise."""
    linked, lone = noisy(adjacency=ring(3)), noisy()
    one, other = model_of(linked, encoder="graph"), model_of(lone, encoder="graph")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.allclose(one.city.adjacency, torch.from_numpy(ring(3)) / 2)
    assert not torch.allclose(one(some(linked)).logits, other(some(lone)).logits, atol=1e-4)
    other.city.adjacency.copy_(one.city.adjacency)
    assert torch.equal(one(some(linked)).logits, other(some(lone)).logits)


def test_a_city_with_its_sensors_in_another_order_forecasts_the_same():
    order = [2, 0, 1]
    links = weights_of(3, 5).numpy()
    series, mixed = noisy(adjacency=links), noisy(adjacency=links[order][:, order])
    mixed.values[:] = series.values[:, order]
    one, other = model_of(series, encoder="graph"), model_of(mixed, encoder="graph")
    with torch.no_grad():
        other.city.sensor.copy_(one.city.sensor[order])
    assert torch.allclose(one(some(series)).logits[..., order], other(some(mixed)).logits, atol=1e-5)


def test_linear_is_one_layer_over_the_past():
    model = encoder("linear")
    x = reading(model, 2)
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == [
        ("linear.weight", (8, 6)),
        ("linear.bias", (8,)),
    ]
    assert torch.allclose(model(x, torch.eye(2)), x @ model.linear.weight.T + model.linear.bias, atol=1e-6)


def test_a_residual_block_with_nothing_learnt_passes_everything_on():
    block = ResidualBlock(WIDTH, 0.5)
    nn.init.zeros_(block.second.weight)
    nn.init.zeros_(block.second.bias)
    x = torch.randn(4, WIDTH, generator=generator("x"))
    assert torch.equal(block(x), x)
    assert torch.equal(encoder("mlp", 0)(x[None], torch.eye(4)), x[None])


@pytest.mark.parametrize("layers", [1, 3])
def test_gru_feature_is_the_state_after_the_last_step(layers):
    model = encoder("gru", layers)
    x = reading(model, 3)
    states, _ = model.gru(x[1, 2:])
    assert torch.allclose(model(x, torch.eye(3))[1, 2], states[0, -1], atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "graph", "gru"])
def test_dropout_only_while_training(name):
    model = encoder(name)
    x = reading(model, 3)
    with isolated("dropout"):
        quiet = [model(x, torch.eye(3)) for _ in range(2)]
        noise = [model.train()(x, torch.eye(3)) for _ in range(2)]
    assert torch.equal(*quiet) and not torch.equal(*noise)


@NAMES
def test_every_parameter_of_a_city_learns(name):
    series = noisy(adjacency=ring(3), gaps=0.1)
    model = model_of(series, encoder=name).train()
    output = model(some(series, 60))
    (output.logits.square().sum() + output.further["level"].square().sum()).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), path
    assert model.local_parts == ("city", "management")
    assert output.features.shape == (60, 3, 24) and output.logits.shape == (60, 2, 3)
