"""The scale of numbers of any size: what varies is divided by its deviation, what stands still by 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STILL = 1e-6
"""Numbers in single precision whose deviation is this share of their size differ by rounding alone."""


def scale_of(values: NDArray[np.generic], axis: int | tuple[int, ...]) -> NDArray[np.float32]:
    """The standard deviation over `axis` of the numbers that are there; 1 where they do not vary, or are not there at all.

    Whether they vary is held against their own size: columns in units of 1e-9 vary as others do.

    >>> [f"{one:.0e}" for one in scale_of(np.array([[1e-9, 7.0, np.nan], [3e-9, 7.0, np.nan]]), axis=0)]
    ['1e-09', '1e+00', '1e+00']
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(numbers)
    # In single precision, the sum over all pixels of a hospital is off by a few per cent.
    mean = np.sum(numbers, axis=axis, where=known, keepdims=True) / np.maximum(known.sum(axis=axis, keepdims=True), 1)
    square = np.sum(np.square(numbers - mean), axis=axis, where=known) / np.maximum(known.sum(axis=axis), 1)
    size = np.max(np.abs(numbers), axis=axis, where=known, initial=0.0)
    deviation = np.sqrt(square)
    return np.asarray(np.where(deviation > STILL * size, deviation, 1.0), dtype=np.float32)
