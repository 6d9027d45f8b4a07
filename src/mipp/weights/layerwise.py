"""Competing methods that go layer after layer: Wanda and SparseGPT, from their formulas."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.selection.spend_weights import Spread
from mipp.weights.regression import Pattern


@dataclass(frozen=True)
class Wanda:
    """|w_jq| times the norm of input q over all examples and positions; the smallest go.

    Compared within each output, which is the paper's default (``spread="rows"``), or within the
    layer (``"uniform"``). Layers in their order, on what the net pruned so far puts in; weights
    that stay are not changed.
    """

    name: ClassVar[str] = "wanda"
    summary: ClassVar[str] = "|weight| times the norm of its input, compared within each output"
    source: ClassVar[str] = "Sun et al. 2024, arXiv 2306.11695"
    spread: ClassVar[Spread] = "rows"

    def prune(
        self,
        weight: Float[Tensor, "m d"],
        moment: Float[Tensor, "d d"],
        share: float,
        spread: Spread,
        pattern: Pattern | None = None,
    ) -> tuple[Bool[Tensor, "m d"], Float[Tensor, "m d"]]:
        """The weights that stay, and what they become. See `mipp.weights.layerwise`."""
        scores = weight.abs() * moment.diagonal().clamp_min(0).sqrt()
        mask = best(scores, share, spread, pattern)
        return mask, weight * mask


@dataclass(frozen=True)
class SparseGPT:
    """One sweep over the inputs of a layer: what goes is made up for by the inputs yet to come.

    With H = E[X X'] + ``damping`` times its mean diagonal, and U the upper Cholesky factor of
    inverse(H): for every ``block`` of inputs those weights go whose w^2 / U_qq^2 is smallest, over
    all outputs of the layer; then input by input the error w / U_qq of what went is taken off the
    weights of later inputs, in proportion to U's row. A pattern is chosen run by run on the way.
    Both defaults are the paper's.
    """

    name: ClassVar[str] = "sparsegpt"
    summary: ClassVar[str] = "optimal brain surgeon in one sweep over the inputs of a layer"
    source: ClassVar[str] = "Frantar and Alistarh 2023, arXiv 2301.00774"
    spread: ClassVar[Spread] = "uniform"

    damping: float | int = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.damping > 0 or self.block < 1:
            raise InputError(
                f"SparseGPT has damping={self.damping} and block={self.block}; expected a share "
                "above 0, such as 0.01, and a number of inputs, such as 128."
            )

    def prune(
        self,
        weight: Float[Tensor, "m d"],
        moment: Float[Tensor, "d d"],
        share: float,
        spread: Spread,
        pattern: Pattern | None = None,
    ) -> tuple[Bool[Tensor, "m d"], Float[Tensor, "m d"]]:
        """The weights that stay, and what they become. See `mipp.weights.layerwise`."""
        d = weight.shape[1]
        weight, moment = weight.clone(), moment.clone()
        dead = moment.diagonal() <= 0
        moment.diagonal()[dead] = 1
        weight[:, dead] = 0
        moment.diagonal().add_(self.damping * moment.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
        root = torch.linalg.cholesky(inverse, upper=True)
        mask = torch.ones_like(weight, dtype=torch.bool)
        # runs of a pattern are not cut by a block
        size = self.block if pattern is None else -(-self.block // pattern.run) * pattern.run
        for start in range(0, d, size):
            stop = min(start + size, d)
            upper, part = root[start:stop, start:stop], weight[:, start:stop].clone()
            if pattern is None:
                scores = part.square() / upper.diagonal().square()
                mask[:, start:stop] = best(scores, share, spread, None)
            errors = torch.zeros_like(part)
            for q in range(stop - start):
                if pattern is not None and q % pattern.run == 0:
                    run = slice(q, min(q + pattern.run, stop - start))
                    scores = part[:, run].square() / upper.diagonal()[run].square()
                    mask[:, start:stop][:, run] = best(scores, share, spread, pattern)
                gone = ~mask[:, start + q]
                error = part[:, q] * gone / upper[q, q]
                part[:, q:] -= error.unsqueeze(1) * upper[q, q:]
                errors[:, q] = error
            weight[:, start:stop] = part
            weight[:, stop:] -= errors @ root[start:stop, stop:]
        return mask, weight * mask


Layerwise = Wanda | SparseGPT
"""``prune(weight, moment, share, spread, pattern)``: which weights of one block of rows stay, and
what they become. ``moment``: E[X X'] of what it takes in. ``share`` of the weights stays, of each
row or of all together (``spread``); a pattern decides by itself how many."""

LAYERWISE: dict[str, type[Layerwise]] = {method.name: method for method in (Wanda, SparseGPT)}


def best(
    scores: Float[Tensor, "m d"], share: float, spread: Spread, pattern: Pattern | None
) -> Bool[Tensor, "m d"]:
    """The highest scores: those of each run, of each row, or of all rows together."""
    whole = torch.ones_like(scores, dtype=torch.bool)
    if pattern is not None:
        return ~pattern.removable(whole, scores)
    held = scores if spread == "rows" else scores.reshape(1, -1)
    count = int(share * held.shape[1] + 1e-9)
    order = held.argsort(dim=1, descending=True, stable=True)[:, :count]
    found = torch.zeros_like(held, dtype=torch.bool).scatter_(
        1, order, torch.ones_like(order, dtype=torch.bool)
    )
    return found.view_as(scores)
