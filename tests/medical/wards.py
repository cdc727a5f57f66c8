"""A small cohort made by hand, and short ways to what the hospitals' tests ask of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hetfed.data import ClientData, Examples
from hetfed.seeding import isolated
from hetfed_datasets.records import Cohort
from hetfed_medical.model import HospitalNet
from hetfed_medical.plan_schema import HospitalData, HospitalModel
from hetfed_medical.preprocessing import Hospital, hospital

COLUMNS = ("age", "weight", "score", "dose", "pulse")


def ward(patients: int = 40, each: int = 2, seed: int = 0, *, classes: int = 2, **changes: Any) -> Cohort:
    """`each` samples of every patient, with a grey-and-colour image, genes and a clinical table with empty cells."""
    rng = np.random.default_rng(seed)
    n = patients * each
    clinical = rng.normal(5, 3, (n, len(COLUMNS))).astype(np.float32)
    clinical[:, 0] = np.abs(clinical[:, 0])  # ages
    clinical[rng.random(clinical.shape) < 0.1] = np.nan
    cohort = {
        "name": "ward",
        "patient": np.repeat([f"p{i:03d}" for i in range(patients)], each),
        "site": np.repeat([("left", "right")[i % 2] for i in range(patients)], each),
        "modalities": {
            "image": rng.integers(0, 256, (n, 6, 7, 2), dtype=np.uint8),
            "genes": rng.normal(size=(n, 4)).astype(np.float32),
            "clinical": clinical,
        },
        "labels": {"outcome": np.repeat(rng.permutation(np.arange(patients) % classes), each)},
        "classes": {"outcome": tuple(f"class {c}" for c in range(classes))},
        "columns": {"genes": ("g0", "g1", "g2", "g3"), "clinical": COLUMNS},
        "present": {},
    }
    return Cohort(**{**cohort, **changes})


def holding(cohort: Cohort, **modalities: NDArray[np.generic]) -> Cohort:
    """The cohort with these modalities and no others."""
    return replace(
        cohort, modalities=modalities, columns={name: cohort.columns[name] for name in cohort.columns if name in modalities}
    )


def table(*modalities: str, **keys: Any) -> HospitalData:
    """The data table of a hospital of the ward."""
    return HospitalData(dataset="ward", modalities=modalities or ("image", "clinical"), **keys)


def admit(cohort: Cohort, *modalities: str, seed: int = 0, **keys: Any) -> Hospital:
    """One hospital of `cohort`."""
    return hospital(cohort, table(*modalities, **keys), seed, "client 'ward'")


def parts(data: ClientData) -> tuple[Examples, Examples, Examples]:
    """Train, validation, test."""
    return data.train, data.validation, data.test


def rows(examples: Examples) -> list[int]:
    """Where the examples stand among the samples of their hospital."""
    return [int(identity.rpartition("/")[2]) for identity in examples.ids]


def people(examples: Examples) -> set[str]:
    """The patients of the examples."""
    return {identity.rpartition("/")[0] for identity in examples.ids}


def net(shapes: dict[str, tuple[int, ...]], *, classes: int = 3, **keys: Any) -> HospitalNet:
    """A hospital's model in evaluation mode, the same each time."""
    with isolated("net"):
        return HospitalNet({"shapes": shapes, "outputs": classes}, HospitalModel(**keys)).eval()


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors agree to the last bit, NaN being equal to NaN."""
    return (
        one.shape == other.shape
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )


def layers(model: nn.Module) -> list[str]:
    """The layers of a model that compute something, in order."""
    found = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            found.append(f"Linear({module.in_features}, {module.out_features})")
        elif isinstance(module, nn.Conv2d):
            assert module.kernel_size[0] == module.kernel_size[1] and module.stride == (1, 1) and module.padding == (0, 0)
            found.append(f"Conv2d({module.in_channels}, {module.out_channels}, {module.kernel_size[0]})")
        elif not list(module.children()) and not isinstance(module, nn.Identity | nn.Flatten):
            found.append(type(module).__name__)
    return found
