"""Which plans ask for the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy
from rich.console import Console

from hetfed.errors import RunFolderError
from hetfed.launch.launcher import Launcher
from hetfed.plan import read_plan

PLAN = toy.SAMPLE.replace("rounds = 3", "rounds = 1\nfinetune = 0\nalone = false\npooled = false")
VARIANT = '[variant.fedprox]\nsettings = { mu = 0.5 }\ntraining = { lr = 0.5 }\n[[client]]\nname = "b"'

IDLE = {
    "title": ('title = "A toy"', 'title = "The same toy"'),
    "no title": ('title = "A toy"', ""),
    "description": ('title = "A toy"', 'title = "A toy"\ndescription = """What it is\nfor."""'),
    "checkpoints": ("rounds = 1", "rounds = 1\ncheckpoint_every = 5"),
    "variants": ('[[client]]\nname = "b"', VARIANT),
    "order": ('[[client]]\nname = "b"\n', ""),
}
TELLING = {
    "rounds": ("rounds = 1", "rounds = 2"),
    "seed": ("rounds = 1", "rounds = 1\nseed = 1"),
    "quorum": ("rounds = 1", "rounds = 1\nquorum = 2"),
    "fine-tuning": ("finetune = 0", "finetune = 1"),
    "an exchange's setting": ('part = "head"', 'part = "encoder"'),
    "training": ("momentum = 0.5", "momentum = 0.6"),
    "data": ("n = 17", "n = 18"),
    "a name": ('name = "b"', 'name = "d"'),
}


def changed(change: tuple[str, str]) -> str:
    assert change[0] in PLAN
    text = PLAN.replace(*change, 1)
    # Without its place in the list, b stands at the end.
    return text if 'name = "b"' in text or 'name = "d"' in text else f'{text}[[client]]\nname = "b"\n'


def digest(text: str) -> str:
    return read_plan(text, "x").digest()


@pytest.mark.parametrize("change", IDLE.values(), ids=IDLE)
def test_what_changes_no_number_changes_no_digest(change: tuple[str, str]) -> None:
    text = changed(change)
    assert text != PLAN
    assert digest(text) == digest(PLAN)
    assert digest(read_plan(text, "x").resolved()) == digest(PLAN)


@pytest.mark.parametrize("change", TELLING.values(), ids=TELLING)
def test_what_changes_a_number_changes_the_digest(change: tuple[str, str]) -> None:
    assert digest(changed(change)) != digest(PLAN)


def test_a_run_goes_on_under_another_title(tmp_path: Path) -> None:
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    first = launcher.run(read_plan(PLAN, "x"), "toy plan x", tmp_path / "run")
    other = read_plan(changed(IDLE["description"]), "x").with_federation(checkpoint_every=3)
    again = launcher.run(other, "toy plan x", tmp_path / "run", resume=True)
    assert [client["federated"] for client in again["clients"]] == [client["federated"] for client in first["clients"]]
    with pytest.raises(RunFolderError):
        launcher.run(read_plan(changed(TELLING["seed"]), "x"), "toy plan x", tmp_path / "run", resume=True)
