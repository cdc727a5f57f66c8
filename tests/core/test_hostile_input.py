"""Plans, names and tables that are far from what anybody means: refused at reading, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hetfed.errors import PlanError
from hetfed.plan import read_plan
from hetfed.results.tables import read_csv, write_csv

CLIENT = '[[client]]\nname = "north"\n'
EXCHANGE = '[[exchange]]\nkind = "shared-parameters"\n'


def refusal(text: str) -> str:
    with pytest.raises(PlanError) as error:
        read_plan(text, "plan.toml").composition()
    assert str(error.value).startswith("plan.toml: ")
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f"x = {'[' * 20_000}{']' * 20_000}\n{CLIENT}",
        f"{CLIENT}[client.data]\nx = {'{ a = ' * 20_000}1{' }' * 20_000}",
        f"{CLIENT}[client.data]\n{'.'.join(['a'] * 20_000)} = 1",
        f"{CLIENT}[client.data]\n{'.'.join(['a'] * 200)} = 1",
    ],
)
def test_a_plan_that_is_nested_too_deeply_is_refused(text: str) -> None:
    assert "nested too deeply" in refusal(text)


def test_a_number_of_five_thousand_digits_is_refused() -> None:
    assert "not a plan: Exceeds the limit" in refusal(f"[federation]\nrounds = {'9' * 5000}\n{CLIENT}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 300, "has 100 bytes at most"),
        ("ж" * 51, "has 100 bytes at most"),
        ("..", "a name begins with a letter"),
        ("a/b", "a name begins with a letter"),
        ("CON", "belongs to a device on Windows"),
        ("lpt1.north", "belongs to a device on Windows"),
    ],
)
def test_a_name_that_cannot_be_that_of_a_file_is_refused(name: str, why: str) -> None:
    assert why in refusal(f'[[client]]\nname = "{name}"')


def test_names_that_differ_in_capitals_alone_are_refused() -> None:
    assert "differ in capitals alone ('North')" in refusal(f'{CLIENT}[[client]]\nname = "North"')


@pytest.mark.parametrize("setting", ["rounds = 2000000", "finetune = 1000000000"])
def test_a_number_of_rounds_that_no_run_ends_is_refused(setting: str) -> None:
    assert "less than or equal to 1000000" in refusal(f"[federation]\n{setting}\n{CLIENT}")


def test_a_word_where_a_list_is_meant_is_shown_as_one() -> None:
    assert 'A list has brackets: write ["south"].' in refusal(f'{EXCHANGE}clients = "south"\n{CLIENT}')


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "'=quoted", "''-deep"]


def test_no_cell_of_a_table_is_a_formula_and_every_cell_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [*FORMULAS, "north", "-5", "1e-3"], "=x": -1.5})
    write_csv(tmp_path / "a.csv", frame)
    plain = pd.read_csv(tmp_path / "a.csv", dtype={"id": str})
    assert [cell[0] for cell in plain["id"][: len(FORMULAS)]] == ["'"] * len(FORMULAS)
    assert plain["id"][len(FORMULAS) :].tolist() == ["north", "-5", "1e-3"]
    assert plain.columns.tolist() == ["id", "'=x"]
    assert plain["'=x"].tolist() == [-1.5] * len(frame)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", dtype={"id": str}), frame)


HOSPITAL = '[[client]]\nname = "n"\ndata = {{ dataset = "sample-hospitals", modalities = ["genes"] }}\nmodel = {{ {} }}'
CITY = '[[client]]\nname = "n"\ndata = {{ dataset = "sample-cities", city = "probes" }}\nmodel = {{ {} }}'
WINDOW = '[[client]]\nname = "n"\ndata = {{ dataset = "sample-cities", city = "probes", {} }}'


@pytest.mark.parametrize(
    ("vertical", "plan", "key"),
    [
        ("medical", HOSPITAL, "features"),
        ("medical", HOSPITAL, "width"),
        ("traffic", CITY, "features"),
        ("traffic", CITY, "layers"),
        ("traffic", WINDOW, "history"),
    ],
)
def test_a_size_that_would_take_all_memory_is_refused(vertical: str, plan: str, key: str, tmp_path: Path, hetfed: Any) -> None:
    (tmp_path / "plan.toml").write_text(plan.format(f"{key} = 1000000000"), encoding="utf-8")
    answer = hetfed(vertical, "run", tmp_path / "plan.toml", "--out", tmp_path / "out")
    assert answer.status == 2
    assert f"client 'n'.{'data' if key == 'history' else 'model'}.{key}: input should be less than or equal to" in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("medical", "run"),
        ("traffic", "compare"),
        ("reproduce", "medical"),
        ("datasets", "list"),
        ("datasets", "check", "uci-heart-4hospitals"),
    ],
)
def test_a_data_folder_that_is_none_is_refused_by_every_command(words: tuple[str, ...], tmp_path: Path, hetfed: Any) -> None:
    (tmp_path / "file").touch()
    for name, why in (("nowhere", "no such folder"), ("file", "a file, not a folder")):
        answer = hetfed(*words, "--data-dir", tmp_path / name)
        assert answer.status == 2
        assert f"--data-dir: {why} (value: '{tmp_path / name}')" in answer.err


def test_a_data_folder_of_the_environment_that_is_none_is_refused(
    tmp_path: Path, hetfed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETFED_DATA", str(tmp_path / "nowhere"))
    answer = hetfed("medical", "run", "--out", tmp_path / "out")
    assert answer.status == 2 and "HETFED_DATA: no such folder" in answer.err
