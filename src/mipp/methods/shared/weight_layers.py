"""What methods of single weights have in common: blocks of layers, scores, and memory."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp import out_of_memory, weights
from mipp.errors import CalibrationError
from mipp.problem import WeightProblem
from mipp.selection.spend_weights import Spread
from mipp.weights.regression import Pattern


def highest(
    scores: Float[Tensor, "m d"], share: float, spread: Spread, pattern: Pattern | None
) -> Bool[Tensor, "m d"]:
    """The highest scores: those of each run, of each row, or of all rows together."""
    everything = torch.ones_like(scores, dtype=torch.bool)
    if pattern is not None:
        return ~pattern.removable(everything, scores)
    compared = scores if spread == "rows" else scores.reshape(1, -1)
    count = int(share * compared.shape[1] + 1e-9)
    order = compared.argsort(dim=1, descending=True, stable=True)[:, :count]
    found = torch.zeros_like(compared, dtype=torch.bool).scatter_(
        1, order, torch.ones_like(order, dtype=torch.bool)
    )
    return found.view_as(scores)


def whole(layer: weights.Layer, blocks: Sequence[Tensor]) -> Tensor:
    """Blocks with columns as `weights.cells_first` has them, in the shape of the weight."""
    order = weights.cells_first(layer).argsort()
    return layer.whole(torch.stack([block[:, order] for block in blocks]))


def enough_memory(
    problem: WeightProblem, doing: str, layers: Sequence[weights.Layer]
) -> AbstractContextManager[None]:
    """Says which of the layers is the largest, should memory run out inside."""
    config = problem.options.calibration
    largest = max(layers, key=lambda layer: weights.n_bytes(layer, config))
    return out_of_memory.enough_memory(
        doing, largest.module, largest.block[1], weights.n_bytes(largest, config),
        CalibrationError,
        f"Lower memory= (now {problem.options.memory:,} bytes), which holds fewer layers at a "
        "time, give fewer samples=, name the layer in protect=, or take a method that needs no "
        "moments, such as method='l2'.",
    )  # fmt: skip
