"""One consumer of a full group, in the units in which the Gaussian estimator computes.

Inputs have unit variance, a ridge added to it; outputs are in units in which their noise is the
identity. A feature that never varies carries no information: it has no weight, and so neither its
scale nor the ridge matters.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import Factor, varies
from mipp.errors import InputError
from mipp.information.views import ConsumerView

VISIBLE = 1e-10
"""Share of the variance that an output would have, were its parts independent, below which its
variance is taken for zero: covariances that were summed in float32 have no more digits."""

LEAST_RIDGE = 1e-8
"""Smallest ridge that is added to a correlation matrix that cannot be factored; in row space there
is always one feature that is a combination of others."""


LARGE, LARGE_RIDGE = 1024, 1e-6
"""Features from which on sums of float32 products need more than that."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Correlations of the features, as a matrix.

    Attributes:
        matrix: The correlations, with the ridge on the diagonal.
    """

    matrix: Float[Tensor, "d d"]

    def times(self, left: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """``left`` times the correlations."""
        return left @ self.matrix

    def blocks(self, columns: Int[Tensor, "u k"]) -> Float[Tensor, "u k k"]:
        """Correlations among the columns of each unit."""
        return self.matrix[columns.unsqueeze(2), columns.unsqueeze(1)]

    def unexplained(
        self, weight: Float[Tensor, "r d"], given: Bool[Tensor, " d"]
    ) -> Float[Tensor, "r r"]:
        """Covariance of ``weight`` times the features, given those in ``given``."""
        across = weight @ self.matrix[:, given]
        known = torch.linalg.solve(self.matrix[given][:, given], across.T)
        return weight @ self.matrix @ weight.T - across @ known


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The same correlations as few rows ``Z`` (n, d): ``Z^T Z + ridge I``, never formed.

    By the matrix inversion lemma everything needed follows from ``K_S = ridge I + Z_S Z_S^T``
    (n, n), where S are the known features:

        inverse(Sigma_SS)  = (I - Z_S^T inverse(K_S) Z_S) / ridge
        Cov(X_R | X_S)     = ridge (I + Z_R^T inverse(K_S) Z_R)

    (Hager 1989, "Updating the inverse of a matrix", SIAM Review 31).
    """

    rows: Float[Tensor, "n d"]
    ridge: float

    def times(self, left: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """``left`` times the correlations."""
        return (left @ self.rows.T) @ self.rows + self.ridge * left

    def blocks(self, columns: Int[Tensor, "u k"]) -> Float[Tensor, "u k k"]:
        """Correlations among the columns of each unit."""
        own = self.rows[:, columns].movedim(0, 1)
        eye = torch.eye(columns.shape[1], dtype=own.dtype, device=own.device)
        return own.mT @ own + self.ridge * eye

    def gram(self, known: Bool[Tensor, " d"]) -> Float[Tensor, "n n"]:
        """``K_S`` of the known features."""
        own = self.rows[:, known]
        gram = own @ own.T
        gram.diagonal().add_(self.ridge)
        return gram

    def unexplained(
        self, weight: Float[Tensor, "r d"], given: Bool[Tensor, " d"]
    ) -> Float[Tensor, "r r"]:
        """Covariance of ``weight`` times the features, given those in ``given``."""
        rest = weight[:, ~given]
        half = torch.linalg.solve_triangular(
            cholesky(self.gram(given)), self.rows[:, ~given] @ rest.T, upper=False
        )
        return self.ridge * (rest @ rest.T + half.T @ half)


Space = FeatureSpace | RowSpace


class Standardised(NamedTuple):
    """A consumer in these units.

    Attributes:
        space: Correlations of its inputs.
        weight: Its weight; ``r`` is at most ``min(m, d)`` of its ``m`` outputs and ``d`` features.
        times: The weight times the correlations, where that is known.
    """

    space: Space
    weight: Float[Tensor, "r d"]
    times: Float[Tensor, "r d"] | None = None

    def total(self, uses: float | int) -> float:
        """Nats that all features transfer."""
        times = self.space.times(self.weight) if self.times is None else self.times
        return 0.5 * uses * logdet_eye_plus(times @ self.weight.T)


def standardised(view: ConsumerView, noise: float | str, ridge: float) -> Standardised:
    """The correlations of a consumer's inputs, and its weight in units of the noise.

    Args:
        view: The consumer.
        noise: As in `mipp.Gaussian`.
        ridge: Added to the variance of each feature, as a share of it.

    Raises:
        InputError: The noise is ``"fisher"``, and there are no Fisher matrices.
    """
    covariance = view.covariance
    variance = covariance.diagonal().double().clamp_min(0)
    constant = variance == 0
    scale = torch.where(constant, torch.ones_like(variance), variance.sqrt())
    weight = torch.where(constant, 0.0, view.weight.double() * scale)
    if isinstance(covariance, Factor):
        rows = covariance.rows.double() / scale
        space = RowSpace(rows, max(ridge, LEAST_RIDGE))
        if noise == "fisher":
            return Standardised(space, _in_fisher_units(weight, view.fisher))
        each = (weight @ rows.T).square().sum(1)
        return Standardised(space, _no_taller(_rows_in_units(weight, weight, each, noise)))
    matrix = covariance.double() / scale
    matrix /= scale.unsqueeze(1)
    more = constant.to(matrix.dtype) + ridge
    if noise == "fisher":
        matrix.diagonal().add_(more)
        return Standardised(FeatureSpace(matrix), _in_fisher_units(weight, view.fisher))
    times = weight @ matrix
    each = (times * weight).sum(1)
    matrix.diagonal().add_(more)
    times = _rows_in_units(times.add_(weight * more), weight, each, noise)
    white = _rows_in_units(weight, weight, each, noise)
    if len(white) > white.shape[1]:
        return Standardised(FeatureSpace(matrix), _no_taller(white))
    return Standardised(FeatureSpace(matrix), white, times)


def _in_fisher_units(
    weight: Float[Tensor, "m d"], fisher: Float[Tensor, "m m"] | None
) -> Float[Tensor, "r d"]:
    """The weight where the inverse Fisher information is the noise.

    Directions that no noise-free loss sees are dropped.
    """
    if fisher is None:
        raise InputError("noise='fisher' needs Fisher matrices, and none were captured.")
    fisher = fisher.to(weight.dtype)
    wide = weight.shape[0] > weight.shape[1]
    # the smaller of F and W^T F W is decomposed
    white = fisher_whitening(weight.T @ fisher @ weight if wide else fisher)
    return white if wide else white @ weight


def _rows_in_units(
    rows: Float[Tensor, "m d"],
    weight: Float[Tensor, "m d"],
    variance: Float[Tensor, " m"],
    noise: float | str,
) -> Float[Tensor, "r d"]:
    """Rows of the outputs that vary, over the deviation of a noise of that share of variance."""
    seen = variance > VISIBLE * weight.square().sum(1)
    return rows[seen] / (float(noise) * variance[seen]).sqrt().unsqueeze(1)


def _no_taller(white: Float[Tensor, "m d"]) -> Float[Tensor, "r d"]:
    """At most as many rows as features that are equivalent."""
    return torch.linalg.qr(white, mode="r").R if len(white) > white.shape[1] else white


def fisher_whitening(fisher: Float[Tensor, "m m"]) -> Float[Tensor, "r m"]:
    """The matrix ``A`` for which noise of covariance ``inverse(fisher)`` is the identity.

    ``r`` is at most ``m``: directions that no noise-free loss sees are dropped.
    """
    values, vectors = torch.linalg.eigh(fisher.double())
    seen = values > values[-1:].clamp_min(0) * 1e-12
    return (vectors[:, seen] * values[seen].sqrt()).T


def in_units_of_noise(y: Float[Tensor, "rows m"], share: float | int) -> Float[Tensor, "rows r"]:
    """Each output over the deviation of its noise, which is ``share`` of the output's variance.

    Outputs that never vary are dropped.
    """
    variance = y.var(0, correction=0)
    seen = varies(variance, y.mean(0), y.dtype)
    return y[:, seen] / (float(share) * variance[seen]).sqrt()


def cholesky(corr: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Lower Cholesky factor of a correlation matrix, with as much extra ridge as it takes."""
    extra = 0.0
    for _ in range(10):
        root, fault = torch.linalg.cholesky_ex(corr)
        if int(fault) == 0:
            return root
        # less than what rounding of large matrices takes away would only be tried in vain
        more = max(10 * extra, LEAST_RIDGE if len(corr) < LARGE else LARGE_RIDGE)
        corr.diagonal().add_(more - extra)
        extra = more
    raise InputError("The second moments are not positive semidefinite. Check the activations.")


def logdet_eye_plus(matrix: Float[Tensor, "r r"]) -> float:
    """Logarithm of the determinant of a positive semidefinite matrix plus the identity."""
    even = (matrix + matrix.T) / 2
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, fault = torch.linalg.cholesky_ex(even + eye)
    if int(fault) != 0:  # rounding has made the moments not quite semidefinite
        return float(torch.linalg.eigvalsh(even).clamp_min(0).log1p().sum())
    return 2 * float(root.diagonal().log().sum())


def unit_columns(unit: Int[Tensor, " d"], n_units: int) -> Int[Tensor, "u k"]:
    """Columns of each unit, at most ``k``, -1 where a unit has fewer."""
    counts = torch.bincount(unit[unit >= 0], minlength=n_units)
    k = max(1, int(counts.max()))
    columns = torch.full((n_units, k), -1, dtype=torch.int64, device=unit.device)
    order = torch.argsort(unit, stable=True)
    order = order[unit[order] >= 0]
    owner = unit[order]
    first = torch.cumsum(counts, 0) - counts
    columns[owner, torch.arange(len(order), device=unit.device) - first[owner]] = order
    return columns


@dataclass(frozen=True, eq=False)
class Whole:
    """One consumer of the full group: what each unit transfers alone, or some together.

    Each method computes the matrices again, since they are as large as the elimination's own.

    Attributes:
        view: The consumer.
        n_units: Number of units of the group.
        noise: As in `mipp.Gaussian`.
        ridge: As in `mipp.Gaussian`.
    """

    view: ConsumerView
    n_units: int
    noise: float | str
    ridge: float

    def standardised(self) -> Standardised:
        """The consumer in the units in which it is computed."""
        return standardised(self.view, self.noise, self.ridge)

    def solo(self) -> Float[Tensor, " units"]:
        """Nats that each unit transfers on its own."""
        made = self.standardised()
        space, weight = made.space, made.weight
        columns = unit_columns(self.view.unit, self.n_units)
        explained = space.times(weight)
        noisy = explained @ weight.T
        noisy.diagonal().add_(1)
        solved = torch.linalg.solve(noisy, explained)
        pad, real = columns < 0, columns.clamp_min(0)
        before = space.blocks(real)
        gain = torch.einsum("rui,ruj->uij", explained[:, real], solved[:, real])
        hole = pad.unsqueeze(2) | pad.unsqueeze(1)
        eye = torch.eye(columns.shape[1], dtype=before.dtype, device=before.device)
        after = torch.where(hole, eye, before - gain)
        before = torch.where(hole, eye, before)
        nats = 0.5 * self.view.uses * (torch.logdet(before) - torch.logdet(after))
        return nats.clamp_min(0)

    def transfers(self, units: Int[Tensor, " u"]) -> float:
        """Nats that the units ``units`` transfer together, others as given."""
        made = self.standardised()
        owner = self.view.unit
        given = torch.isin(owner, units) | (owner < 0)
        left = logdet_eye_plus(made.space.unexplained(made.weight, given))
        return max(0.0, made.total(self.view.uses) - 0.5 * self.view.uses * left)
