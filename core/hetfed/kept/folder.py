"""The folder of a kept model: which files it has, and how they are checked.

model.json               what the model is, and the digest of every other file
model.safetensors        weights
statistics.safetensors   the scaling of inputs and outputs
estimator.skops          a fitted scikit-learn estimator, in place of weights
program.onnx             the model as a program, where no builder makes it

None of these files runs anything when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hetfed.errors import RunFolderError
from hetfed.results.writing import write_bytes, write_json

FORMAT = 1
"""Of model.json; a reader refuses a later one."""
ABOUT, WEIGHTS, STATISTICS, ESTIMATOR, PROGRAM = (
    "model.json",
    "model.safetensors",
    "statistics.safetensors",
    "estimator.skops",
    "program.onnx",
)
AGAIN = "Take the folder from the run again."
NEEDED = ("client", "task", "architecture", "spec", "inputs", "target", "form", "preprocessing", "names", "files")


def write_folder(folder: Path, about: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Write every file, model.json last: a folder that has it is whole.

    Args:
        folder: is made where it is not there; what a model before has left in it is removed.
        about: what model.json says, besides the digests of the files.
        contents: of each file, by its name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home:
    ...     about = {key: None for key in NEEDED if key != "files"} | {"format": FORMAT}
    ...     write_folder(Path(home) / "a", about, {WEIGHTS: packed({"w": Tensor([1.0])})})
    ...     Kept.open(Path(home) / "a").tensors(WEIGHTS)
    {'w': tensor([1.])}
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First: if the process dies in between, the folder says that it holds no model, and not that it holds another.
    (folder / ABOUT).unlink(missing_ok=True)
    for name in (ESTIMATOR, PROGRAM):
        if name not in contents:
            (folder / name).unlink(missing_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    # Against damage, not against malice: whoever can change a file can change its digest.
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    write_json(folder / ABOUT, {**about, "files": digests})


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; tensors that share their memory are written one by one."""
    # Cloned: safetensors refuses tensors that share their memory, as tied weights do.
    return save({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Kept:
    """The folder of a kept model, its model.json read and checked.

    Args:
        path: of the folder.
        about: what model.json holds.
    """

    path: Path
    about: Mapping[str, Any]

    @staticmethod
    def open(path: Path) -> Kept:
        """Open the folder at `path`; of its files only model.json is read.

        Raises:
            RunFolderError: there is none, model.json is damaged, or a later version wrote it.
        """
        file = path / ABOUT
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            remedy = "Give the folder of one model: RUN/models/CLIENT, of a run that has ended."
            raise RunFolderError("no kept model here", file=file, remedy=remedy) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"cannot be read: {error}", file=file, remedy=AGAIN) from None
        _check_about(about, file)
        return Kept(path, about)

    def __contains__(self, name: str) -> bool:
        return name in self.about["files"]

    def read(self, name: str) -> bytes:
        """The bytes of a file, once their digest has been compared with that in model.json.

        Raises:
            RunFolderError: it is missing, or is not what was written.
        """
        file = self.path / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RunFolderError(f"cannot be read: {error.strerror}", file=file, remedy=AGAIN) from None
        if hashlib.sha256(content).hexdigest() != self.about["files"].get(name):
            problem = f"it is not the file that was written: its SHA-256 differs from the one in {ABOUT}"
            raise RunFolderError(problem, file=file, key=f"files.{name}", remedy=AGAIN)
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file.

        Raises:
            RunFolderError: it is missing or damaged.
        """
        try:
            return load(self.read(name))
        except SafetensorError as error:
            raise RunFolderError(f"not safetensors: {error}", file=self.path / name, remedy=AGAIN) from None


def _check_about(about: Any, file: Path) -> None:
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        remedy = "Run the plan again: versions of hetfed before this one kept weights alone."
        raise RunFolderError("it does not say which format it has", file=file, key="format", remedy=remedy)
    if about["format"] > FORMAT:
        remedy = f"Install hetfed {about.get('hetfed', '(unknown)')} or later; this one knows format {FORMAT}."
        raise RunFolderError(
            "a later version of hetfed wrote it", file=file, key="format", value=about["format"], remedy=remedy
        )
    for key in NEEDED:
        if key not in about:
            raise RunFolderError("this key is missing", file=file, key=key, remedy=AGAIN)
    if not isinstance(about["files"], dict):
        raise RunFolderError("not a table of digests", file=file, key="files", value=about["files"], remedy=AGAIN)
