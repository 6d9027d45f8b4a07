"""Indices, attributes and scales that are left when units are removed, as plain data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mipp.errors import InputError
from mipp.records import AxisKey, BoolArray, ChannelGraph, IntArray, Keep


@dataclass(frozen=True)
class AxisKeep:
    """Which indices stay along one dimension of one parameter or buffer.

    Attributes:
        tensor: Name of the parameter or buffer.
        dim: The dimension, counted from 0.
        size: Length of the dimension before.
        kept: The indices that stay, rising.
    """

    tensor: str
    dim: int
    size: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        where = f"dimension {self.dim} of {self.tensor!r}"
        if self.dim < 0:
            raise InputError(f"{where}: expected a dimension counted from 0")
        if not self.kept or not rises(self.kept) or self.kept[-1] >= self.size:
            raise InputError(
                f"{where}: expected one or more rising indices below {self.size}, "
                f"got {list(self.kept)}"
            )

    @property
    def key(self) -> AxisKey:
        """The dimension, as the other records name it."""
        return AxisKey(self.tensor, self.dim)

    @property
    def indices(self) -> IntArray:
        """The kept indices, shape ``(n_kept,)``."""
        return np.asarray(self.kept, dtype=np.int64)


@dataclass(frozen=True)
class AttributeKeep:
    """An integer attribute of a module that counts what is removed, before and after.

    Attributes:
        module: Path of the module.
        name: Name of the attribute, such as ``num_heads``.
        before: Its value in the model before.
        after: Its value in the sliced model.
    """

    module: str
    name: str
    before: int
    after: int

    def __post_init__(self) -> None:
        if not 0 < self.after <= self.before:
            raise InputError(
                f"attribute {self.name!r} of {self.module!r}: expected a number from 1 to "
                f"{self.before}, got {self.after}"
            )


@dataclass(frozen=True)
class ScaleKeep:
    """Rows of a weight or a bias that are multiplied by a factor.

    Attributes:
        tensor: Name of the parameter.
        dim: The dimension of the rows.
        size: Its length before anything is removed.
        indices: The rows, counted before anything is removed, rising.
        factor: Above 0, at most 1.
    """

    tensor: str
    dim: int
    size: int
    indices: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        fits = self.indices and rises(self.indices) and self.indices[-1] < self.size
        if not fits or not 0 < self.factor <= 1:
            raise InputError(
                f"scale of {self.tensor!r}: expected rising indices below {self.size} and a factor "
                f"from 0 to 1, got {list(self.indices)} and {self.factor}"
            )


def kept_indices(graph: ChannelGraph, keep: Keep) -> dict[AxisKey, IntArray]:
    """Indices that stay along every dimension that loses something, each of shape ``(n_kept,)``.

    Raises:
        InputError: A mask is not of its group's shape, or leaves a group without units or a
            dimension of a tensor without any index.
    """
    check_keep(graph, keep)
    kept = {}
    for key, axis in graph.axes.items():
        mask = axis.kept(keep)
        if not mask.any():
            raise InputError(
                f"keep leaves nothing of dimension {key.dim} of {key.tensor!r}, which has "
                f"{axis.size} indices: a layer needs at least one. Keep one of the units that it "
                f"makes or reads."
            )
        if not mask.all():
            kept[key] = np.flatnonzero(mask)
    return kept


def check_keep(graph: ChannelGraph, keep: Keep, *, may_empty: bool = False) -> None:
    """Raises `InputError` unless every mask is boolean, of its group's shape, and leaves a unit.

    Args:
        graph: The graph that the masks are for.
        keep: A mask of the units that stay, for each group.
        may_empty: A mask may leave none.
    """
    n_units = {group.index: group.n_units for group in graph.groups}
    for index, units in keep.items():
        if index not in n_units:
            raise InputError(f"keep names group {index}; the graph has groups {sorted(n_units)}")
        if units.dtype != np.bool_ or units.shape != (n_units[index],):
            raise InputError(
                f"keep of group {index}: expected a boolean mask of shape ({n_units[index]},), "
                f"got {units.dtype} of shape {units.shape}"
            )
        if not may_empty and not units.any():
            raise InputError(
                f"keep of group {index} removes all {n_units[index]} units: keep at least one"
            )


def with_placeholders(graph: ChannelGraph, keep: Keep) -> dict[int, BoolArray]:
    """The masks, and one unit more wherever a dimension of a tensor would have no index left."""
    shaped = {index: units.copy() for index, units in keep.items()}
    for axis in graph.axes.values():
        if not axis.kept(shaped).any():
            shaped[int(axis.group[0])][axis.unit[0]] = True
    return shaped


def axis_keeps(graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> tuple[AxisKeep, ...]:
    """Indices of dimensions, such as those of `kept_indices`, as records with full sizes."""
    return tuple(
        AxisKeep(key.tensor, key.dim, graph.axes[key].size, tuple(indices.tolist()))
        for key, indices in sorted(kept.items())
    )


def attribute_keeps(
    graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]
) -> tuple[AttributeKeep, ...]:
    """The attributes that change when only the indices in ``kept`` stay."""
    return tuple(
        AttributeKeep(
            size.module,
            size.name,
            size.size,
            size.size * len(kept[size.axis]) // graph.axes[size.axis].size,
        )
        for size in graph.sizes
        if size.axis in kept
    )


def scale_keeps(graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> tuple[ScaleKeep, ...]:
    """What keeps the scale of products that sum over less when only the indices in ``kept`` stay.

    Scores of ``d`` features are scaled by ``1 / sqrt(d)`` at run time; of ``n`` that are left the
    code makes ``1 / sqrt(n)``. One side times ``sqrt(n / d)`` gives ``1 / sqrt(d)`` again.
    """
    made: list[ScaleKeep] = []
    for product in graph.products:
        own = kept.get(product.left[0])
        left = len(product.rows) if own is None else int(np.isin(product.rows, own).sum())
        factor = (left / len(product.rows)) ** product.power
        if factor < 1:
            rows = tuple(product.rows.tolist())
            made += [
                ScaleKeep(key.tensor, key.dim, graph.axes[key].size, rows, factor)
                for key in product.left
            ]
    return tuple(made)


def kept_of(axes: tuple[AxisKeep, ...]) -> dict[AxisKey, IntArray]:
    """The kept indices of every dimension, each of shape ``(n_kept,)``."""
    return {axis.key: axis.indices for axis in axes}


def rises(indices: tuple[int, ...]) -> bool:
    """Whether indices start at 0 or above and each is larger than the one before."""
    return indices[0] >= 0 and all(a < b for a, b in pairwise(indices))


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Hash of a model's structure: the names and shapes of its state, in hexadecimal.

    The number type is left out, so that a model cast to bfloat16 is still the same model.
    """
    lines = (f"{name} {list(shape)}\n" for name, shape in sorted(shapes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
