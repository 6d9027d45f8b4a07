"""Structured OBS: units go one by one, and the weights that stay take over what they did.

Kurtic, Frantar and Alistarh 2023, "ZipLM: inference-aware structured pruning of language models"
(arXiv 2302.04089), after Hassibi and Stork's optimal brain surgeon.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp import surgery
from mipp.errors import CalibrationError
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.input_moments import measured, readers
from mipp.methods.shared.samples import drawn
from mipp.records import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class OBS(ScoringMethod):
    """Greedy: the unit goes whose removal costs the next layers least squared error.

    With H = E[X X'] + damping of what a layer takes in, a unit with the columns i of its weight W
    costs tr(W_i inverse(inverse(H)_ii) W_i'), all weights that stay being adapted in the best way;
    then W and inverse(H) follow by a low-rank correction. The score is the relative error of the
    layer, ||W X - W' X||^2 / ||W X||^2, at the moment the unit has gone (of several layers that
    read the group the sum): the order of removal, and the prior that ZipLM gives its search for
    widths. That search, over measured latencies, is left to ``allocation=``.

    ``damping``: share of the mean of H's diagonal that is added to it. ``centred``: covariances in
    place of second moments, as if biases were fitted too. ``examples``: 2048 drawn, None for all.
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
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "examples", "batch_size")
        self._at_least(0, "damping")

    def score(self, question: Question) -> Scores:
        """Relative errors along the order of removal; removed units get zero."""
        statistics = measured(question, drawn(question, self.examples, self.batch_size))
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
    """Removes all of ``units``: the order, and the summed relative error after each.

    Both of shape ``(n_units,)``.
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

    ``weight`` (m, d) and ``inverse`` (d, d) are of the whole layer; what is removed is zero.
    """

    def __init__(
        self,
        second_moment: Float[Tensor, "d d"],
        weight: Float[Tensor, "m d"],
        unit: Int[Tensor, " d"],
        damping: float | int,
    ) -> None:
        moment = second_moment.double().clone()
        # a feature that is always zero costs nothing: no weight, and any place in H
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
        self.inverse = torch.cholesky_inverse(root)
        self.weight = weight.clone()
        self.energy = float(((weight @ second_moment.double()) * weight).sum())
        self._columns = {int(u): torch.nonzero(unit == u).flatten() for u in torch.unique(unit)}

    def costs(self, units: list[int]) -> FloatArray:
        """Squared error that each unit's removal adds, relative to the layer's output energy.

        Of a layer that gets or gives nothing but zeros: none.
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
        """Takes the unit out; weights that stay take over what they can."""
        gone = self._of(unit)
        if not len(gone):
            return
        across = self.inverse[gone]
        share = torch.linalg.solve(across[:, gone], across)
        self.weight.addmm_(self.weight[:, gone], share, alpha=-1)
        self.inverse.addmm_(across.T, share, alpha=-1)
        # what rounding has left
        self.weight[:, gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0

    def _of(self, unit: int) -> Int[Tensor, " k"]:
        return self._columns.get(unit, torch.empty(0, dtype=torch.int64))
