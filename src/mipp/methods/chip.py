"""CHIP: a channel whose feature map the other channels can replace is not independent.

Sui et al. 2021, "CHIP: channel independence-based pruning for compact neural networks" (arXiv
2110.13981).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.methods.shared.maps import MapMethod, Maps
from mipp.records import FloatArray

_ENTRIES = 2**23
"""Numbers in the matrices that are decomposed at once (64 MiB)."""


@dataclass(frozen=True, kw_only=True)
class CHIP(MapMethod):
    """Mean over images of ||A||_* - ||A without the unit's rows||_*; removes the lowest.

    A has a row for each channel of the group, its map behind the activation, and ||A||_* is the sum
    of its singular values. Where channels are single numbers (linear layers), the examples of a
    batch are the columns of A, which is our choice. A group with several matrices gets their mean.
    Each matrix takes as many decompositions as there are units.

    Attributes:
        batch_size: 128, the authors' batch; scores of linear layers depend on it.
    """

    name = "chip"
    summary = "how independent the unit's feature maps are"
    source = "Sui et al. 2021, arXiv 2110.13981"

    batch_size: int | None = 128

    def add(self, sums: list[FloatArray], maps: Maps, precision: float) -> None:  # noqa: ARG002
        """Adds what each matrix loses without a unit."""
        count, totals, _ = sums
        matrices = maps.rows()
        for matrix in matrices:
            totals += independence(matrix, maps.unit, len(totals)).cpu().numpy()
        count[np.unique(maps.unit.cpu().numpy())] += len(matrices)


def independence(
    rows: Float[Tensor, "channels columns"], unit: Int[Tensor, " channels"], n_units: int
) -> Float[Tensor, " units"]:
    """Nuclear norm that a matrix loses with the rows of each unit; 0 for units without any.

    It is computed from eigenvalues of the smaller Gram matrix, whose square roots are the singular
    values.

    Args:
        rows: The matrix.
        unit: The unit of each row.
        n_units: Number of units.
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
