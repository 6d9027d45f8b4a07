"""Greedy elimination of single weights, row by row, one at a time: exact but expensive.

Every row carries the inverse of its own inputs' correlations; a removal is a low-rank correction of
it (Hassibi and Stork 1993, optimal brain surgeon). The corrections of several removals are applied
at once, which changes only the time. From k inputs a row takes about 2/3 k^3 operations.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import inverse_from
from mipp.weights.regression.approximate import Path
from mipp.weights.regression.least_squares import MEMORY, Pattern, Rows, moments

Note = Callable[
    [Int[Tensor, " n"], int, Int[Tensor, " n"], Float[Tensor, " n"], Bool[Tensor, " n"]], None
]
"""``note(rows, step, inputs, costs, moving)``: the input each row loses in a step, if it moves."""

DELAY = 32
"""Removals between two corrections of the whole inverse."""

ALIKE = 0.9
"""Rows processed together have at least this share of the inputs of the largest."""


def eliminate(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    keep: Int[Tensor, " m"],
    pattern: Pattern | None = None,
) -> Bool[Tensor, "m d"]:
    """Removes weights from the mask, the least costly of a row first, until a row has ``keep``.

    The least costly is the one without which the row's output, with all other weights adapted,
    loses the fewest nats.

    Args:
        rows: The rows of a layer.
        mask: The weights to start from.
        keep: Number of weights that each row keeps.
        pattern: Runs that are down to their quota lose no more.
    """
    found = mask.clone()
    surplus = mask.sum(1) - keep
    for chosen in _alike(rows, mask & (surplus > 0).unsqueeze(1)):
        found[chosen] = _eliminated(rows, found[chosen], chosen, surplus[chosen], pattern)
    return found


def follow_exactly(
    rows: Rows,
    fewest: int = 1,
    pattern: Pattern | None = None,
    allowed: Bool[Tensor, "m d"] | None = None,
) -> Path:
    """The whole elimination, one weight at a time: the exact `mipp.weights.regression.follow`.

    For small rows: k^3 operations for a row of k weights. The arguments are those of `follow`.
    """
    m, d = rows.shape
    device = rows.weight.device
    live = torch.ones((m, d), dtype=torch.bool, device=device) if allowed is None else allowed
    fewest = max(fewest, pattern.quota(d) if pattern else 1)
    rank = torch.zeros((m, d), dtype=torch.int64, device=device)
    added = torch.zeros((m, d - fewest + 1), dtype=rows.correlation.dtype, device=device)
    left = live.clone()
    absent = d - live.sum(1)
    for chosen in _alike(rows, live):

        def note(
            row: Tensor, step: int, least: Tensor, costs: Tensor, moving: Tensor,
            chosen: Tensor = chosen,
        ) -> None:  # fmt: skip
            mine = chosen[row[moving]]
            rank[mine, least[moving]] = absent[mine] + step
            added[mine, absent[mine] + step + 1] = costs[moving]

        surplus = (d - absent[chosen] - fewest).clamp_min(0)
        left[chosen] = _eliminated(rows, left[chosen], chosen, surplus, pattern, note)
    # weights outside of `allowed` come first, those that are left last
    first = (~live).long().cumsum(1) - 1
    rank = torch.where(live, rank, first)
    last = d - left.sum(1, keepdim=True) + left.long().cumsum(1) - 1
    rank = torch.where(left, last, rank)
    sizes = torch.arange(d, fewest - 1, -1)
    return Path(rank, sizes, added.cumsum(1))


def _alike(rows: Rows, mask: Bool[Tensor, "m d"]) -> Iterator[Int[Tensor, " r"]]:
    """Rows that read about equally many inputs, as many at a time as fit the memory."""
    counts = mask.sum(1)
    order = counts.argsort(descending=True, stable=True)
    order, most = order[counts[order] > 0], counts[order].tolist()
    start = 0
    while start < len(order):
        fit = max(1, MEMORY // (rows.correlation.element_size() * most[start] ** 2))
        stop = start
        while stop < min(start + fit, len(order)) and most[stop] >= ALIKE * most[start]:
            stop += 1
        yield order[start:stop]
        start = stop


def _eliminated(
    rows: Rows,
    mask: Bool[Tensor, "r d"],
    chosen: Int[Tensor, " r"],
    surplus: Int[Tensor, " r"],
    pattern: Pattern | None,
    note: Note | None = None,
) -> Bool[Tensor, "r d"]:
    state = _State.of(rows, chosen, mask)
    # the rows that still lose weights, as places in `mask`
    row = torch.arange(len(chosen), device=mask.device)
    for number in range(int(surplus.max())):
        if number % DELAY == 0:
            state.correct()
            going = surplus[row] > number
            if not bool(going.all()) or 4 * int(state.alive.sum(1).max()) < 3 * state.width:
                state, row = state.without(going), row[going]
        costs = state.costs()
        free = state.alive
        if pattern is not None:
            free = free & pattern.surplus(mask[row]).gather(1, state.inputs)
        least = torch.where(free, costs, torch.full_like(costs, torch.inf)).argmin(1)
        moving = (surplus[row] > number) & free.any(1)
        each = torch.arange(len(row), device=row.device)
        if note is not None:
            note(row, number, state.inputs[each, least], costs[each, least], moving)
        state.remove(least, moving, number % DELAY)
        mask[row[moving], state.inputs[each, least][moving]] = False
    return mask


class _State:
    """The state of some rows: the inverse of their inputs' correlations, as ``inverse - V'V``.

    ``V`` has up to `DELAY` rows, one for each removal since `correct`. Correcting the whole inverse
    at each removal would take many times as long, as memory is slow.
    """

    def __init__(
        self,
        inputs: Int[Tensor, "r k"],
        inverse: Float[Tensor, "r k k"],
        weight: Float[Tensor, "r k"],
        spread: Float[Tensor, "r k"],
        alive: Bool[Tensor, "r k"],
    ) -> None:
        self.inputs, self.inverse, self.weight = inputs, inverse, weight
        self.spread, self.alive = spread, alive
        self.late = inverse.new_zeros((len(inputs), DELAY, inputs.shape[1]))

    @classmethod
    def of(cls, rows: Rows, chosen: Int[Tensor, " r"], mask: Bool[Tensor, "r d"]) -> "_State":
        width = int(mask.sum(1).max())
        # a row that reads fewer is filled up with inputs that are independent of the others
        inputs = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        alive = mask.gather(1, inputs)
        if width == rows.shape[1] and bool(alive.all()):
            # all rows start from the one inverse of all inputs, with the weights that they have
            whole = inverse_from(torch.linalg.cholesky(rows.correlation))
            inverse = whole.repeat(len(inputs), 1, 1)
            weight = rows.standardised[chosen]
        else:
            target = (rows.standardised[chosen] @ rows.correlation).gather(1, inputs) * alive
            own = moments(rows, inputs).mul_(alive.unsqueeze(1)).mul_(alive.unsqueeze(2))
            own.diagonal(dim1=1, dim2=2).add_(~alive)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(own))
            weight = (inverse @ target.unsqueeze(2)).squeeze(2)
        spread = inverse.diagonal(dim1=1, dim2=2).clone()
        return cls(inputs, inverse, weight, spread, alive)

    @property
    def width(self) -> int:
        return self.inputs.shape[1]

    def costs(self) -> Float[Tensor, "r k"]:
        """Unexplained variance that the removal of each weight would add."""
        return self.weight.square() / self.spread.clamp_min(torch.finfo(self.spread.dtype).tiny)

    def remove(self, least: Int[Tensor, " r"], moving: Bool[Tensor, " r"], late: int) -> None:
        """Removes one weight from every moving row."""
        each = torch.arange(len(least), device=least.device)
        column = self.inverse[each, least]
        if late:
            # what is still to come is zero, and a part of it would be copied first
            mine = self.late[each, :, least].unsqueeze(1)
            column = column.unsqueeze(1).baddbmm(mine, self.late, alpha=-1).squeeze(1)
        pivot = column[each, least].clamp_min(torch.finfo(column.dtype).tiny)
        # rows that are through are carried along, unchanged
        column = column * (moving / pivot.sqrt()).unsqueeze(1)
        self.late[:, late] = column
        self.spread -= column.square()
        self.weight -= column * (self.weight[each, least] / pivot.sqrt()).unsqueeze(1)
        self.weight[each[moving], least[moving]] = 0
        self.alive[each[moving], least[moving]] = False

    def correct(self) -> None:
        """Corrects the inverse for all removals since the last time."""
        self.inverse.baddbmm_(self.late.mT, self.late, alpha=-1)
        self.late.zero_()

    def without(self, going: Bool[Tensor, " r"]) -> "_State":
        """The rows that go on, without the inputs that none of them reads any more."""
        alive = self.alive[going]
        width = int(alive.sum(1).max())
        # a row that reads fewer keeps some dead ones
        place = (~alive).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        which = torch.nonzero(going)
        inverse = self.inverse[which, place].gather(2, place.unsqueeze(1).expand(-1, width, -1))
        parts = (self.inputs[going], self.weight[going], self.spread[going], alive)
        inputs, weight, spread, alive = (part.gather(1, place) for part in parts)
        return _State(inputs, inverse, weight, spread, alive)
