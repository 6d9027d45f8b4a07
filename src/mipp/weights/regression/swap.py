"""Weights that stay changed for removed ones that say more, while anything is to be had.

Elimination never takes back what it removed. Here every row changes its cheapest weights for the
removed ones that would explain most of what is left unexplained, many at a time, is fitted anew by
conjugate gradients, and keeps the change if that explains more; if not, it tries half as many. A
local search of this kind is known for best subsets in regression (Miller 2002, Subset Selection in
Regression, section 3.7, has the sequential replacement of one variable at a time).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.weights.regression.approximate import own_share
from mipp.weights.regression.problem import Pattern, Rows, fitted

FIRST = 0.1
"""Share of a row's weights that the first round changes."""


def improved(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    pattern: Pattern | None = None,
    allowed: Bool[Tensor, "m d"] | None = None,
    rounds: int = 10,
    steps: int = 5,
) -> Bool[Tensor, "m d"]:
    """A mask with as many weights in each row, never one that explains less.

    ``pattern``: weights are changed inside a run, so that it holds as before. ``allowed``: only
    these may come in. ``steps``: of conjugate gradients after each of the ``rounds``. To within
    what those reach: errors are told from above on the way.
    """
    target = rows.standardised @ rows.correlation
    count = mask.sum(1)
    out = ~mask if allowed is None else ~mask & allowed
    share = torch.full_like(count, FIRST, dtype=target.dtype)
    weight, left = fitted(rows, rows.standardised * mask, target, mask, 2 * steps)
    told = ((target + left) * weight).sum(1)
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
        new, still_left = fitted(rows, weight * tried, target, tried, steps)
        explained = ((target + still_left) * new).sum(1)
        better = explained > told
        took = better.unsqueeze(1)
        mask, out = torch.where(took, tried, mask), torch.where(took, left_out, out)
        weight, left = torch.where(took, new, weight), torch.where(took, still_left, left)
        told = torch.where(better, explained, told)
        share = torch.where(better, share, share / 2)
    return mask


def _pairs(
    gain: Float[Tensor, "m d"], cost: Float[Tensor, "m d"], most: int, pattern: Pattern | None
) -> tuple[Int[Tensor, "m n"], Int[Tensor, "m n"], Bool[Tensor, "m n"]]:
    """Up to ``most`` places to enter and to leave, the best first, and whether that is worth it."""
    if pattern is None:
        n = min(most, gain.shape[1])
        gains, entering = gain.topk(n, 1)
        costs, leaving = cost.topk(n, 1, largest=False)
        return entering, leaving, gains > costs
    starts = torch.arange(0, gain.shape[1], pattern.run, device=gain.device)
    gains, entering = pattern.runs(gain, -1.0).max(2)
    costs, leaving = pattern.runs(cost, torch.inf).min(2)
    _, best = (gains - costs).topk(min(most, len(starts)), 1)
    entering, leaving = ((starts + place).gather(1, best) for place in (entering, leaving))
    return entering, leaving, (gains > costs).gather(1, best)


def _changed(
    mask: Bool[Tensor, "m d"],
    entering: Int[Tensor, "m n"],
    leaving: Int[Tensor, "m n"],
    worth: Bool[Tensor, "m n"],
) -> Bool[Tensor, "m d"]:
    gone = mask.scatter(1, leaving, mask.gather(1, leaving) & ~worth)
    return gone.scatter(1, entering, gone.gather(1, entering) | worth)
