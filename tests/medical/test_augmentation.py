"""Mirrored and shifted images: chance comes from the generator alone, and nothing but images changes."""

from __future__ import annotations

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


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_an_image_is_mirrored_or_not_and_its_brightness_moves_a_little(seed):
    before = batch()
    after = augmented(before, generator(seed)).inputs["image"]
    for old, new in zip(before.inputs["image"], after, strict=True):
        fits = []
        for candidate in (old, old.flip(2)):
            design = torch.stack([candidate.flatten(), torch.ones(candidate.numel())], dim=1)
            solution = torch.linalg.lstsq(design, new.flatten()).solution
            if torch.allclose(design @ solution, new.flatten(), atol=1e-4):
                fits.append(solution)
        (found,) = fits
        assert abs(float(found[0]) - 1) < 0.6 and abs(float(found[1])) < 0.6


def test_half_are_mirrored():
    ramp = torch.arange(6.0).expand(400, 1, 5, 6)
    after = augmented(Batch({"image": ramp}, torch.zeros(400)), generator("half")).inputs["image"]
    mirrored = int((after[:, 0, 0, 0] > after[:, 0, 0, -1]).sum())
    assert 150 < mirrored < 250


def test_a_missing_image_stays_missing():
    before = batch()
    before.inputs["image"][3] = torch.nan
    after = augmented(before, generator("augment")).inputs["image"]
    assert after[3].isnan().all() and after[[0, 1, 2, 4]].isfinite().all()
