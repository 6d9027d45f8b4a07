"""CHIP: a channel whose feature map the others can make up for is not independent.

Sui et al. 2021, "CHIP: channel independence-based pruning for compact neural networks" (arXiv
2110.13981).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.maps import Maps, watch_maps
from mipp.methods.shared.samples import drawn
from mipp.records import Group

_ENTRIES = 2**23
"""Of the matrices that are decomposed at once: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class CHIP(ScoringMethod):
    """Mean over images of ||A||_* - ||A without the unit's rows||_*; the lowest go.

    A has a row for each channel of the group, its map behind the activation, and ||A||_* is the sum
    of its singular values. Where channels are single numbers (linear layers), the examples of a
    batch are the columns of A, which is our choice. Several matrices: their mean. ``examples``: 640
    images, five batches of 128 in the authors' code; None for all. As many decompositions as units
    are made for each.
    """

    name = "chip"
    summary = "how independent the unit's feature maps are"
    source = "Sui et al. 2021, arXiv 2110.13981"
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
        """The mean over all matrices."""
        groups = question.graph.groups
        totals = {group.index: np.zeros(group.n_units) for group in groups}
        count = {group.index: np.zeros(group.n_units) for group in groups}

        def see(group: Group, maps: Maps) -> None:
            matrices = maps.rows()
            for matrix in matrices:
                lost = independence(matrix, maps.unit, group.n_units)
                totals[group.index] += lost.cpu().numpy()
            count[group.index][np.unique(maps.unit.cpu().numpy())] += len(matrices)

        watch_maps(question, drawn(question, self.examples, self.batch_size), see)
        return {index: total / np.maximum(count[index], 1) for index, total in totals.items()}


def independence(
    rows: Float[Tensor, "channels columns"], unit: Int[Tensor, " channels"], n_units: int
) -> Float[Tensor, " units"]:
    """What the nuclear norm of a matrix loses with the rows of each unit; 0 for units without any.

    By eigenvalues of the smaller Gram matrix, whose square roots are the singular values.
    """
    member = torch.zeros(n_units, len(rows), dtype=rows.dtype, device=rows.device)
    member[unit, torch.arange(len(rows), device=rows.device)] = 1
    wide = len(rows) <= rows.shape[1]
    gram = rows @ rows.T if wide else rows.T @ rows
    whole = _roots(gram.unsqueeze(0))
    lost = torch.zeros(n_units, dtype=rows.dtype, device=rows.device)
    present = torch.unique(unit)
    for some in present.split(max(1, _ENTRIES // max(gram.numel(), rows.numel()))):
        if wide:
            left = 1 - member[some]
            without = gram * left.unsqueeze(1) * left.unsqueeze(2)
        else:
            without = gram - torch.einsum("uc,ca,cb->uab", member[some], rows, rows)
        lost[some] = whole - _roots(without)
    return lost


def _roots(grams: Float[Tensor, "n m m"]) -> Float[Tensor, " n"]:
    return torch.linalg.eigvalsh(grams).clamp_min(0).sqrt().sum(-1)
