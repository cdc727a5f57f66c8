"""Fetching from a publisher, here a server on this machine, and checking what was fetched."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hetfed.errors import DataError
from hetfed_datasets.fetch import check, fetch
from hetfed_datasets.records import Cohort
from hetfed_datasets.registry import SOURCES
from hetfed_datasets.source import File, Source

IMAGES = "breastmnist_28.npz"


def breast() -> bytes:
    """A data set of six images in the shape of BreastMNIST."""
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.full((2, 28, 28), 9, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array([[0], [1]], dtype=np.uint8)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@dataclass
class Publisher:
    """What is served, by path; a number is an error status. `asked` are the paths of the requests so far.

    With `breaks_off`, the connection ends half-way.
    """

    port: int
    breaks_off: bool = False
    files: dict[str, bytes | int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def serve(self, name: str, content: bytes | int) -> str:
        self.files[f"/{name}"] = content
        return f"http://127.0.0.1:{self.port}/{name}"

    def entry(self, content: bytes | int, *, pinned: bytes | None = None) -> Source:
        """BreastMNIST, as if this server published it."""
        whole = pinned if pinned is not None else content
        assert isinstance(whole, bytes)
        file = File(hashlib.sha256(whole).hexdigest(), self.serve(IMAGES, content))
        return replace(SOURCES["breastmnist"], files={IMAGES: file})


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            content = made.files.get(self.path, 404)
            if isinstance(content, int):
                self.send_error(content)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if made.breaks_off else content)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Publisher(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_right_bytes_arrive_and_are_a_data_set(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    assert fetch(entry, tmp_path) == [tmp_path / "breastmnist" / IMAGES]
    assert content(tmp_path) == {f"breastmnist/{IMAGES}": breast()}
    record = check(entry, tmp_path)
    assert isinstance(record, Cohort)
    assert len(record) == 6
    assert record.labels["tumour"].tolist() == [0, 1] * 3


def test_what_is_there_and_right_is_not_fetched_again(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    fetch(entry, tmp_path)
    before = (tmp_path / "breastmnist" / IMAGES).stat().st_mtime_ns
    assert fetch(entry, tmp_path) == [tmp_path / "breastmnist" / IMAGES]
    assert publisher.asked == [f"/{IMAGES}"]
    assert (tmp_path / "breastmnist" / IMAGES).stat().st_mtime_ns == before


def test_what_is_there_and_wrong_is_fetched_again(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    (tmp_path / "breastmnist").mkdir()
    (tmp_path / "breastmnist" / IMAGES).write_bytes(b"half of it")
    fetch(entry, tmp_path)
    assert content(tmp_path) == {f"breastmnist/{IMAGES}": breast()}


def test_wrong_bytes_are_refused_and_nothing_is_left(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(b"something else", pinned=breast())
    with pytest.raises(DataError) as error:
        fetch(entry, tmp_path)
    file = entry.files[IMAGES]
    assert (error.value.file, error.value.value) == (tmp_path / "breastmnist" / IMAGES, file.url)
    assert file.sha256 in error.value.problem
    assert "try again" in error.value.remedy
    assert content(tmp_path) == {}


@pytest.mark.parametrize("status", [404, 403, 500])
def test_an_error_of_the_server_is_told_and_nothing_is_left(status: int, publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(status, pinned=breast())
    with pytest.raises(DataError, match=f"could not be fetched: {status}") as error:
        fetch(entry, tmp_path)
    assert error.value.file == tmp_path / "breastmnist" / IMAGES
    assert str(entry.files[IMAGES].url) in error.value.remedy
    assert content(tmp_path) == {}


def test_a_connection_that_breaks_off_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    publisher.breaks_off = True
    with pytest.raises(DataError, match=r"could not be fetched|do not have SHA-256"):
        fetch(publisher.entry(breast()), tmp_path)
    assert content(tmp_path) == {}


def test_nobody_answers(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    file = replace(entry.files[IMAGES], url="http://127.0.0.1:9/nothing")
    with pytest.raises(DataError, match="could not be fetched"):
        fetch(replace(entry, files={IMAGES: file}), tmp_path)
    assert content(tmp_path) == {}


def test_a_failed_download_keeps_what_was_there(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(500, pinned=breast())
    (tmp_path / "breastmnist").mkdir()
    (tmp_path / "breastmnist" / IMAGES).write_bytes(b"an older copy")
    with pytest.raises(DataError):
        fetch(entry, tmp_path)
    assert content(tmp_path) == {f"breastmnist/{IMAGES}": b"an older copy"}


def test_a_file_that_is_prepared_by_hand(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    entry = replace(entry, files={**entry.files, "by-hand.csv": File("0" * 64)})
    with pytest.raises(DataError, match="prepared by hand") as error:
        fetch(entry, tmp_path)
    assert error.value.file == tmp_path / "breastmnist" / "by-hand.csv"
    assert entry.origin in error.value.remedy
    error.value.file.write_bytes(b"x")
    assert fetch(entry, tmp_path) == [tmp_path / "breastmnist" / name for name in (IMAGES, "by-hand.csv")]


def test_parts_of_a_joined_set_are_fetched_too(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES._items, "breastmnist", publisher.entry(breast()))
    joined = replace(SOURCES["sample-hospitals"], name="joined", joins=("breastmnist",))
    assert fetch(joined, tmp_path) == [tmp_path / "breastmnist" / IMAGES]
    check(joined, tmp_path)
    (tmp_path / "breastmnist" / IMAGES).write_bytes(b"x")
    with pytest.raises(DataError, match="other bytes"):
        check(joined, tmp_path)


def test_what_is_generated_needs_no_fetching(tmp_path: Path) -> None:
    assert fetch(SOURCES["sample-hospitals"], tmp_path / "new") == []
    assert not (tmp_path / "new").exists()
    assert len(check(SOURCES["sample-hospitals"], tmp_path).patient) == 410


def test_a_check_finds_a_missing_file(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file") as error:
        check(publisher.entry(breast()), tmp_path)
    assert "hetfed datasets fetch breastmnist" in error.value.remedy
    assert publisher.asked == []


def test_a_check_finds_other_bytes(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(breast())
    (path,) = fetch(entry, tmp_path)
    path.write_bytes(breast()[:-1] + b"!")
    with pytest.raises(DataError, match="other bytes than those tested") as error:
        check(entry, tmp_path)
    assert error.value.value == hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry.files[IMAGES].sha256 in error.value.remedy


def test_a_check_says_that_other_bytes_can_be_read(publisher: Publisher, tmp_path: Path) -> None:
    path = tmp_path / "breastmnist" / IMAGES
    path.parent.mkdir()
    path.write_bytes(breast() + b" ")
    with pytest.raises(DataError, match="other bytes than those tested") as error:
        check(publisher.entry(breast()), tmp_path)
    assert "It can be read all the same. Fetch it again, or" in error.value.remedy


def test_a_check_reads_the_file(publisher: Publisher, tmp_path: Path) -> None:
    entry = publisher.entry(b"right by its digest, but no .npz")
    fetch(entry, tmp_path)
    with pytest.raises(DataError, match=r"not readable as \.npz"):
        check(entry, tmp_path)


def test_every_address_is_pinned() -> None:
    for entry in SOURCES.values():
        assert entry.generated or entry.files or entry.joins
        for name, file in entry.files.items():
            assert len(bytes.fromhex(file.sha256)) == 32, name
            assert file.url is None or file.url.startswith("https://")
