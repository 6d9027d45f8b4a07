"""Exact multiply-accumulates, parameters and units of any choice of units, without building it."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from mipp.errors import InputError
from mipp.records import KEPT, AxisKey, BoolArray, ChannelGraph, Cost, Keep


def cost(graph: ChannelGraph, keep: Keep | None = None) -> Cost:
    """Cost of a graph of which only the units in ``keep`` stay; all of them where it is None.

    Exact: equal to what is counted on the sliced model. Raises `InputError` where ``keep`` does
    not fit the graph.
    """
    return CostModel(graph).cost(keep)


def group_cost(graph: ChannelGraph, keep: Keep | None, group: int) -> Cost:
    """Cost of everything that gets cheaper when units of ``group`` are removed.

    ``macs`` and ``params`` of the layers and parameters with an axis that holds units of the group;
    ``units`` of the group alone. Layers between two groups count in both.
    """
    model = CostModel(graph, keep)
    if not 0 <= group < len(graph.groups):
        raise InputError(f"group {group} was asked for; the graph has {len(graph.groups)} groups.")
    return model.group_cost(group)


class CostModel:
    """The cost of a current choice of units, brought up to date unit by unit.

    It starts with the units in ``keep`` (all of them where it is None). `saving` and `remove` take
    time in proportion to the layers that a group touches, so that a search can do many of them.
    """

    def __init__(self, graph: ChannelGraph, keep: Keep | None = None) -> None:
        self.graph = graph
        keys = list(graph.axes)
        number = {key: index for index, key in enumerate(keys)}
        self._sizes = [graph.axes[key].size for key in keys]
        self._products = _macs_products(graph, number) + _params_products(graph, number)
        self._n_macs = len(graph.macs)
        self._spans = _spans(graph, keys)
        self._touched = _touched(graph, keys, self._products)
        self._kept = [np.ones(group.n_units, dtype=bool) for group in graph.groups]
        for group, units in self._checked(keep).items():
            for unit in np.flatnonzero(~units):
                self.remove(group, int(unit))

    # ---- state

    @property
    def keep(self) -> dict[int, BoolArray]:
        """A copy of the current choice."""
        return {group: units.copy() for group, units in enumerate(self._kept)}

    @property
    def total(self) -> Cost:
        """Cost of the current choice."""
        return self._sum(self._sizes, range(len(self._products)), self._kept)

    def remove(self, group: int, unit: int) -> None:
        """Remove one unit; `InputError` where it is removed already."""
        self._shift(group, unit, present=True)

    def restore(self, group: int, unit: int) -> None:
        """Put a removed unit back."""
        self._shift(group, unit, present=False)

    def saving(self, group: int, unit: int) -> Cost:
        """What removing one more unit would save now."""
        self._check_unit(group, unit, present=True)
        sizes, touched = self._sizes, self._touched[group]
        before = self._sum(sizes, touched, [])
        for axis, count in self._spans[group][unit]:
            sizes[axis] -= count
        after = self._sum(sizes, touched, [])
        for axis, count in self._spans[group][unit]:
            sizes[axis] += count
        return Cost(before.macs - after.macs, before.params - after.params, 1)

    def empties(self, group: int, unit: int) -> bool:
        """Whether some dimension of a parameter would have nothing left without this unit."""
        self._check_unit(group, unit, present=True)
        return any(self._sizes[axis] == count for axis, count in self._spans[group][unit])

    # ---- any choice

    def cost(self, keep: Keep | None = None) -> Cost:
        """Cost of any choice of units; the state stays as it is."""
        kept = [np.ones(group.n_units, dtype=bool) for group in self.graph.groups]
        for group, units in self._checked(keep).items():
            kept[group] = units
        choice = dict(enumerate(kept))
        sizes = [int(axis.kept(choice).sum()) for axis in self.graph.axes.values()]
        return self._sum(sizes, range(len(self._products)), kept)

    def group_cost(self, group: int) -> Cost:
        """Current cost of all that a group touches, see `mipp.graph.group_cost`."""
        return self._sum(self._sizes, self._touched[group], [self._kept[group]])

    # ---- inner workings

    def _sum(self, sizes: list[int], which: Iterable[int], kept: list[BoolArray]) -> Cost:
        macs, params = 0.0, 0
        for index in which:
            scale, axes = self._products[index]
            product = math.prod([sizes[axis] for axis in axes])
            if index < self._n_macs:
                macs += scale * product
            else:
                params += int(scale) * product
        return Cost(macs, params, sum(int(units.sum()) for units in kept))

    def _shift(self, group: int, unit: int, present: bool) -> None:
        self._check_unit(group, unit, present)
        for axis, count in self._spans[group][unit]:
            self._sizes[axis] += -count if present else count
        self._kept[group][unit] = not present

    def _check_unit(self, group: int, unit: int, present: bool) -> None:
        if not (0 <= group < len(self._kept) and 0 <= unit < len(self._kept[group])):
            raise InputError(
                f"unit {unit} of group {group} was given; the graph has {len(self._kept)} groups, "
                "see ChannelGraph.groups for their n_units."
            )
        if bool(self._kept[group][unit]) != present:
            state = "removed already" if present else "there"
            raise InputError(f"unit {unit} of group {self.graph.groups[group].name} is {state}.")

    def _checked(self, keep: Keep | None) -> Keep:
        for group, units in (keep or {}).items():
            if not 0 <= group < len(self.graph.groups):
                raise InputError(
                    f"keep has group {group}; the graph has {len(self.graph.groups)} groups."
                )
            expected = (self.graph.groups[group].n_units,)
            if units.shape != expected or units.dtype != np.bool_:
                raise InputError(
                    f"keep of group {self.graph.groups[group].name} has shape {units.shape} and "
                    f"dtype {units.dtype}; a boolean mask of shape {expected} was expected."
                )
        return keep or {}


_Product = tuple[float, tuple[int, ...]]


def _macs_products(graph: ChannelGraph, number: dict[AxisKey, int]) -> list[_Product]:
    return [(term.coefficient, tuple(number[key] for key in term.axes)) for term in graph.macs]


def _params_products(graph: ChannelGraph, number: dict[AxisKey, int]) -> list[_Product]:
    products = []
    for name, shape in graph.shapes.items():
        if name in graph.aliases:
            continue
        keys = [AxisKey(name, dim) for dim in range(len(shape))]
        axes = tuple(number[key] for key in keys if key in number)
        rest = math.prod(size for key, size in zip(keys, shape, strict=True) if key not in number)
        products.append((float(rest), axes))
    return products


def _spans(graph: ChannelGraph, keys: list[AxisKey]) -> list[list[list[tuple[int, int]]]]:
    """For each group and unit the axes that hold it, and how many indices of them."""
    spans: list[list[list[tuple[int, int]]]] = [
        [[] for _ in range(group.n_units)] for group in graph.groups
    ]
    for index, key in enumerate(keys):
        axis = graph.axes[key]
        pairs, counts = np.unique(
            np.stack([axis.group, axis.unit], axis=1), axis=0, return_counts=True
        )
        for (group, unit), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            if group != KEPT:
                spans[group][unit].append((index, count))
    return spans


def _touched(graph: ChannelGraph, keys: list[AxisKey], products: list[_Product]) -> list[list[int]]:
    """For each group the products with an axis that holds any of its units."""
    readers: dict[int, list[int]] = defaultdict(list)
    for index, (_, axes) in enumerate(products):
        for axis in axes:
            readers[axis].append(index)
    touched: list[set[int]] = [set() for _ in graph.groups]
    for number, key in enumerate(keys):
        for group in np.unique(graph.axes[key].group):
            if group != KEPT:
                touched[group].update(readers[number])
    return [sorted(indices) for indices in touched]
