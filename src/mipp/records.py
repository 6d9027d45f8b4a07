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
"""Group and unit index of what is never removed."""

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

Kind = Literal["conv", "conv_transpose", "linear", "matmul"]
"""Layers that read units; ``matmul`` is a linear layer whose weight is ``(in, out)``."""

Keep = Mapping[int, BoolArray]
"""Group index -> mask of shape ``(n_units,)``, true where the unit stays. A group that is absent
keeps all its units."""


@dataclass(frozen=True, order=True)
class AxisKey:
    """One dimension of one parameter or buffer, by its qualified name in the model."""

    tensor: str
    dim: int


@dataclass(frozen=True, eq=False)
class Axis:
    """Which unit each index along one dimension of a parameter or buffer belongs to.

    ``group`` and ``unit`` have shape ``(size,)``; both are ``KEPT`` where nothing is ever removed.
    """

    key: AxisKey
    group: IntArray
    unit: IntArray

    @property
    def size(self) -> int:
        """Length of the dimension before pruning."""
        return len(self.group)

    def kept(self, keep: Keep) -> BoolArray:
        """Mask of shape ``(size,)``: which indices stay when only the units in ``keep`` stay."""
        mask = np.ones(self.size, dtype=bool)
        for index, units in keep.items():
            mine = self.group == index
            mask[mine] = units[self.unit[mine]]
        return mask


@dataclass(frozen=True)
class Consumer:
    """One call of a convolution or linear layer: ``Y = W X + b`` at ``uses`` positions an example.

    ``weight`` and ``bias`` are parameter names; ``call`` counts the calls of that same weight in
    one forward pass, from 0. ``in_dim`` and ``out_dim`` are dimensions of the weight (a transposed
    convolution has them the other way round). ``norm_after`` holds when the output goes to a
    BatchNorm and nowhere else, which then takes up any shift of the mean. ``alone``: nothing else
    in the forward pass reads its weight or bias, so that they can be changed for this call's sake.
    ``routed``: which positions it gets depends on values, as for the tokens of an expert.
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
        """The dimension of the weight that makes the consumer's own outputs."""
        return AxisKey(self.weight, self.out_dim)


@dataclass(frozen=True)
class Group:
    """Units that are removed together wherever they appear.

    ``producers`` are the weights whose output dimension makes the units; ``consumers`` are indices
    into ``ChannelGraph.consumers``.
    """

    index: int
    name: str
    n_units: int
    producers: tuple[AxisKey, ...]
    consumers: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """Channels that are left as they are, and why (op name, source line, what would help)."""

    name: str
    n_units: int
    reason: str


@dataclass(frozen=True)
class MacsTerm:
    """``coefficient * product of the kept sizes of axes`` multiply-accumulates per example.

    ``routed``: how many positions there are depends on values, as for the tokens of an expert; one
    is counted until planning has counted how many.
    """

    name: str
    coefficient: float
    axes: tuple[AxisKey, ...]
    routed: bool = False


@dataclass(frozen=True, eq=False)
class LayerTable:
    """A number for some sizes of the axes of one layer call; linear in between.

    ``axes``: those of its weight that can get smaller, none, one or two. ``sizes``: for each the
    sizes that were measured, rising. ``values``: shape ``(len(sizes[0]), len(sizes[1]))``, as many
    dimensions as axes. Outside of the sizes the nearest value holds.
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
    """An integer that a module holds, of value ``size``, that is in proportion to an axis.

    ``module``: path of the module; ``name``: place in it, such as ``num_heads`` or
    ``config.n_head``.
    """

    module: str
    name: str
    size: int
    axis: AxisKey


@dataclass(frozen=True, eq=False)
class DotProduct:
    """A product of two activations, scores of queries and keys, that sums over units.

    It is right for fewer units if a removed one is zero on both sides, and if the scale that the
    code puts on the scores stays what it was. Code that takes that scale from the number of units
    as it runs (``1 / sqrt(q.shape[-1])``) gives another one in a smaller model; what makes the left
    side is then multiplied by ``(units left / units) ** power``.

    ``left``, ``right``: dimensions of the weights and biases that make the two sides; ``rows``: the
    indices along those of ``left`` that are in this product. ``power``: 0.5, or 0 where the
    scale is a number of its own. ``sure``: whether that was read from the code, not supposed.
    """

    name: str
    left: tuple[AxisKey, ...]
    right: tuple[AxisKey, ...]
    rows: IntArray
    power: float
    sure: bool


@dataclass(frozen=True)
class ChannelGraph:
    """What the graph stage found: the groups from outputs to inputs, and how they touch tensors.

    ``axes`` has every dimension of a parameter or buffer that holds at least one removable unit.
    ``shapes`` has the full shape of every parameter (shared ones once, under their first name);
    ``aliases`` maps the other names of a shared parameter or buffer to its first name.
    ``sizes`` are the attributes of modules that have to follow when an axis gets shorter.
    ``products``: those that sum over removable units. ``norms``: what norms across removable units
    take in, each under the path of its module, with the dimension that is normed as -1.
    ``unsure``: attributes as large as an axis, of which it is not known whether they have to
    follow; one entry for each axis that it may be.
    ``uncounted``: ops whose multiply-accumulates are not in ``macs``, with their source lines.
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
        """Groups with a norm across their units, whose statistics change when a unit goes."""
        return frozenset(int(g) for norm in self.norms for g in np.unique(norm.group) if g != KEPT)


@dataclass(frozen=True)
class Cost:
    """Exact cost of one choice of widths.

    ``macs``: multiply-accumulates of convolutions and matrix products for one example.
    ``params``: parameters, shared ones once. ``units``: units of the groups that can be pruned.
    ``latency``: milliseconds of one forward pass, as measured or from a `LatencyTable`; None where
    nobody measured it.
    """

    macs: float
    params: int
    units: int
    latency: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """One backward elimination: the whole trade between units and information of a group.

    ``order``: unit indices in order of removal, shape ``(n_removed,)``.
    ``nats_lost``: nats lost per example after the first ``n`` removals, shape ``(n_removed + 1,)``,
    first entry 0, never falling. ``total``: nats that all units together transfer.
    ``consumer_lost`` (n_removed + 1, n_consumers) and ``consumer_total`` (n_consumers,) are the
    same for each consumer of the group alone.
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
        """Nats lost with each unit left, infinite for removed ones, shape ``(n_units,)``."""
        ...

    def nats_of(self, unit: int) -> FloatArray:
        """Nats that would be lost with this unit now, shape ``(n_consumers,)``."""
        ...

    def remove(self, unit: int) -> FloatArray:
        """Removes one unit; nats lost, shape ``(n_consumers,)``."""
        ...

    def remove_least(self, count: int) -> list[tuple[int, FloatArray]]:
        """Removes ``count`` units greedily; ``(unit, nats lost)`` in order."""
        ...

    def transfers(self, units: IntArray) -> FloatArray:
        """Nats that these units transfer together, whatever was removed, ``(n_consumers,)``."""
        ...

    def estimates(self, unit: int) -> FloatArray:
        """Several estimates of `nats_of`, ``(n_estimates, n_consumers)``, some maybe negative.

        Raises:
            InputError: for a scorer that has no more than one.
        """
        ...


@dataclass(frozen=True)
class GroupSummary:
    """What a plan does to one group. ``nats`` are per example; NaN where a method measures none."""

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
    """How the units of one group go, at few enough points to keep and to draw.

    ``measure="nats"``: ``values`` are the nats lost per example once ``removed`` units are gone,
    both from 0, neither falling. ``measure="score"``: ``values`` are the scores of single units, at
    the place in which they go (1 is the first), each from the round it went in; what stays follows
    in the order of the last round.
    """

    group: str
    measure: Literal["nats", "score"]
    removed: tuple[int, ...]
    values: tuple[float, ...]
