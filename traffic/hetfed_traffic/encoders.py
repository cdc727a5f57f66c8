"""Encoders that cities share: no parameter depends on a city's number of sensors, its interval, its unit or its channels.

Each is one class and one row of `ENCODERS`. `reads` says what it wants of the private city part:

- "history": the scaled readings themselves, all channels together, (batch, sensors, steps)
- "embedded": history, sensor and time of day in one vector, (batch, sensors, width)
- "sequence": one vector per past step, (batch, sensors, steps, width)

One that looks at the adjacency says so by `needs_graph`: a city without links between its sensors is refused.

Here `steps` are those of the past, the `history` of a plan. All return (batch, sensors, features); the adjacency (sensors,
sensors), with rows that sum to one, is the city's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed.registry import Registry

Reads = Literal["history", "embedded", "sequence"]


class Encoder(Protocol):
    """What a city model asks of its encoder.

    Any module with this attribute and this call will do; `ENCODERS.register` makes it known to plans.
    """

    reads: Reads

    def __call__(self, x: Tensor, adjacency: Tensor) -> Tensor: ...


def reads_of(encoder: object) -> Reads:
    """What an encoder wants of the private city part.

    Raises:
        ValueError: it does not say, or something else.

    >>> reads_of(LinearEncoder(steps=12, width=8, layers=0, dropout=0.0))
    'history'
    >>> reads_of(nn.Identity())
    Traceback (most recent call last):
    ValueError: its `reads` is None, and none of history, embedded, sequence
    """
    reads = getattr(encoder, "reads", None)
    if reads not in get_args(Reads):
        raise ValueError(f"its `reads` is {reads!r}, and none of {', '.join(get_args(Reads))}")
    return cast("Reads", reads)


class ResidualBlock(nn.Module):
    """Two linear layers around a ReLU, with a residual: x + B(dropout(relu(A x))).

    Args:
        width: of what goes in and comes out.
        dropout: the share of hidden values that training drops.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        hidden = F.dropout(F.relu(self.first(x)), self.dropout, self.training)
        return x + cast("Tensor", self.second(hidden))


class MlpEncoder(nn.Module):
    """Residual blocks over the embedding of each sensor, as in STID (Shao et al. 2022).

    Sensors do not see each other, so that the adjacency is not looked at; what tells them apart is in their embeddings.

    >>> encoder = MlpEncoder(steps=12, width=96, layers=3, dropout=0.1)
    >>> encoder(torch.zeros(2, 5, 96), torch.eye(5)).shape
    torch.Size([2, 5, 96])
    """

    reads: Reads = "embedded"

    def __init__(self, steps: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout) for _ in range(layers)))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """(batch, sensors, width) -> (batch, sensors, width)"""
        return cast("Tensor", self.blocks(x))


class GraphEncoder(nn.Module):
    """Residual blocks that add the mean of the neighbours, one hop per layer: diffusion convolution (Li et al. 2018).

    Its parameters are as many for 5 sensors as for 500: the graph itself stays with the city.

    >>> encoder = GraphEncoder(steps=12, width=96, layers=2, dropout=0.1)
    >>> encoder(torch.zeros(2, 5, 96), torch.eye(5)).shape
    torch.Size([2, 5, 96])
    """

    reads: Reads = "embedded"
    needs_graph = True

    def __init__(self, steps: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, dropout) for _ in range(layers))
        # Without a bias: a sensor without links gets nothing from neighbours.
        self.neighbours = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """(batch, sensors, width) -> (batch, sensors, width)"""
        for block, neighbour in zip(self.blocks, self.neighbours, strict=True):
            x = block(x) + neighbour(torch.einsum("nm,bmf->bnf", adjacency, x))
        return x


class GruEncoder(nn.Module):
    """A gated recurrent unit over the past steps of each sensor (Cho et al. 2014); the last state is the feature.

    Raises:
        ValueError: there are no layers.

    >>> encoder = GruEncoder(steps=12, width=16, layers=1, dropout=0.0)
    >>> encoder(torch.zeros(2, 5, 12, 16), torch.eye(5)).shape
    torch.Size([2, 5, 16])
    """

    reads: Reads = "sequence"

    def __init__(self, steps: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        if not layers:
            raise ValueError("a gru has at least one layer")
        # torch warns of dropout in a GRU of one layer, which has nothing between its layers to drop.
        self.gru = nn.GRU(width, width, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """(batch, sensors, steps, width) -> (batch, sensors, width)"""
        batch, sensors, steps, width = x.shape
        # Sensors become rows of a batch: all share one recurrent unit, whatever their number.
        _, state = self.gru(x.reshape(batch * sensors, steps, width))
        # The state of the last layer: what it has seen up to the latest reading.
        return cast("Tensor", state[-1].view(batch, sensors, -1))


class LinearEncoder(nn.Module):
    """One linear layer over the past readings: the article's shared part.

    `layers` and `dropout` are those of a plan's model table, which this encoder has no use for.

    >>> encoder = LinearEncoder(steps=12, width=8, layers=0, dropout=0.0)
    >>> encoder(torch.zeros(2, 5, 12), torch.eye(5)).shape
    torch.Size([2, 5, 8])
    """

    reads: Reads = "history"

    def __init__(self, steps: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(steps, width)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """(batch, sensors, steps) -> (batch, sensors, width)"""
        return cast("Tensor", self.linear(x))


ENCODERS: Registry[Callable[[int, int, int, float], nn.Module]] = Registry(
    "traffic encoder",
    {"mlp": MlpEncoder, "graph": GraphEncoder, "gru": GruEncoder, "linear": LinearEncoder},
    group="hetfed.traffic_encoders",
)
"""The `encoder` of a model table; each is built from (steps, width, layers, dropout), and raises ValueError, in words, where it
cannot be. An installed package adds one through the group `hetfed.traffic_encoders`, a script with
`@ENCODERS.register(name)`."""
