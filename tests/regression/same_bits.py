"""Whether a change leaves every figure as it was: runs recorded before and after, compared to the last bit.

Record once on each version, then compare:

    python tests/regression/same_bits.py record runs/before --data-dir ../shared/data
    python tests/regression/same_bits.py record runs/after --data-dir ../shared/data
    python tests/regression/same_bits.py compare runs/before runs/after

A record is one JSON file: the digests of every upload, of every kept model and of all figures, for the shipped plans below and
for every algorithm on the conformance problem. Runs use one thread, since sums round differently over several.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PLANS = (
    ("medical", "sample"),
    ("traffic", "sample"),
    ("medical", "glioma-mri"),
    ("medical", "glioma-molecular"),
    ("traffic", "cities", "--rounds", "4"),
)
CLOCK = ("seconds", "turn_seconds")
RECORD = "record.json"
CORE_TESTS = Path(__file__).parent.parent / "core"


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    recording = actions.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--data-dir", type=Path)
    recording.add_argument("--only", help="a part of the name of what is to be recorded")
    comparing = actions.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    asked = parser.parse_args()
    if asked.action == "record":
        record(asked.folder, asked.data_dir, asked.only or "")
        return
    sys.exit(compare(asked.before, asked.after))


def record(folder: Path, data_dir: Path | None, only: str) -> None:
    """Run everything whose name holds `only`, and write the record; what an earlier call recorded stays."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECORD
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if only in "conformance":
        found["conformance"] = conformance()
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    for vertical, plan, *options in PLANS:
        name = f"{vertical} {plan}"
        if only in name:
            with tempfile.TemporaryDirectory() as out:
                run_plan(vertical, plan, options, Path(out) / "run", data_dir)
                found[name] = digest_of_run(Path(out) / "run")
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def run_plan(vertical: str, plan: str, options: list[str], out: Path, data_dir: Path | None) -> None:
    """One shipped plan, as the command line runs it."""
    words = [sys.executable, "-m", "hetfed", vertical, "run", plan, "--out", str(out), *options]
    words += ["--data-dir", str(data_dir)] if data_dir else []
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def conformance() -> dict[str, Any]:
    """Every algorithm of the conformance table, run to a whole folder."""
    sys.path.insert(0, str(CORE_TESTS))
    import conformance as table
    import tomli_w
    import torch
    import toy
    from rich.console import Console
    from test_conformance import ROWS

    from hetfed.launch.launcher import Launcher
    from hetfed.plan import read_plan

    torch.set_num_threads(1)
    found = {}
    for name, row in ROWS.items():

        class Vertical(toy.ToyVertical):
            def clients(self, plan: object, data_dir: object) -> list[Any]:
                return table.clients(row)  # noqa: B023 (called within this pass)

        plan = {
            "federation": {"rounds": table.ROUNDS, "algorithm": {"name": name, **row.settings}},
            "client": [{"name": client} for client in "abc"],
        }
        with tempfile.TemporaryDirectory() as out:
            launcher = Launcher(Vertical(), Console(quiet=True))
            launcher.run(read_plan(tomli_w.dumps(plan), "plan.toml"), "plan.toml", Path(out) / "run")
            found[name] = digest_of_run(Path(out) / "run")
    return found


def digest_of_run(folder: Path) -> dict[str, Any]:
    """What a run came to, the clock aside."""
    with (folder / "rounds.csv").open(encoding="utf-8", newline="") as table:
        rounds = [{key: value for key, value in row.items() if key not in CLOCK} for row in csv.DictReader(table)]
    # Where nobody shares anything there is no ledger.
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines() if (folder / "ledger.jsonl").exists() else []
    ledger = [json.loads(line) for line in lines]
    return {
        "figures": figures(json.loads((folder / "summary.json").read_text(encoding="utf-8"))),
        "rounds": rounds,
        "uploads": [f"{line['round']} {line['client']} {line['exchange']} {line['sha256'][:16]}" for line in ledger],
        "models": {file.parent.name: tensors(file) for file in sorted(folder.glob("models/*/model.safetensors"))},
        "predictions": {file.stem: hashed(file.read_bytes()) for file in sorted(folder.glob("predictions/*.csv"))},
    }


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """The metrics of every client in every arm, and what was kept."""
    keys = ("alone", "federated", "finetuned", "pooled", "kept", "validation", "validation_loss", "selected_round", "metrics")
    clients = {client["name"]: {key: client[key] for key in keys} for client in summary["clients"]}
    return {"clients": clients, "overall": summary["overall"], "bytes": summary["communication_bytes"]}


def tensors(file: Path) -> str:
    """The digest of the tensors in a file, whatever else stands in it."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as opened:
        parts = [name.encode() + opened.get_tensor(name).tobytes() for name in sorted(opened.keys())]
    return hashed(b"".join(parts))


def hashed(content: bytes) -> str:
    """A short digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def compare(before: Path, after: Path) -> int:
    """Print where two records differ; 1 if they do."""
    records = [json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in (before, after)]
    differences = list(differing(*records))
    for line in differences[:60]:
        print(line)  # noqa: T201
    print(f"{len(differences)} differences in {', '.join(sorted(set(records[0]) & set(records[1])))}")  # noqa: T201
    return int(bool(differences))


def differing(one: Any, other: Any, path: str = "") -> Any:
    """Every leaf in which two records differ; what only one of them holds at the top was not recorded, and does not count."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(set(one) | set(other) if path else set(one) & set(other)):
            yield from differing(one.get(key), other.get(key), f"{path} / {key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differing(*pair, f"{path} [{index}]")
    elif one != other:
        yield f"{path}: {one} -> {other}"


if __name__ == "__main__":
    main()
