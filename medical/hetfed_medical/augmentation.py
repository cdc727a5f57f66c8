"""Random changes of training images that leave their meaning as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROTATION, SCALE, SHIFT = math.radians(20), 0.15, 0.1
"""At most: the angle either way, the change of size, and the move as a share of the image's size."""
GAIN, OFFSET, CHANNEL_GAIN = 0.15, 0.15, 0.1
"""Standard deviations: of the gain and the offset of an image, and of the further gain of each of its channels."""


def moved_and_relit(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images as other patients lie and other scanners show them: turned, scaled, moved, mirrored, brighter or paler.

    Images are standardised, (batch, channels, height, width). The angle, the size and the place are drawn uniformly, the gain,
    the offset (in standard deviations of a pixel) and the gain of each channel normally. Right and left of a body are alike
    enough for a mirror; up and down are not. What moves in from outside is as the border is.

    >>> image = torch.ones(4, 1, 8, 8)
    >>> changed = moved_and_relit(image, torch.Generator().manual_seed(0))
    >>> changed.shape, bool((changed == image).any())
    (torch.Size([4, 1, 8, 8]), False)
    """
    count, channels = image.shape[:2]

    def uniform(limit: float) -> Tensor:
        """From -limit to limit, one for each image: a batch that is moved as one would be another data set."""
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    angle, size = uniform(ROTATION), 1 + uniform(SCALE)
    across, down = 2 * uniform(SHIFT), 2 * uniform(SHIFT)  # the grid runs from -1 to 1
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    gain = 1 + GAIN * torch.randn(count, 1, 1, 1, generator=generator)
    offset = OFFSET * torch.randn(count, 1, 1, 1, generator=generator)
    per_channel = 1 + CHANNEL_GAIN * torch.randn(count, channels, 1, 1, generator=generator)
    rows = [
        torch.stack([mirror * angle.cos() / size, -angle.sin() / size, across], dim=1),
        torch.stack([mirror * angle.sin() / size, angle.cos() / size, down], dim=1),
    ]
    # Drawn on the CPU, wherever the images are.
    affine, relit, offset = (t.to(image.device) for t in (torch.stack(rows, dim=1), gain * per_channel, offset))
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    # An image that is missing is NaN, and stays so through all of this.
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False) * relit + offset
