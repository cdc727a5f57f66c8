"""What `import hetfed` gives: the names that docs/python.md lists, each loaded when it is first used."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hetfed
import hetfed_medical
import hetfed_traffic

DOCUMENT = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
TABLE = DOCUMENT.partition("## All names")[2].partition("\n## ")[0]
DOCUMENTED = re.findall(r"`(\w+)`", TABLE)
OURS = [name for name in hetfed.__all__ if name != "__version__"]


def test_the_names_are_those_that_are_documented() -> None:
    assert sorted(DOCUMENTED) == sorted(set(DOCUMENTED)) == sorted(OURS)


def test_they_are_what_dir_shows() -> None:
    assert dir(hetfed) == sorted(hetfed.__all__)
    assert not any(name.startswith("_") for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(hetfed, name)
    if name != "Spec":
        assert inspect.getdoc(found)
    if inspect.isclass(found):
        public = [each for key, each in vars(found).items() if not key.startswith("_") and callable(each)]
        assert all(inspect.getdoc(each) for each in public if inspect.isfunction(each))


def test_type_checkers_see_the_same_names() -> None:
    source = Path(hetfed.__file__).read_text(encoding="utf-8")
    assert sorted(re.findall(r"^    from \S+ import (\w+) as \1$", source, flags=re.MULTILINE)) == sorted(OURS)
    assert (Path(hetfed.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("module", [hetfed, hetfed_medical, hetfed_traffic], ids=lambda module: module.__name__)
def test_an_unknown_name_is_an_attribute_error(module: object) -> None:
    with pytest.raises(AttributeError, match=r"^module 'hetfed\w*' has no attribute 'federation_of'"):
        getattr(module, "federation_of")  # noqa: B009


@pytest.mark.parametrize("name", ["hetfed", "hetfed_medical", "hetfed_traffic", "hetfed_datasets"])
def test_importing_a_package_waits_for_nothing(name: str) -> None:
    slow = "{'torch', 'pandas', 'numpy', 'sklearn', 'rich', 'pydantic'}"
    code = f"import sys, {name}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
