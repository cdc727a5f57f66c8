"""Slices: clients hold narrower versions of one network, each a part of the server's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from hetfed.client import Tensors
from hetfed.context import ClientContext, ServerContext
from hetfed.data import Examples
from hetfed.errors import PlanError
from hetfed.exchanges.base import EVERYBODY, Exchange, without_gradients
from hetfed.exchanges.groups import check_columns, check_label_space, declared_part
from hetfed.model import Output
from hetfed.parts import NORM_LAYERS, WHOLE, inside, read_tensors, write_tensors
from hetfed.payload import Declaration, Merged, Payload, Relative, TensorRule
from hetfed.plan_schema import STRICT
from hetfed.profile import Profile
from hetfed.seeding import INITIAL
from hetfed.tasks import Task

WINDOW = "window"
"""The name under which the first channel of a slice travels."""
STACKED = (nn.GRU, nn.LSTM, nn.GRUCell, nn.LSTMCell, nn.MultiheadAttention)
"""Layers that hold several matrices as one."""
Index = tuple[Tensor, ...]
"""Which rows of each dimension."""
Channels = set[tuple[int, int]]
"""The widths of a client's layers beside those of the widest member's."""


@dataclass(frozen=True, config=STRICT)
class Slices(Exchange):
    """Averages element by element over those who hold an element (HeteroFL, Diao et al. 2021; FedRolex, Alam et al. 2022).

    The server holds the parameters of the widest member; a client with fewer channels holds the first of them, or a window that
    moves on by one channel a round. Three things make this work, and all three are done here: normalisation is static (running
    statistics never travel; each client's are measured anew on its own data after training), the outputs of narrowed layers are
    scaled up by how much narrower they are, and the logits of classes that a client does not have are masked in training.
    Outputs stay scaled when the model predicts, whereas the paper's own code scales in training only. Every client counts the
    same, whatever its number of examples.

    Args:
        part: path of the submodule that is shared; empty for the whole model.
        exclude: paths below it that stay personal.
        window: "first", or "rolling".

    >>> Slices(window="rolling").merge  # no mean: clients hold tensors of other shapes
    'each'
    """

    part: str = WHOLE
    exclude: tuple[str, ...] = ()
    window: Literal["first", "rolling"] = "first"

    def extend(self, profile: Profile, model: nn.Module, members: Sequence[Profile]) -> None:
        """Scale the outputs of narrowed layers; in training, mask the logits of absent classes."""
        widths = {path: _width(module) for path, module in _widest(members).module.named_modules()}
        for path, module in model.named_modules():
            wide, narrow = widths.get(path), _width(module)
            if narrow is not None and wide is not None and narrow < wide:
                # In evaluation too, since the running statistics behind it are measured on scaled outputs. A hook, unlike a
                # layer, leaves the names of the parameters as they are.
                module.register_forward_hook(_Scale(narrow / wide))
        if profile.task.class_count:
            mask = ClassMask(profile.task)
            model.add_module("class_mask", mask)
            model.register_forward_hook(mask.hide)

    def missing(self, profile: Profile) -> str | None:
        """A client needs parameters under the path."""
        return without_gradients(profile) or (None if self._names(profile) else profile.signature.without(self.part))

    def check(self, profiles: Sequence[Profile]) -> None:
        """Every model must be a slice of the widest one's, and every head that is shared answer the same question.

        Raises:
            PlanError: a model is no slice, or a window cannot roll over it.
        """
        check_label_space([profile for profile in profiles if self.declare(profile).label_space], "slices of a head")
        check_columns(profiles, {profile.name: self.declare(profile).columns for profile in profiles}, "slices")
        widest = _widest(profiles)
        whole = self.declare(widest).shapes
        for profile in profiles:
            mine = self.declare(profile).shapes
            for name in sorted(set(whole) | set(mine)):
                big, small = whole.get(name), mine.get(name)
                fits = big is not None and small is not None and len(big) == len(small)
                if not fits or any(k > n for k, n in zip(small or (), big or (), strict=True)):
                    problem = f"the model of {profile.name!r} is no slice of that of {widest.name!r}: tensor {name!r} is "
                    remedy = "Give them the same architecture in different widths."
                    raise PlanError(f"{problem}{small or 'absent'}, the other's {big or 'absent'}", remedy=remedy)
            self._check_stacked(profile, widest)
            if self.window == "rolling":
                self._check_rolling(profile, widest)

    def _check_rolling(self, profile: Profile, widest: Profile) -> None:
        """A window moves by whole channels: it must be clear which rows of the next layer belong to one."""
        mine, whole = self.declare(profile).shapes, self.declare(widest).shapes
        channels = _channels(mine, whole)
        for name, shape in mine.items():
            for k, n in zip(shape, whole[name], strict=True):
                if k < n and len(_blocks(k, n, channels)) != 1:
                    raise PlanError(
                        f"a window cannot roll over tensor {name!r} of {profile.name!r}: it holds {k} of {n} rows, and which "
                        "of them belong to one channel is not to be told",
                        remedy='Set window = "first", or exclude that layer.',
                    )

    def _check_stacked(self, profile: Profile, widest: Profile) -> None:
        wide, names = dict(widest.module.named_modules()), self._names(profile)
        for path, module in profile.module.named_modules():
            shared = isinstance(module, STACKED) and any(inside(name, path) for name in names)
            if shared and _shapes(module) != _shapes(wide[path]):
                raise PlanError(
                    f"{path!r} of {profile.name!r} is narrower than that of {widest.name!r}; a {type(module).__name__} holds "
                    "several matrices as one, of which no slice is a narrower layer",
                    remedy="Give all members the same width there, or exclude it.",
                )

    def init(self, server: ServerContext) -> Tensors:
        """The widest member's initialisation, and a window at the first channel."""
        # The largest member and no larger model: every element of the whole is trained by somebody.
        widest = _widest(list(server.members.values()))
        return {
            WINDOW: torch.tensor([0]),
            **read_tensors(widest.new_model(server.seed, INITIAL), self._names(widest)),
        }

    def broadcast(self, server: ServerContext, state: Tensors, profile: Profile) -> Payload | None:
        """The client's slice of the whole, and where it lies."""
        shapes, window = self.declare(profile).shapes, int(state[WINDOW])
        channels = _channels(shapes, {name: tensor.shape for name, tensor in state.items()})
        slices = {name: state[name][_index(shapes[name], state[name], window, channels)] for name in self._names(profile)}
        return Payload({WINDOW: state[WINDOW], **slices})

    def apply(self, context: ClientContext, payload: Payload) -> None:
        """Put the slice in place, and remember where it lies in the whole."""
        context.memory[WINDOW] = payload.tensors[WINDOW]
        write_tensors(context.model, {name: tensor for name, tensor in payload.tensors.items() if name != WINDOW})

    def begin(self, context: ClientContext) -> None:
        """Measure the running statistics, which did not arrive, of what did."""
        # The model is judged as it arrived before it is trained: with the statistics of the slice that was here before, it
        # would be judged by those of other channels.
        measure_statistics(context)

    def declare(self, profile: Profile) -> Declaration:
        """The parameters under the path, no running statistics; and where the slice lies."""
        relative: Relative = "broadcast" if self.window == "first" else "moving"
        # Without buffers: statistics of other channels, measured by other clients, would fit nobody.
        names, weight = self._names(profile), float(profile.examples)
        declared = declared_part(profile, names, weight=weight, relative=relative, lasting=True)
        return replace(declared, tensors={WINDOW: TensorRule((1,), torch.int64, low=0), **declared.tensors})

    def upload(self, context: ClientContext) -> Payload | None:
        """The trained slice; then the running statistics are measured anew."""
        measure_statistics(context)
        # Where the slice that was trained lies; by the time a late upload arrives, the server's window has moved on.
        window = context.memory.get(WINDOW, torch.tensor([0]))
        trained = read_tensors(context.model, self._names(context.profile))
        return Payload({WINDOW: window, **trained}, weight=len(context.train))

    def update(self, server: ServerContext, state: Tensors, merged: Mapping[str, Merged]) -> Tensors:
        """The state in which each element is its mean over those who hold it; one that nobody holds stays as it is."""
        found = merged[EVERYBODY]
        uploads, after = found.uploads, {WINDOW: state[WINDOW] + (self.window == "rolling")}
        whole_shapes = {name: tensor.shape for name, tensor in state.items()}
        channels = {
            client: _channels({name: tensor.shape for name, tensor in payload.tensors.items()}, whole_shapes)
            for client, payload in uploads.items()
        }
        for name, whole in state.items():
            if name == WINDOW:
                continue
            total, count = torch.zeros_like(whole), torch.zeros_like(whole)
            for client, payload in uploads.items():
                part = payload.tensors[name]
                index = _index(tuple(part.shape), whole, int(payload.tensors[WINDOW]), channels[client])
                # No weights by examples, as in the paper; only a late slice counts for less.
                total[index] += payload.discount * part
                count[index] += payload.discount
            mean = total / torch.where(count > 0, count, torch.ones_like(count))
            after[name] = torch.where(count > 0, found.into(whole, mean), whole)
        return after

    def _names(self, profile: Profile) -> list[str]:
        return profile.signature.names(self.part, exclude=self.exclude, buffers=False)


def _index(shape: tuple[int, ...], whole: Tensor, window: int, channels: Channels) -> Index:
    """Where a slice of `shape` lies: dimensions of the same size are cut alike, so that layers go on fitting."""
    rows = [_rows(k, n, window, channels) for k, n in zip(shape, whole.shape, strict=True)]
    return tuple(row.view(-1, *[1] * (len(rows) - 1 - axis)) for axis, row in enumerate(rows))


def _rows(k: int, n: int, window: int, channels: Channels) -> Tensor:
    """Which `k` of `n` rows a slice has: those of its channels, of which each may fill several in succession."""
    if k == n:
        return torch.arange(n)
    block = next(iter(_blocks(k, n, channels)), 1)
    # Around the end: a window that has reached the last channel goes on at the first, so that all are trained equally often.
    first = (torch.arange(k // block) + window) % (n // block) * block
    return (first[:, None] + torch.arange(block)).flatten()


def _blocks(k: int, n: int, channels: Channels) -> list[int]:
    """How many rows a channel can fill where `k` of `n` are held: one where that is the width of a layer, else as many as are
    left of each channel once an image has been flattened."""
    if (k, n) in channels:
        return [1]
    return [b for b in range(2, k + 1) if k % b == 0 and n % b == 0 and (k // b, n // b) in channels]


def _channels(mine: Mapping[str, Sequence[int]], whole: Mapping[str, Sequence[int]]) -> Channels:
    """How many output channels, of how many, the layers have whose tensors have these shapes."""
    return {(shape[0], whole[name][0]) for name, shape in mine.items() if len(shape) and name != WINDOW}


class _Scale:
    """A forward hook: the output is divided by the layer's share of the channels."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output / self.share


class ClassMask(nn.Module):
    """A mask of classes: in training, the logits of those that the client does not have are zero and learn nothing.

    Which classes these are is known where the model is bound to the client's data, and nowhere else.
    """

    absent: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        # Not persistent: it is made anew from the data, and part of no state.
        self.register_buffer("absent", torch.zeros(task.class_count, dtype=torch.bool), persistent=False)

    def bind(self, train: Examples, public: Examples | None) -> None:
        """Look up which classes the training data lacks."""
        classes = self.task.classes(train.whole())
        assert classes is not None  # a task that counts classes has them
        self.absent = torch.bincount(classes[classes >= 0], minlength=len(self.absent)) == 0

    def hide(self, module: nn.Module, inputs: object, output: Output) -> Output:
        """The output with masked logits in training: a forward hook of the whole model."""
        if not module.training:
            return output
        # Zero, as in HeteroFL, and not minus infinity, which would take the class out of the softmax altogether.
        return Output(output.logits.masked_fill(self.absent, 0), output.features, output.further)


@torch.no_grad()
def measure_statistics(context: ClientContext) -> None:
    """Measure the running statistics of batch normalisation anew over the client's training data, every batch counting the
    same.

    The rest of the model is as it is when it predicts: no dropout.
    """
    layers = [m for m in context.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
    was = context.model.training
    context.model.eval()
    for layer in layers:
        layer.train()
    # Two at least: one example has no variance.
    for batch in context.train.batches(max(context.profile.training.batch_size, 2)):
        if len(batch) > 1:
            context.model(batch.inputs)
    context.model.train(was)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def _widest(profiles: Sequence[Profile]) -> Profile:
    """The member with most parameters, the first by name among equals."""
    return min(profiles, key=lambda profile: (-profile.signature.size, profile.name))


def _shapes(module: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in module.parameters()]


def _width(module: nn.Module) -> int | None:
    """The number of output channels of a layer that has such a thing; normalisation layers are not asked."""
    if isinstance(module, NORM_LAYERS):
        return None
    width = getattr(module, "out_channels", getattr(module, "out_features", None))
    return width if isinstance(width, int) else None
