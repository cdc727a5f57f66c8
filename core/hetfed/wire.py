"""The bytes of a payload: safetensors, with the weight in the header, in the one spelling that `write` gives them.

Whoever reads knows nothing of who wrote. `read` therefore looks at every word of the header before it makes a tensor, and
makes no more than the bytes hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from hetfed.errors import PayloadRefused

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes that travel, by their names in the header."""
ABOUT = "__metadata__"
"""The key of the header that is no tensor."""
LENGTH = 8
"""Bytes at the start that say how long the header is; its end is padded with blanks to a multiple of as many."""
MAX_DIMENSIONS = 16
"""No tensor has more; torch itself adds no two tensors of more than 64."""
MAX_SIZE = 2**40
"""The product of a shape, a size of 0 taken for 1: an empty tensor of a larger one cannot be made."""


def write(tensors: Mapping[str, Tensor], weight: float) -> bytes:
    """The bytes of these tensors and this weight.

    >>> write({"w": torch.zeros(1)}, weight=20)[8:88]
    b'{"__metadata__":{"weight":"20.0"},"w":{"dtype":"F32","shape":[1],"data_offsets":'
    """
    # safetensors writes memory as it lies, and refuses a view that is laid out in another way than it reads.
    laid_out = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    # Metadata are strings, and repr keeps every digit.
    return save(laid_out, metadata={"weight": repr(float(weight))})


def read(encoded: bytes) -> tuple[dict[str, Tensor], float]:
    """The tensors by name, in sorted order, and the weight.

    Raises:
        PayloadRefused: the bytes are not as `write` spells them; the text is the reason.

    >>> read(write({"b": torch.ones(1), "a": torch.tensor(2)}, weight=20))
    ({'a': tensor(2), 'b': tensor([1.])}, 20.0)
    """
    length = header_length(encoded)
    header = _header(encoded[LENGTH : LENGTH + length])
    weight = _weight(header.pop(ABOUT, None))
    end, placed = 0, dict[str, tuple[torch.dtype, list[int], int, int]]()
    for name, entry in header.items():
        placed[name] = _placed(name, entry, end)
        end = placed[name][3]
    # A view, since a slice of the bytes would copy all of them.
    values = memoryview(encoded)[LENGTH + length :]
    if end != len(values):
        raise PayloadRefused(f"not a payload: {len(values)} bytes of values, its header tells of {end}")
    return {name: _tensor(values, *placed[name]) for name in sorted(placed)}, weight


def header_length(encoded: bytes) -> int:
    """How many bytes the header of a payload takes, after the eight that say so.

    Raises:
        PayloadRefused: there are fewer bytes than that.
    """
    length = int.from_bytes(encoded[:LENGTH], "little")
    if len(encoded) < LENGTH + length:
        raise PayloadRefused(f"not a payload: {len(encoded)} bytes are no header and its values")
    return length


def _header(encoded: bytes) -> dict[str, Any]:
    """The header, spelled as safetensors spells it."""
    try:
        text = encoded.decode()
        found = json.loads(text)
        spelled = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
    # Words that are no JSON, numbers of thousands of digits; lists in lists, thousands deep.
    except (ValueError, RecursionError) as error:
        raise PayloadRefused(f"not a payload: its header is no JSON ({type(error).__name__})") from error
    # One spelling, so that nothing travels beside what is read: no blanks, no key twice, no other word for the same number.
    if text.rstrip(" ") != spelled or len(encoded) % LENGTH or len(text) - len(spelled) >= LENGTH:
        raise PayloadRefused("not a payload: its header is not spelled as safetensors spells it")
    if not isinstance(found, dict):
        raise PayloadRefused("not a payload: its header is no table")
    return found


def _weight(about: object) -> float:
    text = about.get("weight") if isinstance(about, dict) and len(about) == 1 else None
    if not isinstance(text, str):
        raise PayloadRefused("not a payload: it states no weight, or more than that")
    try:
        weight = float(text)
    except ValueError as error:
        raise PayloadRefused(f"not a payload: the weight {text[:20]!r} is no number") from error
    # Python also reads "1_000" and " 1"; a weight has one spelling, as the rest of the header has.
    if repr(weight) != text:
        raise PayloadRefused(f"not a payload: the weight {text[:20]!r} is written {weight!r}")
    return weight


def _placed(name: str, entry: object, start: int) -> tuple[torch.dtype, list[int], int, int]:
    """The dtype and the shape of a tensor, and where its values lie, which must be from `start` on."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise PayloadRefused(f"not a payload: {name[:40]!r} is no tensor of dtype, shape and offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise PayloadRefused(f"not a payload: {name[:40]!r} is of a dtype that does not travel")
    shape = entry["shape"]
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in shape) > MAX_SIZE:
        raise PayloadRefused(f"not a payload: {name[:40]!r} has a shape that no tensor has")
    end = start + math.prod(shape) * dtype.itemsize
    # Side by side, so that no byte belongs to two tensors or to none.
    if not _sizes(entry["data_offsets"]) or entry["data_offsets"] != [start, end]:
        raise PayloadRefused(f"not a payload: the values of {name[:40]!r} are not those from {start} to {end}")
    return dtype, shape, start, end


def _sizes(found: object) -> bool:
    # True is an int in Python, and no size.
    return isinstance(found, list) and all(type(size) is int and size >= 0 for size in found)


def _tensor(values: memoryview, dtype: torch.dtype, shape: list[int], start: int, end: int) -> Tensor:
    if start == end:
        return torch.empty(shape, dtype=dtype)
    # Copied: torch would write to memory that is not to be written to, and values need not lie at multiples of their size.
    own = bytearray(values[start:end])
    # Any other byte would be a truth value that is neither.
    if dtype == torch.bool and max(own) > 1:
        raise PayloadRefused("not a payload: a truth value is 0 or 1")
    return torch.frombuffer(own, dtype=dtype).view(shape)
