"""Greedy elimination of single weights, row by row, one at a time: exact, and dear.

Every row carries the inverse of its own inputs' correlations; a removal is a low-rank correction of
it (Hassibi and Stork 1993, optimal brain surgeon). For k inputs a row takes about k^3 operations.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.information.rows.best import moments, supports
from mipp.information.rows.path import Path
from mipp.information.rows.problem import Pattern, Rows

Note = Callable[[int, Int[Tensor, " r"], Float[Tensor, " r"], Bool[Tensor, " r"]], None]
"""``note(step, inputs, costs, moving)``: what each row has lost in a step, where it is moving."""


def eliminate(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    keep: Int[Tensor, " m"],
    pattern: Pattern | None = None,
) -> Bool[Tensor, "m d"]:
    """Takes weights out of the mask, the least costly of a row first, until a row has ``keep``.

    The least costly is the one without which the row's output, with all other weights adapted,
    loses the fewest nats. ``pattern``: runs that are down to what they may keep lose no more.
    """
    found = mask.clone()
    surplus = mask.sum(1) - keep
    for chosen, inputs in supports(rows, mask & (surplus > 0).unsqueeze(1)):
        found[chosen] = _eliminated(rows, found[chosen], chosen, inputs, surplus[chosen], pattern)
    return found


def follow_exactly(
    rows: Rows,
    fewest: int = 1,
    pattern: Pattern | None = None,
    allowed: Bool[Tensor, "m d"] | None = None,
) -> Path:
    """The whole elimination, with a size for every weight: `mipp.information.rows.follow`, exact.

    For small rows: k^3 operations for each of k weights. Arguments as there.
    """
    m, d = rows.shape
    device = rows.weight.device
    live = torch.ones((m, d), dtype=torch.bool, device=device) if allowed is None else allowed
    fewest = max(fewest, pattern.quota(d) if pattern else 1)
    rank = torch.zeros((m, d), dtype=torch.int64, device=device)
    added = torch.zeros((m, d - fewest + 1), dtype=rows.correlation.dtype, device=device)
    left = live.clone()
    for chosen, inputs in supports(rows, live):
        absent = d - inputs.shape[1]

        def note(
            step: int, least: Tensor, costs: Tensor, moving: Tensor,
            chosen: Tensor = chosen, absent: int = absent,
        ) -> None:  # fmt: skip
            rank[chosen[moving], least[moving]] = absent + step
            added[chosen[moving], absent + step + 1] = costs[moving]

        surplus = torch.full_like(chosen, max(0, inputs.shape[1] - fewest))
        left[chosen] = _eliminated(rows, left[chosen], chosen, inputs, surplus, pattern, note)
    # what was not allowed goes first, what is left last
    first = (~live).long().cumsum(1) - 1
    rank = torch.where(live, rank, first)
    last = d - left.sum(1, keepdim=True) + left.long().cumsum(1) - 1
    rank = torch.where(left, last, rank)
    sizes = torch.arange(d, fewest - 1, -1)
    return Path(rank, sizes, added.cumsum(1))


def _eliminated(
    rows: Rows,
    mask: Bool[Tensor, "r d"],
    chosen: Int[Tensor, " r"],
    inputs: Int[Tensor, "r k"],
    surplus: Int[Tensor, " r"],
    pattern: Pattern | None,
    note: Note | None = None,
) -> Bool[Tensor, "r d"]:
    target = (rows.standardised[chosen] @ rows.correlation).gather(1, inputs)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments(rows, inputs)))
    weight = (inverse @ target.unsqueeze(2)).squeeze(2)
    alive = torch.ones_like(inputs, dtype=torch.bool)
    row = torch.arange(len(inputs), device=inputs.device)
    for number in range(int(surplus.max())):
        costs = _costs(weight, inverse)
        free = alive
        if pattern is not None:
            free = alive & pattern.surplus(mask).gather(1, inputs)
        least = torch.where(free, costs, torch.full_like(costs, torch.inf)).argmin(1)
        # rows that are through are carried along, unchanged
        moving = (number < surplus) & free.any(1)
        if note is not None:
            note(number, inputs[row, least], costs[row, least], moving)
        column = inverse[row, least]
        pivot = torch.where(moving, column[row, least], torch.ones_like(column[:, 0]))
        column = torch.where(moving.unsqueeze(1), column, torch.zeros_like(column))
        weight -= column * (weight[row, least] / pivot).unsqueeze(1)
        inverse.baddbmm_(column.unsqueeze(2) / -pivot[:, None, None], column.unsqueeze(1))
        weight[row[moving], least[moving]] = 0
        alive[row[moving], least[moving]] = False
        mask[row[moving], inputs[row, least][moving]] = False
    return mask


def _costs(weight: Float[Tensor, "r k"], inverse: Float[Tensor, "r k k"]) -> Float[Tensor, "r k"]:
    """What the removal of each weight adds to the variance that is not explained."""
    spread = inverse.diagonal(dim1=1, dim2=2)
    return weight.square() / spread.clamp_min(torch.finfo(spread.dtype).tiny)
