"""Scores of different groups, brought to one scale so that they can be compared."""

from typing import Literal

import numpy as np

from mipp.methods.method import Scores
from mipp.records import FloatArray, Keep

Normalisation = Literal["none", "mean", "z-score"]
"""What is done with the scores of each group: ``none``; divided by the size of their ``mean`` (as
Torch-Pruning does unless told otherwise); ``z-score``, less their mean and divided by their
standard deviation. Neither changes the order within a group."""

_ROUNDING = 1e-12
"""A spread or a mean below this share of the largest score is rounding."""


def normalised(scores: Scores, keep: Keep, how: Normalisation) -> dict[int, FloatArray]:
    """The scores, each group on the scale of its own units, by group index.

    ``keep``: only units that are left count in means and deviations. Groups whose mean, or for the
    z-score deviation, is zero are not divided.
    """
    if how == "none":
        return dict(scores)
    scaled = {}
    for index, values in scores.items():
        left = values[keep[index]] if index in keep else values
        mean = left.mean() if len(left) else 0.0
        # the authors of the z-score divide by n - 1
        spread = abs(mean) if how == "mean" else left.std(ddof=1) if len(left) > 1 else 0.0
        shift = mean if how == "z-score" else 0.0
        rounding = _ROUNDING * np.abs(left).max(initial=0.0)
        scaled[index] = (values - shift) / (spread if spread > rounding else 1.0)
    return {index: np.asarray(values, dtype=np.float64) for index, values in scaled.items()}
