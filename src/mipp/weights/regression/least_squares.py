"""The best weights on given inputs, and what is left unexplained, for all rows of a layer."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.weights.regression.problem import Rows, fitted

MEMORY = 2**28
"""Bytes of second moments of the rows that are solved at once."""

EXACT = 2e10
"""Operations up to which all rows of a layer are solved exactly: some seconds on one core."""

STEPS = 25
"""Of conjugate gradients beyond that."""


def best_weights(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    across: Float[Tensor, "m d"] | None = None,
    most: float | int = EXACT,
) -> Float[Tensor, "m d"]:
    """Least-squares weights on the inputs in the mask, zero elsewhere.

    ``across``: covariance of the outputs that are wanted with the inputs; those of the weights
    themselves where it is None. The ridge pulls towards the weights as they are, which those of
    inputs that never vary stay. ``most``:
    operations for which each row is solved by itself (Cholesky, k^3 / 3 for k weights); beyond
    them, conjugate gradients take steps for all rows together.
    """
    target = _target(rows, across)
    found = torch.zeros_like(rows.standardised)
    if float((mask.sum(1).double() ** 3).sum()) / 3 > most:
        start = rows.standardised * mask
        found = fitted(rows, start, target, mask, STEPS)[0]
    else:
        for chosen, inputs in supports(rows, mask):
            found[chosen.unsqueeze(1), inputs] = _solved(rows, target, chosen, inputs)
    made = (found / rows.deviation).to(rows.weight.dtype)
    # nothing is known of inputs that never vary: what stays of them stays as it is
    return torch.where(mask & ~rows.varies, rows.weight, made)


def errors_left(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Variance of each output that the inputs in the mask cannot explain."""
    target = _target(rows)
    left = (target * rows.standardised).sum(1)
    for chosen, inputs in supports(rows, mask):
        solved = _solved(rows, target, chosen, inputs)
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


def _target(rows: Rows, across: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "m d"]:
    """Covariance of the wanted outputs with standardised inputs, and the ridge's pull."""
    if across is None:
        return rows.standardised @ rows.correlation
    return across.to(rows.correlation.dtype) / rows.deviation + rows.ridge * rows.standardised


def _solved(
    rows: Rows, target: Float[Tensor, "m d"], chosen: Int[Tensor, " r"], inputs: Int[Tensor, "r k"]
) -> Float[Tensor, "r k"]:
    root = torch.linalg.cholesky(moments(rows, inputs))
    mine = target[chosen].gather(1, inputs).unsqueeze(2)
    return torch.cholesky_solve(mine, root).squeeze(2)
