"""What a plan can name: shipped, of an installed package, or of a user's script."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel

from hetfed import registry
from hetfed.errors import PlanError
from hetfed.plan import validate
from hetfed.registry import Registry

Install = Callable[..., Path]


def numbers(**more: int) -> Registry[int]:
    fault = lambda name, item: "" if isinstance(item, int) else "it is no number"  # noqa: E731
    return Registry("number", {"one": 1, "two": 2, **more}, group="guest.numbers", fault=fault)


def test_the_examples_hold() -> None:
    assert doctest.testmod(registry).failed == 0


def test_an_installed_package_adds_items_and_modules_that_register(install: Install) -> None:
    guest = "import guest_home\nthree = 3\nguest_home.found.add('four', 4)\nassert 'one' in guest_home.found\n"
    points = "[guest.numbers]\nthree = guest_three:three\nmore = guest_three\n"
    install(points, guest_three=guest, guest_home="found = None\n")
    guest_home = import_module("guest_home")

    guest_home.found = numbers()
    assert list(guest_home.found) == ["one", "two", "four", "three"] and guest_home.found["three"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("three = 'III'", "ValueError: 'three' is no number: it is no number"),
        ("four = 4", "AttributeError"),
    ],
    ids=["broken", "no item", "absent"],
)
def test_a_package_that_cannot_be_used_is_named_every_time(text: str, message: str, install: Install) -> None:
    install("[guest.numbers]\nthree = guest_odd:three\n", guest_odd=text)
    found = numbers()
    for _ in range(2):
        with pytest.raises(PlanError, match=rf"'three' of the package guest cannot be used \({message}.*uninstall it"):
            list(found)


def test_a_name_of_the_project_is_not_taken_away(install: Install) -> None:
    install("[guest.numbers]\none = guest_one:one\n", guest_one="one = 11")
    with pytest.raises(PlanError, match="there is another number 'one'"):
        len(numbers())


def test_a_script_registers_once_and_replaces_on_purpose() -> None:
    found = numbers()
    assert found.register("three")(3) == 3 and found.add("three", 3) == 3
    with pytest.raises(ValueError, match="there is another number 'three': choose another name, or say replace=True"):
        found.add("three", 33)
    assert found.add("three", 33, replace=True) == found["three"] == 33
    with pytest.raises(ValueError, match="'four' is no number: it is no number"):
        found.register("four")("IV")
    assert "four" not in found


def test_an_unknown_name_is_one_error_in_a_table_of_a_plan() -> None:
    found = numbers()

    class Table(BaseModel):
        first: Annotated[str, AfterValidator(found.known)]

    assert validate(Table, {"first": "two"}, key="model").first == "two"
    for ask in (lambda: found.find("tow", key="model.first"), lambda: validate(Table, {"first": "tow"}, key="model")):
        with pytest.raises(PlanError) as error:
            ask()
        message = "model.first: unknown number (value: 'tow'). Did you mean 'two'? Known: one, two."
        assert str(error.value) == message
