"""HRank: a filter whose feature maps have low rank carries little information.

Lin et al. 2020, "HRank: filter pruning using high-rank feature map" (arXiv 2002.10179).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mipp.methods.shared.maps import MapMethod, Maps
from mipp.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class HRank(MapMethod):
    """Mean over images of the rank of the unit's map behind the activation; removes the lowest.

    A map that is one number or one row has rank 0 or 1, so that the mean is how often the unit is
    active. Ties, frequent there and on small maps, are broken by the mean norm of the map, which is
    our choice. A unit with several maps gets their mean. The rank is the number of singular values
    above the largest of them times the longer side times the precision of the net's numbers.
    """

    name = "hrank"
    summary = "rank of the unit's feature maps"
    source = "Lin et al. 2020, arXiv 2002.10179"

    def add(self, sums: list[FloatArray], maps: Maps, precision: float) -> None:
        """Adds ranks and norms."""
        count, ranks, norms = sums
        unit = maps.unit.cpu().numpy()
        values = maps.values if maps.values.dim() > 2 else maps.values.unsqueeze(2)
        matrices = values.reshape(*values.shape[:2], -1, values.shape[-1])
        np.add.at(count, unit, float(len(matrices)))
        np.add.at(ranks, unit, _ranks(matrices, precision))
        np.add.at(norms, unit, matrices.norm(dim=(2, 3)).sum(0).cpu().numpy())

    def mean(self, count: FloatArray, ranks: FloatArray, norms: FloatArray) -> FloatArray:
        """Mean ranks; where they are equal, norms decide."""
        seen = np.maximum(count, 1)
        # two mean ranks that differ do so by at least one over the count
        share = norms / seen / max(float((norms / seen).max()), 1e-300)
        return (ranks + share / 2) / seen


def _ranks(matrices: Tensor, precision: float) -> np.ndarray:
    """Sum over the batch of the rank of each channel's matrix."""
    values = torch.linalg.svdvals(matrices)
    bound = values[..., :1] * precision * max(matrices.shape[-2:])
    return (values > bound).sum(-1).sum(0).double().cpu().numpy()
