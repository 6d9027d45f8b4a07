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
from mipp.selection.kinds import spend_by_kinds
from mipp.selection.spend_units import CostModel, spend

__all__ = [
    "Allocation",
    "Budget",
    "Confidence",
    "CostModel",
    "Limits",
    "Order",
    "Share",
    "Stop",
    "eliminate",
    "eliminate_until",
    "parse_budget",
    "removable",
    "spend",
    "spend_by_kinds",
    "surely_positive",
    "untouched",
]
