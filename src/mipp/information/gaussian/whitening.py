"""Outputs in units in which their noise is the identity."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp.covariance import varies


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
