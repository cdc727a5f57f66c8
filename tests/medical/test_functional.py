"""A hospital's model as a function of its parameters: stacked with others, compiled and exported, whatever is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from wards import net

from functional import FORMS, TORCH_WARNS, check_exports, check_functional, without_dropout
from hetfed.data import Batch
from hetfed.seeding import generator, isolated
from hetfed.tasks import Classification, Survival
from hetfed_medical.backbones import BACKBONES
from hetfed_medical.modalities import IMAGE as IMAGES
from hetfed_medical.present import BatchNormOfKnown, gathered, masked
from hetfed_medical.tabular import TABULAR

ROWS, FEATURES = 6, 9
IMAGE = {"image": (1, 28, 28), "genes": (FEATURES,)}
TABLES = {"clinical": (FEATURES,), "genes": (FEATURES,)}
TASK = Classification(("a", "b", "c"))
SLOW = ("monai-densenet", "monai-resnet", "torchvision-mobilenet", "torchvision-resnet18")
"""Backbones of many layers: to compile one takes many seconds."""


def inputs_of(shapes: dict[str, tuple[int, ...]], rows: int, seed: int = 0, *, gaps: bool = True) -> dict[str, Tensor]:
    """Random inputs; with gaps, every third row lacks the first modality, and the row after it the second."""
    found = {}
    for index, (name, shape) in enumerate(shapes.items()):
        found[name] = torch.randn(rows, *shape, generator=generator(name, seed))
        if gaps:
            found[name][torch.arange(rows) % 3 == index] = torch.nan
    return found


def batches(shapes: dict[str, tuple[int, ...]]) -> list[Batch]:
    """One hospital is complete, one lacks modalities and labels, one has no label at all."""
    known = torch.arange(ROWS) % 3
    targets = [known, known.masked_fill(known == 1, -1), torch.full((ROWS,), -1)]
    return [Batch(inputs_of(shapes, ROWS, i, gaps=i > 0), target) for i, target in enumerate(targets)]


def hospitals(shapes: dict[str, tuple[int, ...]], *, training: bool, classes: int = 3, **keys: object) -> list[nn.Module]:
    """Three hospitals of one architecture, each with parameters of its own."""
    models = []
    for seed in range(3):
        model = without_dropout(net(shapes, classes=classes, features=FEATURES, **keys))
        with isolated("own", seed), torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        models.append(model.train(training))
    return models


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", BACKBONES)
def test_hospitals_with_this_backbone_are_the_same_alone_and_stacked(name: str, training: bool) -> None:
    check_functional(hospitals(IMAGE, training=training, image=name, genes="mlp"), batches(IMAGE), TASK)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", TABULAR)
def test_hospitals_with_this_table_encoder_are_the_same_alone_and_stacked(name: str, training: bool) -> None:
    check_functional(hospitals(TABLES, training=training, genes=name, clinical=name), batches(TABLES), TASK)


def test_hospitals_that_ask_for_survival_are_the_same_alone_and_stacked() -> None:
    targets = [torch.tensor([[i % 2, 1.0 + i // 2] for i in range(ROWS)]) for _ in range(3)]
    targets[1][2] = torch.nan
    targets[2][:, 0] = 0
    stack = [Batch(batch.inputs, target) for batch, target in zip(batches(TABLES), targets, strict=True)]
    check_functional(hospitals(TABLES, training=True, classes=1, genes="mlp", clinical="linear"), stack, Survival())


def test_stacked_hospitals_draw_their_own_dropout() -> None:
    model = net(TABLES, features=FEATURES, genes="snn", clinical="snn").train()
    inputs = inputs_of(TABLES, ROWS)
    parameters = {name: torch.stack([p.detach()] * 3) for name, p in model.named_parameters()}

    def logits(own: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, own, (inputs,)).logits

    with isolated("dropout"):
        found = torch.func.vmap(logits, randomness="different")(parameters)
    assert found.isfinite().all() and not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("there", [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_by_masks_an_encoder_learns_what_it_learns_from_the_rows_alone(name: str, there: list[int]) -> None:
    """Features, gradients, and what batch normalisation remembers of the images that are there."""
    # Large enough for two pixels in the last layer: of a row of one pixel, normalisation leaves nothing but rounding.
    image = torch.randn(4, 1, 40, 40, generator=generator("image")).double()
    known = torch.tensor(there, dtype=torch.bool)
    image[~known] = torch.nan
    found = []
    for by_masks in (False, True):
        with isolated(name), torch.no_grad():
            encoder = without_dropout(BatchNormOfKnown.convert(IMAGES.build(name, (1, 40, 40), FEATURES))).double().train()
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        features = masked(encoder, image, known) if by_masks else gathered(encoder, image, known, FEATURES)
        if features.requires_grad:
            features.square().sum().backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in encoder.parameters()]
        found.append([features.detach(), *gradients, *encoder.buffers()])
    largest = max(float(x.abs().max()) for x in found[0][1:])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-8, atol=1e-8 * largest)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_keeps_its_bits_and_names_with_other_normalisation_layers(name: str) -> None:
    plain, other = [], []
    for found, convert in ((plain, lambda module: module), (other, BatchNormOfKnown.convert)):
        with isolated(name):
            encoder = convert(IMAGES.build(name, (1, 28, 28), FEATURES)).train()
        with isolated("dropout"):
            found += [encoder(torch.randn(4, 1, 28, 28, generator=generator("image"))), encoder.state_dict()]
    assert torch.equal(plain[0], other[0]) and list(plain[1]) == list(other[1])
    assert all(torch.equal(plain[1][key], other[1][key]) for key in plain[1])


@pytest.mark.filterwarnings(*TORCH_WARNS)
@pytest.mark.parametrize("form", ["torch.export", "torch.jit.trace", "onnx"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in BACKBONES])
def test_a_hospital_with_this_backbone_is_exported(name: str, form: str) -> None:
    model = net(IMAGE, image=name, genes="mlp", features=FEATURES)
    check_exports(model, lambda rows: inputs_of(IMAGE, rows), form)


@pytest.mark.filterwarnings(*TORCH_WARNS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TABULAR)
def test_a_hospital_with_this_table_encoder_is_exported(name: str, form: str) -> None:
    model = net(TABLES, genes=name, clinical=name, features=FEATURES)
    check_exports(model, lambda rows: inputs_of(TABLES, rows), form)


def test_training_compiles_without_a_break_and_learns_the_same() -> None:
    found = []
    for compiled in (False, True):
        (model, *_) = hospitals(IMAGE, training=True, image="small-conv", genes="mlp")
        model.double()
        torch.compiler.reset()
        call = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        logits = call({name: x.double() for name, x in inputs_of(IMAGE, ROWS).items()}).logits
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.allclose(one, other, rtol=1e-8, atol=1e-10) for one, other in zip(*found, strict=True))
