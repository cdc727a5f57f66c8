"""`hetfed datasets` through the real entry point."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from hetfed_datasets.registry import SOURCES
from hetfed_datasets.source import File

HEART = "uci-heart-4hospitals"
PATIENTS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "va": 200}


class Quiet(SimpleHTTPRequestHandler):
    """A file server that does not chat."""

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are served; the heart data set comes from there."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "shop"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    files = {}
    for hospital, patients in PATIENTS.items():
        name = f"processed.{hospital}.data"
        text = "".join(",".join([*("1.0" for _ in range(13)), str(row % 5)]) + "\n" for row in range(patients))
        (folder / name).write_text(text, encoding="utf-8")
        url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
        files[name] = File(hashlib.sha256(text.encode()).hexdigest(), url)
    monkeypatch.setitem(SOURCES._items, HEART, replace(SOURCES[HEART], files=files))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def whereabouts(text: str) -> dict[str, str]:
    """What the list says of each data set: whether it is here."""
    found = re.findall(r"^ *(\S+) +(?:cohort|series) +(\w+) ", text, flags=re.MULTILINE)
    return dict(found)


def test_list_shows_every_set(tmp_path: Path, hetfed) -> None:
    answer = hetfed("datasets", "list", "--data-dir", tmp_path)
    assert (answer.status, answer.err) == (0, "")
    assert f"data sets in {tmp_path}" in answer.out
    here = {name: "generated" if entry.generated else "no" for name, entry in SOURCES.items()}
    assert whereabouts(answer.out) == here


def test_on_a_narrow_terminal_names_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert set(whereabouts(hetfed("datasets", "list", "--data-dir", tmp_path).out)) == set(SOURCES)


def test_the_root_is_the_option_or_the_environment_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hetfed
) -> None:
    for name in ("environment", "option"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HETFED_DATA", str(tmp_path / "environment"))
    assert "/environment" in hetfed("datasets", "list").out
    assert "/option" in hetfed("datasets", "list", "--data-dir", tmp_path / "option").out
    monkeypatch.delenv("HETFED_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "cache"))
    assert "hetfed" in hetfed("datasets", "list").out.splitlines()[0]


def test_list_says_what_is_here(shop: Path, tmp_path: Path, hetfed) -> None:
    hetfed("datasets", "fetch", HEART, "--data-dir", tmp_path)
    assert whereabouts(hetfed("datasets", "list", "--data-dir", tmp_path).out)[HEART] == "yes"
    (tmp_path / HEART / "processed.va.data").unlink()
    assert whereabouts(hetfed("datasets", "list", "--data-dir", tmp_path).out)[HEART] == "no"


@pytest.mark.parametrize("name", SOURCES)
def test_describe_tells_source_and_digest(name: str, hetfed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    answer, entry = hetfed("datasets", "describe", name), SOURCES[name]
    assert answer.status == 0
    for text in (name, entry.title, entry.kind, entry.origin, entry.licence, *entry.joins):
        assert text in answer.out
    for file_name, file in entry.files.items():
        assert file_name in answer.out
        assert file.sha256 in answer.out
        assert (file.url or "prepared by hand") in answer.out


def test_fetch_then_check(shop: Path, tmp_path: Path, hetfed) -> None:
    fetched = hetfed("datasets", "fetch", HEART, "--data-dir", tmp_path)
    assert (fetched.status, fetched.err) == (0, "")
    assert fetched.out.splitlines() == [f"there: {tmp_path / HEART / name}" for name in SOURCES[HEART].files]
    checked = hetfed("datasets", "check", HEART, "--data-dir", tmp_path)
    assert checked.status == 0
    assert checked.out == f"{HEART} is in order: patients 920, samples 920, sites 4, modalities clinical\n"


def test_fetch_that_fails(shop: Path, tmp_path: Path, hetfed) -> None:
    (shop / "processed.va.data").unlink()
    answer = hetfed("datasets", "fetch", HEART, "--data-dir", tmp_path)
    assert answer.status == 2
    assert answer.complaint.startswith(f"error: {tmp_path / HEART / 'processed.va.data'}: could not be fetched: 404")


def test_check_of_a_damaged_file(shop: Path, tmp_path: Path, hetfed) -> None:
    hetfed("datasets", "fetch", HEART, "--data-dir", tmp_path)
    file = tmp_path / HEART / "processed.va.data"
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    answer = hetfed("datasets", "check", HEART, "--data-dir", tmp_path)
    assert answer.status == 2
    assert f"{file}: other bytes than those tested (SHA-256)" in answer.complaint
    assert f" Reading it fails: {file}: line " in answer.complaint


def test_what_is_generated(tmp_path: Path, hetfed) -> None:
    assert "is generated: there is nothing to fetch" in hetfed("datasets", "fetch", "sample-cities").out
    checked = hetfed("datasets", "check", "sample-hospitals", "--data-dir", tmp_path)
    assert "patients 410, samples 410, sites 4, modalities image, genes" in checked.out
    series = hetfed("datasets", "check", "random-readings", "--data-dir", tmp_path)
    assert "sensors 5, steps 600 of 15 min (6 days), km/h" in series.out


@pytest.mark.parametrize("command", ["describe", "fetch", "check"])
def test_an_unknown_name(command: str, hetfed) -> None:
    answer = hetfed("datasets", command, "mnist")
    assert answer.status == 2
    assert "unknown data set (value: 'mnist'). Did you mean 'breastmnist'? Known: breastmnist, " in answer.complaint


@pytest.mark.parametrize("name", ["la-los-loop", "pneumoniamnist", "camera-counts"])
def test_check_of_real_data(name: str, real_data: Path, hetfed) -> None:
    if not (real_data / name).is_dir():
        pytest.skip(f"{name} is not in {real_data}")
    answer = hetfed("datasets", "check", name, "--data-dir", real_data)
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(f"{name} is in order: ")
