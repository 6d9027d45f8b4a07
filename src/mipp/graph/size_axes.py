"""Which axis of a weight tells the size of a dimension of an activation.

A cost term multiplies sizes of axes of parameters. The positions that a layer works at can also
get fewer: an MLP-Mixer's token layer works once for each channel. Such a dimension is measured by
an axis that holds the same units in the same proportions.
"""

import math
from collections.abc import Container, Mapping
from fractions import Fraction

import numpy as np

from mipp.graph.findings import Extent, Term
from mipp.graph.labels import Solution
from mipp.records import KEPT, Axis, AxisKey, IntArray, MacsTerm

Mixture = tuple[tuple[int, int, int], ...]


class Measures:
    """Finds the measuring axis of any extent."""

    def __init__(
        self, solution: Solution, axes: Mapping[AxisKey, Axis], parameters: Container[str]
    ) -> None:
        self._solution = solution
        self._axes = axes
        self._parameters = parameters
        self._by_mixture: dict[Mixture, AxisKey] | None = None

    def constant(self, extent: Extent) -> bool:
        """Whether the extent keeps its size whatever is pruned."""
        if extent.key is not None:
            return extent.key not in self._axes
        if extent.labels is None:
            return True
        return bool((self._solution.group_of[extent.labels] == KEPT).all())

    def axis(self, extent: Extent) -> AxisKey | None:
        """An axis in proportion to an extent that is not constant; None where there is none."""
        if extent.key is not None or extent.labels is None:
            return extent.key
        if self._by_mixture is None:
            self._by_mixture = {}
            for key, axis in self._axes.items():
                if key.tensor in self._parameters:
                    self._by_mixture.setdefault(mixture(axis.group, axis.unit), key)
        solution, atoms = self._solution, extent.labels
        return self._by_mixture.get(mixture(solution.group_of[atoms], solution.unit_of[atoms]))

    def macs(self, term: Term, name: str) -> MacsTerm:
        """The term as a coefficient times sizes of axes."""
        coefficient, keys = Fraction(term.scale), []
        for extent in term.extents:
            key = None if self.constant(extent) else self.axis(extent)
            if key is None:
                coefficient *= extent.size
            else:
                coefficient *= Fraction(extent.size, self._axes[key].size)
                keys.append(key)
        return MacsTerm(name, float(coefficient), tuple(keys), term.routed)


def mixture(group: IntArray, unit: IntArray) -> Mixture:
    """How often each unit occurs, in lowest terms."""
    pairs, counts = np.unique(np.stack([group, unit], axis=1), axis=0, return_counts=True)
    common = math.gcd(*counts.tolist())
    return tuple(
        (int(g), int(u), int(n) // common) for (g, u), n in zip(pairs, counts, strict=True)
    )
