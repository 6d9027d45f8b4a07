"""Mutual information preserving pruning of PyTorch networks."""

__version__ = "0.1.0"
