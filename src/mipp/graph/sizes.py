"""Attributes of modules that spell the size of a dimension which can get smaller."""

from collections.abc import Mapping, Sequence

from mipp.graph.findings import Extent, Flow, SizeUse
from mipp.graph.labels import Solution
from mipp.graph.size_axes import Measures, Mixture, mixture
from mipp.graph.spelled import Attribute
from mipp.records import KEPT, Axis, AxisKey, IntArray, SizeAttribute


def contradictions(flow: Flow, solution: Solution) -> list[tuple[IntArray, str]]:
    """Atoms that cannot be removed, since an attribute would have to be two numbers at once."""
    found = []
    proportions: dict[Attribute, Mixture | None] = {}
    for use in flow.spelled_sizes:
        if not _shrinks(use, solution):
            proportions |= dict.fromkeys(use.spelled.attributes)
    for use in flow.spelled_sizes:
        if not _shrinks(use, solution):
            continue
        assert use.labels is not None
        attribute = use.spelled.changing(inside=flow.head_dims)
        if attribute is None:
            names = " * ".join(".".join(item).lstrip(".") for item in use.spelled.attributes)
            reason = f"its size is {names}, and which of them counts units is not known ({use.at})"
            found.append((use.labels, reason))
            continue
        own = _mixture(use, solution)
        if proportions.setdefault(attribute, own) != own:
            name = ".".join(attribute).lstrip(".")
            reason = f"{name} spells its size and also that of something else ({use.at})"
            found.append((use.labels, reason))
    return found


def tie_in_heads(flow: Flow) -> None:
    """Features of heads whose number one attribute spells are one unit, place by place.

    Queries, keys and values that are split by one ``head_dim`` have to lose as many features each.
    """
    first: dict[Attribute, IntArray] = {}
    for attributes, labels in flow.in_heads:
        for attribute in attributes:
            other = first.setdefault(attribute, labels)
            if other is not labels and len(other) == len(labels):
                name = ".".join(attribute).lstrip(".")
                flow.ties.tie(other, labels, f"{name} spells also the size of what has to stay")


def size_attributes(
    flow: Flow, solution: Solution, axes: Mapping[AxisKey, Axis], measures: Measures
) -> tuple[tuple[SizeAttribute, ...], list[tuple[IntArray, str]]]:
    """The attributes that follow an axis, and atoms whose size is in proportion to none."""
    made: dict[Attribute, SizeAttribute] = {}
    lost = []
    values = _values(flow.spelled_sizes)
    for use in flow.spelled_sizes:
        attribute = use.spelled.changing(inside=flow.head_dims)
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
        attribute: use.spelled.values[index]
        for use in uses
        for index, attribute in enumerate(use.spelled.attributes)
    }


def _shrinks(use: SizeUse, solution: Solution) -> bool:
    return use.labels is not None and bool((solution.group_of[use.labels] != KEPT).any())


def _mixture(use: SizeUse, solution: Solution) -> Mixture:
    labels = use.labels
    assert labels is not None
    return mixture(solution.group_of[labels], solution.unit_of[labels])
