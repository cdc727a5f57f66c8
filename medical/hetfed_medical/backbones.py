"""Image backbones: architectures that differ, projecting to one feature size that hospitals agree on.

Each is one function and one row of `BACKBONES`, built from (channels, height, width, features), for some also a factor for the
number of channels, and maps an image (batch, channels, height, width) to (batch, features).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn

from hetfed.compat import prepare_torchvision
from hetfed.registry import Registry

Shape = tuple[int, int, int]
"""(channels, height, width) of an image."""


def conv(shape: Shape, features: int, factor: float = 1.0) -> nn.Module:
    """The article's: one convolution of 16 filters, ReLU, one linear layer.

    Args:
        shape: (channels, height, width); height and width from 3 upwards.
        features: size of the output.
        factor: multiplies the filters.

    >>> import torch
    >>> conv((1, 28, 28), features=64)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 64])
    """
    channels, height, width = shape
    filters = _scaled(16, factor)
    # A kernel of three without padding takes a pixel off each side.
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3), nn.ReLU(), nn.Flatten(), nn.Linear(filters * (height - 2) * (width - 2), features)
    )


def lenet(shape: Shape, features: int, factor: float = 1.0) -> nn.Module:
    """Two convolutions of five by five with max-pooling, two linear layers (LeCun et al. 1998).

    >>> import torch
    >>> lenet((3, 64, 64), features=32)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 32])
    """
    first, second, hidden = _scaled(6, factor), _scaled(16, factor), _scaled(120, factor)
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        # Adaptive, so that the linear layers fit images of any size.
        nn.Conv2d(first, second, 5), nn.ReLU(), nn.AdaptiveMaxPool2d(5), nn.Flatten(),
        nn.Linear(second * 25, hidden), nn.ReLU(), nn.Linear(hidden, features),
    )  # fmt: skip


def deep_conv(shape: Shape, features: int, factor: float = 1.0, widths: tuple[int, ...] = (16, 32, 64, 64)) -> nn.Module:
    """Convolution, batch normalisation, ReLU and pooling, four times; the mean over the image; one linear layer.

    The first convolution skips every other pixel where the image is larger than 32 pixels.

    Args:
        shape: (channels, height, width); each level halves height and width.
        features: size of the output.
        factor: multiplies all `widths`. Widths that differ by a factor are what slices of parameters are exchanged for.
        widths: the channels of each level.

    >>> sum(p.numel() for p in deep_conv((1, 32, 32), features=8).parameters())
    60920
    """
    blocks: list[nn.Module] = []
    # Else an image of 64 pixels would cost four times one of 32 in every layer.
    before, stride = shape[0], 2 if min(shape[1:]) > 32 else 1
    for width in (_scaled(width, factor) for width in widths):
        # Without a bias, which the normalisation behind it would take away.
        convolution = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        blocks += [convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        before, stride = width, 1
    # The mean over the image, so that one network fits images of any size.
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, features))


def small_conv(shape: Shape, features: int, factor: float = 1.0) -> nn.Module:
    """`deep_conv` at half the width and three levels, for a hospital with little computing power.

    >>> sum(p.numel() for p in small_conv((1, 32, 32), features=8).parameters())
    6208
    """
    return deep_conv(shape, features, factor, widths=(8, 16, 32))


def _scaled(channels: int, factor: float) -> int:
    return max(round(channels * factor), 1)


def monai_densenet(shape: Shape, features: int) -> nn.Module:
    """MONAI's DenseNet (Huang et al. 2017), small: three dense blocks of two layers.

    Dense blocks keep the channels of all layers before them, so that few filters suffice.
    """
    prepare_torchvision()
    from monai.networks.nets import DenseNet

    blocks = (2, 2, 2)
    net = DenseNet(2, in_channels=shape[0], out_channels=features, init_features=16, growth_rate=12, block_config=blocks)
    return cast("nn.Module", net)


def monai_resnet(shape: Shape, features: int) -> nn.Module:
    """MONAI's ResNet (He et al. 2016), small: four stages of one block, made for little images.

    Images of up to 32 pixels a side skip the first pooling, which would leave the stages hardly anything to look at.
    """
    prepare_torchvision()
    from monai.networks.nets import ResNet

    net = ResNet(
        "basic",
        [1, 1, 1, 1],
        [16, 32, 64, 64],
        spatial_dims=2,
        n_input_channels=shape[0],
        num_classes=features,
        conv1_t_size=3,
        no_max_pool=min(shape[1:]) <= 32,
    )
    return cast("nn.Module", net)


def torchvision_mobilenet(shape: Shape, features: int) -> nn.Module:
    """torchvision's MobileNetV3-Small (Howard et al. 2019), without pre-trained weights.

    No weights are loaded: a run needs no download, and public images of another kind do not flatter its figures.
    """
    prepare_torchvision()
    from torchvision.models import mobilenet_v3_small

    # Its own momentum of 0.01 takes a thousand batches until evaluation follows training: more than a hospital may have.
    norm_layer = partial(nn.BatchNorm2d, eps=0.001, momentum=0.1)
    return nn.Sequential(ThreeChannels(), mobilenet_v3_small(weights=None, num_classes=features, norm_layer=norm_layer))


def torchvision_resnet18(shape: Shape, features: int) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016), without pre-trained weights.

    11 million parameters: the largest of the shipped backbones, and the largest upload.
    """
    prepare_torchvision()
    from torchvision.models import resnet18

    return nn.Sequential(ThreeChannels(), resnet18(weights=None, num_classes=features))


class ThreeChannels(nn.Module):
    """A grey image as three equal channels, which torchvision's networks expect; an image of three as it is.

    >>> import torch
    >>> ThreeChannels()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 3, 28, 28])
    """

    def forward(self, image: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, 3, height, width)"""
        return image.expand(-1, 3, -1, -1)


BACKBONES: Registry[Callable[..., nn.Module]] = Registry(
    "image backbone",
    {
        "conv": conv,
        "lenet": lenet,
        "small-conv": small_conv,
        "deep-conv": deep_conv,
        "monai-densenet": monai_densenet,
        "monai-resnet": monai_resnet,
        "torchvision-mobilenet": torchvision_mobilenet,
        "torchvision-resnet18": torchvision_resnet18,
    },
    group="hetfed.backbones",
)
"""The `image` key of a model table. An installed package adds a function through the group `hetfed.backbones`, a script with
`@BACKBONES.register(name)`."""
