"""An encoder applied to the rows of a batch that are there, in place or by masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def known_rows(x: Tensor) -> Tensor:
    """Which rows (batch,) of `x` (batch, ...) are there: one that is missing is NaN throughout.

    >>> known_rows(torch.tensor([[1.0, 2.0], [torch.nan, torch.nan]]))
    tensor([ True, False])
    """
    # One value tells: tables and images hold a NaN only in a row that is missing throughout.
    return ~x.flatten(1)[:, 0].isnan()


def may_look() -> bool:
    """Whether Python may read values: not while a function is compiled, exported, traced or transformed by `torch.func`.

    >>> may_look(), torch.func.vmap(lambda x: x * may_look())(torch.ones(2))
    (True, tensor([0., 0.]))
    """
    # First, since the compiler can read no further.
    if torch.compiler.is_compiling():
        return False
    return torch._C._get_tracing_state() is None and torch._C._functorch.peek_interpreter_stack() is None


def gathered(encoder: nn.Module, x: Tensor, there: Tensor, size: int) -> Tensor:
    """Features (batch, size) of the rows that are `there` (batch,), 0 for the others; the encoder sees no other row.

    Args:
        encoder: maps (rows, ...) to (rows, size).
        x: a batch of one modality.
        there: which rows have it, as `known_rows` says.
        size: of the features.

    >>> rows = torch.tensor([[1.0], [torch.nan], [3.0]])
    >>> gathered(lambda x: 2 * x, rows, known_rows(rows), size=1).flatten()
    tensor([2., 0., 6.])
    """
    # The usual case, without a copy. A single row takes the way below.
    if bool(there.all()) and len(x) > 1:
        return encoder(x)  # type: ignore[no-any-return]
    features, known = x.new_zeros(len(x), size), x[there]
    if len(known) == 1:
        # Batch normalisation cannot train on one row; twice the same row has the same mean.
        features[there] = encoder(known.repeat(2, *[1] * (x.ndim - 1)))[:1]
    elif len(known):
        features[there] = encoder(known)
    return features


def masked(encoder: nn.Module, x: Tensor, there: Tensor) -> Tensor:
    """The same without a branch on data: every row goes through the encoder, and batch normalisation counts those `there`.

    It costs the encoder the missing rows, and runs under `torch.compile`, `torch.export` and `vmap`.

    >>> rows = torch.tensor([[1.0], [torch.nan], [3.0]])
    >>> masked(nn.Identity(), rows, known_rows(rows)).flatten()
    tensor([1., 0., 3.])
    """
    column = there.view(-1, *[1] * (x.ndim - 1))
    with _counting(encoder, there):
        # Both wheres are needed: NaN times 0 is NaN, in the forward pass and in the gradient.
        return torch.where(there[:, None], encoder(torch.where(column, x, 0.0)), 0.0)


@contextmanager
def _counting(encoder: nn.Module, there: Tensor) -> Iterator[None]:
    """Within, the batch normalisations of `encoder` count only the rows that are `there`."""
    layers = [module for module in encoder.modules() if isinstance(module, BatchNormOfKnown) and module.training]
    for layer in layers:
        layer.there = there
    try:
        yield
    finally:
        for layer in layers:
            layer.there = None


class BatchNormOfKnown(nn.BatchNorm2d):
    """Batch normalisation that, while `there` (batch,) is set, takes its statistics from those rows alone.

    >>> layer = BatchNormOfKnown(1)
    >>> layer.there = torch.tensor([True, True, False])
    >>> x = torch.tensor([1.0, 3.0, 99.0]).view(3, 1, 1, 1)
    >>> layer(x).flatten()[:2]  # the third row does not count
    tensor([-1.0000,  1.0000], grad_fn=<SliceBackward0>)
    """

    there: Tensor | None = None

    @staticmethod
    def convert(module: nn.Module) -> nn.Module:
        """`module` with its batch normalisations replaced by such ones, which hold the same tensors under the same names."""
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                layer = BatchNormOfKnown(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
                layer.load_state_dict(child.state_dict())
                setattr(module, name, layer)
            else:
                BatchNormOfKnown.convert(child)
        return module

    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same."""
        if self.there is None or not self.training:
            return super().forward(input)
        # Rows that are missing went in as zeros: they are finite, and a weight of 0 takes them out.
        weight = self.there.to(input.dtype).view(-1, 1, 1, 1)
        rows = weight.sum()
        count = rows.clamp(min=1) * input[0, 0].numel()
        mean = (input * weight).sum(dim=(0, 2, 3)) / count
        centred = input - mean.view(1, -1, 1, 1)
        variance = (centred.square() * weight).sum(dim=(0, 2, 3)) / count
        self._remember(mean.detach(), variance.detach(), rows, count)
        scaled = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        return scaled * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def _remember(self, mean: Tensor, variance: Tensor, rows: Tensor, count: Tensor) -> None:
        """Move the running statistics, unless no row is there."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        # A single row counts twice, as where it is repeated.
        count = torch.where(rows == 1, 2 * count, count)
        share = (rows > 0).to(rows.dtype) * self.momentum
        unbiased = variance * (count / (count - 1).clamp(min=1))
        # Not lerp_, which vmap would take apart client by client.
        self.running_mean.mul_(1 - share).add_(share * mean)
        self.running_var.mul_(1 - share).add_(share * unbiased)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(rows > 0)
