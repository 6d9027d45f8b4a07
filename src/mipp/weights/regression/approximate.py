"""All rows of a layer at once, from all weights to few: in rounds, with one shared matrix.

In each round every row loses the weights that cost least, and the others are fitted anew by
conjugate gradients, which need only products with the one matrix of correlations that all rows
share. An exact elimination carries an inverse for each row, d^3 operations for each; this takes
some hundred products of (m, d) and (d, d). What a weight costs takes the diagonal of the row's own
inverse; here it is that of a few rows, for all.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.weights.regression.problem import Pattern, Rows, fitted

SAMPLED = 2
"""Rows whose own inverses are looked at in each round."""

SAME = 1e-5
"""Inputs whose correlation is 1, or -1, to within this are copies: float32 tells no more."""

LOWEST = 0.1
"""Share of an input's variance that counts at least as its own: the cost of a weight is told as if
it went alone, and inputs that stand in for each other must not all go in one round."""


@dataclass(frozen=True, eq=False)
class Path:
    """Nested sets of weights for every row, and what they cost.

    ``rank`` (m, d): place of each weight in the order of removal of its row, 0 for the first to go.
    ``sizes`` (t,): weights a row keeps after each round, falling, the first one all of them.
    ``errors`` (m, t): variance of each output that those weights cannot explain.
    """

    rank: Int[Tensor, "m d"]
    sizes: Int[Tensor, " t"]
    errors: Float[Tensor, "m t"]

    def mask(self, keep: Int[Tensor, " m"]) -> Bool[Tensor, "m d"]:
        """The last ``keep`` weights of every row's order."""
        return self.rank >= self.rank.shape[1] - keep.unsqueeze(1)


def follow(
    rows: Rows,
    fewest: int = 1,
    pattern: Pattern | None = None,
    share: float = 0.8,
    steps: int = 3,
    allowed: Bool[Tensor, "m d"] | None = None,
) -> Path:
    """Down to ``fewest`` weights a row (a pattern's quota, if that is more).

    ``share``: of a row's weights that stay in a round; ``steps``: of conjugate gradients after it.
    ``allowed``: weights outside of it, which have to be zero, stay zero and go first. Of
    inputs that are copies of each other the first takes over, and the others go in the first round.
    """
    m, d = rows.shape
    target = rows.standardised @ rows.correlation
    weight = rows.standardised.clone()
    free_to_move = torch.ones_like(weight, dtype=torch.bool) if allowed is None else allowed
    whole = (target * weight).sum(1)
    mask = torch.ones((m, d), dtype=torch.bool, device=weight.device)
    rank = torch.zeros((m, d), dtype=torch.int64, device=weight.device)
    fewest = max(fewest, pattern.quota(d) if pattern else 1)
    spare = _take_over(rows, weight, free_to_move)
    copies = min(int(spare.sum(1).max()), d - fewest)
    sizes = [d] if copies else []
    sizes += _sizes(d - copies, fewest, share)
    errors = [torch.zeros_like(whole)]
    for before, after in itertools.pairwise(sizes):
        size = weight.abs() * own_share(rows, mask & free_to_move).sqrt()
        if before == d:
            size[spare] = -1
        free = mask if pattern is None else pattern.removable(mask, size)
        last = torch.where(free, size, torch.full_like(size, torch.inf))
        order = last.argsort(dim=1, stable=True)
        gone = order[:, : before - after]
        places = torch.arange(d - before, d - after, device=weight.device).expand_as(gone)
        rank.scatter_(1, gone, places)
        mask.scatter_(1, gone, torch.zeros_like(gone, dtype=torch.bool))
        weight, left = fitted(rows, weight * mask, target, mask & free_to_move, steps)
        # target'w is what is explained at the optimum, and this holds on the way there, too
        explained = (target + left).mul(weight).sum(1)
        errors.append((whole - explained).clamp_min(0))
    order = torch.where(mask, weight.abs(), torch.full_like(weight, -torch.inf)).argsort(1)
    kept = order[:, d - sizes[-1] :]
    rank.scatter_(1, kept, torch.arange(d - sizes[-1], d, device=weight.device).expand_as(kept))
    return Path(rank, torch.tensor(sizes), torch.stack(errors, 1).cummax(1).values)


def _take_over(
    rows: Rows, weight: Float[Tensor, "m d"], allowed: Bool[Tensor, "m d"]
) -> Bool[Tensor, "m d"]:
    """Gives weights of copied inputs to the first of them, in place; which ones are spare now."""
    same = (rows.correlation.abs() > 1 - SAME).tril(-1)
    first, repeats = same.to(torch.uint8).argmax(1), same.any(1)
    spare = torch.zeros_like(allowed)
    # what is a copy of a copy, but not of its first, is left alone
    for q in torch.nonzero(repeats & ~repeats[first]).flatten().tolist():
        p = int(first[q])
        both = allowed[:, p] & allowed[:, q]
        weight[:, p] += torch.where(both, rows.correlation[p, q].sign() * weight[:, q], 0.0)
        weight[:, q] *= ~both
        spare[:, q] = both
    return spare


def own_share(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Variance of each input that those of a row leave unexplained, the mean over a few rows."""
    m, d = mask.shape
    n_rows = 1 if bool(mask.all()) else min(m, SAMPLED)
    found = rows.correlation.new_zeros(d)
    for row in torch.linspace(0, m - 1, n_rows).long().tolist():
        read, others = torch.nonzero(mask[row]).flatten(), torch.nonzero(~mask[row]).flatten()
        # of a matrix and its inverse, each has in its blocks what the other has in its complements:
        # what is cheap from few inputs of the one is cheap from few missing ones of the other
        few = 2 * len(read) <= d
        matrix = rows.correlation if few else rows.inverse
        inside, outside = (read, others) if few else (others, read)
        own = matrix[inside]
        root = torch.linalg.cholesky(own[:, inside])
        within = torch.cholesky_inverse(root).diagonal()
        across = torch.linalg.solve_triangular(root, own[:, outside], upper=False)
        beyond = matrix.diagonal()[outside] - across.square().sum(0)
        if few:
            found[inside] += 1 / within
            found[outside] += beyond
        else:
            found[inside] += within
            # an input leaves no more unexplained than its own variance
            found[outside] += 1 / torch.maximum(beyond, 1 / rows.correlation.diagonal()[outside])
    return (found / n_rows).clamp_min(LOWEST)


def _sizes(d: int, fewest: int, share: float) -> list[int]:
    """Of the kept set after every round, a fixed share each, the last one exactly ``fewest``.

    The first rounds take 2 %, 4 %, 8 % and so on: what can be had for nothing is told apart.
    """
    sizes, goes = [d], 0.02
    while sizes[-1] > fewest:
        stays = int(np.floor(max(share, 1 - goes) * sizes[-1]))
        sizes.append(max(fewest, min(sizes[-1] - 1, stays)))
        goes *= 2
    return sizes
