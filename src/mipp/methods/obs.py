"""Structured OBS: units are removed one by one, and the remaining weights compensate for each.

Kurtic, Frantar and Alistarh 2023, "ZipLM: inference-aware structured pruning of language models"
(arXiv 2302.04089), after Hassibi and Stork's optimal brain surgeon.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp import surgery
from mipp.covariance import inverse_from
from mipp.errors import CalibrationError
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.input_moments import measured, readers
from mipp.methods.shared.samples import ExampleMethod
from mipp.records import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class OBS(ExampleMethod, ScoringMethod):
    """Greedy: removes the unit that costs the next layers the least squared error.

    With H = E[X X'] + damping of a layer's inputs, a unit with the columns i of its weight W costs
    tr(W_i inverse(inverse(H)_ii) W_i'), all remaining weights being adapted optimally; then W and
    inverse(H) follow by a low-rank correction. The score is the relative error of the layer,
    ||W X - W' X||^2 / ||W X||^2, after the unit's removal (summed over layers that read the group):
    the order of removal, and the prior that ZipLM gives its search for widths. That search, over
    measured latencies, is left to ``allocation=``.

    Attributes:
        damping: Share of the mean of H's diagonal that is added to the diagonal.
        centred: Whether covariances are used in place of second moments, as if biases were fitted,
            too.
        examples: 2048.
    """

    name = "obs"
    summary = "least-squares error of the next layers, weights adapted one unit after the other"
    source = "Kurtic et al. 2023, arXiv 2302.04089 (ZipLM), without its search for widths"
    needs = "data"
    at_init = True
    ranking = "local"
    update = surgery.Refit()

    damping: float | int = 1e-2
    centred: bool = False
    examples: int | None = 2048

    def __post_init__(self) -> None:
        """Refuse a negative damping."""
        super().__post_init__()
        self._at_least(0, "damping")

    def score(self, question: Question) -> Scores:
        """Relative errors along the order of removal; removed units get zero."""
        statistics = measured(question, self.drawn(question))
        scores = {}
        for group in question.graph.groups:
            layers = [
                Layer(
                    reader.covariance if self.centred else reader.second_moment,
                    reader.weight, reader.unit, self.damping,
                )
                for reader in readers(question, group, statistics)
            ]  # fmt: skip
            scores[group.index] = np.zeros(group.n_units)
            alive = question.keep.get(group.index, np.ones(group.n_units, dtype=bool))
            order, errors = eliminate(layers, np.flatnonzero(alive))
            scores[group.index][order] = errors
        return scores


def eliminate(layers: "list[Layer]", units: IntArray) -> tuple[IntArray, FloatArray]:
    """Removes all of ``units``.

    Returns:
        The order, and the summed relative error after each removal, both of shape ``(n_units,)``.
    """
    left, order, errors = units.tolist(), [], []
    error = 0.0
    while left:
        costs = np.sum([layer.costs(left) for layer in layers], axis=0)
        least = int(np.argmin(costs))
        error += float(costs[least])
        unit = left.pop(least)
        for layer in layers:
            layer.remove(unit)
        order.append(unit)
        errors.append(error)
    return np.array(order, dtype=np.int64), np.array(errors)


class Layer:
    """One layer that reads the units: its weight W and inverse(H) during the elimination.

    Attributes:
        weight: Of the whole layer, shape ``(m, d)``; removed columns are zero.
        inverse: inverse(H), shape ``(d, d)``; removed rows and columns are zero.
        energy: Mean squared norm of the layer's output.
    """

    def __init__(
        self,
        second_moment: Float[Tensor, "d d"],
        weight: Float[Tensor, "m d"],
        unit: Int[Tensor, " d"],
        damping: float | int,
    ) -> None:
        moment = second_moment.double().clone()
        # a feature that is always zero costs nothing: it gets no weight, and any diagonal in H
        dead = moment.diagonal() == 0
        weight = torch.where(dead, 0.0, weight.double())
        moment.diagonal().add_(moment.diagonal().mean() * max(damping, 1e-12) + dead)
        root, fault = torch.linalg.cholesky_ex(moment)
        if int(fault) != 0:
            raise CalibrationError(
                f"method='obs' cannot invert what a layer takes in with damping={damping}: "
                "features repeat each other up to rounding. Use more damping, such as 0.01, or a "
                "model in float64."
            )
        self.inverse = inverse_from(root)
        self.weight = weight.clone()
        self.energy = float(((weight @ second_moment.double()) * weight).sum())
        self._columns = {int(u): torch.nonzero(unit == u).flatten() for u in torch.unique(unit)}

    def costs(self, units: list[int]) -> FloatArray:
        """Squared error that each unit's removal adds, relative to the layer's output energy.

        It is zero for a layer whose inputs or outputs are all zero.
        """
        found = np.zeros(len(units))
        if self.energy <= 0:
            return found
        sizes: dict[int, list[int]] = {}
        for place, unit in enumerate(units):
            sizes.setdefault(len(self._of(unit)), []).append(place)
        for size, places in sizes.items():
            if size == 0:
                continue
            columns = torch.stack([self._of(units[place]) for place in places])
            blocks = self.inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
            mine = self.weight[:, columns].movedim(0, 1)
            solved = torch.linalg.solve(blocks, mine.mT)
            found[places] = (mine.mT * solved).sum((1, 2)).cpu().numpy() / self.energy
        return found

    def remove(self, unit: int) -> None:
        """Removes the unit; the remaining weights compensate for it."""
        gone = self._of(unit)
        if not len(gone):
            return
        across = self.inverse[gone]
        share = torch.linalg.solve(across[:, gone], across)
        self.weight.addmm_(self.weight[:, gone], share, alpha=-1)
        self.inverse.addmm_(across.T, share, alpha=-1)
        # rounding has left small numbers here
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0

    def _of(self, unit: int) -> Int[Tensor, " k"]:
        return self._columns.get(unit, torch.empty(0, dtype=torch.int64))
