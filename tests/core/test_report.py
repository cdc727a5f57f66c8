"""The report of real, tiny runs: what the page must say, and that it stands alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch.nn import functional as F
from toy import SAMPLE, ToyVertical

from hetfed.client import Client
from hetfed.data import Examples
from hetfed.errors import RunFolderError
from hetfed.launch.launcher import Launcher
from hetfed.model import Output
from hetfed.plan import Plan, read_plan
from hetfed.report import write_report
from hetfed.report.facts import ClientFacts, read_facts
from hetfed.report.figures import change, counted_owners, interval, number, verdict
from hetfed.report.sent import by_exchange, repeated
from hetfed.report.words import arm_name, duration, headline, setting, size, undefined
from hetfed.results.arms import ARMS
from hetfed.results.folder import ENVIRONMENT, SUMMARY, RunFolder

# A client of one class has no AUROC, one with an absurd learning rate sends what the server refuses.
TROUBLE = """
[[client]]
name = "lonely"
data = { one_class = true }
[[client]]
name = "diverges"
training = { optimizer = "sgd", lr = 1e30 }
"""


ODD = {"d": 4, "e": 4, "f": 5, "g": 6}
"""Clients by the width of their model: two agree, and two have nobody to average with."""


class DescribedVertical(ToyVertical):
    """The toy with a description of each client, and a reference method."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The toy's clients, on data that is said to be generated."""
        about = {"model": "<b>wide</b> & deep"}

        def references(examples: Examples) -> dict[str, Output]:
            return {"coin": Output(F.one_hot(examples.target, 2).float())}

        return [replace(c, about=about, synthetic=True, references=references) for c in super().clients(plan, data_dir)]


class WithoutPublicInputs(ToyVertical):
    """The toy, but nobody holds public inputs."""

    def clients(self, plan: Plan, data_dir: Path | None) -> Sequence[Client]:
        """The toy's clients with what is their own alone."""
        return [replace(client, public=None) for client in super().clients(plan, data_dir)]


def run(vertical: ToyVertical, text: str, out: Path) -> RunFolder:
    Launcher(vertical, Console(quiet=True)).run(read_plan(text, "sample"), "toy plan sample", out)
    return RunFolder(out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(ToyVertical(), SAMPLE, tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    text = SAMPLE.replace('"A toy"', '"<script>alert(1)</script>"') + TROUBLE
    return run(DescribedVertical(), text, tmp_path_factory.mktemp("runs") / "troubled")


def page(folder: RunFolder) -> str:
    return (folder.path / "report.html").read_text(encoding="utf-8")


@dataclass
class Seen:
    tags: list[tuple[str, dict[str, str | None]]]
    text: str


def parse(html: str) -> Seen:
    """Tags with their attributes, and all text with single spaces."""
    seen = Seen([], "")

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.tags.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            seen.text += " " + data

    Reader().feed(html)
    seen.text = re.sub(r"\s+", " ", seen.text)
    return seen


@pytest.mark.parametrize("which", ["plain", "troubled"])
def test_the_page_needs_nothing_but_itself(which: str, request: pytest.FixtureRequest) -> None:
    html = page(request.getfixturevalue(which))
    for tag, attributes in parse(html).tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|https?://", html)


def test_every_client_is_named_with_its_numbers(plain: RunFolder) -> None:
    text = parse(page(plain)).text
    for client in plain.summary()["clients"]:
        values = " ".join(f"{client[arm]:.3f} {interval(client['intervals'][arm], 3) or '–'}" for arm in ARMS)
        gain, keeps, kept = client["gains"]["federated"], arm_name(client["kept"]["arm"]), client["gains"]["kept"]
        counted = counted_owners(client["test_counts"], "examples")
        said = f" {client['name']} {values} {verdict(gain)} {change(gain, 3)} {client['kept']['value']:.3f} {keeps} "
        said += f"{verdict(kept)} {change(kept, 3)} {client['n_train']} {counted} "
        assert said in re.sub("[▲▼] ", "", text)
        assert counted.startswith("20 examples, ")


def test_the_page_says_how_many_public_inputs_each_client_holds(plain: RunFolder, tmp_path: Path) -> None:
    assert [client["n_public"] for client in plain.summary()["clients"]] == [10, 10, 10]
    # Nobody reads them here.
    assert "public inputs" not in parse(page(plain)).text
    asked = SAMPLE.replace("rounds = 3", "rounds = 1").replace("[[client]]", '[public]\nsites = ["EZ"]\n[[client]]', 1)
    reading = run(ToyVertical(), asked.replace("prototypes", "logit-distillation"), tmp_path / "reading")
    assert parse(page(reading)).text.count(" public inputs 10, without labels (sites = EZ) ") == 3
    without = run(WithoutPublicInputs(), SAMPLE.replace("rounds = 3", "rounds = 1"), tmp_path / "run")
    assert [client["n_public"] for client in without.summary()["clients"]] == [None] * 3
    assert "public inputs" not in parse(page(without)).text


def test_the_page_says_what_is_exchanged_in_the_words_of_a_plan(plain: RunFolder, tmp_path: Path) -> None:
    text = parse(page(plain)).text
    assert "Plan sample · its own exchanges · 3 clients · 3 rounds" in text
    # Of prototypes the server takes a mean too, class by class.
    assert [e["aggregation"] for e in plain.summary()["exchanges"]] == [
        {"kind": "mean", "share": 0.2, "outliers": "refuse"}
    ] * 2
    assert text.count(" aggregation mean ") == 2
    few = "if it has at least 5 of it"
    told = f"how many examples of each class it has, {few} and the mean feature of each class, {few}"
    assert f"Beyond parameters of models, uploads of prototypes tell {told}." in text
    assert "a line for each test example of each of them, under its own name" in text
    one = SAMPLE.replace("rounds = 3", 'rounds = 1\nalgorithm = "fedavg"').split("[[exchange]]")
    odd = "".join(f'[[client]]\nname = "{name}"\nmodel = {{ width = {width} }}\n' for name, width in ODD.items())
    text = parse(page(run(ToyVertical(), one[0] + odd, tmp_path / "run"))).text
    assert "Plan sample · algorithm fedavg · 4 clients · 1 round ·" in text
    assert " left out f, g: nobody else has the same tensors there, to answer the same question " in text
    assert "examples of each class" not in text


def test_a_share_is_shown_where_it_counts() -> None:
    assert setting({"kind": "mean", "share": 0.2}) == "mean"
    assert setting({"kind": "trimmed-mean", "share": 0.2}) == "kind = trimmed-mean, share = 0.2"


def test_a_run_of_before_public_inputs_were_counted_has_its_page(plain: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(plain.path, tmp_path / "run")
    summary = plain.summary()
    for client in summary["clients"]:
        del client["n_public"]
    (tmp_path / "run/summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "public inputs" not in write_report(RunFolder(tmp_path / "run")).read_text(encoding="utf-8")


def test_the_first_sentence_names_winners_and_losers_beyond_chance(plain: RunFolder) -> None:
    facts = read_facts(plain)
    gains = {"a": chance(0.1, 0.02, 0.2), "b": chance(-0.1, -0.2, -0.02), "c": chance(0.1, -0.02, 0.2)}
    clients = [ClientFacts({**client.entry, "gains": {"federated": gains[client.name]}}) for client in facts.clients]
    sentences = headline(replace(facts, clients=clients))
    assert sentences[0] == "Federated against alone: better at a, worse at b, no clear difference at c."
    mean = sum(c.entry["federated"] for c in clients) / len(clients)
    assert f"{mean:.3f} federated" in sentences[1]


def test_validation_data_that_are_too_few_to_choose_by_are_named(plain: RunFolder, troubled: RunFolder) -> None:
    summary = plain.summary()
    for client in summary["clients"]:
        few = {name: number for name, number in client["validation_counts"]["cases"].items() if number < 10}
        assert bool(few) == (client["too_few_to_choose"] is not None)
    assert "lonely (0 examples of " in headline(read_facts(troubled))[-1]


def test_a_run_of_before_intervals_were_computed_has_its_page(plain: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(plain.path, tmp_path / "run")
    summary = plain.summary()
    for client in summary["clients"]:
        for key in ("intervals", "gains", "reference_intervals", "ahead_of_references", "test_counts", "too_few_to_choose"):
            del client[key]
    (tmp_path / "run/summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = parse(write_report(RunFolder(tmp_path / "run")).read_text(encoding="utf-8")).text
    assert "every client, alone, federated, fine-tuned and pooled: none was computed" in text


def test_plots_lie_beside_the_page_and_have_words_for_those_who_do_not_see_them(plain: RunFolder) -> None:
    files = {file.name for file in plain.plots.iterdir()}
    assert files == {"outcomes.svg", "curve-a.svg", "curve-b.svg", "curve-c.svg"}
    images = [attributes for tag, attributes in parse(page(plain)).tags if tag == "img"]
    assert len(images) == len(files)
    assert all(image["alt"] for image in images)


def test_table_headers_have_a_scope(troubled: RunFolder) -> None:
    headers = [attributes for tag, attributes in parse(page(troubled)).tags if tag == "th"]
    assert headers
    assert all(header.get("scope") in {"row", "col"} for header in headers)


def test_an_undefined_value_is_a_dash_with_its_reason(troubled: RunFolder) -> None:
    text = parse(page(troubled)).text
    assert "all 20 examples are of class 'low'" in text
    assert re.search(r" lonely( –){8} – ", text)
    facts = read_facts(troubled)
    assert (
        "lonely, alone, federated, fine-tuned and pooled: AUROC is undefined: all 20 examples are of class 'low'"
        in undefined(facts)
    )
    judged = [client.value("alone") for client in facts.judged]
    assert facts.means.values["alone"] == pytest.approx(sum(v for v in judged if v is not None) / len(judged))


def test_a_refused_upload_is_shown_with_its_reason(troubled: RunFolder) -> None:
    assert troubled.summary()["uploads_refused"] > 0
    text = parse(page(troubled)).text
    refused = [sent for sent in read_facts(troubled).sent if sent.refused]
    assert {sent.client for sent in refused} == {"diverges"}
    for sent in refused:
        assert all(reason in text for reason in sent.refused)


def test_what_the_user_wrote_is_text_and_never_markup(troubled: RunFolder) -> None:
    html = page(troubled)
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;wide&lt;/b&gt; &amp; deep" in html
    assert "<script>alert(1)</script>" in parse(html).text


def test_generated_data_is_said_to_be_generated(plain: RunFolder, troubled: RunFolder) -> None:
    assert "Synthetic data." in page(troubled)
    assert "Synthetic data." not in page(plain)


def test_a_reference_that_does_better_is_not_hidden(troubled: RunFolder) -> None:
    assert any(said.startswith("A simple reference method does better") for said in headline(read_facts(troubled)))
    text = parse(page(troubled)).text
    # It is always right, and so without an interval: nothing varies.
    assert " Coin " in text
    assert text.count(" 1.000 – ") >= len(troubled.summary()["clients"]) - 1


def test_the_ledger_and_the_rounds_tell_the_same(plain: RunFolder) -> None:
    facts = read_facts(plain)
    assert (
        sum(sent.bytes for sent in facts.sent)
        == facts.travelled["bytes_up"].sum()
        == facts.summary["communication_bytes"]["up"]
    )
    assert facts.repeated == 0
    head = next(sent for sent in facts.sent if sent.exchange == "shared-parameters")
    assert (head.uploads, head.numbers, head.tensors) == (3, 8, [("head.bias", "2"), ("head.weight", "2 × 3")])


def test_a_round_that_was_run_again_counts_as_sent_again() -> None:
    line = {
        "round": 1,
        "sent": 1,
        "client": "a",
        "exchange": "x",
        "tensors": {"t": ["float32", []]},
        "weight": 24.0,
        "bytes": 5,
        "accepted": True,
    }
    entries = [line, line, {**line, "round": 2, "sent": 2, "accepted": False, "refused": "too large"}]
    (sent,) = by_exchange(entries)
    assert (sent.uploads, sent.bytes, sent.weights, sent.tensors, sent.refused) == (
        3,
        15,
        [24.0],
        [("t", "one number")],
        {"too large": [2]},
    )
    assert repeated(entries) == 1


def entry(**values: Any) -> dict[str, Any]:
    usual = {"name": "x", "metric": "MAE", "alone": 4.0, "federated": 3.0, "finetuned": None, "pooled": None, "kept": None}
    usual["higher_is_better"] = False
    return {**usual, "references": {}, "metrics": {}, "about": {}, "notes": {}, **values}


def test_where_lower_is_better_less_is_a_gain() -> None:
    client = ClientFacts(entry(references={"last value": {"MAE": 2.5}, "mean": {"MAE": 9.0}, "other": {}}))
    assert client.gain == 1.0
    assert client.reference is not None
    assert client.reference.name == "last value"


def chance(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "unsure": ""}


def test_better_worse_and_the_best_mark_are_for_differences_beyond_chance() -> None:
    sure, unsure, lost = chance(1.0, 0.2, 1.8), chance(1.0, -0.2, 2.2), chance(-1.0, -1.8, -0.2)
    assert ClientFacts(entry(gains={"federated": sure})).best == "federated"
    assert ClientFacts(entry(gains={"federated": unsure})).best is None
    assert ClientFacts(entry(federated=5.0, gains={"federated": lost})).best == "alone"
    assert ClientFacts(entry(federated=5.0, gains={"federated": unsure})).best is None
    assert ClientFacts(entry(pooled=0.1, gains={"federated": sure})).best == "federated"  # nobody can have the pooled one
    assert ClientFacts(entry(ahead_of_references={"last value": lost})).behind_reference
    assert not ClientFacts(entry(ahead_of_references={"last value": chance(-1.0, -2.2, 0.2)})).behind_reference
    assert ClientFacts(entry()).best is None  # a folder of an earlier version


def test_clients_in_different_units_are_not_averaged(plain: RunFolder) -> None:
    facts = read_facts(plain)
    units = ["km/h", "mph"]
    clients = [ClientFacts(entry(name=unit, unit=unit)) for unit in units]
    mixed = replace(facts, clients=clients)
    assert mixed.means.values["federated"] is None
    assert not any(sentence.startswith("Mean") for sentence in headline(mixed))
    same = replace(facts, clients=[ClientFacts(entry(unit="mph")) for _ in units])
    assert same.means.values["federated"] == 3.0


def test_without_the_arms_alone_and_pooled_there_is_still_a_report(tmp_path: Path) -> None:
    text = SAMPLE.replace("rounds = 3", "rounds = 1\nfinetune = 0\nalone = false\npooled = false")
    html = page(run(ToyVertical(), text, tmp_path / "run"))
    assert "No client can be compared federated and alone." in html
    assert "every client, alone, fine-tuned and pooled: not part of this plan" in html


def test_writing_it_again_gives_the_same_text(plain: RunFolder) -> None:
    before = parse(page(plain)).text
    assert write_report(plain) == plain.path / "report.html"
    assert parse(page(plain)).text == before


@pytest.mark.parametrize("missing", [SUMMARY, ENVIRONMENT])
def test_a_run_that_is_not_whole_is_refused(plain: RunFolder, tmp_path: Path, missing: str) -> None:
    for file in plain.path.iterdir():
        if file.is_file() and file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RunFolderError, match=re.escape(missing)):
        write_report(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (float("nan"), "–"), (0.9134, "0.913"), (1.0, "1.000"), (0.0, "0.000"), (3.14159, "3.142"),
     (123.456, "123.5"), (12345.6, "12,346"), (0.00123, "0.00123"), (-0.25, "-0.250")],
)  # fmt: skip
def test_numbers_have_three_or_four_figures(value: float | None, words: str) -> None:
    assert number(value) == words


def test_sizes_and_times_in_fitting_units() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB"]
    assert [duration(s) for s in (0.25, 59.0, 61.0, 3700.0)] == ["0.25 s", "59 s", "1 min 1 s", "1 h 1 min"]
