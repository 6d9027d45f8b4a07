"""Which units are removed: elimination, stop rules and budgets, from scores and costs alone."""

from mipp.options import Allocation, Order
from mipp.selection.budget import Budget, Limits, parse_budget
from mipp.selection.eliminate import (
    Confidence,
    Share,
    Stop,
    eliminate,
    eliminate_until,
    removable,
    surely_positive,
    untouched,
)
from mipp.selection.spend_units import spend

__all__ = [
    "Allocation",
    "Budget",
    "Confidence",
    "Limits",
    "Order",
    "Share",
    "Stop",
    "eliminate",
    "eliminate_until",
    "parse_budget",
    "removable",
    "spend",
    "surely_positive",
    "untouched",
]
