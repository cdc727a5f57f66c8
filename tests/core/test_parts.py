"""Which tensors a path names."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from hetfed.compat import prepare_torchvision
from hetfed.parts import Signature, read_tensors, write_tensors


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    prepare_torchvision()
    from torchvision.models import resnet18

    return resnet18(weights=None, num_classes=3)


def test_torchvision_imports_beside_this_torch(resnet: nn.Module) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(resnet.eval(), {"layer4": "deep"})
    assert extractor(torch.zeros(1, 3, 32, 32))["deep"].shape == (1, 512, 1, 1)


def test_norm_layers_are_found_by_type_not_by_name(resnet: nn.Module) -> None:
    """`downsample.1` is a batch normalisation whose name says nothing of it."""
    shared, personal = Signature.of(resnet).names(""), Signature.of(resnet).names("", with_norm=False)
    assert "layer2.0.downsample.1.weight" in shared
    assert "layer2.0.downsample.1.running_var" in shared
    assert "layer2.0.downsample.0.weight" in personal
    assert not [name for name in personal if "bn" in name or "downsample.1" in name]
    assert not [name for name in personal if "running" in name]


def test_every_kind_of_norm_layer_can_stay_local() -> None:
    layers = [nn.BatchNorm1d(4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)]
    model = nn.Sequential(*layers, nn.Linear(4, 4))
    assert Signature.of(model).names("", with_norm=False) == ["5.bias", "5.weight"]


def test_integer_buffers_are_never_in(resnet: nn.Module) -> None:
    assert any("num_batches_tracked" in name for name in resnet.state_dict())
    names = Signature.of(resnet).names("")
    assert not any("num_batches_tracked" in name for name in names)
    assert all(resnet.state_dict()[name].is_floating_point() for name in names)
    assert names == sorted(names)


class City(nn.Module):
    """A model that says which of its parts mean nothing elsewhere."""

    local_parts = ("sensors",)

    def __init__(self) -> None:
        super().__init__()
        self.sensors = nn.Embedding(5, 2)
        self.encoder = nn.Linear(2, 2)
        self.encoder_extra = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


def test_local_parts_are_left_out_unless_asked_for_by_name() -> None:
    assert not [name for name in Signature.of(City()).names("") if name.startswith("sensors")]
    assert Signature.of(City()).names("sensors") == ["sensors.weight"]


def test_a_path_names_whole_submodules_only() -> None:
    assert Signature.of(City()).names("encoder") == ["encoder.bias", "encoder.weight"]
    assert Signature.of(City()).names("enc") == []
    assert Signature.of(City()).names("encoder.weight") == ["encoder.weight"]
    assert Signature.of(City()).has("head")
    assert not Signature.of(City()).has("hea")
    assert Signature.of(City()).names("", exclude=["head", "encoder_extra"]) == ["encoder.bias", "encoder.weight"]


def test_where_a_path_leads_to_nothing_the_parts_beside_it_are_told() -> None:
    model = nn.Sequential(OrderedDict(encoder=nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), head=nn.Linear(2, 1)))
    assert Signature.of(model).near("tail") == ["encoder", "head"]
    assert Signature.of(model).near("tail.weight") == ["encoder", "head"]
    assert Signature.of(model).near("encoder.1.weight") == ["encoder.0", "encoder.2"]
    assert Signature.of(nn.ReLU()).near("tail") == []
    assert Signature.of(model).without("encoder.1") == "its model has no part 'encoder.1' (it has: encoder.0, encoder.2)"
    assert Signature.of(nn.ReLU()).without("tail") == "its model has no part 'tail' (it has: none)"


def test_tensors_are_read_as_copies_and_written_in_place() -> None:
    model, other = City(), City()
    before = model.head.weight
    taken = read_tensors(other, ["head.weight"])
    taken["head.weight"] += 1
    assert not torch.equal(taken["head.weight"], other.head.weight)
    write_tensors(model, taken)
    assert model.head.weight is before
    assert torch.equal(before, taken["head.weight"])
