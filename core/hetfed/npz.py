"""The one reader of .npz files: arrays and nothing else, and no more memory than a file may be expected to take."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from hetfed.errors import DataError

FREELY, MOST_TIMES = 2**28, 100
"""What unpacks to more bytes than the first, and to more times its size than the second, is taken for a bomb."""
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
"""Those of `numpy.savez` and `numpy.savez_compressed`."""
DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise on files that are damaged in one way or another."""


def read_npz(file: Path, names: Collection[str] | None = None, *, remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name; nothing in it is run.

    Args:
        file: as `numpy.savez` writes it.
        names: those that must be there, others being left alone; None for all that there are.
        remedy: what the user can do about a damaged file.

    Raises:
        DataError: it is damaged, encrypted, packed in another way, unpacks to far more than it is, or an array is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "ward.npz")
    ...     np.savez(file, labels=np.array([0, 1]), images=np.zeros((2, 4, 4)))
    ...     read_npz(file, ["labels"], remedy="Write it again.")
    {'labels': array([0, 1])}
    """
    try:
        with zipfile.ZipFile(file) as archive:
            held = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            # Sorted, so that the same file gives the same message.
            absent = sorted(set(names or ()) - set(held))
            if absent:
                raise DataError("array is missing", file=file, key=absent[0], remedy=remedy)
            wanted = {name: held[name] for name in (held if names is None else names)}
            _check_size(file, list(wanted.values()))
            return {name: _array(archive, entry) for name, entry in wanted.items()}
    except DAMAGED as error:
        raise DataError(f"not readable as .npz, perhaps cut short: {error}", file=file, remedy=remedy) from None


def _check_size(file: Path, entries: Collection[zipfile.ZipInfo]) -> None:
    # A file may lie about the sizes of its entries, but no more than that is read of any.
    unpacked, packed = sum(entry.file_size for entry in entries), file.stat().st_size
    if unpacked > max(FREELY, MOST_TIMES * packed):
        problem = f"it unpacks to {unpacked / 2**20:,.0f} MiB, more than {MOST_TIMES} times its {packed / 2**20:,.1f} MiB"
        remedy = "If you trust it, write it again with numpy.savez, which packs nothing."
        raise DataError(problem, file=file, remedy=remedy)


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    name = entry.filename
    if entry.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if entry.compress_type not in METHODS:
        raise ValueError(f"{name} is packed by method {entry.compress_type}, which numpy does not write")
    with archive.open(entry) as opened:
        version = np.lib.format.read_magic(cast("BinaryIO", opened))
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"{name} is of a version {version} of numpy's format that holds no plain array")
        shape, fortran, dtype = headers[version](cast("BinaryIO", opened))
        # Objects would be unpickled, which runs what they say.
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects, not numbers or text")
        size, left = prod(shape) * dtype.itemsize, entry.file_size - opened.tell()
        if size != left:
            raise ValueError(f"{name} says that it is of shape {shape}, {size} bytes, and has {left}")
        # A copy, which can be written to.
        array = np.frombuffer(bytearray(opened.read(size)), dtype)
        # To its end, where the checksum is compared.
        opened.read(1)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
