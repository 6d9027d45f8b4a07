"""HRank: a filter whose feature maps have low rank says little.

Lin et al. 2020, "HRank: filter pruning using high-rank feature map" (arXiv 2002.10179).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.maps import Maps, watch_maps
from mipp.methods.shared.samples import drawn
from mipp.records import Group


@dataclass(frozen=True, kw_only=True)
class HRank(ScoringMethod):
    """Mean over images of the rank of the unit's map behind the activation; the lowest go.

    A map that is one number or one row has rank 0 or 1, so that the mean is how often the unit is
    active. Ties, frequent there and on small maps, are broken by the mean norm of the map, which is
    our choice. Several maps of one unit: their mean. The rank is the number of singular values
    above the largest of them times the longer side times the precision of the net's numbers.
    ``examples``: 640 images, five batches of 128 in the authors' code; None for all.
    """

    name = "hrank"
    summary = "rank of the unit's feature maps"
    source = "Lin et al. 2020, arXiv 2002.10179"
    needs = "data"
    at_init = True
    ranking = "local"

    examples: int | None = 640
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "examples", "batch_size")

    def score(self, question: Question) -> Scores:
        """Mean ranks; where they are equal, norms decide."""
        groups = question.graph.groups
        ranks = {group.index: np.zeros(group.n_units) for group in groups}
        norms = {group.index: np.zeros(group.n_units) for group in groups}
        count = {group.index: np.zeros(group.n_units) for group in groups}
        precision = torch.finfo(next(question.model.parameters()).dtype).eps

        def see(group: Group, maps: Maps) -> None:
            unit = maps.unit.cpu().numpy()
            values = maps.values if maps.values.dim() > 2 else maps.values.unsqueeze(2)
            matrices = values.reshape(*values.shape[:2], -1, values.shape[-1])
            np.add.at(ranks[group.index], unit, _ranks(matrices, precision))
            np.add.at(norms[group.index], unit, matrices.norm(dim=(2, 3)).sum(0).cpu().numpy())
            np.add.at(count[group.index], unit, float(len(matrices)))

        watch_maps(question, drawn(question, self.examples, self.batch_size), see)
        scores = {}
        for index, times in count.items():
            seen = np.maximum(times, 1)
            # mean ranks that differ, differ by one over the count at the least
            share = norms[index] / seen / max(float((norms[index] / seen).max()), 1e-300)
            scores[index] = (ranks[index] + share / 2) / seen
        return scores


def _ranks(matrices: Tensor, precision: float) -> np.ndarray:
    """Sum over the batch of the rank of each channel's matrix."""
    values = torch.linalg.svdvals(matrices)
    bound = values[..., :1] * precision * max(matrices.shape[-2:])
    return (values > bound).sum(-1).sum(0).double().cpu().numpy()
