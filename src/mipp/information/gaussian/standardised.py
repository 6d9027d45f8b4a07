"""One consumer in units in which the Gaussian estimator computes.

Inputs have unit variance, a ridge added to it; outputs are in units in which their noise is the
identity. A feature that never varies carries no information: it has no weight, and so neither its
scale nor the ridge matters.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import Factor
from mipp.errors import InputError
from mipp.information.estimator import ConsumerView

VISIBLE = 1e-10
"""Share of what an output's parts would have as variance, were they independent, below which its
variance is taken for zero: covariances that were summed in float32 have no more digits."""


LEAST_RIDGE = 1e-8
"""What a correlation matrix that cannot be factored gets on its diagonal at the least; in row space
there is always one feature that is a combination of others."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Correlations of the features, as a matrix; the ridge is in its diagonal."""

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
        """Covariance of ``weight`` times the features, those in ``given`` being known."""
        across = weight @ self.matrix[:, given]
        known = torch.linalg.solve(self.matrix[given][:, given], across.T)
        return weight @ self.matrix @ weight.T - across @ known


@dataclass(frozen=True, eq=False)
class RowSpace:
    """The same correlations as few rows ``Z`` (n, d): ``Z^T Z + ridge I``, never formed.

    By the matrix inversion lemma all that is needed of them follows from
    ``K_S = ridge I + Z_S Z_S^T`` (n, n), S being the features that are known:

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
        """``K_S`` of the features that are known."""
        own = self.rows[:, known]
        gram = own @ own.T
        gram.diagonal().add_(self.ridge)
        return gram

    def unexplained(
        self, weight: Float[Tensor, "r d"], given: Bool[Tensor, " d"]
    ) -> Float[Tensor, "r r"]:
        """Covariance of ``weight`` times the features, those in ``given`` being known."""
        rest = weight[:, ~given]
        half = torch.linalg.solve_triangular(
            cholesky(self.gram(given)), self.rows[:, ~given] @ rest.T, upper=False
        )
        return self.ridge * (rest @ rest.T + half.T @ half)


Space = FeatureSpace | RowSpace


def standardised(
    view: ConsumerView, noise: float | str, ridge: float
) -> tuple[Space, Float[Tensor, "r d"]]:
    """The correlations of a consumer's inputs, and its weight in units of the noise.

    Args:
        view: the consumer, ``d`` features and ``m`` outputs; ``r`` is at most ``min(m, d)``.
        noise: as in `mipp.Gaussian`.
        ridge: added to the variance of each feature, as a share of it.

    Raises:
        InputError: Fisher matrices are asked for, and there are none.
    """
    covariance = view.covariance
    variance = covariance.diagonal().double().clamp_min(0)
    constant = variance == 0
    scale = torch.where(constant, torch.ones_like(variance), variance.sqrt())
    weight = torch.where(constant, 0.0, view.weight.double() * scale)
    if isinstance(covariance, Factor):
        rows = covariance.rows.double() / scale
        white = whitened(weight, (weight @ rows.T).square().sum(1), view.fisher, noise)
        return RowSpace(rows, max(ridge, LEAST_RIDGE)), white
    matrix = covariance.double() / scale
    matrix /= scale.unsqueeze(1)
    white = whitened(weight, ((weight @ matrix) * weight).sum(1), view.fisher, noise)
    matrix.diagonal().add_(constant.to(matrix.dtype) + ridge)
    return FeatureSpace(matrix), white


def whitened(
    weight: Float[Tensor, "m d"],
    variance: Float[Tensor, " m"],
    fisher: Float[Tensor, "m m"] | None,
    noise: float | str,
) -> Float[Tensor, "r d"]:
    """``weight`` in units in which the noise of the outputs is the identity.

    ``r`` is at most ``min(m, d)``: directions that no noise-free loss sees are dropped.

    Args:
        weight: of features of unit variance.
        variance: of each output.
        fisher: Fisher information about the outputs.
        noise: as in `mipp.Gaussian`.
    """
    if noise == "fisher":
        if fisher is None:
            raise InputError("noise='fisher' needs Fisher matrices, and none were captured.")
        fisher = fisher.to(weight.dtype)
        wide = weight.shape[0] > weight.shape[1]
        # the smaller of F and W^T F W is decomposed
        values, vectors = torch.linalg.eigh(weight.T @ fisher @ weight if wide else fisher)
        seen = values > values[-1:].clamp_min(0) * 1e-12
        white = (vectors[:, seen] * values[seen].sqrt()).T
        return white if wide else white @ weight
    seen = variance > VISIBLE * weight.square().sum(1)
    white = weight[seen] / (float(noise) * variance[seen]).sqrt().unsqueeze(1)
    if white.shape[0] > white.shape[1]:
        white = torch.linalg.qr(white, mode="r").R
    return white


def cholesky(corr: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Lower Cholesky factor of a correlation matrix, with as much more ridge as it takes."""
    extra = 0.0
    for _ in range(12):
        root, fault = torch.linalg.cholesky_ex(corr)
        if int(fault) == 0:
            return root
        more = max(10 * extra, LEAST_RIDGE)
        corr.diagonal().add_(more - extra)
        extra = more
    raise InputError("The second moments are not positive semidefinite. Check the activations.")


def logdet_eye_plus(matrix: Float[Tensor, "r r"]) -> float:
    """Logarithm of the determinant of a positive semidefinite matrix plus the identity."""
    even = (matrix + matrix.T) / 2
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, fault = torch.linalg.cholesky_ex(even + eye)
    if int(fault) != 0:  # of moments that rounding has made not quite semidefinite
        return float(torch.linalg.eigvalsh(even).clamp_min(0).log1p().sum())
    return 2 * float(root.diagonal().log().sum())
