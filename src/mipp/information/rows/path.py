"""All rows of a layer at once, from all weights to few: in rounds, with one shared matrix.

In each round every row loses its smallest weights (of standardised inputs), and the others are
fitted anew by conjugate gradients, which need only products with the one matrix of correlations
that all rows share. An exact elimination carries an inverse for each row, d^3 operations for each;
this takes some hundred products of (m, d) and (d, d).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.information.rows.problem import Pattern, Rows


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
    steps: int = 6,
    allowed: Bool[Tensor, "m d"] | None = None,
) -> Path:
    """Down to ``fewest`` weights a row (a pattern's quota, if that is more).

    ``share``: of a row's weights that stay in a round; ``steps``: of conjugate gradients after it.
    ``allowed``: weights outside of it, which have to be zero, stay zero and go first.
    """
    m, d = rows.shape
    target = rows.standardised @ rows.correlation
    weight = rows.standardised.clone()
    free_to_move = torch.ones_like(weight, dtype=torch.bool) if allowed is None else allowed
    whole = (target * weight).sum(1)
    mask = torch.ones((m, d), dtype=torch.bool, device=weight.device)
    rank = torch.zeros((m, d), dtype=torch.int64, device=weight.device)
    sizes = _sizes(d, max(fewest, pattern.quota(d) if pattern else 1), share)
    errors = [torch.zeros_like(whole)]
    for before, after in itertools.pairwise(sizes):
        size = weight.abs()
        free = mask if pattern is None else pattern.removable(mask, size)
        last = torch.where(free, size, torch.full_like(size, torch.inf))
        order = last.argsort(dim=1, stable=True)
        gone = order[:, : before - after]
        places = torch.arange(d - before, d - after, device=weight.device).expand_as(gone)
        rank.scatter_(1, gone, places)
        mask.scatter_(1, gone, torch.zeros_like(gone, dtype=torch.bool))
        weight, left = descent(rows, weight * mask, target, mask & free_to_move, steps)
        # target'w is what is explained at the optimum, and this holds on the way there, too
        explained = (target + left).mul(weight).sum(1)
        errors.append((whole - explained).clamp_min(0))
    order = torch.where(mask, weight.abs(), torch.full_like(weight, -torch.inf)).argsort(1)
    kept = order[:, d - sizes[-1] :]
    rank.scatter_(1, kept, torch.arange(d - sizes[-1], d, device=weight.device).expand_as(kept))
    return Path(rank, torch.tensor(sizes), torch.stack(errors, 1).cummax(1).values)


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


def descended(
    rows: Rows,
    weight: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    mask: Bool[Tensor, "m d"],
    steps: int,
) -> Float[Tensor, "m d"]:
    """Conjugate gradients from ``weight`` towards the best weights on the mask.

    ``weight`` is of standardised inputs, and ``target`` their covariance with the outputs.
    """
    return descent(rows, weight, target, mask, steps)[0]


def descent(
    rows: Rows,
    weight: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    mask: Bool[Tensor, "m d"],
    steps: int,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
    """The same, and the covariance of the inputs in the mask with what is left unexplained."""
    left = (target - weight @ rows.correlation) * mask
    along, norm = left, left.square().sum(1)
    for _ in range(steps):
        across = (along @ rows.correlation) * mask
        curve = (along * across).sum(1)
        stride = torch.where(curve > 0, norm / curve, torch.zeros_like(norm)).unsqueeze(1)
        weight = weight + stride * along
        left = left - stride * across
        fresh = left.square().sum(1)
        turn = torch.where(norm > 0, fresh / norm, torch.zeros_like(norm)).unsqueeze(1)
        along, norm = left + turn * along, fresh
    return weight, left
