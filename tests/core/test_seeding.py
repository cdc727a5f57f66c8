"""Randomness depends on names, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetfed.seeding import derive, generator, isolated

PATHS = st.lists(st.one_of(st.integers(0, 5), st.sampled_from("abc")), min_size=1, max_size=4).map(
    lambda path: tuple(str(part) for part in path)
)


@given(PATHS, PATHS)
def test_a_seed_depends_on_every_element_in_its_place(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (derive(*one) == derive(*other)) == (one == other)
    assert 0 <= derive(*one) < 2**63


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive(0, "a", 1) == 5640247956467711177
    assert derive("ab", "c") != derive("a", "bc")


def test_isolated_leaves_the_default_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    with isolated(1, "x"):
        first = torch.rand(3)
        with isolated(2):
            torch.rand(7)
        second = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with isolated(1, "x"):
        assert torch.equal(torch.cat([first, second]), torch.rand(6))


def test_isolated_restores_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), isolated(1):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_of_its_own_takes_nothing_from_the_default_one() -> None:
    before = torch.get_rng_state()
    assert torch.equal(torch.rand(4, generator=generator(3, "a")), torch.rand(4, generator=generator(3, "a")))
    assert torch.equal(torch.get_rng_state(), before)
