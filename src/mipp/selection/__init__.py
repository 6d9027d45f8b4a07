"""Which units go: elimination, stop rules, budgets. Knows scores and costs, not where from."""

from mipp.selection.budget import Budget, Limits, parse_budget
from mipp.selection.eliminate import Order, eliminate, eliminate_until, removable, untouched
from mipp.selection.spend_units import Allocation, spend
from mipp.selection.stop import Confidence, Share, Stop, surely_positive

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
