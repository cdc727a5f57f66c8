"""Random changes of training images that leave their meaning as it is."""

from __future__ import annotations

import torch
from torch import Tensor


def flip_and_shift(image: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images left to right, and shift brightness and contrast of each a little.

    Images are standardised, (batch, channels, height, width).

    A gain of 1 +- 0.1 and a shift of +- 0.1 standard deviations, both normal, imitate scanners that differ. Right and left of a
    body are alike enough for a mirror; up and down are not.

    >>> image = torch.ones(4, 1, 8, 8)
    >>> changed = flip_and_shift(image, torch.Generator().manual_seed(0))
    >>> changed.shape, bool((changed == image).any())
    (torch.Size([4, 1, 8, 8]), False)
    """
    count = len(image)
    # One draw for each image, not one for the batch: a batch of mirrored images would be another data set.
    mirrored = torch.rand(count, generator=generator) < 0.5
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    shift = 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    # Drawn on the CPU, wherever the images are.
    mirrored, gain, shift = (drawn.to(image.device) for drawn in (mirrored, gain, shift))
    # An image that is missing is NaN, and stays so through all of this.
    return torch.where(mirrored[:, None, None, None], image.flip(3), image) * gain + shift
