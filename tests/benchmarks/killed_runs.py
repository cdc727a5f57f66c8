"""Runs that are killed at random moments and gone on with, against the same runs undisturbed: the same bits, or exit status 1.

    python tests/benchmarks/killed_runs.py --kills 30

Each kill is a SIGKILL to a process of the command line, a random while after it began; after a few kills a run may end. The
plans have participation, asynchronous rounds and compression among them. Everything is drawn from `--seed`, but for the moments
themselves, which the machine has a part in.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

CLIENTS = """
[defaults.data]
dataset = "sample-hospitals"
modalities = ["genes"]
limit = 60
[defaults.model]
features = 8
[[client]]
name = "north"
data = { sites = ["north"] }
presence = { speed = 0.02 }
[[client]]
name = "south"
data = { sites = ["south"] }
training = { optimizer = "sgd", lr = 0.02, momentum = 0.9 }
[[client]]
name = "west"
data = { sites = ["west"] }
presence = { availability = 0.7 }
"""
SHARED = '[[exchange]]\nkind = "shared-parameters"\npart = "encoders.genes"\nproximal = 0.01\n'
PROTOTYPES = '[[exchange]]\nkind = "prototypes"\nevery = 2\n'
PLANS = {
    "plain": f"[federation]\nrounds = 8\n{SHARED}{PROTOTYPES}{CLIENTS}",
    "participation": f"[federation]\nrounds = 8\n[participation]\nfraction = 0.6\nminimum = 2\n{SHARED}{PROTOTYPES}{CLIENTS}",
    "asynchronous": (
        f"[federation]\nrounds = 8\n[participation]\nasynchronous = true\ntime_limit = 1.0\n{SHARED}{PROTOTYPES}{CLIENTS}"
    ),
    "compression": (
        f"[federation]\nrounds = 8\ncheckpoint_every = 2\n{SHARED}"
        f'compression = {{ kind = "top-k", share = 0.2 }}\n{PROTOTYPES}{CLIENTS}'
    ),
}
CLOCK = {"seconds", "turn_seconds"}


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.exit(int(not killed(asked.kills, asked.seed)))


def killed(kills: int, seed: int) -> bool:
    """Whether every plan, killed in its turn, ended with the bits of its undisturbed run."""
    chance, same = random.Random(seed), True
    with tempfile.TemporaryDirectory() as home:
        for number, (name, text) in enumerate(PLANS.items()):
            wanted = kills // len(PLANS) + (number < kills % len(PLANS))
            file, whole, done = Path(home) / f"{name}.toml", Path(home) / name, 0
            file.write_text(text, encoding="utf-8")
            began = time.monotonic()
            assert start(file, whole).wait() == 0
            length = time.monotonic() - began
            for attempt in count():
                if done >= wanted:
                    break
                out = Path(home) / f"{name}-{attempt}"
                done += interrupted(file, out, wanted - done, length, chance)
                equal = outcome(out) == outcome(whole)
                same = same and equal
                print(f"{name}: {done} of {wanted} kills, {'the same bits' if equal else 'OTHER BITS'}", flush=True)  # noqa: T201
    return same


def interrupted(file: Path, out: Path, most: int, length: float, chance: random.Random) -> int:
    """Run to the end, killed on the way up to `most` times; how often it was."""
    kills = 0
    while True:
        process = start(file, out)
        try:
            status = process.wait(chance.uniform(0.2, 1.0) * length if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert status == 0, f"{out} cannot be gone on with"
        return kills


def start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    """The run of a plan in a process of its own, which goes on where there is something to go on with."""
    words = [sys.executable, "-m", "hetfed", "medical", "run", str(file), "--out", str(out)]
    words += ["--resume"] if out.exists() else []
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def outcome(out: Path) -> dict[str, Any]:
    """Everything that a run came to, the clock aside: figures, rounds, what was sent, models and predictions."""
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    with (out / "rounds.csv").open(encoding="utf-8", newline="") as table:
        rounds = [{key: cell for key, cell in row.items() if key not in CLOCK} for row in csv.DictReader(table)]
    # A round that is run again after an interruption stands in the ledger twice.
    ledger = sorted(set((out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()))
    kept = [file for file in out.glob("[mp]*/**/*") if file.suffix in {".csv", ".safetensors"}]
    return {
        "summary": {key: held for key, held in summary.items() if key not in CLOCK},
        "rounds": rounds,
        "ledger": ledger,
        **{str(file.relative_to(out)): file.read_bytes() for file in kept},
    }


if __name__ == "__main__":
    main()
