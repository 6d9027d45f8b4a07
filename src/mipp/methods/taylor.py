"""Taylor-FO: squared first-order change of the loss when a unit is removed.

Molchanov et al. 2019, "Importance estimation for neural network pruning" (arXiv 1906.10771).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.aggregate import aggregate
from mipp.methods.shared.gradients import task_loss
from mipp.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class Taylor(ScoringMethod):
    """Mean over minibatches of the squared first-order change of the loss without the unit.

    All calibration examples are used, and norms are in evaluation mode. Where a BatchNorm follows,
    ``"joint"`` leaves its shift in place, and ``"gate"`` does not.

    Attributes:
        variant: What is removed. ``"gate"``, the authors' best: (dL/dz)^2 for a gate z = 1 on
            everything that reads the unit. The others use the unit's incoming weights w with
            gradients g: ``"joint"`` (sum of g w)^2, ``"separate"`` sum of (g w)^2 (the authors'
            weight criterion), or ``"absolute"`` sum of |g w|, not squared (Torch-Pruning's, which
            takes one gradient over all data).
        minibatch: Examples per gradient, at most a batch as given. Squares and absolute values are
            taken per minibatch, then averaged.
    """

    name = "taylor"
    summary = "squared first-order change of the loss"
    source = "Molchanov et al. 2019, arXiv 1906.10771"
    needs = "labels"
    at_init = True
    ranking = "global"

    variant: Literal["gate", "joint", "separate", "absolute"] = "gate"
    minibatch: int = 32

    def __post_init__(self) -> None:
        """Refuse minibatches without examples."""
        super().__post_init__()
        self._at_least(1, "minibatch")

    def score(self, question: Question) -> Scores:
        """The mean over the minibatches."""
        parameters = question.parameters()
        read = sorted({c.weight for c in question.graph.consumers})
        made = sorted({key.tensor for g in question.graph.groups for key in g.producers})
        names = read if self.variant == "gate" else made
        weights = [parameters[name] for name in names]
        device = next(question.model.parameters()).device
        minibatches = [part for b in question.batches for part in b.parts(self.minibatch)]
        scores = {group.index: np.zeros(group.n_units) for group in question.graph.groups}
        for small in minibatches:
            batch = small.to(device)
            loss = task_loss(question, question.model(*batch.args, **batch.kwargs), batch)
            slopes = torch.autograd.grad(loss, weights, materialize_grads=True)
            terms = {n: w.detach() * s for n, w, s in zip(names, weights, slopes, strict=True)}
            for index, changes in self._changes(question, terms).items():
                scores[index] += changes / len(minibatches)
        return scores

    def _changes(self, question: Question, terms: dict[str, Tensor]) -> dict[int, FloatArray]:
        """The change of the loss without each unit, on one minibatch, by group."""
        if self.variant == "gate":
            return {index: gate**2 for index, gate in _gates(question, terms).items()}
        if self.variant == "absolute":
            return aggregate(question.graph, question.keep, terms, "l1")
        how: Literal["l2", "signed"] = "l2" if self.variant == "separate" else "signed"
        sums = aggregate(question.graph, question.keep, terms, how)
        return {index: values**2 for index, values in sums.items()}


def _gates(question: Question, terms: dict[str, Tensor]) -> dict[int, FloatArray]:
    """dL/dz at z = 1: sum over all weights that read the unit of weight times gradient."""
    graph = question.graph
    gates = {group.index: np.zeros(group.n_units) for group in graph.groups}
    for consumer in {c.weight: c for c in graph.consumers}.values():
        product = terms[consumer.weight].double().movedim(consumer.in_dim, 0)
        columns = product.flatten(1).sum(1).cpu().numpy()
        axis = graph.axes[consumer.in_axis]
        for index, gate in gates.items():
            mine = axis.group == index
            np.add.at(gate, axis.unit[mine], columns[mine])
    return gates
