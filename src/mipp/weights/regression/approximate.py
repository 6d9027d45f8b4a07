"""Approximate elimination of weights in all rows of a layer at once, and its improvement by swaps.

In each round every row loses the weights that cost least, and the others are refitted by conjugate
gradients, which need only products with the one matrix of correlations that all rows share. An
exact elimination carries an inverse for each row, d^3 operations for each; this takes tens of
products of (m, d) and (d, d). The exact cost of a weight needs the diagonal of the row's own
inverse; here the diagonal of a few rows serves all.

Elimination never takes back what it removed. `improved` swaps each row's cheapest weights for the
removed ones that would explain most of what is left unexplained, many at a time, refits by
conjugate gradients, and keeps the swap if that explains more; if not, it tries half as many. A
local search of this kind is known for best subsets in regression (Miller 2002, Subset Selection in
Regression, section 3.7, has the sequential replacement of one variable at a time).
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mipp.weights.regression.least_squares import Pattern, Rows, fitted

SAMPLED = 2
"""Rows whose own inverses are computed in each round."""

SAME = 1e-5
"""Inputs whose correlation is 1, or -1, to within this are copies: float32 resolves no more."""

LOWEST = 0.1
"""Smallest share of an input's variance that counts as its own: costs are those of removing one
weight alone, and inputs that replace each other must not all be removed in one round."""

FIRST = 0.1
"""Share of a row's weights that the first round of swaps changes."""


@dataclass(frozen=True, eq=False)
class Path:
    """Nested sets of weights for every row, and their costs.

    Attributes:
        order: Number of each weight that rises in the order of removal of its row, shape
            ``(m, d)``.
        sizes: Weights that a row keeps after each round, falling from all of them, shape ``(t,)``.
        errors: Variance of each output that those weights cannot explain, shape ``(m, t)``.
    """

    order: Shaped[Tensor, "m d"]
    sizes: Int[Tensor, " t"]
    errors: Float[Tensor, "m t"]

    @cached_property
    def rank(self) -> Int[Tensor, "m d"]:
        """Place of each weight in the order of removal of its row, 0 for the first removed."""
        places = torch.arange(self.order.shape[1], device=self.order.device)
        rank = torch.empty_like(self.order, dtype=torch.int64)
        first = self.order.argsort(dim=1, stable=True)
        return rank.scatter_(1, first, places.expand_as(rank))

    def mask(self, keep: Int[Tensor, " m"]) -> Bool[Tensor, "m d"]:
        """The last ``keep`` weights of every row's order."""
        return self.rank >= self.rank.shape[1] - keep.unsqueeze(1)


@dataclass(frozen=True)
class Pace:
    """How fast a path is followed.

    Attributes:
        share: Share of a row's weights that stay in a round.
        steps: Conjugate-gradient steps after each round.
        first: Share that the first round removes; the next removes twice as much, and so on down to
            ``share``.
        coarse: Whether products may be coarse (`Rows.coarse`).
    """

    share: float = 0.8
    steps: int = 3
    first: float = 0.02
    coarse: bool = False


def follow(
    rows: Rows,
    fewest: int = 1,
    pattern: Pattern | None = None,
    pace: Pace = Pace(),
    allowed: Bool[Tensor, "m d"] | None = None,
) -> Path:
    """Eliminates down to ``fewest`` weights a row, in rounds.

    Of inputs that are copies of each other the first takes over the weights, and the others are
    removed in the first round.

    Args:
        rows: The rows of a layer.
        fewest: Weights that a row keeps at the end (a pattern's quota, if that is more).
        pattern: Keeps its quota in every run.
        pace: Of the rounds.
        allowed: Weights outside of it, which have to be zero, stay zero and are removed first.
    """
    m, d = rows.shape
    target = rows.standardised @ rows.correlation
    weight = rows.standardised.clone()
    free_to_move = torch.ones_like(weight, dtype=torch.bool) if allowed is None else allowed
    whole = (target * weight).sum(1)
    mask = torch.ones((m, d), dtype=torch.bool, device=weight.device)
    # number of the round that removes a weight, and within a round by size: sorted once, at the end
    order = torch.zeros_like(weight)
    fewest = max(fewest, pattern.quota(d) if pattern else 1)
    spare = take_over(rows, weight, free_to_move)
    copies = min(int(spare.sum(1).max()), d - fewest)
    sizes = [d] if copies else []
    sizes += _sizes(d - copies, fewest, pace)
    errors = [torch.zeros_like(whole)]
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        size = weight.abs().mul_(own_share(rows, mask & free_to_move).sqrt())
        if before == d and copies:
            size[spare] = -1
        most = 2 * size.max()
        free = mask if pattern is None else pattern.removable(mask, size)
        if before < d or pattern is not None:
            size.masked_fill_(~free, torch.inf)
        lost, gone = size.topk(before - after, 1, largest=False, sorted=False)
        order.scatter_(1, gone, number + _below_one(lost, most))
        mask.scatter_(1, gone, torch.zeros_like(gone, dtype=torch.bool))
        weight, left = fitted(rows, weight, target, mask & free_to_move, pace.steps, pace.coarse)
        # target'w is explained at the optimum; this formula also holds on the way there
        explained = left.add_(target).mul_(weight).sum(1)
        errors.append((whole - explained).clamp_min(0))
    size = weight.abs()
    order = torch.where(mask, len(sizes) + _below_one(size, 2 * size.max()), order)
    return Path(order, torch.tensor(sizes), torch.stack(errors, 1).cummax(1).values)


def _below_one(size: Float[Tensor, "m n"], most: Float[Tensor, ""]) -> Float[Tensor, "m n"]:
    """Sizes over ``most``, which is twice the largest, or more: in the same order."""
    return size / most.clamp_min(torch.finfo(size.dtype).tiny)


def take_over(
    rows: Rows, weight: Float[Tensor, "m d"], allowed: Bool[Tensor, "m d"]
) -> Bool[Tensor, "m d"]:
    """Gives weights of copied inputs to the first of them, in place; returns the copies."""
    same = (rows.correlation.abs() > 1 - SAME).tril(-1)
    first, repeats = same.to(torch.uint8).argmax(1), same.any(1)
    spare = torch.zeros_like(allowed)
    # a copy of a copy, but not of its first, is left alone
    for q in torch.nonzero(repeats & ~repeats[first]).flatten().tolist():
        p = int(first[q])
        both = allowed[:, p] & allowed[:, q]
        weight[:, p] += torch.where(both, rows.correlation[p, q].sign() * weight[:, q], 0.0)
        weight[:, q] *= ~both
        spare[:, q] = both
    return spare


def own_share(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, " d"]:
    """Variance of each input that a row's inputs leave unexplained, the mean over a few rows."""
    m, d = mask.shape
    n_rows = 1 if bool(mask.all()) else min(m, SAMPLED)
    found = rows.correlation.new_zeros(d)
    for row in torch.linspace(0, m - 1, n_rows).long().tolist():
        read, others = torch.nonzero(mask[row]).flatten(), torch.nonzero(~mask[row]).flatten()
        # blocks of a matrix are Schur complements of its inverse, and the reverse: with few inputs
        # the matrix is cheap, with few missing inputs its inverse
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


def _sizes(d: int, fewest: int, pace: Pace) -> list[int]:
    """Sizes of the kept set after every round; the last is exactly ``fewest``.

    Small first rounds resolve weights that cost nothing.
    """
    sizes, goes = [d], pace.first
    while sizes[-1] > fewest:
        stays = int(np.floor(max(pace.share, 1 - goes) * sizes[-1]))
        sizes.append(max(fewest, min(sizes[-1] - 1, stays)))
        goes *= 2
    return sizes


def improved(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    pattern: Pattern | None = None,
    allowed: Bool[Tensor, "m d"] | None = None,
    rounds: int = 10,
    steps: int = 5,
) -> Bool[Tensor, "m d"]:
    """A mask with equally many weights in each row that explains at least as much, by swaps.

    Comparisons are as accurate as the conjugate gradients, which overestimate errors on the way.

    Args:
        rows: The rows of a layer.
        mask: The weights that are kept.
        pattern: Weights are swapped inside a run, so that it holds as before.
        allowed: Only these may enter the mask.
        rounds: Most rounds of swaps.
        steps: Conjugate-gradient steps after each round.
    """
    target = rows.standardised @ rows.correlation
    count = mask.sum(1)
    out = ~mask if allowed is None else ~mask & allowed
    share = torch.full_like(count, FIRST, dtype=target.dtype)
    weight, left = fitted(rows, rows.standardised, target, mask, 2 * steps)
    explained = ((target + left) * weight).sum(1)
    for _ in range(rounds):
        own = own_share(rows, mask)
        gain = left.square() / own
        gain = torch.where(out, gain, torch.full_like(gain, -1))
        cost = torch.where(mask, weight.square() * own, torch.full_like(gain, torch.inf))
        most = (share * count).clamp_min(1).long()
        entering, leaving, worth = _pairs(gain, cost, int(most.max()), pattern)
        worth = worth & (torch.arange(worth.shape[1], device=worth.device) < most.unsqueeze(1))
        if not bool(worth.any()):
            break
        tried, left_out = (
            _changed(mask, entering, leaving, worth),
            _changed(out, leaving, entering, worth),
        )
        new, still_left = fitted(rows, weight, target, tried, steps)
        now_explained = ((target + still_left) * new).sum(1)
        better = now_explained > explained
        took = better.unsqueeze(1)
        mask, out = torch.where(took, tried, mask), torch.where(took, left_out, out)
        weight, left = torch.where(took, new, weight), torch.where(took, still_left, left)
        explained = torch.where(better, now_explained, explained)
        share = torch.where(better, share, share / 2)
    return mask


def _pairs(
    gain: Float[Tensor, "m d"], cost: Float[Tensor, "m d"], most: int, pattern: Pattern | None
) -> tuple[Int[Tensor, "m n"], Int[Tensor, "m n"], Bool[Tensor, "m n"]]:
    """Up to ``most`` places to enter and to leave, the best first, and whether each swap pays."""
    if pattern is None:
        n = min(most, gain.shape[1])
        gains, entering = gain.topk(n, 1)
        costs, leaving = cost.topk(n, 1, largest=False)
        return entering, leaving, gains > costs
    starts = torch.arange(0, gain.shape[1], pattern.run, device=gain.device)
    gains, entering = pattern.runs(gain, -1.0).max(2)
    costs, leaving = pattern.runs(cost, torch.inf).min(2)
    top = (gains - costs).topk(min(most, len(starts)), 1).indices
    entering, leaving = ((starts + place).gather(1, top) for place in (entering, leaving))
    return entering, leaving, (gains > costs).gather(1, top)


def _changed(
    mask: Bool[Tensor, "m d"],
    entering: Int[Tensor, "m n"],
    leaving: Int[Tensor, "m n"],
    worth: Bool[Tensor, "m n"],
) -> Bool[Tensor, "m d"]:
    gone = mask.scatter(1, leaving, mask.gather(1, leaving) & ~worth)
    return gone.scatter(1, entering, gone.gather(1, entering) | worth)
