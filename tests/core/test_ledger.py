"""The ledger: everything that left a client, and nothing that did not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import toy
from rich.console import Console

from hetfed.composition import compose, every
from hetfed.exchanges import Prototypes, SharedParameters
from hetfed.launch.launcher import Launcher
from hetfed.payload import Payload, Upload
from hetfed.plan import read_plan
from hetfed.results.ledger import Ledger

DIVERGES = '\n[[client]]\nname = "wild"\ntraining = { optimizer = "sgd", lr = 1e30 }\n'


def upload(number: int = 1, refused: str | None = None) -> Upload:
    payload = Payload({"head.weight": torch.full((2, 3), float(number)), "n": torch.tensor(4)}, 24)
    return Upload(number, "ä", "shared-parameters", payload.encoded, payload, refused=refused, sent=number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy in which one client diverges."""
    out = tmp_path_factory.mktemp("runs") / "run"
    Launcher(toy.ToyVertical(), Console(quiet=True)).run(read_plan(toy.SAMPLE + DIVERGES, "toy"), "toy", out)
    return out


@pytest.fixture(scope="module")
def entries(folder: Path) -> list[dict[str, object]]:
    return Ledger(folder / "ledger.jsonl").entries()


def test_an_entry_says_what_left(tmp_path: Path) -> None:
    ledger, sent = Ledger(tmp_path / "ledger.jsonl"), upload()
    ledger.write(sent)
    assert ledger.entries() == [
        {
            "round": 1,
            "sent": 1,
            "client": "ä",
            "exchange": "shared-parameters",
            "tensors": {"head.weight": ["float32", [2, 3]], "n": ["int64", []]},
            "weight": 24.0,
            "bytes": len(sent.encoded),
            "sha256": hashlib.sha256(sent.encoded).hexdigest(),
            "accepted": True,
            "refused": None,
        }
    ]


def test_one_line_for_every_upload_of_a_federation(tmp_path: Path) -> None:
    clients = [toy.client(name) for name in "abc"]
    _, uploads = toy.federate(clients, compose(SharedParameters("head"), every(2, Prototypes())), 3)
    assert len(uploads) == 3 * 3 + 3
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for sent in uploads:
        ledger.write(sent)
    assert [(e["round"], e["client"], e["exchange"], e["sha256"]) for e in ledger.entries()] == [
        (u.round, u.client, u.exchange, hashlib.sha256(u.encoded).hexdigest()) for u in uploads
    ]


def test_bytes_that_are_no_payload_are_recorded_too(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write(Upload(1, "a", "x", b"junk", refused="not a payload"))
    (entry,) = ledger.entries()
    assert (entry["tensors"], entry["bytes"], entry["accepted"], entry["refused"]) == ({}, 4, False, "not a payload")


def test_no_file_has_no_entries(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger.jsonl").entries() == []


@pytest.mark.parametrize("lost", [1, 2, 40, 200])
def test_a_line_cut_short_is_skipped_and_spoils_no_other(lost: int, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in (1, 2):
        ledger.write(upload(number))
    whole = ledger.file.read_bytes()
    ledger.file.write_bytes(whole[:-lost])
    # Without its newline alone, the line is still whole.
    assert [entry["round"] for entry in ledger.entries()] == ([1, 2] if lost == 1 else [1])
    ledger.write(upload(3))
    ledger.write(upload(4))
    assert [entry["round"] for entry in ledger.entries()] == ([1, 2, 3, 4] if lost == 1 else [1, 3, 4])


def test_entries_are_never_changed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.write(upload(1))
    before = ledger.file.read_bytes()
    ledger.write(upload(1))
    assert ledger.file.read_bytes() == before * 2


def test_a_run_records_each_upload_once(entries: list[dict[str, object]]) -> None:
    expected = [(number, client, "shared-parameters") for number in (1, 2, 3) for client in ("a", "b", "c", "wild")]
    expected += [(2, client, "prototypes") for client in ("a", "b", "c", "wild")]
    assert sorted((e["round"], e["client"], e["exchange"]) for e in entries) == sorted(expected)


def test_a_refused_upload_stands_there_with_the_reason(entries: list[dict[str, object]]) -> None:
    refused = [entry for entry in entries if not entry["accepted"]]
    assert {entry["client"] for entry in refused} == {"wild"}
    for entry in refused:
        assert "holds a NaN or an infinity" in entry["refused"] or "norm" in entry["refused"]
    assert all(entry["refused"] is None for entry in entries if entry["accepted"])


def test_private_tensors_never_stand_there(folder: Path, entries: list[dict[str, object]]) -> None:
    private = [name for name in toy.Net(2, 4).state_dict() if not name.startswith("head")]
    assert len(private) > 5
    text = (folder / "ledger.jsonl").read_text(encoding="utf-8")
    assert not [name for name in private if name in text]
    for entry in entries:
        shared = {"head.weight", "head.bias"} if entry["exchange"] == "shared-parameters" else {"means", "counts"}
        assert set(entry["tensors"]) == shared


def test_the_ledger_holds_no_number_of_a_tensor(folder: Path) -> None:
    keys = {"round", "sent", "client", "exchange", "tensors", "weight", "bytes", "sha256", "accepted", "refused"}
    for line in (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        assert set(entry) == keys
        for dtype, shape in entry["tensors"].values():
            assert dtype == "float32"
            assert all(isinstance(size, int) for size in shape)


def test_its_bytes_are_those_of_the_summary(folder: Path, entries: list[dict[str, object]]) -> None:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert sum(entry["bytes"] for entry in entries) == summary["communication_bytes"]["up"]
    assert sum(not entry["accepted"] for entry in entries) == summary["uploads_refused"] > 0
