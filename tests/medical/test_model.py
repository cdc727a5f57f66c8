"""A hospital's model: any modality may be missing, and what is missing has no say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from wards import net

from hetfed.seeding import generator, isolated
from hetfed_medical.backbones import BACKBONES
from hetfed_medical.model import GatedFusion

SHAPES = {"image": (1, 16, 16), "genes": (9,), "clinical": (5,)}
ROWS = 5
GENTLE = settings(deadline=None, max_examples=40)
MASKS = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=ROWS, max_size=ROWS).map(torch.tensor)
"""Which modality is there (rows, modalities)."""


def batch(there: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random inputs, a row of NaN where a modality is not there."""
    inputs = {}
    for (name, shape), known in zip(SHAPES.items(), there.T, strict=True):
        x = torch.randn(len(there), *shape, generator=generator(name))
        x[~known] = torch.nan
        inputs[name] = x
    return inputs


def everything() -> torch.Tensor:
    return torch.ones(ROWS, len(SHAPES), dtype=torch.bool)


def test_parts_have_their_names():
    model = net(SHAPES, features=16)
    assert list(model.encoders) == list(SHAPES)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoders", "fusion", "head"}
    output = model(batch(everything()))
    assert output.logits.shape == (ROWS, 3) and output.features.shape == (ROWS, 16)
    assert torch.equal(output.logits, model.head(output.features))


def test_a_single_modality_needs_no_fusion():
    model = net({"genes": (9,)}, features=16, genes="mlp")
    x = batch(everything())["genes"]
    assert model.fusion is None
    assert torch.equal(model({"genes": x}).features, model.encoders["genes"](x))


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_without_a_modality_leaves_the_others_as_they_were(name):
    model, there = net(SHAPES), everything()
    there[2, list(SHAPES).index(name)] = False
    with torch.no_grad():
        before, after = model(batch(everything())).logits, model(batch(there)).logits
    others = [0, 1, 3, 4]
    assert torch.allclose(before[others], after[others], atol=1e-6)
    assert after.isfinite().all() and not torch.allclose(before[2], after[2], atol=1e-4)


@GENTLE
@given(MASKS)
def test_each_row_says_what_it_says_alone(there):
    model, inputs = net(SHAPES), batch(there)
    with torch.no_grad():
        whole = model(inputs).logits
        alone = torch.cat([model({name: x[row : row + 1] for name, x in inputs.items()}).logits for row in range(ROWS)])
    assert whole.isfinite().all()
    assert torch.allclose(whole, alone, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_only_modality_there_is_the_feature(name):
    model, there = net(SHAPES), torch.zeros(ROWS, 3, dtype=torch.bool)
    there[:, list(SHAPES).index(name)] = True
    inputs = batch(there)
    with torch.no_grad():
        assert torch.allclose(model(inputs).features, model.encoders[name](inputs[name]), atol=1e-6)


def test_a_modality_missing_everywhere_is_as_if_the_model_had_none():
    model, there = net(SHAPES), everything()
    there[:, 1] = False
    inputs = batch(there)
    with torch.no_grad():
        features = [model.encoders[name](inputs[name]) for name in ("image", "clinical")]
        scores = torch.cat([model.fusion.score[i](x) for i, x in zip((0, 2), features, strict=True)], dim=1).softmax(dim=1)
        expected = scores[:, :1] * features[0] + scores[:, 1:] * features[1]
        assert torch.allclose(model(inputs).features, expected, atol=1e-6)


def test_with_everything_missing_only_the_bias_speaks():
    model = net(SHAPES)
    output = model(batch(~everything()))
    assert not output.features.any()
    assert torch.equal(output.logits, model.head.bias.expand(ROWS, -1))


@GENTLE
@given(MASKS)
def test_gradients_are_never_nan(there):
    model = net(SHAPES).train()
    with isolated("dropout"):
        logits = model(batch(there)).logits
    F.cross_entropy(logits, torch.arange(ROWS) % 3).backward()
    assert model.head.bias.grad.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for index, name in enumerate(SHAPES):
        reached = any(p.grad is not None and bool(p.grad.any()) for p in model.encoders[name].parameters())
        assert reached == bool(there[:, index].any()), name


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_without_a_modality_teaches_its_encoder_nothing(name):
    """The encoder's gradient is that of the rows that have the modality."""
    there = everything()
    there[2, list(SHAPES).index(name)] = False
    gradients = []
    for rows in (torch.arange(ROWS), torch.tensor([0, 1, 3, 4])):
        model = net(SHAPES)
        model({key: x[rows] for key, x in batch(there).items()}).logits.sum().backward()
        gradients.append([parameter.grad for parameter in model.encoders[name].parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@GENTLE
@given(MASKS, st.integers(0, 1000))
def test_gate_weights_sum_to_one_over_what_is_there(there, seed):
    """Where the features of the modalities are the unit vectors, the fused features are the weights."""
    with isolated(seed):
        fusion = GatedFusion(3, 3)
    features = [torch.eye(3)[index].expand(ROWS, -1) for index in range(3)]
    weights = fusion(features, list(there.T)).detach()
    some = there.any(dim=1)
    assert torch.allclose(weights.sum(dim=1), torch.ones(ROWS), atol=1e-6)
    assert not weights[some][~there[some]].any()
    assert (weights[some][there[some]] > 0).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_one_image_is_enough_to_train(name):
    """Alone in its batch, or the only row that has an image."""
    shapes = {"image": (1, 28, 28), "genes": (9,)}
    for rows, known in ((1, [0]), (3, [1])):
        image = torch.full((rows, 1, 28, 28), torch.nan)
        image[known] = torch.randn(1, 1, 28, 28, generator=generator("image"))
        model = net(shapes, image=name).train()
        with isolated("dropout"):
            model({"image": image, "genes": torch.zeros(rows, 9)}).logits.square().sum().backward()
        for parameter in model.parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_hospitals_may_differ_in_everything_but_the_feature_size():
    inputs = batch(everything())
    for keys in ({"image": "conv", "genes": "linear"}, {"image": "small-conv", "clinical": "snn"}):
        assert net(SHAPES, features=20, **keys)(inputs).features.shape == (ROWS, 20)
