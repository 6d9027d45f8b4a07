"""Which units go: elimination, stop rules, budgets. Knows scores and costs, not where from."""

from mipp.selection.bounds import Budget, Limits, parse_budget
from mipp.selection.budget import Allocation, spend
from mipp.selection.terc import Order, eliminate, one_pass, removable

__all__ = [
    "Allocation",
    "Budget",
    "Limits",
    "Order",
    "eliminate",
    "one_pass",
    "parse_budget",
    "removable",
    "spend",
]
