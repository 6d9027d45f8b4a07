"""What the rules find out while the graph is walked, before anything is solved."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from mipp.graph.labels import Source, Ties, Value
from mipp.records import AxisKey, DotProduct, IntArray, Kind, Refusal
from mipp.tracing.size_attributes import Attribute, AttributeInt

Labels = IntArray | None
"""Atoms along one dimension, shape ``(size,)``; None where nothing can be removed."""


@dataclass(frozen=True, eq=False)
class Extent:
    """Size of one dimension in a product of sizes, and who may make it smaller."""

    size: int
    labels: Labels
    key: AxisKey | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """``scale * product of extents`` multiply-accumulates for one example.

    Attributes:
        routed: For one position, since how many there are depends on values.
    """

    name: str
    scale: float
    extents: tuple[Extent, ...]
    routed: bool = False


@dataclass(frozen=True, eq=False)
class SizeUse:
    """A dimension whose size attributes give; ``labels`` are those along it."""

    size: AttributeInt
    labels: Labels
    at: str


@dataclass(frozen=True)
class LayerCall:
    """One call of a dense convolution or linear layer that may become a consumer.

    Attributes:
        idle: Nobody reads what it gives, so that it needs nothing.
        routed: Which positions it gets depends on values.
    """

    kind: Kind
    weight: str
    bias: str | None
    in_dim: int
    out_dim: int
    uses: int
    norm_after: bool
    idle: bool = False
    routed: bool = False


@dataclass(frozen=True, eq=False)
class SummedOver:
    """A product of two activations, and the atoms that it sums over."""

    labels: IntArray
    product: DotProduct


@dataclass(eq=False)
class Flow:
    """All that the rules find out while the graph is walked.

    Attributes:
        whole: Dimension 0 of the weights of grouped convolutions whose groups are taken for units.
        evenly: Those for which that was tried without success.
        head_dims: The units of attention are the features inside heads. Then ``in_heads`` has their
            atoms at each split into heads, with the attributes that give their number; ``makers``
            the weight and bias of each layer call.
        reads: How many ops compute with each parameter.
        residual: Norms let removable units pass; ``norms`` has the atoms that each module norms.
        idle: Nodes whose results are not read.
        uncounted: Ops that multiply in a way that is not counted.
    """

    batch: int
    ties: Ties = field(default_factory=Ties)
    atoms: dict[AxisKey, IntArray] = field(default_factory=dict)
    sizes: dict[AxisKey, int] = field(default_factory=dict)
    producers: list[AxisKey] = field(default_factory=list)
    layers: list[LayerCall] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    reads: Counter[str] = field(default_factory=Counter)
    calls: Sequence[tuple[int, ...]] = ()
    size_uses: list[SizeUse] = field(default_factory=list)
    whole: list[AxisKey] = field(default_factory=list)
    evenly: frozenset[AxisKey] = frozenset()
    head_dims: bool = False
    in_heads: list[tuple[tuple[Attribute, ...], IntArray]] = field(default_factory=list)
    makers: dict[Node, tuple[AxisKey, ...]] = field(default_factory=dict)
    products: list[SummedOver] = field(default_factory=list)
    residual: bool = False
    norms: dict[str, IntArray] = field(default_factory=dict)
    idle: frozenset[Node] = frozenset()
    uncounted: list[str] = field(default_factory=list)

    def tensor(self, name: str, shape: Sequence[int], is_parameter: bool) -> Value:
        """The value of a parameter or buffer, with atoms of its own along each dimension."""
        labels: list[Labels] = []
        for dim, size in enumerate(shape):
            key = AxisKey(name, dim)
            if size > 1 and key not in self.atoms:
                self.atoms[key] = self.ties.fresh(size)
            self.sizes[key] = size
            labels.append(self.atoms.get(key))
        source = Source(name, tuple(range(len(shape))), is_parameter)
        return Value(tuple(shape), tuple(labels), source=source)
