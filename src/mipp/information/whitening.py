"""Outputs in units in which their noise is the identity."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp.errors import InputError


def whitening(
    noise: float | int | str,
    fisher: Float[Tensor, "m m"] | None,
    variance: Float[Tensor, " m"] | None,
) -> Float[Tensor, "r m"]:
    """The matrix ``A`` for which the noise of ``A Y`` is the identity; ``r`` is at most ``m``.

    ``fisher`` is needed for ``"fisher"`` noise, ``variance`` for a share of it.

    Directions that no noise-free loss sees, and outputs that never vary, are dropped.
    """
    if noise == "fisher":
        if fisher is None:
            raise InputError("noise='fisher' needs Fisher matrices, and none were captured.")
        values, vectors = torch.linalg.eigh(fisher.double())
        seen = values > values[-1:].clamp_min(0) * 1e-12
        return (vectors[:, seen] * values[seen].sqrt()).T
    assert variance is not None
    seen = variance > 0
    return torch.diag(1 / (float(noise) * variance.double()).sqrt())[seen]
