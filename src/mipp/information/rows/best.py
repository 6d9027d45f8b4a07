"""The best weights on given inputs, and what is left unexplained, for all rows of a layer."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.information.rows.problem import Rows

MEMORY = 2**28
"""Bytes of second moments of the rows that are solved at once."""


def best_weights(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Least-squares weights on the inputs in the mask, zero elsewhere; exact (Cholesky) by row."""
    found = torch.zeros_like(rows.standardised)
    for chosen, inputs in supports(rows, mask):
        solved = _solved(rows, chosen, inputs)
        found[chosen.unsqueeze(1), inputs] = solved
    return (found / rows.deviation).to(rows.weight.dtype)


def errors_left(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Variance of each output that the inputs in the mask cannot explain."""
    weight = rows.standardised
    target = weight @ rows.correlation
    left = (target * weight).sum(1)
    for chosen, inputs in supports(rows, mask):
        solved = _solved(rows, chosen, inputs)
        left[chosen] -= (solved * target[chosen.unsqueeze(1), inputs]).sum(1)
    return left.clamp_min(0)


def supports(
    rows: Rows, mask: Bool[Tensor, "m d"]
) -> Iterator[tuple[Int[Tensor, " r"], Int[Tensor, "r k"]]]:
    """Rows that keep equally many inputs, so many at a time as fit the memory, and which inputs."""
    counts = mask.sum(1)
    size = rows.correlation.element_size()
    for count in torch.unique(counts).tolist():
        same = torch.nonzero(counts == count).flatten()
        if count == 0:
            continue
        for chosen in same.split(max(1, MEMORY // (size * count * count))):
            inputs = torch.nonzero(mask[chosen])[:, 1].view(len(chosen), count)
            yield chosen, inputs


def moments(rows: Rows, inputs: Int[Tensor, "r k"]) -> Float[Tensor, "r k k"]:
    """Correlations of each row's own inputs."""
    return rows.correlation[inputs.unsqueeze(2), inputs.unsqueeze(1)]


def _solved(
    rows: Rows, chosen: Int[Tensor, " r"], inputs: Int[Tensor, "r k"]
) -> Float[Tensor, "r k"]:
    target = (rows.standardised[chosen] @ rows.correlation).gather(1, inputs)
    root = torch.linalg.cholesky(moments(rows, inputs))
    return torch.cholesky_solve(target.unsqueeze(2), root).squeeze(2)
