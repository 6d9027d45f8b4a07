"""Bringing a model into a form that can be pruned, and back."""

from mipp.prepare.experts import Expert, Experts, restacked, unstacked
from mipp.prepare.folding import folded

__all__ = ["Expert", "Experts", "folded", "restacked", "unstacked"]
