"""Covariances of features: which features vary at all, and a form for fewer rows than features."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEW = 8
"""Features for each row from which on rows are cheaper to work with than the covariance: an
elimination scores all units about fifty times, each time for ``rows^2 features`` operations in row
space; in feature space it takes some ``features^3`` altogether."""

PANEL = 1024
"""Features whose products with all others are computed at a time."""


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


def gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """``rows.T @ rows``, of which each half is computed once."""
    d = rows.shape[1]
    found = rows.new_empty(d, d)
    for start in range(0, d, PANEL):
        panel = slice(start, min(start + PANEL, d))
        torch.mm(rows[:, panel].T, rows[:, start:], out=found[panel, start:])
        found[panel.stop :, panel] = found[panel, panel.stop :].T
    return found


def inverse_from(root: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Inverse of a matrix from its lower Cholesky factor, which may be overwritten.

    A large one in large blocks: LAPACK's own routine (dpotri) takes half as long again.
    """
    if len(root) <= PANEL:
        return torch.cholesky_inverse(root)
    d, root = len(root), _invert_lower(root)
    found = root.new_empty(d, d)
    for start in range(0, d, PANEL):
        stop = min(start + PANEL, d)
        # rows above the panel are zero in it
        torch.mm(root[start:, start:stop].T, root[start:, :stop], out=found[start:stop, :stop])
        found[:start, start:stop] = found[start:stop, :start].T
    return found


def _invert_lower(root: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Inverts a lower triangular matrix, in place."""
    d = len(root)
    if d <= PANEL // 2:
        eye = torch.eye(d, dtype=root.dtype, device=root.device)
        root.copy_(torch.linalg.solve_triangular(root, eye, upper=False))
        return root
    half = d // 2
    left, right = _invert_lower(root[:half, :half]), _invert_lower(root[half:, half:])
    root[half:, :half] = -(right @ (root[half:, :half] @ left))
    return root


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
