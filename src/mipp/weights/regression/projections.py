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
from mipp.weights.regression.conjugate_gradient import Product, coarse_type
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
    largest = _Largest(start, torch.minimum(keep, free.sum(1)), free, spare)
    # an error of 0.4 % decides between weights of equal worth at most; later turns correct it
    coarse = coarse_type(start)
    start = start[largest.order]
    # changed in place: making new tensors of this size takes as long as the arithmetic
    both, apart, moved = start.clone(), torch.empty_like(start), torch.empty_like(start)
    for stage, penalty in enumerate(PENALTIES):
        nearer = rows.correlation.clone()
        nearer.diagonal().add_(penalty)
        nearer = inverse_from(torch.linalg.cholesky(nearer)).mul_(penalty).to(coarse)
        product = Product(nearer, both)
        for turn in range(turns):
            torch.mul(both, largest.of(both), out=apart)
            torch.sub(both, apart, out=apart)
            # z - u - w: where a weight stays it is v + u, elsewhere the negative of that
            pull = both.sub_(apart, alpha=2).sub_(start)
            if turn == turns - 1 and stage < len(PENALTIES) - 1:
                apart.mul_(penalty / PENALTIES[stage + 1])  # u is in units of rho
            apart.add_(start)
            both, moved = product(pull, moved).add_(apart), both
    return largest.mask(both)


class _Largest:
    """The ``keep[j]`` largest values of row j by size, spare ones last and only free ones.

    Args:
        like: A tensor of the shape and number type of the values.
        keep: Number of values of each row.
        free: Those that may be chosen.
        spare: Those that are chosen where nothing else is left.

    Attributes:
        order: Of the rows, so that those that keep equally many follow each other, shape ``(m,)``.
    """

    def __init__(
        self,
        like: Float[Tensor, "m d"],
        keep: Int[Tensor, " m"],
        free: Bool[Tensor, "m d"],
        spare: Bool[Tensor, "m d"],
    ) -> None:
        counts, self.order = keep.sort(stable=True)
        found, sizes = counts.unique_consecutive(return_counts=True)
        ends = sizes.cumsum(0)
        self._parts = list(zip((ends - sizes).tolist(), ends.tolist(), found.tolist(), strict=True))
        self._spare = spare[self.order] if bool(spare.any()) else None
        self._barred = None if bool(free.all()) else ~free[self.order]
        self._size, self._stays = torch.empty_like(like), torch.empty_like(like)

    def of(self, values: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """1 for these and 0 elsewhere, until the next call; rows come and go in `order`."""
        torch.abs(values, out=self._size)
        for fill, mask in ((-1, self._spare), (-2, self._barred)):
            if mask is not None:
                self._size.masked_fill_(mask, fill)
        self._stays.zero_()
        for start, end, count in self._parts:
            top = self._size[start:end].topk(count, 1, sorted=False).indices
            self._stays[start:end].scatter_(1, top, 1.0)
        return self._stays

    def mask(self, values: Float[Tensor, "m d"]) -> Bool[Tensor, "m d"]:
        """The same as a mask, with rows in the order that they have in the layer."""
        found = torch.empty_like(values, dtype=torch.bool)
        found[self.order] = self.of(values).bool()
        return found
