"""Whether a fit helps, by rows that had no part in it.

With many more rows than features any fit does. With few, least squares follows their accidents and
does more harm than good: then held-out rows choose among several fits, or to leave the layer as it
is.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.surgery.refit.ridge import Ridge

FEWEST = 8
"""Rows from which something can be fitted that others would confirm."""

N_FOLDS = 8
MANY = 64
"""Examples from which half as many folds do."""

STRENGTHS = (1.0, 30.0, 1000.0)
"""Multiples of the requested ridge that held-out rows choose from."""


def best_fit(
    n_rows: int,
    n_features: int,
    few_rows: float,
    gains: Callable[[], Float[Tensor, "fits n"]],
) -> int | None:
    """Which of several fits to use; None where none surely helps.

    Surely: the sum over the held-out examples (or rows) of what a fit gains is above its standard
    error.

    Args:
        n_rows: rows available.
        n_features: features of a row.
        few_rows: rows for each feature from which on the first fit is used unseen.
        gains: by how much each fit lowers the squared error of each held-out example.
    """
    if n_rows >= few_rows * n_features:
        return 0
    if n_rows < FEWEST:
        return None
    found = gains()
    best = int(found.sum(1).argmax())
    error = float(found[best].std(correction=0)) * found.shape[1] ** 0.5
    return best if float(found[best].sum()) > error else None


def chosen_strength(
    fitted: Ridge, ridge: float, example: Int[Tensor, " n"], few_rows: float = math.inf
) -> float | None:
    """The strength of the ridge to use, or None for leaving the layer as it is; see `best_fit`.

    Args:
        fitted: the layer, all rows.
        ridge: the least strength.
        example: which example each row is from; rows of one are held out together, where there are
            several examples.
        few_rows: rows for each feature from which on the least strength is used.
    """
    strengths = [ridge * factor for factor in STRENGTHS]

    def gains() -> Float[Tensor, "strengths examples"]:
        number = _numbers(example)
        n_examples = int(number.max()) + 1
        n_folds = min(N_FOLDS if n_examples < MANY else N_FOLDS // 2, n_examples)
        rows = fitted.gains(strengths, number * n_folds // n_examples)
        return rows.new_zeros(len(strengths), n_examples).index_add_(1, number, rows)

    n, d = fitted.problem.x.shape
    best = best_fit(n, d, few_rows, gains)
    return None if best is None else strengths[best]


def _numbers(example: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The examples, counted from 0; each row for itself where there is one example."""
    names, number = torch.unique(example, return_inverse=True)
    return torch.arange(len(example), device=example.device) if len(names) == 1 else number
