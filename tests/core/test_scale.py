"""Scales do not depend on the unit in which numbers are written."""

from __future__ import annotations

import numpy as np
import pytest

from hetfed.scale import scale_of

RNG = np.random.default_rng(0)
VALUES = RNG.normal(5, 2, (200, 3)).astype(np.float32)


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e-3, 1.0, 1e6, 1e30])
def test_a_column_varies_in_whatever_unit(unit: float) -> None:
    scaled = (VALUES * np.float32(unit)) / scale_of(VALUES * np.float32(unit), axis=0)
    assert np.allclose(scaled.std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-12, 0.1, 7.3, 1e9, -4.7e20])
def test_a_column_that_stands_still_is_divided_by_one(value: float) -> None:
    """Also where the mean of many equal numbers is off by rounding."""
    assert scale_of(np.full((100_003, 1), value, dtype=np.float32), axis=0).tolist() == [1.0]


def test_gaps_count_for_nothing_and_nothing_known_for_one() -> None:
    values = VALUES.copy()
    values[::3, 0], values[:, 1] = np.nan, np.nan
    found = scale_of(values, axis=0)
    assert np.allclose(found, [np.nanstd(values[:, 0]), 1.0, VALUES[:, 2].std()], rtol=1e-5)
    assert scale_of(VALUES, axis=(0, 1)).shape == ()
