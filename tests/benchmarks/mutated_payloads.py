"""Mutated payloads of all exchanges, at the server's door.

    python tests/benchmarks/mutated_payloads.py --count 360000

An error ends it; so does an upload that is accepted though it is not what was declared, and a memory that grows by more than
512 MiB, which is a thousand times what the largest of these uploads declares.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "core"), str(Path(__file__).parents[1])]

import mutator  # noqa: E402 (it lies with the tests)

MEMORY = 512 * 2**20


def main() -> None:
    """Run so many, and say what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=360_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = mutator.samples()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # An upload that asks for more ends in a MemoryError.
    resource.setrlimit(resource.RLIMIT_AS, (address_space + MEMORY, resource.RLIM_INFINITY))
    reasons: Counter[str] = Counter()
    for sample, encoded in mutator.mutated(found, options.seed, options.count):
        reason = mutator.check(sample, encoded)
        assert reason is None or "MemoryError" not in reason, reason
        reasons["accepted" if reason is None else "refused"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    largest = max(len(sample.sent.encoded) for sample in found)
    sys.stdout.write(
        f"{options.count:,} mutated payloads of {len(found)} kinds: {reasons['refused']:,} refused, "
        f"{reasons['accepted']:,} accepted, "
        f"each as declared; no error; {time.process_time() - began:.0f} s; memory grew by {grown / 1024:.1f} MiB at most "
        f"(the largest upload has {largest / 1024:.1f} KiB)\n"
    )


if __name__ == "__main__":
    main()
