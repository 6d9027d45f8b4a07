"""The weights that stay in all rows of a wide layer, by alternating projections.

With ``w`` the weights of a row and ``H`` the correlations of its inputs, the best ``k`` weights are
those that minimise ``(z - w)' H (z - w)`` over all ``z`` with ``k`` entries. The alternating
direction method of multipliers (ADMM) takes turns: ``z`` is the projection of ``v + u`` on its
``k`` largest entries, ``v = inverse(H + rho I) (H w + rho (z - u))`` is the best vector near
``z - u``, and ``u`` sums up how far they are apart. All rows share ``H``, so that a turn is one
product with a matrix that was inverted once.

After Boza 2024, arXiv 2401.02938, who fits the weights of given sets and removes more and more;
here sets are free to change from the first turn on, and ``rho`` rises, as in Meng et al. 2024
(ALPS), arXiv 2406.07831: while it is small sets change much, and as it rises they settle.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import inverse_from
from mipp.weights.regression.approximate import take_over
from mipp.weights.regression.conjugate_gradient import coarse_type
from mipp.weights.regression.least_squares import Rows

PENALTIES = (0.25, 0.35, 0.5)
"""``rho`` of each stage, for inputs of variance 1. Each takes an inverse."""

TURNS = 4
"""Turns in each stage."""


def alternating(
    rows: Rows,
    keep: Int[Tensor, " m"],
    allowed: Bool[Tensor, "m d"] | None = None,
    turns: int = TURNS,
) -> Bool[Tensor, "m d"]:
    """The weights that stay, ``keep[j]`` of row j.

    Of inputs that are copies of each other the first takes over the weights; the others stay only
    where nothing else is left.

    Args:
        rows: The rows of a layer.
        keep: Number of weights that each row keeps; all that it is allowed, if that is fewer.
        allowed: Weights outside of it, which have to be zero, stay out.
        turns: Turns at each of the `PENALTIES`.
    """
    start = rows.standardised.clone()
    free = torch.ones_like(start, dtype=torch.bool) if allowed is None else allowed
    spare = take_over(rows, start, free)
    keep = torch.minimum(keep, free.sum(1))
    both = start.clone()
    # an error of 0.4 % decides between weights of equal worth at most; later turns correct it
    coarse = coarse_type(start)
    for stage, penalty in enumerate(PENALTIES):
        nearer = rows.correlation.clone()
        nearer.diagonal().add_(penalty)
        nearer = inverse_from(torch.linalg.cholesky(nearer)).mul_(penalty).to(coarse)
        for turn in range(turns):
            stays = _largest(both, keep, free, spare)
            apart = both.masked_fill(stays, 0)
            # z - u - w: where a weight stays it is v + u, elsewhere the negative of that
            pull = both.addcmul_(apart, apart.new_tensor(-2.0)).sub_(start)
            if turn == turns - 1 and stage < len(PENALTIES) - 1:
                apart.mul_(penalty / PENALTIES[stage + 1])  # u is in units of rho
            apart.add_(start)
            both = apart.add_(pull.to(coarse) @ nearer)
    return _largest(both, keep, free, spare)


def _largest(
    values: Float[Tensor, "m d"],
    keep: Int[Tensor, " m"],
    free: Bool[Tensor, "m d"],
    spare: Bool[Tensor, "m d"],
) -> Bool[Tensor, "m d"]:
    """The ``keep[j]`` largest values of row j by size, spare ones last and only free ones."""
    size = values.abs().masked_fill_(spare, -1).masked_fill_(~free, -2)
    mask = torch.zeros_like(free)
    for count in keep.unique().tolist():
        mine = torch.nonzero(keep == count).flatten()
        top = size[mine].topk(count, 1, sorted=False).indices
        mask[mine.unsqueeze(1), top] = True
    return mask
