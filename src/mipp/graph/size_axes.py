"""Which axis of a weight gives the size of a dimension of an activation, and of an attribute.

A cost term multiplies sizes of axes of parameters. The positions that a layer works at can also
get fewer: an MLP-Mixer's token layer works once for each channel. Such a dimension is measured by
an axis that holds the same units in the same proportions. So is an attribute of a module, such as a
number of heads, which has to follow when the dimension gets smaller.
"""

import math
from collections.abc import Container, Mapping, Sequence
from fractions import Fraction

import numpy as np

from mipp.graph.findings import Extent, Flow, SizeUse, Term
from mipp.graph.labels import Solution
from mipp.records import KEPT, Axis, AxisKey, IntArray, MacsTerm, SizeAttribute
from mipp.tracing.size_attributes import Attribute

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


# ---- attributes of modules


def contradictions(flow: Flow, solution: Solution) -> list[tuple[IntArray, str]]:
    """Atoms that cannot be removed, since an attribute would have to be two numbers at once."""
    found = []
    proportions: dict[Attribute, Mixture | None] = {}
    for use in flow.size_uses:
        if not _shrinks(use, solution):
            proportions |= dict.fromkeys(use.size.attributes)
    for use in flow.size_uses:
        if not _shrinks(use, solution):
            continue
        assert use.labels is not None
        attribute = use.size.changing(inside=flow.head_dims)
        if attribute is None:
            names = " * ".join(".".join(item).lstrip(".") for item in use.size.attributes)
            reason = f"its size is {names}, and which of them counts units is not known ({use.at})"
            found.append((use.labels, reason))
            continue
        own = _mixture(use, solution)
        if proportions.setdefault(attribute, own) != own:
            name = ".".join(attribute).lstrip(".")
            reason = f"{name} gives its size and also that of something else ({use.at})"
            found.append((use.labels, reason))
    return found


def tie_in_heads(flow: Flow) -> None:
    """Features of heads whose number one attribute gives are one unit, place by place.

    Queries, keys and values that are split by one ``head_dim`` have to lose as many features each.
    """
    first: dict[Attribute, IntArray] = {}
    for attributes, labels in flow.in_heads:
        for attribute in attributes:
            other = first.setdefault(attribute, labels)
            if other is not labels and len(other) == len(labels):
                name = ".".join(attribute).lstrip(".")
                flow.ties.tie(other, labels, f"{name} gives also the size of what has to stay")


def size_attributes(
    flow: Flow, solution: Solution, axes: Mapping[AxisKey, Axis], measures: Measures
) -> tuple[tuple[SizeAttribute, ...], list[tuple[IntArray, str]]]:
    """The attributes that follow an axis, and atoms whose size is in proportion to none."""
    made: dict[Attribute, SizeAttribute] = {}
    lost = []
    values = _values(flow.size_uses)
    for use in flow.size_uses:
        attribute = use.size.changing(inside=flow.head_dims)
        if attribute is None or use.labels is None or not _shrinks(use, solution):
            continue
        axis = measures.axis(Extent(len(use.labels), use.labels))
        if axis is None or axis not in axes:
            name = ".".join(attribute).lstrip(".")
            reason = f"{name} would not be in proportion to any weight's dimension ({use.at})"
            lost.append((use.labels, reason))
        elif attribute in values:
            made[attribute] = SizeAttribute(*attribute, values[attribute], axis)
    return tuple(made[key] for key in sorted(made)), lost


def _values(uses: Sequence[SizeUse]) -> dict[Attribute, int]:
    return {
        attribute: use.size.values[index]
        for use in uses
        for index, attribute in enumerate(use.size.attributes)
    }


def _shrinks(use: SizeUse, solution: Solution) -> bool:
    return use.labels is not None and bool((solution.group_of[use.labels] != KEPT).any())


def _mixture(use: SizeUse, solution: Solution) -> Mixture:
    labels = use.labels
    assert labels is not None
    return mixture(solution.group_of[labels], solution.unit_of[labels])
