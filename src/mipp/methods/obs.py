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
from mipp.methods.shared.input_moments import Reader, each_group
from mipp.methods.shared.samples import ExampleMethod
from mipp.records import FloatArray, Group, IntArray

TOGETHER = 128
"""Columns that are removed before the matrices are changed."""


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
    reads_only = True
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
        scores = {}

        def remove_all(group: Group, readers: list[Reader]) -> None:
            layers = [
                Layer(reader.moment(centred=self.centred), reader.weight, reader.unit, self.damping)
                for reader in readers
            ]
            scores[group.index] = np.zeros(group.n_units)
            alive = question.keep.get(group.index, np.ones(group.n_units, dtype=bool))
            order, errors = eliminate(layers, np.flatnonzero(alive))
            scores[group.index][order] = errors

        each_group(question, self.drawn(question), remove_all)
        return scores


def eliminate(layers: "list[Layer]", units: IntArray) -> tuple[IntArray, FloatArray]:
    """Removes all of ``units``.

    Returns:
        The order, and the summed relative error after each removal, both of shape ``(n_units,)``.
    """
    left, order, errors = np.sort(units), [], []
    error = 0.0
    while len(left):
        costs = np.sum([layer.costs(left) for layer in layers], axis=0)
        least = int(np.argmin(costs))
        error += float(costs[least])
        unit = int(left[least])
        left = np.delete(left, least)
        for layer in layers:
            layer.remove(unit)
        order.append(unit)
        errors.append(error)
    return np.array(order, dtype=np.int64), np.array(errors)


@dataclass(eq=False)
class _Blocks:
    """Units with equally many columns, and their blocks on the diagonals.

    Attributes:
        units: Shape ``(n,)``.
        columns: Shape ``(n, k)``.
        inverse: Of inverse(H), shape ``(n, k, k)``; the identity once a unit is removed.
        gram: Of W'W, shape ``(n, k, k)``; zero then.
    """

    units: Int[Tensor, " n"]
    columns: Int[Tensor, "n k"]
    inverse: Float[Tensor, "n k k"]
    gram: Float[Tensor, "n k k"]

    def costs(self) -> Float[Tensor, " n"]:
        """Squared error that each unit's removal adds."""
        if self.columns.shape[1] == 1:
            return (self.gram / self.inverse).flatten()
        solved = torch.linalg.solve(self.inverse, self.gram)
        return solved.diagonal(dim1=1, dim2=2).sum(1)


class Layer:
    """One layer that reads the units: inverse(H) and W'W during the elimination.

    A removal changes both matrices by a few rows times a few columns. These are collected, and
    applied many at a time, as products of large matrices: until then only the diagonal blocks,
    and the rows of the next unit, are brought up to date.

    Args:
        second_moment: E[X X'] of what the layer takes in, shape ``(d, d)``.
        weight: The columns of its weight that read it, shape ``(m, d)``.
        unit: Which unit each column reads, shape ``(d,)``.
        damping: As in `OBS`.

    Attributes:
        energy: Mean squared norm of the layer's output.

    Raises:
        CalibrationError: The damped moments cannot be inverted.
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
        self._inverse, self._gram = inverse_from(root), weight.T @ weight
        self.energy = float(((weight @ second_moment.double()) * weight).sum())
        self._left = torch.ones_like(weight[0])
        self._columns = {int(u): torch.nonzero(unit == u).flatten() for u in torch.unique(unit)}
        sizes = {len(columns) for columns in self._columns.values()}
        self._blocks = [self._blocks_of(size) for size in sorted(sizes)]
        # inverse(H) becomes that - old' share, and W'W becomes that - share' half - half' share
        self._changes = weight.new_empty(3, TOGETHER + max(sizes, default=0), len(dead))
        self._n_changes = 0

    @property
    def inverse(self) -> Float[Tensor, "d d"]:
        """The inverse of H for what is left; removed rows and columns are zero."""
        self._apply()
        return self._inverse * self._left * self._left.unsqueeze(1)

    def costs(self, units: IntArray) -> FloatArray:
        """Squared error that each unit's removal adds, relative to the layer's output energy.

        It is zero for a layer whose inputs or outputs are all zero.
        """
        found = np.zeros(1 + max([int(units.max()), *self._columns]))
        if self.energy > 0:
            for blocks in self._blocks:
                found[blocks.units.numpy()] = blocks.costs().cpu().numpy() / self.energy
        return found[units]

    def remove(self, unit: int) -> None:
        """Removes the unit; the remaining weights compensate for it."""
        gone = self._columns.get(unit)
        if gone is None:
            return
        old, shares, halves = self._changes[:, : self._n_changes]
        across = self._inverse[gone].addmm_(old[:, gone].T, shares, alpha=-1)
        gram = self._gram[gone].addmm_(shares[:, gone].T, halves, alpha=-1)
        gram.addmm_(halves[:, gone].T, shares, alpha=-1)
        # rounding has left small numbers where columns were removed
        across.mul_(self._left)
        gram.mul_(self._left)
        # with W_g the unit's weights, W becomes W - W_g share
        share = torch.linalg.solve(across[:, gone], across)
        half = gram.addmm(gram[:, gone], share, alpha=-0.5)
        change = torch.stack([across, share, half])
        self._changes[:, self._n_changes : self._n_changes + len(gone)] = change
        self._n_changes += len(gone)
        self._left[gone] = 0
        for blocks in self._blocks:
            mine, theirs, half = change[:, :, blocks.columns]
            blocks.inverse -= torch.einsum("gni,gnj->nij", mine, theirs)
            both = torch.einsum("gni,gnj->nij", theirs, half)
            blocks.gram -= both + both.mT
            if blocks.columns.shape[1] == len(gone):
                out = blocks.units == unit
                blocks.gram[out] = 0
                blocks.inverse[out] = torch.eye(len(gone)).to(across)
        if self._n_changes >= TOGETHER:
            self._apply()

    def _apply(self) -> None:
        """Changes both matrices by what has been collected."""
        old, share, half = self._changes[:, : self._n_changes]
        self._inverse.addmm_(old.T, share, alpha=-1)
        self._gram.addmm_(share.T, half, alpha=-1)
        self._gram.addmm_(half.T, share, alpha=-1)
        self._n_changes = 0

    def _blocks_of(self, size: int) -> _Blocks:
        found = {u: columns for u, columns in self._columns.items() if len(columns) == size}
        columns = torch.stack(list(found.values()))
        at = columns.unsqueeze(2), columns.unsqueeze(1)
        return _Blocks(torch.tensor(list(found)), columns, self._inverse[at], self._gram[at])
