"""Rules of ATen ops, one module for each family; importing the package registers them all.

The module `rule` says what a rule is and how one is added.
"""

from mipp.graph.rules import (
    convolutions,
    cuts,
    dense,
    indexing,
    pointwise,
    products,
    recurrent,
    shapes,
)
from mipp.graph.rules.rule import Call, Made, Rule, find_rule, op_name, schema

MODULES = (pointwise, shapes, cuts, indexing, dense, convolutions, products, recurrent)
"""Modules whose import registers the rules."""

__all__ = ["MODULES", "Call", "Made", "Rule", "find_rule", "op_name", "schema"]
