"""The folder of a run, and what may not happen to it.

No run writes over another one, no two processes write into the same one, and a file is there as a whole or not at all.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hetfed.errors import RunError, RunFolderError
from hetfed.plan import Plan
from hetfed.results.reading import refuse_links, table_of, text_of
from hetfed.results.sealed import read_sealed, write_sealed
from hetfed.results.writing import write_bytes, write_json

PLAN, ENVIRONMENT, SUMMARY, ROUNDS, LEDGER = (
    "plan.resolved.toml",
    "environment.json",
    "summary.json",
    "rounds.csv",
    "ledger.jsonl",
)
DATA = "data.json"
"""Digests of what the clients hold."""
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
        # A plan that was half written when the process died is all of a run that never was.
        if path.is_dir() and any(part.name != f"{PLAN}.part" for part in path.iterdir()):
            refuse_links(path)
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
        except OSError as error:
            remedy = "Give another folder with --out."
            raise RunFolderError(f"cannot be locked: {error.strerror}", file=self.path / LOCK, remedy=remedy) from None
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

    def expect_data(self, digests: Mapping[str, str]) -> None:
        """Check that the clients hold what they held when the run was started; a new run keeps it.

        Args:
            digests: of what each client holds, by its name.

        Raises:
            RunFolderError: somebody's data have changed since.
        """
        file = self.path / DATA
        held = read_sealed(file)
        if held is None:
            write_sealed(file, dict(digests))
        for name, digest in (held or {}).items():
            if digests.get(name) != digest:
                problem = f"the data of client {name!r} are not those that the run was started with, by their SHA-256"
                remedy = "Put the data back as they were, or give another folder with --out."
                raise RunFolderError(problem, file=file, remedy=remedy)

    def plan_digest(self) -> str:
        """The digest of the plan that the run was started with."""
        # In the first line: the rest is a plan that anybody may read and run.
        first = text_of(self.path / PLAN).partition("\n")[0]
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
        return table_of(file)


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
