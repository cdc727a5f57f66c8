"""One strict reader of .npz files: arrays and nothing else, and no more memory than a file may be expected to take."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hetfed.errors import DataError
from hetfed.npz import read_npz


def refused(file: Path) -> str:
    with pytest.raises(DataError) as error:
        read_npz(file, remedy="Write it again.")
    assert str(error.value).startswith(f"{file}: ")
    return str(error.value)


def saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def packed(file: Path, content: bytes, name: str = "x.npy", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read_as_numpy_reads_it(save: object, tmp_path: Path) -> None:
    arrays = {
        "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "names": np.array(["north", "é"]),
        "none": np.zeros((0, 3), np.float32),
        "one": np.array(7),
        "big-endian": np.arange(3, dtype=">i4"),
    }
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz", remedy="")
    with np.load(tmp_path / "a.npz") as expected:
        assert list(found) == expected.files
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype and found[name].flags.writeable


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    """Three megabytes that unpack to three gigabytes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        for _ in range(400):
            entry.write(bytes(2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = refused(tmp_path / "a.npz")
    assert "it unpacks to 400 MiB, more than 100 times its 0.4 MiB" in said and "numpy.savez, which packs nothing" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10


def test_a_header_that_promises_terabytes_is_refused(tmp_path: Path) -> None:
    head = str({"descr": "<f8", "fortran_order": False, "shape": (2**40,)}).encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(8)
    assert f"of shape ({2**40},), {2**43} bytes, and has 8" in refused(packed(tmp_path / "a.npz", content))


def test_an_encrypted_file_and_an_unknown_method_are_refused(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.npz", saved(np.arange(3)))
    whole = file.read_bytes()
    # The flags and the method in the directory at the end of the archive.
    place = whole.index(b"PK\x01\x02")
    file.write_bytes(whole[: place + 8] + b"\x01" + whole[place + 9 :])
    assert "is encrypted" in refused(file)
    file.write_bytes(whole[: place + 10] + b"\x63" + whole[place + 11 :])
    assert "packed by method 99" in refused(file)


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    assert "magic" in refused(packed(tmp_path / "a.npz", b"hello", "x.npy"))
    objects = np.array([{"a": 1}], dtype=object)
    content = io.BytesIO()
    np.save(content, objects, allow_pickle=True)
    assert "holds objects" in refused(packed(tmp_path / "a.npz", content.getvalue()))


def test_damage_is_found_by_the_checksum(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.npz", saved(np.arange(100)))
    whole = file.read_bytes()
    place = whole.index(saved(np.arange(100))[-80:])
    file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    assert "CRC" in refused(file)


def test_an_array_that_is_missing_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.arange(3))
    with pytest.raises(DataError, match="images: array is missing"):
        read_npz(tmp_path / "a.npz", ["labels", "images"], remedy="Write it again.")
