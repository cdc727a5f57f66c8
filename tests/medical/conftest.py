"""Puts the hand-made cohorts within reach of the hospitals' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hetfed_datasets import sample_hospitals
from hetfed_datasets.records import Cohort

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def sample() -> Cohort:
    """The generated hospitals."""
    return sample_hospitals.generate()
