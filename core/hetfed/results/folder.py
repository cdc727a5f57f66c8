"""The folder of a run, and what may not happen to it.

No run writes over another one, no two processes write into the same one, and a file is there as a whole or not at all.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hetfed.errors import RunError, RunFolderError
from hetfed.plan import Plan

PLAN, ENVIRONMENT, SUMMARY, ROUNDS, LEDGER = (
    "plan.resolved.toml",
    "environment.json",
    "summary.json",
    "rounds.csv",
    "ledger.jsonl",
)
LOCK = ".lock"
"""Locked while a process runs in the folder, and left there: who takes away the file of a lock lets two processes in."""
COMPARISON = "comparison.csv"
"""What tells the folder of a comparison from that of a run."""
PACKAGES = ("hetfed", "torch", "torchvision", "monai", "numpy", "pandas", "scikit-learn", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """The folder in which a run keeps everything; the names of its parts are those of docs/run-folder.md.

    >>> RunFolder(Path("runs/first")).ledger.as_posix()
    'runs/first/ledger.jsonl'
    """

    path: Path

    @staticmethod
    def open(path: Path, plan: Plan, *, resume: bool) -> RunFolder:
        """The folder for a run of `plan`: a new one, or with `resume` the one that such a run was interrupted in.

        Raises:
            RunFolderError: it holds another run, or something that is not a run.
        """
        folder = RunFolder(path)
        if path.exists() and not path.is_dir():
            raise RunFolderError("the output is a file", file=path, remedy="Give a folder with --out.")
        if path.is_dir() and any(path.iterdir()):
            folder._check_same_run(plan, resume=resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._lay_out(plan)
        except (OSError, RunError) as error:
            raise RunFolderError(f"cannot be written: {error}", file=path, remedy="Give another folder with --out.") from None
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the folder meanwhile.

        Raises:
            RunFolderError: another process is running in it.
        """
        # A lock of the system's, which ends with the process however that ends: nothing is left to clean up by hand.
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            remedy = "Wait until it has ended, or give another folder with --out."
            raise RunFolderError("another process is running in this folder", file=self.path, remedy=remedy) from None
        try:
            yield
        finally:
            lock.release()

    def _lay_out(self, plan: Plan) -> None:
        """The plan first: it is what makes the folder that of a run, however soon the run is interrupted."""
        if not (self.path / PLAN).exists():
            write_bytes(self.path / PLAN, f"# digest {plan.digest()}\n{plan.resolved()}".encode())
        for part in (self.checkpoints, self.models, self.predictions, self.plots):
            part.mkdir(exist_ok=True)
        # A run that is resumed is described by the machine that goes on with it; one that has ended stays as it was.
        if not (self.path / SUMMARY).exists():
            write_json(self.path / ENVIRONMENT, environment())

    def _check_same_run(self, plan: Plan, *, resume: bool) -> None:
        if not (self.path / PLAN).is_file():
            raise RunFolderError(
                "the folder is not empty and holds no run", file=self.path, remedy="Give an empty or a new folder with --out."
            )
        if not resume:
            raise RunFolderError(
                "the folder holds a run already",
                file=self.path,
                remedy="Go on with --resume, or give another folder with --out.",
            )
        self.expect_plan(plan)

    def expect_plan(self, plan: Plan) -> None:
        """Check that the run is one of `plan`.

        Raises:
            RunFolderError: it was started with another plan, or with other settings.
        """
        if self.plan_digest() != plan.digest():
            raise RunFolderError(
                "the folder holds a run of another plan, or of this one with other settings",
                file=self.path / PLAN,
                remedy="Resume with the plan, --rounds and --seed it was started with, or give another folder with --out.",
            )

    def plan_digest(self) -> str:
        """The digest of the plan that the run was started with."""
        # In the first line: the rest is a plan that anybody may read and run.
        first = (self.path / PLAN).read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("# digest ")

    @property
    def checkpoints(self) -> Path:
        """A folder per arm: what the server and what the sites need to go on, replaced as the run goes on."""
        return self.path / "checkpoints"

    @property
    def models(self) -> Path:
        """The folder of kept models, one folder per client."""
        return self.path / "models"

    @property
    def predictions(self) -> Path:
        """The folder of test predictions of the kept models, one table per client."""
        return self.path / "predictions"

    @property
    def ledger(self) -> Path:
        """The file of the ledger: what left each client."""
        return self.path / LEDGER

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / "plots"

    def summary(self) -> dict[str, Any]:
        """The summary of a run that has ended.

        Raises:
            RunFolderError: there is none.
        """
        file = self.path / SUMMARY
        if not file.is_file():
            raise RunFolderError("no ended run here", file=file, remedy="Give the folder of a run that has ended.")
        try:
            summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"not JSON: {error}", file=file, remedy="Run the plan again in a new folder.") from None
        return summary


def folder_of(out: Path, algorithm: str, seed: int) -> Path:
    """The folder of the run of an algorithm under a seed, in the folder of a comparison.

    >>> folder_of(Path("out"), "fedavg", 3).as_posix()
    'out/fedavg/seed-3'
    """
    return out / algorithm / f"seed-{seed}"


def usable_cpus() -> int:
    """The number of processor cores that this process may use: in a container, fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """The machine and the packages that the run ran on, as JSON has them."""
    import torch

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": usable_cpus(),
        # Sums round differently over several threads: the same plan with as many gives the same numbers.
        "threads": torch.get_num_threads(),
        "packages": packages,
    }


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as a whole or not at all: a process that dies meanwhile leaves what was there before.

    Raises:
        RunError: it cannot be written, as on a full disk.
    """
    # In the same folder, since a rename is atomic within one file system only.
    part = file.with_name(file.name + ".part")
    try:
        with part.open("wb") as opened:
            opened.write(content)
            # Without this, a crash of the machine may leave the new name with nothing in it.
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror}") from error


def write_json(file: Path, value: Any) -> None:
    """Write JSON as a whole or not at all.

    Raises:
        ValueError: it holds a NaN or an infinity, on which other readers choke.
        RunError: it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     write_json(Path(home) / "a.json", {"rounds": 3})
    ...     (Path(home) / "a.json").read_text()
    '{\\n  "rounds": 3\\n}\\n'
    """
    write_bytes(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
