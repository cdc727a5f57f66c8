"""Images that are moved and relit: chance comes from the generator alone, and nothing but images changes."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetfed.data import Batch
from hetfed.seeding import generator
from hetfed_medical.modalities import augmented


def batch(images: int = 12) -> Batch:
    image = torch.randn(images, 2, 5, 6, generator=generator("image"))
    genes = torch.randn(images, 4, generator=generator("genes"))
    return Batch({"image": image, "genes": genes}, torch.arange(images) % 2, {"grade": torch.arange(images)})


def test_the_generator_decides():
    one, again, other = (augmented(batch(), generator("augment", seed)).inputs["image"] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    augmented(batch(), generator("augment"))
    assert torch.equal(before, torch.get_rng_state())


def test_tables_and_targets_stay():
    before = batch()
    image = before.inputs["image"].clone()
    after = augmented(before, generator("augment"))
    assert torch.equal(after.inputs["genes"], before.inputs["genes"])
    assert torch.equal(after.target, before.target) and torch.equal(after.further["grade"], before.further["grade"])
    assert torch.equal(before.inputs["image"], image) and not torch.equal(after.inputs["image"], image)
    tables = Batch({"genes": before.inputs["genes"]}, before.target)
    assert augmented(tables, generator("augment")) is tables


def ramp(count: int, axis: int) -> Batch:
    """Images that grow by 1 from pixel to pixel along one axis."""
    steps = torch.arange(21.0)
    image = steps[:, None].expand(21, 21) if axis == 0 else steps.expand(21, 21)
    return Batch({"image": image.expand(count, 2, 21, 21)}, torch.zeros(count))


def slopes(after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How much each image grows from pixel to pixel across and down, in its middle, where nothing has moved in."""
    middle = after[:, :, 8:13, 8:13]
    return tuple(middle.diff(dim=axis).mean(dim=(2, 3)) for axis in (3, 2))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_images_turn_scale_and_brighten_within_limits(seed):
    """What was a plane is one still: its slope says the angle and the gain, its height the place."""
    after = augmented(ramp(8, axis=1), generator(seed)).inputs["image"]
    across, down = slopes(after)
    angle = torch.atan2(down.abs(), across.abs())
    assert angle.max() < math.radians(20) + 1e-3
    steepness = torch.hypot(across, down)
    assert steepness.min() > 0.3 and steepness.max() < 2.2  # scale 15 %, gains of 0.15 and 0.1 deviations
    # One picture turns and moves as a whole; its channels have gains of their own.
    assert torch.allclose(angle[:, 0], angle[:, 1], atol=1e-3) and not torch.allclose(steepness[:, 0], steepness[:, 1])


def test_half_are_mirrored_left_to_right_and_none_upside_down():
    across, _ = slopes(augmented(ramp(400, axis=1), generator("half")).inputs["image"])
    assert 150 < int((across[:, 0] < 0).sum()) < 250
    _, down = slopes(augmented(ramp(400, axis=0), generator("half")).inputs["image"])
    assert (down > 0).all()


def test_the_mean_image_is_where_it_was_and_as_bright():
    _, down = slopes(augmented(ramp(2000, axis=0), generator("mean")).inputs["image"])
    assert abs(float(down.mean()) - math.cos(math.radians(10))) < 0.05
    after = augmented(ramp(2000, axis=0), generator("mean")).inputs["image"]
    assert abs(float(after[:, :, 10, 10].mean()) - 10) < 0.3


def test_a_missing_image_stays_missing():
    before = batch()
    before.inputs["image"][3] = torch.nan
    after = augmented(before, generator("augment")).inputs["image"]
    assert after[3].isnan().all() and after[[0, 1, 2, 4]].isfinite().all()
