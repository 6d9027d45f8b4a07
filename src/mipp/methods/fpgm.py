"""FPGM: filters near the geometric median of their layer can be replaced by the others.

He et al. 2019, "Filter pruning via geometric median for deep convolutional neural networks
acceleration" (arXiv 1811.00250).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.aggregate import unit_axes
from mipp.records import Group


@dataclass(frozen=True, kw_only=True)
class FPGM(ScoringMethod):
    """Sum of the Euclidean distances to the other filters of the group; removes the smallest.

    A unit is the vector of all its incoming weights (of a tied group: of all layers that make it,
    concatenated). Only units that are left count.

    The authors choose again after every epoch of a training run; here units are chosen once, or in
    ``rounds``.

    Attributes:
        own: Whether biases, norm parameters and depthwise filters count, too.
    """

    name = "fpgm"
    summary = "distance to the other filters of the layer"
    source = "He et al. 2019, arXiv 1811.00250"
    needs = "nothing"
    at_init = True
    ranking = "local"
    reads_only = True

    own: bool = False

    def score(self, question: Question) -> Scores:
        """The sums over the units that are left; removed ones get zero."""
        scores = {}
        for group in question.graph.groups:
            left = question.keep.get(group.index, np.ones(group.n_units, dtype=bool))
            vectors = unit_vectors(question, group, own=self.own)[torch.from_numpy(left)]
            # the fast formula of cdist loses half the digits between near neighbours
            distances = torch.cdist(
                vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist"
            ).sum(1)
            scores[group.index] = np.zeros(group.n_units)
            scores[group.index][left] = distances.cpu().numpy()
        return scores


def unit_vectors(question: Question, group: Group, *, own: bool = False) -> Tensor:
    """All weights that make each unit, shape ``(n_units, n_weights)``, in float64, on the CPU.

    Units with fewer channels than others in a layer are padded with zeros.
    """
    parameters = question.parameters()
    parts = [torch.zeros(group.n_units, 0, dtype=torch.float64)]
    for key in unit_axes(question.graph, group, own=own):
        if key.tensor not in parameters:  # a running mean
            continue
        rows = parameters[key.tensor].detach().double().cpu().movedim(key.dim, 0)
        rows = rows.reshape(len(rows), -1)
        axis = question.graph.axes[key]
        mine = np.flatnonzero(axis.group == group.index)
        unit = axis.unit[mine]
        order = np.argsort(unit, kind="stable")
        starts = np.searchsorted(unit[order], unit[order])
        place = np.empty_like(unit)
        place[order] = np.arange(len(unit)) - starts
        vectors = torch.zeros(group.n_units, int(place.max()) + 1, rows.shape[1]).double()
        vectors[torch.from_numpy(unit), torch.from_numpy(place)] = rows[torch.from_numpy(mine)]
        parts.append(vectors.flatten(1))
    return torch.cat(parts, 1)
