"""One curve for each row, from what was measured: nats lost against weights kept."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mipp.statistics import Statistics
from mipp.weights.layers import Layer
from mipp.weights.regression import (
    Pace,
    Path,
    Pattern,
    Rows,
    alternating,
    eliminate,
    follow,
    follow_exactly,
    improved,
)

SINGLE_ABOVE = 256
"""Inputs of a row above which the approximate path uses float32; exact steps stay in float64."""

EXACT = 1e12
"""Most operations of the exact elimination of one layer: half a minute on one core for the 1024 x
1024 weights that it just allows. Beyond them a path gives the prices and alternating projections
what stays, and the end is exact where that is within the same limit."""

LARGE = 2048
"""Inputs of a row above which the path of a pattern takes fewer rounds and steps: there it takes
much of the time, and the swaps after it compensate for that. Without a pattern there are no swaps,
either."""

END = 32
"""A path that ends early does so at this fraction of the weights: by then a row has lost most of
its information."""

PRICES = Pace(share=0.5, steps=1, first=0.2, coarse=True)
"""Of a path that is followed for its prices alone."""

AHEAD = 1.5
"""The exact end of a path, in float64, starts from this multiple of the weights that stay."""

FINE = 64
"""Points of an exact path that are kept for pricing: all up to this many weights of a row, and this
many steps above."""

POINTS = 96
"""Points of the curve between the rounds of a path, evenly spaced by the root of the weights."""


@dataclass(frozen=True, eq=False)
class RowCurves:
    """The rows of one layer, all blocks after one another: n rows with d inputs each.

    Attributes:
        kept: Weights that a row has left, falling to 0, shape ``(n, t)``.
        nats: Nats lost per example by then, rising, shape ``(n, t)``.
        rank: Place of each weight in the order of removal, shape ``(n, d)``; None where what stays
            is found otherwise.
        exact: Whether that is the order of the exact elimination.
    """

    kept: Int[Tensor, "n t"]
    nats: Float[Tensor, "n t"]
    rank: Int[Tensor, "n d"] | None
    exact: bool

    @property
    def total(self) -> float:
        """Sum of the nats that each row transfers with all its weights."""
        return float(self.nats[:, -1].sum())


def precision(layer: Layer) -> torch.dtype:
    """The number type of a layer's approximate path."""
    return torch.float32 if layer.block[1] > SINGLE_ABOVE else torch.float64


def cells_first(layer: Layer) -> Int[Tensor, " d"]:
    """Columns in the order of a pattern's runs: neighbouring inputs, cell by cell."""
    _, d = layer.block
    return torch.arange(d).view(layer.channels, -1).T.flatten()


def rows_of(
    layer: Layer,
    seen: Statistics,
    weight: Tensor,
    noise: float | int | str,
    ridge: float | int,
    dtype: torch.dtype = torch.float64,
) -> list[Rows]:
    """Each block of a layer as a regression problem, with columns in the order of `cells_first`.

    Where nothing can absorb a shift of the mean, moments are about zero.

    Args:
        layer: The layer.
        seen: What was measured of it.
        weight: Its weight.
        noise: ``"fisher"`` or a share of each output's variance, as for `mipp.Gaussian`.
        ridge: As in `Rows`.
        dtype: Of the problems.
    """
    order = cells_first(layer).to(weight.device)
    moment = seen.moment(centred=layer.centred)
    made = []
    for block, matrix in enumerate(layer.blocks(weight.detach())):
        covariance = moment[block][order][:, order].to(dtype)
        mine = matrix[:, order].to(dtype)
        if noise == "fisher":
            assert seen.fisher is not None
            known = seen.fisher.to(dtype)
            # an output that the loss never depends on has nearly infinite noise
            variance = 1 / known[block].clamp_min(_floor(known))
        else:
            power = ((mine @ covariance) * mine).sum(1)
            variance = float(noise) * power.clamp_min(_floor(power))
        uses = seen.uses if layer.routed else max(1, round(seen.uses))
        made.append(Rows(covariance, mine, variance, uses, ridge))
    return made


def _floor(values: Float[Tensor, "*m"]) -> float:
    """A share of the largest value; smaller values are taken for zero. 1 if all are zero."""
    return float(values.max()) * 1e-12 or 1.0


def curves_of(
    blocks: list[Rows], allowed: list[Bool[Tensor, "m d"]], pattern: Pattern | None
) -> RowCurves:
    """The curves of all rows of a layer.

    Args:
        blocks: Rows of each block of the layer.
        allowed: Weights of each block that are not zero.
        pattern: That the weights of a row have to fit, if any.
    """
    kept, nats, ranks = [], [], []
    exact = sum(_operations(live.sum(1)) for live in allowed) <= EXACT
    for rows, live in zip(blocks, allowed, strict=True):
        d = rows.shape[1]
        if exact:
            path = follow_exactly(rows, 1, pattern, live)
            shown = (path.sizes <= FINE) | (path.sizes % max(1, d // FINE) == 0)
            shown[0] = True
            sizes, errors = _to_nothing(rows, path, shown)
        elif pattern is None:
            path = follow(rows, max(1, d // END), None, PRICES, live)
            sizes, errors = _between(*_to_nothing(rows, path, slice(None)))
        else:
            fewest, pace = (d // END, Pace(0.65, 2)) if d > LARGE else (1, Pace())
            path = follow(rows, fewest, pattern, pace, live)
            sizes, errors = _to_nothing(rows, path, slice(None))
        nats.append(rows.nats(errors).double())
        kept.append(torch.minimum(sizes.to(live.device), live.sum(1, keepdim=True)))
        if exact or pattern is not None:
            ranks.append(path.rank)
    # blocks with copied inputs have other sizes
    longest = max(curve.shape[1] for curve in kept)
    kept, nats = ([_extended(c, longest) for c in curves] for curves in (kept, nats))
    rank = torch.cat(ranks) if ranks else None
    return RowCurves(torch.cat(kept), torch.cat(nats), rank, exact)


def _to_nothing(
    rows: Rows, path: Path, shown: Bool[Tensor, " t"] | slice
) -> tuple[Int[Tensor, " s"], Float[Tensor, "m s"]]:
    """Sizes and errors of a path, with the last step to no weights at all."""
    sizes = torch.cat([path.sizes[shown], path.sizes.new_zeros(1)])
    whole = ((rows.standardised @ rows.correlation) * rows.standardised).sum(1)
    errors = torch.cat([path.errors[:, shown], whole.unsqueeze(1)], 1)
    return sizes, errors.cummax(1).values


def _between(
    sizes: Int[Tensor, " s"], errors: Float[Tensor, "m s"]
) -> tuple[Int[Tensor, " t"], Float[Tensor, "m t"]]:
    """A monotone curve through the rounds: alike rows would otherwise keep one of two far sizes.

    Roots of errors over roots of sizes are nearly straight lines.
    """
    from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - only wide layers need it

    spread = np.linspace(0, 1, POINTS + 1) ** 2 * int(sizes[0])
    points = np.unique(np.ceil(spread).astype(np.int64))
    roots = errors.double().clamp_min(0).sqrt().flip(1).cpu().numpy()
    found = PchipInterpolator(np.sqrt(sizes.flip(0).numpy()), roots, axis=1)(np.sqrt(points))
    curve = torch.from_numpy(found).square().flip(1).to(errors)
    return torch.from_numpy(points).flip(0), curve.cummax(1).values


def _extended(curve: Shaped[Tensor, "m t"], length: int) -> Shaped[Tensor, "m u"]:
    """The curve with its last point repeated."""
    return torch.cat([curve, curve[:, -1:].expand(-1, length - curve.shape[1])], 1)


def _operations(count: Int[Tensor, " m"]) -> float:
    """Operations of the exact elimination, given the number of weights of each row."""
    return float((count.double() ** 3).sum()) * 2 / 3


def chosen(
    blocks: list[Rows],
    allowed: list[Bool[Tensor, "m d"]],
    curves: RowCurves,
    keep: Int[Tensor, " n"],
    pattern: Pattern | None,
) -> list[Bool[Tensor, "m d"]]:
    """The weights that stay when row j keeps ``keep[j]``: the path, its exact end, then swaps.

    In wide layers without a pattern, alternating projections take the place of the path.

    Args:
        blocks: Rows of each block of the layer.
        allowed: Weights of each block that are not zero.
        curves: Of all rows of the layer.
        keep: Number of weights of each row; a pattern keeps its quota regardless.
        pattern: That the weights of a row have to fit, if any.
    """
    masks = []
    m, d = blocks[0].shape
    for block, (rows, live) in enumerate(zip(blocks, allowed, strict=True)):
        mine = slice(block * m, (block + 1) * m)
        wanted = keep[mine].to(live.device)
        first = torch.clamp((AHEAD * wanted).ceil().long(), max=d)
        # a start from fewer than all weights needs an inverse for each row: twice the time
        if curves.exact or 3 * len(blocks) * _operations(first) > EXACT:
            first = wanted
        if curves.rank is None:
            mask = alternating(_single(rows), first, live)
        else:
            mask = (curves.rank[mine] >= d - first.unsqueeze(1)) & live
        if pattern is not None:
            assert curves.rank is not None
            wanted = (mask & ~pattern.removable(mask, curves.rank[mine].double())).sum(1)
        mask = eliminate(rows, mask, wanted, pattern)
        if curves.rank is not None:
            mask = improved(_single(rows), mask, pattern, live)
        elif d <= LARGE:
            mask = improved(_single(rows), mask, None, live, rounds=3, steps=3)
        masks.append(mask)
    return masks


def _single(rows: Rows) -> Rows:
    """Long rows in float32, as in the approximate path."""
    if rows.shape[1] <= SINGLE_ABOVE or rows.covariance.dtype == torch.float32:
        return rows
    covariance, weight, noise = rows.covariance.float(), rows.weight.float(), rows.noise.float()
    return Rows(covariance, weight, noise, rows.uses, rows.ridge)
