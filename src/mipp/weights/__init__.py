"""Pruning inside layers: which weights there are, what each row tells, and what is left of it.

The pieces of `mipp.plan(granularity="weight")` and its patterns; the mathematics is in
`mipp.weights.regression`, and derived in docs/weights.md.
"""

from mipp.selection.spend_weights import Choice, Spread, spend
from mipp.weights.layers import Layer, find_layers, without_protected
from mipp.weights.layerwise import LAYERWISE, Layerwise, SparseGPT, Wanda, best
from mipp.weights.measure import Seen, Stop, in_order, measure, n_bytes
from mipp.weights.row_curves import RowCurves, cells_first, chosen, curves_of, precision, rows_of
from mipp.weights.update import update

__all__ = [
    "LAYERWISE",
    "Choice",
    "Layer",
    "Layerwise",
    "RowCurves",
    "Seen",
    "SparseGPT",
    "Spread",
    "Stop",
    "Wanda",
    "best",
    "cells_first",
    "chosen",
    "curves_of",
    "find_layers",
    "in_order",
    "measure",
    "n_bytes",
    "precision",
    "rows_of",
    "spend",
    "update",
    "without_protected",
]
