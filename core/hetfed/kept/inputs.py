"""Checks of raw inputs that every form shares, and the form of inputs that are tensors already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hetfed.errors import DataError, among
from hetfed.kept.registry import Blank, Prepared
from hetfed.npz import read_npz

AS_NPZ = "Write it with numpy.savez, an array of numbers for each modality."
"""The remedy of a file of arrays that cannot be read."""
IDS = "id"
"""Under this name inputs may hold a name for each example."""


class TensorForm:
    """The form of inputs that are tensors or arrays (n, ...) by modality, as the model reads them.

    >>> TensorForm().prepare({}, {}, {"x": [[1.0, 2.0]], "id": ["patient 7"]})
    Prepared(inputs={'x': tensor([[1., 2.]])}, ids=['patient 7'])
    """

    def prepare(self, settings: Mapping[str, Any], statistics: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Prepared:
        """The same inputs as float32 tensors; nothing is scaled."""
        arrays = {name: torch.as_tensor(value).float() for name, value in inputs.items() if name != IDS}
        return Prepared(arrays, ids_of(inputs, len(next(iter(arrays.values()), ()))))

    def trial(self, inputs: Mapping[str, Blank], count: int, chance: torch.Generator) -> dict[str, Tensor]:
        """Standard normal numbers in the shapes of the inputs."""
        return {name: one.random(count, chance) for name, one in sorted(inputs.items())}

    def read(self, settings: Mapping[str, Any], files: Sequence[Path]) -> Mapping[str, Any]:
        """Arrays by modality from one or several .npz files."""
        return {name: array for file in files for name, array in read_npz(file, remedy=AS_NPZ).items()}


TENSOR_FORM = TensorForm()


def check_modalities(inputs: Mapping[str, Any], known: Sequence[str], further: Sequence[str] = (IDS,)) -> None:
    """Check that every modality is there and no other is.

    Args:
        inputs: by modality, as a user gave them.
        known: the modalities that the model reads.
        further: names that may be there besides.

    Raises:
        DataError: one is missing or unknown.

    >>> check_modalities({"imge": []}, ["image"])
    Traceback (most recent call last):
    hetfed.errors.DataError: imge: the model has no such modality. Did you mean 'image'? The model reads: image.
    """
    for name in inputs:
        if name not in known and name not in further:
            remedy = f"{among(name, known, 'The model reads')}"
            raise DataError("the model has no such modality", key=name, remedy=remedy)
    for name in known:
        if name not in inputs:
            raise DataError("this modality is missing", key=name, remedy=f"Give it: the model reads {', '.join(known)}.")


def columns_in_order(modality: str, value: Any, columns: Sequence[str]) -> NDArray[np.float32]:
    """A table (n, columns) float32: of a DataFrame the named columns put in order, of an array the columns as they stand.

    Raises:
        DataError: a column is missing, unknown or there twice, or holds something else than numbers.

    >>> frame = pd.DataFrame({"b": [2.0], "a": [1.0]})
    >>> columns_in_order("genes", frame, ["a", "b"])
    array([[1., 2.]], dtype=float32)
    """
    if not isinstance(value, pd.DataFrame):
        return numbers(modality, value, (len(columns),))
    # A year or an Entrez number is an integer to pandas, and text in the folder.
    names = [str(name) for name in value.columns]
    for name in names:
        if name not in columns:
            raise DataError("the model has no such column", key=f"{modality}.{name}", remedy=among(name, columns, "It reads"))
        if names.count(name) > 1:
            raise DataError("the column is there twice", key=f"{modality}.{name}", remedy="Remove one.")
    for name in columns:
        if name not in names:
            remedy = "Add it; an empty cell stands for a value that is not known."
            raise DataError("this column is missing", key=f"{modality}.{name}", remedy=remedy)
    # By name: a table whose columns stand in another order would be read without an error, and wrongly.
    ordered = value.set_axis(names, axis=1)[list(columns)]
    for name in columns:
        if not pd.api.types.is_numeric_dtype(ordered[name]):
            raise DataError("not numbers", key=f"{modality}.{name}", value=_odd(ordered[name]), remedy="Give numbers.")
    return numbers(modality, ordered.to_numpy(), (len(columns),))


def numbers(modality: str, value: Any, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """An array (n, *shape) as float32; None in `shape` stands for any size. NaN passes, as a missing value.

    Raises:
        DataError: it has another shape, holds an infinity, or something else than numbers.

    >>> numbers("genes", [[1, 2]], (2,))
    array([[1., 2.]], dtype=float32)
    >>> numbers("genes", [[1, 2]], (3,))
    Traceback (most recent call last):
    hetfed.errors.DataError: genes: wrong shape (value: (1, 2)). The model reads (n, 3), in which n is the number of examples.
    """
    try:
        array = np.asarray(value)
        array = array if array.dtype == np.uint8 else array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"not an array of numbers: {error}", key=modality, remedy="Give numbers.") from None
    fits = array.ndim == len(shape) + 1 and all(k in (None, n) for n, k in zip(array.shape[1:], shape, strict=True))
    if not fits:
        wanted = ", ".join(["n", *("any" if size is None else str(size) for size in shape)])
        remedy = f"The model reads ({wanted}), in which n is the number of examples."
        raise DataError("wrong shape", key=modality, value=tuple(array.shape), remedy=remedy)
    if not len(array):
        raise DataError("there is no example", key=modality, remedy="Give at least one.")
    if array.dtype != np.uint8 and np.isinf(array).any():
        remedy = "Give finite numbers; NaN stands for a missing one."
        raise DataError("it holds an infinity", key=modality, remedy=remedy)
    return array.astype(np.float32)


def ids_of(inputs: Mapping[str, Any], count: int) -> list[str]:
    """The names of the examples: those given, else 0, 1, ...

    Raises:
        DataError: there are more or fewer names than examples.

    >>> ids_of({}, 2), ids_of({"id": ["a", "b"]}, 2)
    (['0', '1'], ['a', 'b'])
    """
    ids = [str(one) for one in inputs.get(IDS, range(count))]
    if len(ids) != count:
        raise DataError(f"{len(ids)} names of {count} examples", key=IDS, remedy="Give each example one name.")
    return ids


def read_csv(file: Path) -> pd.DataFrame:
    """A CSV table: one row an example, the names of the columns above.

    Raises:
        DataError: it cannot be read, or has no row.
    """
    try:
        # pandas' fast way of reading numbers is off in the last digit.
        frame = pd.read_csv(file, float_precision="round_trip")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"not a CSV table: {error}", file=file, remedy="Write one row an example, and names above.") from None
    if frame.empty:
        raise DataError("there is no row", file=file, remedy="Give at least one example.")
    return frame


def _odd(column: pd.Series[Any]) -> object:
    """The first cell that is no number."""
    bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    return bad.iloc[0] if len(bad) else None
