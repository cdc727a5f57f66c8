"""Random changes of training images that leave their meaning as it is."""

from __future__ import annotations

from dataclasses import replace

import torch

from hetfed.data import Batch


def flip_and_shift(batch: Batch, generator: torch.Generator) -> Batch:
    """Mirror the images of half the examples left to right, and shift brightness and contrast of each a little.

    Images are standardised, (batch, channels, height, width); other modalities stay as they are.
    """
    image = batch.inputs.get("image")
    if image is None:
        return batch
    count = len(image)
    mirrored = torch.rand(count, generator=generator) < 0.5
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    shift = 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    # An image that is missing is NaN, and stays so through all of this.
    changed = torch.where(mirrored[:, None, None, None], image.flip(3), image) * gain + shift
    return replace(batch, inputs={**batch.inputs, "image": changed})
