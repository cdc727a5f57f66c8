"""The report of a comparison: what page, tables and pictures say, and that the page stands alone."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rows import row

from hetfed.launch.compare import compare_plan, read_comparison, settle
from hetfed.launch.launcher import Launcher
from hetfed.launch.workers import OneByOne
from hetfed.plan import read_plan
from hetfed.report.comparison import apart, draw_algorithms, spread, write_comparison
from hetfed.report.figures import decimals, number, signed
from hetfed.report.words import estimate, set_apart
from hetfed.results.about import About
from hetfed.results.analyse import Estimate, analyse

PICTURES = ("algorithms.svg", "bytes.svg", "clients.svg")
NAN = float("nan")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of two algorithms over two seeds, with its report."""
    out = tmp_path_factory.mktemp("comparisons") / "out"
    launcher = Launcher(toy.ToyVertical(), Console(quiet=True))
    plan = read_plan(toy.SAMPLE.replace("rounds = 3", "rounds = 1\nfinetune = 1"), "x")
    comparison = settle(launcher, plan, "x", algorithms=["plan", "fedavg"], seeds=2)
    frame = compare_plan(launcher, comparison, out, OneByOne(launcher.vertical, Console(quiet=True)))
    write_comparison(out, frame, read_comparison(out)[1])
    return out


def two(**other: Any) -> pd.DataFrame:
    """Two algorithms, of which x is the better; "loser" loses under both."""
    values = {("x", "winner"): (0.5, 0.9), ("x", "loser"): (0.6, 0.5), ("y", "winner"): (0.5, 0.6), ("y", "loser"): (0.6, 0.2)}
    return pd.DataFrame(
        [row(seed, client, *pair, algorithm=name, **other) for (name, client), pair in values.items() for seed in (0, 1)]
    )


def page(out: Path, frame: pd.DataFrame, left_out: dict[str, str] | None = None) -> str:
    out.mkdir(exist_ok=True)
    return write_comparison(out, frame, About(left_out=left_out or {})).read_text(encoding="utf-8")


def text(html: str) -> str:
    """All text with single spaces."""
    said = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            said.append(data)

    Reader().feed(html)
    return re.sub(r"\s+", " ", " ".join(said))


def links(html: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', html)


def table(markdown: str, number: int) -> list[list[str]]:
    """The cells of one table, without the line under its head."""
    blocks = [block for block in re.split(r"\n(?!\|)", markdown) if "|" in block]
    lines = [line for line in blocks[number].splitlines() if line.startswith("|")]
    assert set(lines[1]) <= set("|- ")
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in (lines[0], *lines[2:])]
    assert len({len(row) for row in cells}) == 1
    return cells


def test_the_page_needs_nothing_but_itself_and_leads_to_every_run(real: Path) -> None:
    html = (real / "comparison.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|iframe|object)|url\(|@import|https?://", html)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'src="([^"]*)"', html))
    assert sorted(links(html)) == [f"{name}/seed-{seed}/report.html" for name in ("alone", "fedavg", "plan") for seed in (0, 1)]
    assert all((real / link).is_file() for link in links(html))


def test_the_page_and_the_tables_say_what_the_analysis_found(real: Path) -> None:
    frame, _ = read_comparison(real)
    results = analyse(frame)
    said = text((real / "comparison.html").read_text(encoding="utf-8"))
    assert " A toy " in said
    assert "2 algorithms · 2 seeds · 1 round " in said
    first = table((real / "comparison.md").read_text(encoding="utf-8"), 0)
    assert [cells[0] for cells in first[1:]] == [result.algorithm for result in results]
    assert first[0][6:8] == ["p", "p corrected"]
    for result, cells in zip(results, first[1:], strict=True):
        assert f" {result.algorithm} {estimate(result.score, 3)} {signed(result.gain.mean)} " in said
        assert cells[1:4] == [estimate(result.score, 3), estimate(result.gain, 3, signed), number(result.kept.mean, 3)]
        assert cells[6:8] == [number(result.p, 3), number(result.p_corrected, 3)]
    for place, result in enumerate(results, 1):
        clients = table((real / "comparison.md").read_text(encoding="utf-8"), place)
        assert [cells[0].removesuffix(" (no part)") for cells in clients] == ["client", "b", "a", "c"]
        for client, cells in zip(result.clients, clients[1:], strict=True):
            assert cells[1:4] == [number(arm.mean) for arm in (client.alone, client.federated, client.pooled)]
            # Nobody else has the architecture of "a": whole models are averaged without it.
            alone = (result.algorithm, client.client) == ("fedavg", "a")
            assert f" {number(client.federated.mean)} ({'no part' if alone else signed(client.gain.mean)}) " in said


def test_pictures_lie_beside_the_page_and_in_it(real: Path) -> None:
    html = (real / "comparison.html").read_text(encoding="utf-8")
    assert {file.name for file in (real / "plots").iterdir()} == set(PICTURES)
    inside = {base64.b64decode(source) for source in re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', html)}
    assert inside == {(real / "plots" / name).read_bytes() for name in PICTURES}
    assert html.count("<img") == html.count('alt="') == 3


def test_writing_it_again_from_its_files_gives_the_same_bytes(real: Path, hetfed: Any) -> None:
    names = ("comparison.html", "comparison.md", *(f"plots/{name}" for name in PICTURES))
    before = {name: (real / name).read_bytes() for name in names}
    (real / "comparison.html").unlink()
    answer = hetfed("report", real)
    assert (answer.status, answer.out) == (0, f"report: {real / 'comparison.html'}\n")
    assert {name: (real / name).read_bytes() for name in names} == before


def test_losers_are_named_and_chance_is_weighed(tmp_path: Path) -> None:
    said = text(page(tmp_path, two()))
    assert "Ahead on average: x, +0.150 against training alone, no clear difference (1 of 2 clients above it)." in said
    assert "Under it, below alone on the mean: loser; beyond chance: none." in said
    assert "Better than alone beyond chance (corrected p < 0.05): none; worse beyond chance: none;" in said
    many = [
        row(seed, "a", 0.5, value + seed / 100, algorithm=name) for seed in range(8) for name, value in (("x", 0.6), ("y", 0.3))
    ]
    said = text(page(tmp_path, pd.DataFrame(many)))
    assert "Under it, below alone on the mean: no client; beyond chance: none." in said
    assert "Better than alone beyond chance (corrected p < 0.05): x; worse beyond chance: y;" in said


def test_where_nothing_can_be_compared_nothing_is_claimed(tmp_path: Path) -> None:
    frame = pd.DataFrame([row(seed, client, None, 0.5) for seed in (0, 1) for client in "ab"])
    said = text(page(tmp_path, frame))
    assert "No client can be compared federated and alone." in said
    assert "Ahead on average" not in said
    assert table((tmp_path / "comparison.md").read_text(encoding="utf-8"), 0)[1][:3] == ["x", "–", "–"]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    said = text(page(tmp_path, two().query("seed == 0")))
    assert "2 algorithms · 1 seed ·" in said
    assert "±" not in said
    assert "Intervals are" not in said
    tables = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    for where in (said, tables):
        assert "One seed shows no interval: no single difference is certain." in where


def test_from_two_seeds_pictures_show_the_seeds_instead_of_an_interval_that_fills_the_axis(tmp_path: Path) -> None:
    said = text(page(tmp_path, two()))
    assert "the pictures show the two values as light points" in said
    assert "light points" in (tmp_path / "comparison.md").read_text(encoding="utf-8")

    def drawn(values: tuple[float, ...], half_width: float) -> str:
        results = [replace(result, score=Estimate(0.5, half_width, values)) for result in analyse(two())]
        return draw_algorithms(results, "AUROC")

    assert drawn((0.4, 0.6), 1.27) == drawn((0.4, 0.6), 0.1)
    assert drawn((0.4, 0.6), 1.27) != drawn((0.45, 0.55), 1.27)
    assert drawn((0.4, 0.5, 0.6), 0.25) != drawn((0.4, 0.5, 0.6), 0.1)


def test_three_seeds_need_no_warning_and_fewer_under_one_algorithm_do(tmp_path: Path) -> None:
    frame = pd.DataFrame([row(seed, "a", 0.5, 0.6, algorithm=name) for seed in range(3) for name in "xy"])
    said = text(page(tmp_path, frame))
    assert [words for words in ("light points", "no single difference", "Not every") if words in said] == []
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8").startswith("| algorithm |")
    said = text(page(tmp_path, frame.query("algorithm == 'x' or seed == 0")))
    assert "Not every algorithm has run under all 3 seeds: y under 1." in said


@pytest.mark.parametrize("synthetic", [False, True])
def test_synthetic_data_are_called_so(synthetic: bool, tmp_path: Path) -> None:
    summary = tmp_path / "x/seed-0/summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(
        json.dumps({"title": "Ours", "plan": "p", "description": "", "synthetic": synthetic, "exchanges": [], "clients": []}),
        encoding="utf-8",
    )
    said = text(page(tmp_path, two()))
    assert " Ours " in said
    for where in (said, (tmp_path / "comparison.md").read_text(encoding="utf-8")):
        assert ("Synthetic data. At least one client" in where) == synthetic


def test_what_the_plan_sets_is_listed_by_algorithm(tmp_path: Path) -> None:
    about = About(variants={"x": {"settings": {"mu": 0.3}, "training": {"batch_size": 4, "lr": 0.1}}})
    said = text(write_comparison(tmp_path, two(), about).read_text(encoding="utf-8"))
    assert "x : mu = 0.3; training with batch_size = 4, lr = 0.1" in said
    tables = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "- x: mu = 0.3; training with batch_size = 4, lr = 0.1\n" in tables
    assert table(tables, 1)[0][0] == "client"
    assert "Set by the plan" not in text(page(tmp_path, two()))
    assert set_apart({"training": {"lr": 0.5}}) == "training with lr = 0.5"


def test_only_a_gain_beyond_chance_has_a_colour(tmp_path: Path) -> None:
    html = page(tmp_path, pd.DataFrame([row(seed, "a", 0.5, 0.5 + gain) for seed, gain in enumerate((0.1, 0.12, 0.4))]))
    assert 'class="gain"' not in html and 'class="loss"' not in html
    assert html.count('<span class="soft">+0.207</span>') == html.count('<span class="soft">(+0.207)</span>') == 1
    html = page(tmp_path, pd.DataFrame([row(seed, "a", 0.5, 0.6 + seed / 1000) for seed in range(5)]))
    assert html.count('<span class="gain">+0.102</span>') == html.count('<span class="gain">(+0.102)</span>') == 1


def test_simple_methods_stand_beside_the_arms(tmp_path: Path) -> None:
    rows = [row(seed, "a", 0.5, 0.6, **{"reference: coin": 0.5 + seed / 10}) for seed in range(3)]
    out = tmp_path / "out"
    said = text(page(out, pd.DataFrame(rows)))
    assert " alone 0.500 coin 0.600 x 0.600 " in said
    assert table((out / "comparison.md").read_text(encoding="utf-8"), 1) == [["client", "coin"], ["a", "0.600 ± 0.248"]]


def test_where_nothing_travels_there_is_no_place_among_bytes(tmp_path: Path) -> None:
    frame = two()
    frame.loc[frame["algorithm"] == "y", "bytes"] = 0
    said = text(page(tmp_path, frame))
    assert "Not in this picture, as nothing travels: y." in said
    picture = (tmp_path / "plots/bytes.svg").read_text(encoding="utf-8")
    assert ("<!-- x -->" in picture, "<!-- y -->" in picture) == (True, False)
    assert "Not in this picture" not in text(page(tmp_path, two()))
    assert page(tmp_path / "other", frame.assign(bytes=0)).count("<img") == 2


@given(st.lists(st.floats(0, 1), max_size=12))
def test_names_keep_their_distance(places: list[float]) -> None:
    wanted, gap = sorted(places), 1 / 12
    found = spread(wanted, gap)
    assert len(found) == len(wanted)
    assert all(second - first >= gap - 1e-9 for first, second in pairwise(found))
    assert all(-1e-9 <= place <= 1 for place in found)
    if all(second - first >= gap for first, second in pairwise(wanted)):
        assert found == pytest.approx(wanted, abs=1e-9)


def test_in_differing_units_gains_are_in_per_cent(tmp_path: Path) -> None:
    lower = {"metric": "MAE", "higher_is_better": False, "pooled": 1.0}
    frame = pd.DataFrame([row(0, "a", 10.0, 8.0, unit="km/h", **lower), row(0, "b", 2.0, 2.2, unit="mph", **lower)])
    said = text(page(tmp_path, frame))
    assert "Ahead on average: x, +5.000 % against training alone" in said
    assert "Mean gain over training alone, %; higher is better. Pooled: 70.00." in said
    assert " 8.000 (+20.000) 2.200 (-10.000) " in said
    head = table((tmp_path / "comparison.md").read_text(encoding="utf-8"), 0)[0]
    assert head[:3] == ["algorithm", "mean gain over training alone, %", "kept"]
    # Metrics in differing units have no common axis.
    assert "<!-- alone -->" not in (tmp_path / "plots/clients.svg").read_text(encoding="utf-8")
    write_comparison(tmp_path, frame.assign(unit="mph"), About())
    assert "<!-- alone -->" in (tmp_path / "plots/clients.svg").read_text(encoding="utf-8")


def test_a_unit_stands_beside_the_metric(tmp_path: Path) -> None:
    frame = two(metric="MAE", unit="km/h", higher_is_better=False, pooled=0.4)
    assert "Mean test MAE, km/h; lower is better. Training alone: 0.550 ± 0.000; pooled: 0.400 ± 0.000." in text(
        page(tmp_path, frame)
    )


def test_what_the_user_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|$x$"
    html = page(tmp_path, pd.DataFrame([row(0, name, 0.5, 0.6)]), {"fedmd": "<b>no</b> public inputs"})
    assert "<script" not in html
    assert name in text(html)
    assert "fedmd : <b>no</b> public inputs" in text(html)
    assert table((tmp_path / "comparison.md").read_text(encoding="utf-8"), 1)[1][0] == name.replace("|", r"\|")


def test_of_one_algorithm_there_is_nothing_to_set_side_by_side(tmp_path: Path) -> None:
    html = page(tmp_path, two().query("algorithm == 'x'"))
    assert html.count("<img") == 1
    assert "Algorithms that do not suit" not in html


def test_estimates_in_words() -> None:
    assert estimate(Estimate(0.5, 0.125)) == "0.500 ± 0.125"
    assert estimate(Estimate(0.5, NAN)) == "0.500"
    assert estimate(Estimate(NAN, NAN)) == "–"
    assert estimate(Estimate(0.5, 0.125), 3, signed) == "+0.500 ± 0.125"
    # Equal decimals in a column.
    places = decimals([0.5, 12.25])
    assert [estimate(Estimate(mean, 0.125), places) for mean in (0.5, 12.25)] == ["0.50 ± 0.12", "12.25 ± 0.12"]
    assert [signed(value) for value in (-0.25, 0.0, NAN)] == ["-0.250", "+0.000", "–"]


def test_who_gains_without_sharing_is_named() -> None:
    (result,) = analyse(two()[lambda frame: frame["algorithm"] == "x"])
    assert apart([result], {"x": {"winner", "loser"}}) == []
    (note,) = apart([result], {"x": {"winner"}})
    assert note == "Under x, loser shares nothing: what changes there is how they train by themselves."
    undefined = [row(0, "a", 0.5, None)]
    assert apart(analyse(pd.DataFrame(undefined)), {"x": set()}) == []
