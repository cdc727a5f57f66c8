"""Encoders of tables: gene expression, clinical columns. Each is one function and one row of `TABULAR`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hetfed.registry import Registry


def snn(columns: int, features: int, width: int = 64, dropout: float = 0.2) -> nn.Module:
    """A self-normalising network (Klambauer et al. 2017): SELU, alpha dropout, LeCun initialisation.

    Args:
        columns: of the table.
        features: size of the output.
        width: of the hidden layer.
        dropout: the share of alpha dropout, which keeps mean and variance as SELU needs them.

    >>> import torch
    >>> snn(1544, features=64)(torch.zeros(2, 1544)).shape
    torch.Size([2, 64])
    """
    layers = [nn.Linear(columns, width), nn.SELU(), nn.AlphaDropout(dropout), nn.Linear(width, features), nn.SELU()]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            # LeCun's: only with weights of this variance does SELU keep a mean of 0 and a variance of 1 from layer to layer.
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def mlp(columns: int, features: int, width: int = 64) -> nn.Module:
    """One hidden layer with ReLU.

    >>> sum(p.numel() for p in mlp(13, features=8).parameters())
    1416
    """
    return nn.Sequential(nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, features), nn.ReLU())


def linear(columns: int, features: int) -> nn.Module:
    """One linear layer.

    >>> linear(13, features=8)
    Linear(in_features=13, out_features=8, bias=True)
    """
    return nn.Linear(columns, features)


def identity(columns: int, features: int) -> nn.Module:
    """The columns themselves are the features; their number must be the feature size.

    Raises:
        ValueError: there are other numbers of columns and features.

    >>> identity(8, features=8)
    Identity()
    """
    if columns != features:
        raise ValueError(f"an identity encoder of {columns} columns cannot give {features} features")
    return nn.Identity()


TABULAR: Registry[Callable[[int, int], nn.Module]] = Registry(
    "table encoder", {"snn": snn, "mlp": mlp, "linear": linear, "identity": identity}, group="hetfed.table_encoders"
)
"""The `genes` and `clinical` keys of a model table. An installed package adds a function through the group
`hetfed.table_encoders`, a script with `@TABULAR.register(name)`."""
