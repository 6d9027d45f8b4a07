"""From what was measured to one curve for each row: nats lost against weights kept."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.information.rows import Pattern, Rows, eliminate, follow, follow_exactly
from mipp.weights.layers import Layer
from mipp.weights.measure import Seen

SINGLE_ABOVE = 256
"""Inputs of a row above which the path is followed in float32; exact steps stay in float64."""

SMALL = 64
"""Inputs of a row up to which the whole path is exact: it takes no time there."""

LARGE = 1024
"""Inputs of a row above which the path takes larger rounds and fewer steps, and ends earlier: there
it takes most of the time. At 1/64 of the weights a row has lost most of what it told."""

AHEAD = 1.5
"""The exact elimination starts from so many times the weights that are to stay, in float64."""

EXACT = 2e11
"""Operations that the exact elimination of one layer may take; beyond them the path decides."""


@dataclass(frozen=True, eq=False)
class RowCurves:
    """The rows of one layer, all blocks after one another: n rows with d inputs each.

    ``sizes`` (t,): falling, from d to 0. ``kept`` (n, t): weights that a row has left there, which
    are fewer where it had zeros before. ``nats`` (n, t): lost per example by then, rising from
    what the first size loses. ``rank`` (n, d): place of each weight in the order of removal.
    """

    sizes: Int[Tensor, " t"]
    kept: Int[Tensor, "n t"]
    nats: Float[Tensor, "n t"]
    rank: Int[Tensor, "n d"]

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
    seen: Seen,
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
            variance = 1 / known[block].clamp_min(float(known.max()) * 1e-12 + 1e-30)
        else:
            power = ((mine @ covariance) * mine).sum(1)
            variance = float(noise) * power.clamp_min(float(power.max()) * 1e-12 + 1e-30)
        uses = max(1, round(seen.uses))
        made.append(Rows(covariance, mine, variance, uses, ridge))
    return made


def curves_of(
    blocks: list[Rows], allowed: list[Bool[Tensor, "m d"]], pattern: Pattern | None
) -> RowCurves:
    """The curves of all rows of a layer. ``allowed``: weights of each block that are not zero."""
    kept, nats, ranks = [], [], []
    sizes = torch.zeros(0)
    for rows, live in zip(blocks, allowed, strict=True):
        d = rows.shape[1]
        slow = d > LARGE
        if d <= SMALL:
            path = follow_exactly(rows, 1, pattern, live)
        else:
            fewest, share, steps = (d // 64, 0.6, 3) if slow else (1, 0.8, 6)
            path = follow(rows, fewest, pattern, share, steps, live)
        sizes = torch.cat([path.sizes, path.sizes.new_zeros(1)])
        whole = ((rows.standardised @ rows.correlation) * rows.standardised).sum(1)
        errors = torch.cat([path.errors, whole.unsqueeze(1)], 1).cummax(1).values
        nats.append(rows.nats(errors).double())
        kept.append(torch.minimum(sizes.to(live.device), live.sum(1, keepdim=True)))
        ranks.append(path.rank)
    return RowCurves(sizes, torch.cat(kept), torch.cat(nats), torch.cat(ranks))


def chosen(
    blocks: list[Rows],
    allowed: list[Bool[Tensor, "m d"]],
    curves: RowCurves,
    keep: Int[Tensor, " n"],
    pattern: Pattern | None,
) -> list[Bool[Tensor, "m d"]]:
    """The weights that stay when row j keeps ``keep[j]``: along the path, then exactly.

    A pattern keeps its quota in every row, whatever ``keep`` says.
    """
    masks = []
    m, d = blocks[0].shape
    for block, (rows, live) in enumerate(zip(blocks, allowed, strict=True)):
        rank = curves.rank[block * m : (block + 1) * m]
        wanted = keep[block * m : (block + 1) * m].to(rank.device)
        first = torch.clamp((AHEAD * wanted).ceil().long(), max=d)
        if float(5 * (first.double() ** 3).sum()) > EXACT:
            first = wanted
        mask = (rank >= d - first.unsqueeze(1)) & live
        if pattern is not None:
            wanted = (mask & ~pattern.removable(mask, rank.double())).sum(1)
        masks.append(eliminate(rows, mask, wanted, pattern))
    return masks
