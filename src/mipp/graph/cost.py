"""Exact multiply-accumulates, parameters and units of any choice of units, without building it."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from mipp.errors import InputError
from mipp.records import (
    KEPT,
    AxisKey,
    BoolArray,
    ChannelGraph,
    Cost,
    Keep,
    LatencyTable,
    LayerTable,
)

_Number = int | Fraction
"""Exact: floats would drift over tens of thousands of removals."""

_Product = tuple[_Number, tuple[int, ...]]
"""A factor, and the numbers of the axes whose sizes it is multiplied with."""


def cost(graph: ChannelGraph, keep: Keep | None = None, times: LatencyTable | None = None) -> Cost:
    """Cost of a graph of which only the units in ``keep`` stay; all of them where it is None.

    Exact: equal to what is counted on the sliced model; but for the latency, which is what the
    table of ``times`` has and None without one.

    Raises:
        InputError: ``keep`` does not fit the graph.
    """
    return CostModel(graph, keep, times).cost()


def group_cost(graph: ChannelGraph, keep: Keep | None, group: int) -> Cost:
    """Cost of everything that gets cheaper when units of ``group`` are removed.

    ``macs`` and ``params`` of the layers and parameters with an axis that holds units of the group;
    ``units`` of the group alone. Layers between two groups count in both.
    """
    return CostModel(graph, keep).group_cost(group)


class CostModel:
    """The cost of a current choice of units, brought up to date unit by unit.

    It starts with the units in ``keep``, all of them where it is None. `saving`, `remove` and
    `restore` take time in proportion to the layers that the group touches, and `cost` none, so that
    a search can do tens of thousands of removals.

    Args:
        graph: What the cost is of.
        keep: The units that it starts with, all of them where it is None.
        times: Where latency comes from, see `cost`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        keep: Keep | None = None,
        times: LatencyTable | None = None,
    ) -> None:
        self.graph = graph
        keys = list(graph.axes)
        number = {key: index for index, key in enumerate(keys)}
        self._kept = _choice(graph, keep)
        self._sizes = [int(graph.axes[key].kept(dict(enumerate(self._kept))).sum()) for key in keys]
        self._products = _macs_products(graph, number) + _params_products(graph, number)
        self._n_macs = len(graph.macs)
        self._spans = _spans(graph, keys)
        self._touched = _touched(graph, keys, self._products)
        self._macs, self._params = self._sums(range(len(self._products)))
        self._units = sum(int(units.sum()) for units in self._kept)
        self._latency = None if times is None else _LatencySum(times, number, graph.shapes)

    @property
    def keep(self) -> dict[int, BoolArray]:
        """A copy of the current choice."""
        return {group: units.copy() for group, units in enumerate(self._kept)}

    def cost(self) -> Cost:
        """Cost of the current choice."""
        latency = None if self._latency is None else self._latency.total(self._sizes)
        return Cost(float(self._macs), int(self._params), self._units, latency)

    def group_cost(self, group: int) -> Cost:
        """Current cost of all that a group touches, see `mipp.graph.group_cost`."""
        _check_group(self.graph, group)
        macs, params = self._sums(self._touched[group])
        return Cost(float(macs), int(params), int(self._kept[group].sum()))

    def saving(self, group: int, unit: int) -> Cost:
        """What removing one more unit would save now."""
        self._check_unit(group, unit, present=True)
        before = self._time_of(group, unit)
        macs, params = self._shift(group, unit, -1)
        after = self._time_of(group, unit)
        self._move(group, unit, 1)
        saved = None if before is None or after is None else before - after
        return Cost(float(-macs), int(-params), 1, saved)

    def remove(self, group: int, unit: int) -> None:
        """Removes one unit; `InputError` where it is removed already."""
        self._check_unit(group, unit, present=True)
        self._commit(group, unit, -1)

    def restore(self, group: int, unit: int) -> None:
        """Puts a removed unit back; `InputError` where it is there."""
        self._check_unit(group, unit, present=False)
        self._commit(group, unit, 1)

    def empties(self, group: int, unit: int) -> bool:
        """Whether some dimension of a parameter would have nothing left without this unit.

        Such a model does not run. It can happen before a group is empty: a layer may make a part
        of a group's units only.
        """
        self._check_unit(group, unit, present=True)
        return any(self._sizes[axis] == count for axis, count in self._spans[group][unit])

    def _sums(self, which: Iterable[int]) -> tuple[_Number, _Number]:
        """Exact multiply-accumulates and parameters of some products of sizes."""
        macs: _Number = 0
        params: _Number = 0
        sizes = self._sizes
        for index in which:
            scale, axes = self._products[index]
            amount = scale * math.prod([sizes[axis] for axis in axes])
            if index < self._n_macs:
                macs += amount
            else:
                params += amount
        return macs, params

    def _time_of(self, group: int, unit: int) -> float | None:
        """Milliseconds of the layers that hold the unit."""
        if self._latency is None:
            return None
        return self._latency.part(self._sizes, [axis for axis, _ in self._spans[group][unit]])

    def _move(self, group: int, unit: int, sign: int) -> None:
        for axis, count in self._spans[group][unit]:
            self._sizes[axis] += sign * count

    def _shift(self, group: int, unit: int, sign: int) -> tuple[_Number, _Number]:
        """Moves the sizes; returns by how much the cost has changed."""
        macs, params = self._sums(self._touched[group])
        self._move(group, unit, sign)
        macs_after, params_after = self._sums(self._touched[group])
        return macs_after - macs, params_after - params

    def _commit(self, group: int, unit: int, sign: int) -> None:
        macs, params = self._shift(group, unit, sign)
        self._macs, self._params = self._macs + macs, self._params + params
        self._units += sign
        self._kept[group][unit] = sign > 0

    def _check_unit(self, group: int, unit: int, present: bool) -> None:
        _check_group(self.graph, group)
        n_units, name = self.graph.groups[group].n_units, self.graph.groups[group].name
        if not 0 <= unit < n_units:
            raise InputError(
                f"unit {unit} of group {name} was given; it has units 0 to {n_units - 1}."
            )
        if bool(self._kept[group][unit]) != present:
            state, do = ("removed already", "restore") if present else ("there", "remove")
            raise InputError(f"unit {unit} of group {name} is {state}; {do} it first.")


def _check_group(graph: ChannelGraph, group: int) -> None:
    if not 0 <= group < len(graph.groups):
        raise InputError(
            f"group {group} was given; the graph has groups 0 to {len(graph.groups) - 1}."
        )


def _choice(graph: ChannelGraph, keep: Keep | None) -> list[BoolArray]:
    kept = [np.ones(group.n_units, dtype=bool) for group in graph.groups]
    for group, units in (keep or {}).items():
        _check_group(graph, group)
        if units.shape != kept[group].shape or units.dtype != np.bool_:
            raise InputError(
                f"keep of group {graph.groups[group].name} has shape {units.shape} and dtype "
                f"{units.dtype}; a boolean mask of shape {kept[group].shape} was expected."
            )
        kept[group] = units.copy()
    return kept


def _macs_products(graph: ChannelGraph, number: dict[AxisKey, int]) -> list[_Product]:
    products = []
    for term in graph.macs:
        axes = tuple(number[key] for key in term.axes if key in number)
        fixed = [graph.shapes[key.tensor][key.dim] for key in term.axes if key not in number]
        products.append((_exact(term.coefficient) * math.prod(fixed), axes))
    return products


def _exact(coefficient: float) -> _Number:
    return int(coefficient) if coefficient.is_integer() else Fraction(coefficient)


def _params_products(graph: ChannelGraph, number: dict[AxisKey, int]) -> list[_Product]:
    products: list[_Product] = []
    for name, shape in graph.shapes.items():
        if name in graph.aliases:
            continue
        keys = [AxisKey(name, dim) for dim in range(len(shape))]
        axes = tuple(number[key] for key in keys if key in number)
        rest = math.prod(size for key, size in zip(keys, shape, strict=True) if key not in number)
        products.append((rest, axes))
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


# ---- latency


class _LatencySum:
    """The latency at the current sizes of a graph's axes: linear between the entries of a table.

    ``number``: of the axes that can get smaller; the others are as long as ``shapes`` say. A table
    made for the whole model serves one that has been pruned since, too.
    """

    def __init__(
        self,
        table: LatencyTable,
        number: Mapping[AxisKey, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._fixed = table.fixed
        self._layers = [_LayerLatency(layer, number, shapes) for layer in table.layers]
        self._readers: dict[int, list[_LayerLatency]] = {}
        for layer in self._layers:
            for axis in {axis for axis in layer.axes if axis is not None}:
                self._readers.setdefault(axis, []).append(layer)

    def total(self, sizes: Sequence[int]) -> float:
        """Milliseconds of the whole model; ``sizes`` by number of the axis."""
        return math.fsum([self._fixed, *(layer.value(sizes) for layer in self._layers)])

    def part(self, sizes: Sequence[int], axes: Collection[int]) -> float:
        """Milliseconds of the layers that have one of the axes."""
        mine = {id(layer): layer for axis in axes for layer in self._readers.get(axis, ())}
        return math.fsum(layer.value(sizes) for layer in mine.values())


class _LayerLatency:
    """One entry, with the places where its sizes are found."""

    def __init__(
        self,
        table: LayerTable,
        number: Mapping[AxisKey, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.axes = [number.get(key) for key in table.axes]
        self._lengths = [shapes[key.tensor][key.dim] for key in table.axes]
        self._sizes = table.sizes
        self._values = table.values.tolist()

    def value(self, sizes: Sequence[int]) -> float:
        """The entry at these sizes."""
        values = self._values
        lengths = [
            length if axis is None else sizes[axis]
            for axis, length in zip(self.axes, self._lengths, strict=True)
        ]
        return _between(values, self._sizes, lengths)


def _between(values: object, grid: Sequence[Sequence[int]], at: Sequence[int]) -> float:
    """Multilinear interpolation in nested lists."""
    if not grid:
        assert isinstance(values, float)
        return values
    assert isinstance(values, list)
    points, x = grid[0], min(max(at[0], grid[0][0]), grid[0][-1])
    right = min(bisect_right(points, x), len(points) - 1)
    left = max(right - 1, 0)
    high = _between(values[right], grid[1:], at[1:])
    if left == right or x == points[right]:
        return high
    low = _between(values[left], grid[1:], at[1:])
    return low + (high - low) * (x - points[left]) / (points[right] - points[left])
