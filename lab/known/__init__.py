"""Distributions whose mutual information is known: the truth that estimators are held against.

Each function makes a `Known` record, which samples itself and says what the right answer is. The
choice of distributions follows Czyz et al., "Beyond Normal: On the Evaluation of Mutual Information
Estimators", arXiv 2306.11078; sets of redundant and synergistic units are added, because a pruning
has to choose between units and not only to measure them.
"""

from lab.known.labels import parity, table, two_classes
from lab.known.nonlinear import additive_uniform, modular_sum, normal_of_variance
from lab.known.normal import dense_normal, normal, sparse_normal, transformed
from lab.known.record import How, Known, Sample
from lab.known.redundant import duplicated, strong_and_weak, two_triples

__all__ = [
    "How",
    "Known",
    "Sample",
    "additive_uniform",
    "dense_normal",
    "duplicated",
    "modular_sum",
    "normal",
    "normal_of_variance",
    "parity",
    "sparse_normal",
    "strong_and_weak",
    "table",
    "transformed",
    "two_classes",
    "two_triples",
]
