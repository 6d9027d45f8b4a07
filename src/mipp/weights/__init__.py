"""Pruning inside layers: the weights, the information of each row, and the refit of what is left.

The pieces of `mipp.plan(granularity="weight")` and its patterns; the mathematics is in
`mipp.weights.regression`, and derived in docs/research/weights.md.
"""

from mipp.weights.layers import Layer, find_layers, in_whole_runs, without_protected
from mipp.weights.measure import Stop, in_order, measure, n_bytes
from mipp.weights.row_curves import RowCurves, cells_first, chosen, curves_of, precision, rows_of
from mipp.weights.update import update

__all__ = [
    "Layer",
    "RowCurves",
    "Stop",
    "cells_first",
    "chosen",
    "curves_of",
    "find_layers",
    "in_order",
    "in_whole_runs",
    "measure",
    "n_bytes",
    "precision",
    "rows_of",
    "update",
    "without_protected",
]
