"""From what was measured to one curve for each row: nats lost against weights kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mipp.statistics import Statistics
from mipp.weights.layers import Layer
from mipp.weights.regression import Pattern, Rows, eliminate, follow, follow_exactly, improved

SINGLE_ABOVE = 256
"""Inputs of a row above which the path is followed in float32; exact steps stay in float64."""

EXACT = 1e12
"""Operations that the exact elimination of one layer may take: half a minute on one core for the
1024 x 1024 weights that it just allows. Beyond them the path decides, its end is exact where that
can be had for as much."""

LARGE = 2048
"""Inputs of a row above which the path takes fewer rounds and steps, and ends earlier: there it
takes much of the time, and the swaps after it make up for that. At 1/64 of the weights a row has
lost most of what it told."""

AHEAD = 1.5
"""The exact end of a path starts from so many times the weights that are to stay, in float64."""

FINE = 64
"""Up to so many weights of a row, and in so many steps above them, what an exact path knows of it
is kept for pricing."""


@dataclass(frozen=True, eq=False)
class RowCurves:
    """The rows of one layer, all blocks after one another: n rows with d inputs each.

    ``kept`` (n, t): weights that a row has left, falling to 0. ``nats`` (n, t): lost per example by
    then, rising from what is lost with all of them. ``rank`` (n, d): place of each weight in the
    order of removal. ``exact``: whether that is the order of the exact elimination.
    """

    kept: Int[Tensor, "n t"]
    nats: Float[Tensor, "n t"]
    rank: Int[Tensor, "n d"]
    exact: bool

    @property
    def total(self) -> float:
        """Nats that the rows tell with all their weights, seen one by one."""
        return float(self.nats[:, -1].sum())


def precision(layer: Layer) -> torch.dtype:
    """In which the path of a layer is followed."""
    return torch.float32 if layer.block[1] > SINGLE_ABOVE else torch.float64


def cells_first(layer: Layer) -> Int[Tensor, " d"]:
    """Columns in the order in which runs of a pattern count: neighbouring inputs, cell by cell."""
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
    """Each block of a layer as a regression problem, columns as `cells_first` has them.

    ``noise``: ``"fisher"`` or a share of each output's variance, as for `mipp.Gaussian`. Where
    nothing can take up a shift of the mean, moments are about zero.
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
            # an output that the loss never depends on is seen through noise without end
            variance = 1 / known[block].clamp_min(_floor(known))
        else:
            power = ((mine @ covariance) * mine).sum(1)
            variance = float(noise) * power.clamp_min(_floor(power))
        uses = seen.uses if layer.routed else max(1, round(seen.uses))
        made.append(Rows(covariance, mine, variance, uses, ridge))
    return made


def _floor(values: Float[Tensor, "*m"]) -> float:
    """A share of the largest below which a value is taken for zero; 1 where all are."""
    return float(values.max()) * 1e-12 or 1.0


def curves_of(
    blocks: list[Rows], allowed: list[Bool[Tensor, "m d"]], pattern: Pattern | None
) -> RowCurves:
    """The curves of all rows of a layer. ``allowed``: weights of each block that are not zero."""
    kept, nats, ranks = [], [], []
    exact = sum(_dear(live.sum(1)) for live in allowed) <= EXACT
    for rows, live in zip(blocks, allowed, strict=True):
        d = rows.shape[1]
        if exact:
            path = follow_exactly(rows, 1, pattern, live)
            shown = (path.sizes <= FINE) | (path.sizes % max(1, d // FINE) == 0)
            shown[0] = True
        else:
            fewest, share, steps = (d // 64, 0.65, 2) if d > LARGE else (1, 0.8, 3)
            path = follow(rows, fewest, pattern, share, steps, live)
            shown = torch.ones_like(path.sizes, dtype=torch.bool)
        sizes = torch.cat([path.sizes[shown], path.sizes.new_zeros(1)])
        whole = ((rows.standardised @ rows.correlation) * rows.standardised).sum(1)
        errors = torch.cat([path.errors[:, shown], whole.unsqueeze(1)], 1).cummax(1).values
        nats.append(rows.nats(errors).double())
        kept.append(torch.minimum(sizes.to(live.device), live.sum(1, keepdim=True)))
        ranks.append(path.rank)
    # blocks whose inputs repeat each other have taken other sizes
    longest = max(curve.shape[1] for curve in kept)
    kept, nats = ([_extended(c, longest) for c in curves] for curves in (kept, nats))
    return RowCurves(torch.cat(kept), torch.cat(nats), torch.cat(ranks), exact)


def _extended(curve: Shaped[Tensor, "m t"], length: int) -> Shaped[Tensor, "m u"]:
    """The same curve, its last point told again."""
    return torch.cat([curve, curve[:, -1:].expand(-1, length - curve.shape[1])], 1)


def _dear(count: Int[Tensor, " m"]) -> float:
    """Operations of the exact elimination from so many weights in each row."""
    return float((count.double() ** 3).sum()) * 2 / 3


def chosen(
    blocks: list[Rows],
    allowed: list[Bool[Tensor, "m d"]],
    curves: RowCurves,
    keep: Int[Tensor, " n"],
    pattern: Pattern | None,
) -> list[Bool[Tensor, "m d"]]:
    """The weights that stay when row j keeps ``keep[j]``: the path, its end exactly, then swaps.

    A pattern keeps its quota in every row, whatever ``keep`` says.
    """
    masks = []
    m, d = blocks[0].shape
    for block, (rows, live) in enumerate(zip(blocks, allowed, strict=True)):
        rank = curves.rank[block * m : (block + 1) * m]
        wanted = keep[block * m : (block + 1) * m].to(rank.device)
        first = torch.clamp((AHEAD * wanted).ceil().long(), max=d)
        # from other weights than all, a row's inverse has to be made, which takes twice as long
        if curves.exact or 3 * len(blocks) * _dear(first) > EXACT:
            first = wanted
        mask = (rank >= d - first.unsqueeze(1)) & live
        if pattern is not None:
            wanted = (mask & ~pattern.removable(mask, rank.double())).sum(1)
        mask = eliminate(rows, mask, wanted, pattern)
        masks.append(improved(_single(rows), mask, pattern, live))
    return masks


def _single(rows: Rows) -> Rows:
    """Long rows in float32, as the path is followed."""
    if rows.shape[1] <= SINGLE_ABOVE or rows.covariance.dtype == torch.float32:
        return rows
    covariance, weight, noise = rows.covariance.float(), rows.weight.float(), rows.noise.float()
    return Rows(covariance, weight, noise, rows.uses, rows.ridge)
