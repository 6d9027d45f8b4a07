"""Covariances of features: which features vary at all, and a form for fewer rows than features."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEW = 8
"""Features for each row from which on rows are cheaper to work with than the covariance: an
elimination scores all units about fifty times, each time for ``rows^2 features`` operations in row
space; in feature space it takes some ``features^3`` altogether."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A covariance of low rank, as the centred rows that it was measured from.

    Attributes:
        rows: over the square root of their number, so that the covariance is ``rows.T @ rows``.
    """

    rows: Float[Tensor, "n d"]

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the covariance."""
        return self.rows.dtype

    def columns(self, index: Int[Tensor, " c"]) -> "Factor":
        """The covariance of some of the features."""
        return Factor(self.rows[:, index])

    def diagonal(self) -> Float[Tensor, " d"]:
        """Variance of each feature."""
        return self.rows.square().sum(0)

    def dense(self) -> Float[Tensor, "d d"]:
        """The covariance as a matrix."""
        return self.rows.T @ self.rows


Covariance = Float[Tensor, "d d"] | Factor
"""A covariance as a matrix, or as the rows that it was measured from."""


def submatrix(covariance: Covariance, index: Int[Tensor, " c"]) -> Float[Tensor, "c c"] | Factor:
    """The covariance of some of the features."""
    if isinstance(covariance, Factor):
        return covariance.columns(index)
    return covariance[index][:, index]


def dense(covariance: Float[Tensor, "*g d d"] | Factor) -> Float[Tensor, "*g d d"]:
    """The covariance as a matrix, or as one for each block."""
    return covariance.dense() if isinstance(covariance, Factor) else covariance


def varies(
    variance: Float[Tensor, " d"], mean: Float[Tensor, " d"], dtype: torch.dtype
) -> Bool[Tensor, " d"]:
    """Which features vary by more than the rounding of their values.

    A feature that never varies carries no information, whatever its scale: a ReLU that never opens,
    a cell of a kernel that sees only padding. Its measured variance is zero, or, where its value is
    not, what rounding leaves of it.

    Args:
        variance: variance of each feature.
        mean: mean of each feature.
        dtype: number type of the values that were measured.
    """
    return variance > (8 * torch.finfo(dtype).eps * mean).square()


def centred(values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows about their mean, in double precision; exactly 0 where a feature never varies."""
    wide = values.double()
    mean = wide.mean(0)
    out = wide - mean
    out[:, ~varies(out.square().mean(0), mean, values.dtype)] = 0
    return out
