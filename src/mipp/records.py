"""The records that pass between stages: plain frozen data, numpy arrays, no torch.

Vocabulary: a *unit* is what is removed as a whole (a filter, a neuron). A *group* is a set of
units whose channels are tied together (by a residual add, say): unit ``u`` of a group stands for
one channel in every tensor that the group runs through. A *consumer* is one call of a convolution
or linear layer that takes in the units of one or several groups. A unit that is never removed has
group and unit index ``KEPT``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

KEPT = -1
"""Group and unit index of channels that are never removed."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

Kind = Literal["conv", "conv_transpose", "linear", "matmul"]
"""Layers that read units; ``matmul`` is a linear layer with a weight of shape ``(in, out)``."""

Keep = Mapping[int, BoolArray]
"""Group index -> mask of shape ``(n_units,)``, true where the unit is kept. A missing group keeps
all its units."""


@dataclass(frozen=True, order=True)
class AxisKey:
    """One dimension of one parameter or buffer, by its qualified name in the model."""

    tensor: str
    dim: int


@dataclass(frozen=True, eq=False)
class Axis:
    """Which unit each index along one dimension of a parameter or buffer belongs to.

    Attributes:
        key: the dimension.
        group: shape ``(size,)``; ``KEPT`` where nothing is ever removed.
        unit: same, within its group.
    """

    key: AxisKey
    group: IntArray
    unit: IntArray

    @property
    def size(self) -> int:
        """Length of the dimension before pruning."""
        return len(self.group)

    def kept(self, keep: Keep) -> BoolArray:
        """Mask of shape ``(size,)`` of the indices that are kept."""
        mask = np.ones(self.size, dtype=bool)
        for index, units in keep.items():
            mine = self.group == index
            mask[mine] = units[self.unit[mine]]
        return mask


@dataclass(frozen=True)
class Consumer:
    """One call of a convolution or linear layer: ``Y = W X + b``.

    Attributes:
        name: of the layer and call.
        kind: of layer.
        weight: name of the parameter.
        bias: same.
        call: number of the call among those of the same weight in one forward pass, from 0.
        in_dim: dimension of the weight that reads the units.
        out_dim: dimension of the weight for the outputs.
        uses: positions per example.
        norm_after: whether the output goes to a BatchNorm and nowhere else, which then absorbs any
            shift of the mean.
        alone: whether nothing else in the forward pass reads the weight or bias, so that they can
            be changed for this call.
        routed: whether its positions depend on values, as for the tokens of an expert.
    """

    name: str
    kind: Kind
    weight: str
    bias: str | None
    call: int
    in_dim: int
    out_dim: int
    uses: float | int
    norm_after: bool
    alone: bool = True
    routed: bool = False

    @property
    def in_axis(self) -> AxisKey:
        """The dimension of the weight that reads the units."""
        return AxisKey(self.weight, self.in_dim)

    @property
    def out_axis(self) -> AxisKey:
        """The dimension of the weight that makes the outputs."""
        return AxisKey(self.weight, self.out_dim)


@dataclass(frozen=True)
class Group:
    """Units that are removed together wherever they appear.

    Attributes:
        index: of the group.
        name: of its first layer.
        n_units: number of units.
        producers: the output dimensions of weights that make the units.
        consumers: indices into ``ChannelGraph.consumers``.
    """

    index: int
    name: str
    n_units: int
    producers: tuple[AxisKey, ...]
    consumers: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """Channels that are left as they are.

    Attributes:
        name: of the layer that makes them.
        n_units: how many.
        reason: name of the operation, source line, and what would help.
    """

    name: str
    n_units: int
    reason: str


@dataclass(frozen=True)
class MacsTerm:
    """``coefficient * product of the kept sizes of axes`` multiply-accumulates per example.

    Attributes:
        name: of the layer.
        coefficient: multiply-accumulates for axes of size 1.
        axes: dimensions of weights.
        routed: whether the number of positions depends on values, as for the tokens of an expert;
            one position is counted until `mipp.graph.with_positions` sets their number.
    """

    name: str
    coefficient: float
    axes: tuple[AxisKey, ...]
    routed: bool = False


@dataclass(frozen=True, eq=False)
class LayerTable:
    """Values for some sizes of the axes of one layer call, interpolated linearly.

    Attributes:
        name: of the layer and call.
        axes: those of its weight that can get smaller: none, one or two.
        sizes: the sizes that were measured, rising, for each axis.
        values: shape ``(len(sizes[0]), len(sizes[1]))``, as many dimensions as axes. The nearest
            value is used outside of the sizes.
    """

    name: str
    axes: tuple[AxisKey, ...]
    sizes: tuple[tuple[int, ...], ...]
    values: FloatArray


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of one forward pass: ``fixed``, plus one entry for each layer call."""

    fixed: float
    layers: tuple[LayerTable, ...]


@dataclass(frozen=True)
class SizeAttribute:
    """An integer attribute of a module that is in proportion to an axis.

    Attributes:
        module: path of the module.
        name: place in it, such as ``num_heads`` or ``config.n_head``.
        size: its value.
        axis: the dimension.
    """

    module: str
    name: str
    size: int
    axis: AxisKey


@dataclass(frozen=True, eq=False)
class DotProduct:
    """A product of two activations, scores of queries and keys, that sums over units.

    It is correct for fewer units if the removed ones are zero on both sides and the scale of the
    scores does not change. Code that computes that scale from the number of units
    (``1 / sqrt(q.shape[-1])``) changes it in a smaller model; the weights of the left side are then
    multiplied by ``(units left / units) ** power``.

    Attributes:
        name: of the product.
        left: dimensions of the weights and biases that make the left side.
        right: same for the right side.
        rows: indices along those of ``left`` that are in this product.
        power: 0.5, or 0 if the scale does not depend on the number of units.
        sure: whether that was read from the code, not assumed.
    """

    name: str
    left: tuple[AxisKey, ...]
    right: tuple[AxisKey, ...]
    rows: IntArray
    power: float
    sure: bool


@dataclass(frozen=True)
class ChannelGraph:
    """Result of the graph stage: the groups, and the tensors that their units run through.

    Attributes:
        groups: from the outputs of the model to its inputs.
        consumers: of all groups.
        axes: every dimension of a parameter or buffer with at least one removable unit.
        macs: multiply-accumulates, to be summed.
        shapes: full shape of every parameter (shared ones once, under their first name).
        refused: channels that are left as they are.
        aliases: other name of a shared parameter or buffer -> its first name.
        sizes: attributes of modules that have to change when an axis gets shorter.
        products: those that sum over removable units.
        norms: inputs of norms across removable units, each under the path of its module, with the
            normalised dimension as -1.
        unsure: attributes as large as an axis that may have to change with it, one entry for each
            such axis.
        uncounted: ops whose multiply-accumulates are not in ``macs``, with their source lines.
    """

    groups: tuple[Group, ...]
    consumers: tuple[Consumer, ...]
    axes: Mapping[AxisKey, Axis]
    macs: tuple[MacsTerm, ...]
    shapes: Mapping[str, tuple[int, ...]]
    refused: tuple[Refusal, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    sizes: tuple[SizeAttribute, ...] = ()
    products: tuple[DotProduct, ...] = ()
    norms: tuple[Axis, ...] = ()
    unsure: tuple[SizeAttribute, ...] = ()
    uncounted: tuple[str, ...] = ()

    @property
    def inexact(self) -> frozenset[int]:
        """Groups with a norm across their units, whose statistics change when a unit is removed."""
        return frozenset(int(g) for norm in self.norms for g in np.unique(norm.group) if g != KEPT)


@dataclass(frozen=True)
class Cost:
    """Exact cost of one choice of widths.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products for one example.
        params: number of parameters, shared ones once.
        units: number of units in groups that can be pruned.
        latency: milliseconds of one forward pass, measured or from a `LatencyTable`; None if it was
            not measured.
    """

    macs: float
    params: int
    units: int
    latency: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """One backward elimination: the trade-off between units and information of a group.

    Attributes:
        order: unit indices in order of removal, shape ``(n_removed,)``.
        nats_lost: nats lost per example after the first ``n`` removals, shape ``(n_removed + 1,)``,
            first entry 0, never falling.
        total: nats that all units together transfer.
        consumer_lost: nats lost for each consumer of the group alone, shape ``(n_removed + 1,
            n_consumers)``.
        consumer_total: total for each consumer alone, shape ``(n_consumers,)``.
    """

    order: IntArray
    nats_lost: FloatArray
    total: float
    consumer_lost: FloatArray
    consumer_total: FloatArray


@runtime_checkable
class Scorer(Protocol):
    """The state of one backward elimination of one group; nats are per example."""

    n_units: int

    def total(self) -> FloatArray:
        """Nats that all units transfer, shape ``(n_consumers,)``."""
        ...

    def solo(self) -> FloatArray:
        """Nats that each unit transfers on its own, shape ``(n_units,)``."""
        ...

    def scores(self) -> FloatArray:
        """Nats lost with each remaining unit, infinite for removed ones, shape ``(n_units,)``."""
        ...

    def nats_of(self, unit: int) -> FloatArray:
        """Nats that would be lost with this unit now, shape ``(n_consumers,)``."""
        ...

    def remove(self, unit: int) -> FloatArray:
        """Remove one unit; nats lost, shape ``(n_consumers,)``."""
        ...

    def remove_least(self, count: int) -> list[tuple[int, FloatArray]]:
        """Remove ``count`` units greedily; ``(unit, nats lost)`` in order."""
        ...

    def transfers(self, units: IntArray) -> FloatArray:
        """Nats that these units transfer together, removed ones too, shape ``(n_consumers,)``."""
        ...

    def estimates(self, unit: int) -> FloatArray:
        """Several estimates of `nats_of`, shape ``(n_estimates, n_consumers)``; may be negative.

        Raises:
            InputError: for a scorer that has only one.
        """
        ...


@dataclass(frozen=True)
class GroupSummary:
    """What a plan does to one group.

    Nats and multiply-accumulates are per example; nats are NaN for methods that measure none.
    """

    name: str
    units_before: int
    units_after: int
    nats_before: float
    nats_after: float
    macs_before: float
    macs_after: float
    params_before: int
    params_after: int


@dataclass(frozen=True)
class Trail:
    """The elimination of one group, at few enough points to store and to plot.

    Attributes:
        group: name of the group.
        measure: what ``values`` are.
        removed: for ``"nats"``, numbers of units removed, from 0; for ``"score"``, places in the
            order of removal, from 1.
        values: for ``"nats"``, nats lost per example, from 0, never falling; for ``"score"``, the
            scores of single units in the round of their removal, then of kept ones in the last one.
    """

    group: str
    measure: Literal["nats", "score"]
    removed: tuple[int, ...]
    values: tuple[float, ...]
