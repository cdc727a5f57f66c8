"""A hospital's model: an encoder per modality, a fusion that works with any of them missing, a private head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hetfed.data import Spec
from hetfed.model import Output
from hetfed_medical.modalities import MODALITIES
from hetfed_medical.plan_schema import HospitalModel
from hetfed_medical.present import BatchNormOfKnown, gathered, known_rows, masked, may_look


class GatedFusion(nn.Module):
    """A weighted mean of the modalities' features; the weights are a softmax of learnt scores over those that are there.

    Args:
        modalities: how many.
        features: the size of each modality's features, and of what comes out.

    >>> fuse = GatedFusion(2, features=4)
    >>> image, genes = torch.ones(1, 4), torch.zeros(1, 4)
    >>> fuse([image, genes], [torch.tensor([True]), torch.tensor([False])]).tolist()  # genes are missing
    [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, modalities: int, features: int) -> None:
        super().__init__()
        # Weights of its own for each modality, so that one may count for more than another throughout.
        self.score = nn.ModuleList(nn.Linear(features, 1) for _ in range(modalities))

    def forward(self, features: list[Tensor], present: list[Tensor]) -> Tensor:
        """`features`, (batch, features) each, and `present`, (batch,) each, to (batch, features).

        Features must be 0 where their modality is missing: a weight of 0 would not take a NaN away.
        """
        scores = torch.cat([score(x) for score, x in zip(self.score, features, strict=True)], dim=1)
        there = torch.stack(present, dim=1)
        # Where nothing is there at all, every weight is equal: the features are zero in any case.
        weights = scores.masked_fill(~there & there.any(dim=1, keepdim=True), -torch.inf).softmax(dim=1)
        return (weights[:, :, None] * torch.stack(features, dim=1)).sum(dim=1)


class HospitalNet(nn.Module):
    """`encoders.<modality>`, `fusion` (where there are several modalities) and `head`.

    Args:
        spec: `shapes`, of one sample by modality, and `outputs`, the number of classes (1 for survival).
        table: the model table of the plan: feature size, width and encoders.

    >>> spec = {"shapes": {"image": (1, 32, 32), "genes": (60,)}, "outputs": 2}
    >>> net = HospitalNet(spec, HospitalModel(features=16, image="lenet"))
    >>> inputs = {"image": torch.zeros(3, 1, 32, 32), "genes": torch.full((3, 60), torch.nan)}  # nobody has genes
    >>> net(inputs).logits.shape, net(inputs).features.shape
    (torch.Size([3, 2]), torch.Size([3, 16]))
    """

    def __init__(self, spec: Spec, table: HospitalModel) -> None:
        super().__init__()
        self.features = table.features
        shapes: Mapping[str, tuple[int, ...]] = spec["shapes"]
        self.encoders = nn.ModuleDict({name: _encoder(name, shape, table) for name, shape in shapes.items()})
        self.reads_input = {f"encoders.{name}": name for name in shapes}
        # A single modality needs no fusion, and no parameters for one.
        self.fusion = GatedFusion(len(shapes), table.features) if len(shapes) > 1 else None
        self.head = nn.Linear(table.features, spec["outputs"])

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        """`inputs` by modality (batch, ...), a row of NaN where one is missing, to logits (batch, classes)."""
        encoded = [self._encode(name, inputs[name]) for name in self.encoders]
        features = [x for x, _ in encoded]
        fused = features[0] if self.fusion is None else self.fusion(features, [there for _, there in encoded])
        return Output(self.head(fused), fused)

    def _encode(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, features), zero where the modality is missing, and where it is there (batch,)."""
        encoder, there = self.encoders[name], known_rows(x)
        # Both say the same but for rounding and what dropout draws. Published figures have the bits of the first, which spares
        # the encoder the missing rows; the second has no branch on data.
        if may_look():
            return gathered(encoder, x, there, self.features), there
        return masked(encoder, x, there), there


def _encoder(modality: str, shape: tuple[int, ...], table: HospitalModel) -> nn.Module:
    encoder = MODALITIES[modality].build(table.encoder(modality), shape, table.features, table.width)
    return BatchNormOfKnown.convert(encoder)
