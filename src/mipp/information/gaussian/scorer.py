"""Information between a group and its consumers, exact for jointly Gaussian variables.

With the features ``X`` that are left and the consumer's noisy output ``Y = W X + N``:

    I(X; Y)  = 1/2 logdet Cov(X) - 1/2 logdet Cov(X | Y)
    Delta_i  = 1/2 logdet( I + inverse(P_ii) B_i^T inverse(C) B_i )       nats lost with unit i

where ``P = inverse(Cov(X))``, ``B`` is the regression of ``Y`` on ``X`` and ``C`` its residual
covariance, noise included. After a removal all three follow from a low-rank correction (a Schur
complement); nothing is estimated again. Derivation: docs/research/method.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.information.gaussian.candidates import delta, squared_errors
from mipp.information.gaussian.crossvalidated import CrossValidated
from mipp.information.gaussian.downdate import State
from mipp.information.gaussian.row_state import RowState
from mipp.information.gaussian.standardised import RowSpace, Whole, unit_columns
from mipp.information.views import (
    Observations,
    Reads,
    RowShape,
    View,
    check_noise,
    second_moments,
)
from mipp.records import FloatArray, IntArray

SINGLE_PER_UNIT = 32
"""Features of a unit above which float32 resolves its block of the precision too badly."""

ROW_SPACE_SHARE = 0.05
"""Largest share of the units left that one round removes while rows are fewer than features. Within
a round candidates are still re-scored after each removal."""

ROW_SPACE_COLUMNS = 512
"""Most features of the units that such a round removes: candidates cost the square of theirs."""


@dataclass(frozen=True)
class Gaussian:
    """Closed-form information of jointly Gaussian variables. No training, no sampling.

    What it estimates: the mutual information, in nats per example, between a group's activations
    and each consumer's output seen through noise, with the activations replaced by Gaussians of the
    same second moments. It sees every linear relation and no other: a pair of units that is
    informative only together in a nonlinear way (XOR), or ``X ~ N(0, Y)``, scores 0; use ``masked``
    or ``mlp`` for those. Bias: rows fewer than about four per feature overstate redundancy, so the
    nats lost come out too small.

    Attributes:
        noise: ``"fisher"`` (inverse Fisher information of the loss about ``Y``: differences that
            the loss cannot see carry no information) or a number (that share of each output's
            variance).
        ridge: Added to every feature's variance, as a share of it; keeps duplicated units solvable.
        share_per_round: Largest share of the units left that is removed between two full
            re-scorings. Within a round the candidates are still re-scored exactly after each
            removal.
        single_above: Number of features above which float32 is used instead of float64 (eight times
            as many where units have more than 32 of them, whose blocks float32 resolves badly),
            unless features are nearly combinations of others.
        small_losses: With ``noise="fisher"``: whether units are compared by the squared errors that
            their removal makes, in units of the noise, which is their information where that is
            small. What a curve says is lost is exact either way, apart from how a round's loss is
            shared among its units.

    Examples:
        >>> Gaussian(noise=0.1).name
        'gaussian'
    """

    name: ClassVar[str] = "gaussian"
    reads: ClassVar[Reads] = "moments"
    row_shape: ClassVar[RowShape] = "positions"

    noise: float | str = "fisher"
    ridge: float = 1e-6
    share_per_round: float = 0.05
    single_above: int = 1024
    small_losses: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("ridge", "share_per_round"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"Gaussian({name}={getattr(self, name)}); expected a share, from 0 to "
                    f"1, such as {getattr(Gaussian, name)}."
                )
        check_noise(self.noise)

    def scorer(self, views: Sequence[View], n_units: int, seed: int = 0) -> "GaussianScorer":
        """A fresh elimination over ``n_units`` units."""
        return GaussianScorer(views, n_units, self, seed)


class GaussianScorer:
    """A `mipp.records.Scorer` in closed form; see `Gaussian`."""

    def __init__(
        self, views: Sequence[View], n_units: int, config: Gaussian, seed: int = 0
    ) -> None:
        self.n_units = n_units
        self._config = config
        self._observed = any(isinstance(view, Observations) for view in views)
        self._wholes = [self._whole(view) for view in views]
        made = [self._state(whole) for whole in self._wholes]
        self._states, self._totals = [state for state, _ in made], [nats for _, nats in made]
        self._alive = np.arange(n_units)
        self._left = np.array(self._totals)
        self._lost = np.zeros(len(views))
        self._views, self._seed = views, seed
        self._folds: list[CrossValidated] | None = None

    def _whole(self, view: View) -> Whole:
        # the noise of observed targets is the residual of their regression
        noise = "fisher" if isinstance(view, Observations) else self._config.noise
        seen = second_moments(view) if isinstance(view, Observations) else view
        return Whole(seen, self.n_units, noise, self._config.ridge)

    def _state(self, whole: Whole) -> tuple[State | RowState, float]:
        """The elimination before anything is removed, and the nats of all units."""
        view = whole.view
        made = whole.standardised()
        columns = unit_columns(view.unit, self.n_units)
        dtype = self._dtype(len(view.unit), columns.shape[1])
        nats, space, weight = made.total(view.uses), made.space, made.weight
        # a share of the variance as noise, or the residual of a regression, is no small loss
        small = whole.noise == "fisher" and self._config.small_losses and not self._observed
        if isinstance(space, RowSpace):
            return RowState(space, weight, columns, view.uses, dtype, small=small), nats
        return State.of_all(space, weight, columns, view.uses, dtype, small=small), nats

    def _dtype(self, n_features: int, per_unit: int) -> torch.dtype:
        """float32 for many features, unless units have many of them; float64 otherwise."""
        above = self._config.single_above
        large = n_features > (above if per_unit <= SINGLE_PER_UNIT else 8 * above)
        return torch.float32 if large else torch.float64

    def total(self) -> FloatArray:
        """Nats that all units together transfer, per consumer, shape ``(n_consumers,)``."""
        return np.array(self._totals)

    def solo(self) -> FloatArray:
        """Nats that each unit transfers on its own, over all consumers, shape ``(n_units,)``."""
        out = np.zeros(self.n_units)
        for whole in self._wholes:
            out += whole.solo().cpu().numpy()
        return out

    def scores(self) -> FloatArray:
        """Nats lost with each unit that is left, infinite for removed ones."""
        out = np.full(self.n_units, np.inf)
        if len(self._alive):
            out[self._alive] = self._alive_scores()
        return out

    def _alive_scores(self) -> FloatArray:
        out = np.zeros(len(self._alive))
        for state in self._states:
            score = squared_errors if state.small else delta
            out += score(*state.blocks()).cpu().numpy() * state.uses
        return out

    def nats_of(self, unit: int) -> FloatArray:
        """Nats that would be lost with this unit now, per consumer, shape ``(n_consumers,)``."""
        return self._nats_at(self._position(unit))

    def transfers(self, units: IntArray) -> FloatArray:
        """Nats that these units transfer together, shape ``(n_consumers,)``."""
        return np.array(
            [w.transfers(torch.as_tensor(units, device=w.view.unit.device)) for w in self._wholes]
        )

    def estimates(self, unit: int) -> FloatArray:
        """Nats lost with this unit as five folds of the rows see it, ``(5, n_consumers)``.

        Raises:
            InputError: The scorer was made from second moments, which have no folds.
        """
        self._position(unit)
        if self._folds is None:
            gone = np.setdiff1d(np.arange(self.n_units), self._alive)
            rows = [view for view in self._views if isinstance(view, Observations)]
            if len(rows) < len(self._views):
                raise InputError(
                    "Several estimates need rows of observations, and this scorer was made from "
                    "second moments. Give it Observations (mipp.information.observations), or "
                    "stop=mipp.Share(...) in place of Confidence."
                )
            self._folds = [
                CrossValidated(view, self._config.ridge, self._seed, gone, consumer)
                for consumer, view in enumerate(rows)
            ]
        return np.stack([folds.estimates(unit) for folds in self._folds], 1)

    def remove(self, unit: int) -> FloatArray:
        """Removes one unit; nats lost per consumer, shape ``(n_consumers,)``."""
        where = self._position(unit)
        nats = self._taken(self._nats_at(where))
        self._commit(where)
        self._lost = self._lost_by_now()
        return nats

    def _taken(self, nats: FloatArray) -> FloatArray:
        """Subtracts the nats from what is left of each consumer's, at most all of it."""
        taken = np.minimum(nats, self._left)
        self._left = self._left - taken
        return taken

    def _position(self, unit: int) -> np.ndarray:
        where = np.flatnonzero(self._alive == unit)
        if len(where) == 0:
            raise InputError(f"Unit {unit} is not among the {len(self._alive)} units left.")
        return where

    def _nats_at(self, where: np.ndarray) -> FloatArray:
        return np.array([s.nats_of(torch.as_tensor(where, device=s.device)) for s in self._states])

    def remove_least(self, count: int) -> list[tuple[int, FloatArray]]:
        """Removes ``count`` units, least information first, re-scored after each."""
        removed: list[tuple[int, FloatArray]] = []
        while len(removed) < count and len(self._alive):
            room, spare = self._room()
            n = min(room, count - len(removed))
            scores = self._alive_scores()
            chosen = np.sort(np.argsort(scores, kind="stable")[: max(spare * n, 8)])
            removed += self._round(chosen, n)
        return removed

    def _room(self) -> tuple[int, int]:
        """Most units to remove in one round, and how many times as many are its candidates."""
        few_rows = [state.k for state in self._states if isinstance(state, RowState)]
        most = int(self._config.share_per_round * len(self._alive))
        if not few_rows:
            return max(1, most), 3
        # scores change slowly where most features are combinations of others
        within = min(int(ROW_SPACE_SHARE * len(self._alive)), ROW_SPACE_COLUMNS // max(few_rows))
        return max(1, most, within), 2

    def _round(self, chosen: np.ndarray, n: int) -> list[tuple[int, FloatArray]]:
        """Removes the ``n`` least informative of the chosen units, re-scored after each."""
        device = self._states[0].device
        units_there = torch.as_tensor(chosen, device=device)
        small = [s.candidate(units_there, min(n, len(chosen))) for s in self._states]
        left = np.ones(len(chosen), dtype=bool)
        units: list[int] = []
        lost: list[FloatArray] = []
        for step in range(min(n, len(chosen))):
            nats = np.stack([s.nats() for s in small])
            summed = np.where(left, nats.sum(0), np.inf)
            j = int(np.argmin(summed))
            left[j] = False
            units.append(int(self._alive[chosen[j]]))
            lost.append(nats[:, j])
            if step + 1 < n:
                for s in small:
                    s.remove(j)
        self._commit(chosen[~left])
        return [
            (unit, self._taken(nats))
            for unit, nats in zip(units, self._exact(np.stack(lost)), strict=True)
        ]

    def _exact(self, nats: FloatArray) -> FloatArray:
        """Nats lost in one round ``(units, consumers)``, so scaled that their sums are exact."""
        before, self._lost = self._lost, self._lost_by_now()
        summed = nats.sum(0)
        scale = np.divide(self._lost - before, summed, out=np.ones_like(summed), where=summed > 0)
        small = np.array([state.small for state in self._states])
        return nats * np.where(small, scale, 1.0)

    def _lost_by_now(self) -> FloatArray:
        """Nats that are lost, of consumers whose losses are small; 0 of others."""
        return np.array([state.lost() if state.small else 0.0 for state in self._states])

    def _commit(self, where: np.ndarray) -> None:
        self._states = [
            state.downdate(torch.as_tensor(where, device=state.device)) for state in self._states
        ]
        for folds in self._folds or ():
            for unit in self._alive[where]:
                folds.remove(int(unit))
        self._alive = np.delete(self._alive, where)
