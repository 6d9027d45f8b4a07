"""Milliseconds of any choice of widths, from a table: linear between what was measured."""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence

from mipp.records import AxisKey, LatencyTable, LayerTable


class LatencySum:
    """The entries of a table at the current sizes of a graph's axes.

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
        self._layers = [_Layer(layer, number, shapes) for layer in table.layers]
        self._readers: dict[int, list[_Layer]] = {}
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


class _Layer:
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
