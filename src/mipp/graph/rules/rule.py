"""The rule of an ATen op: how units flow from its inputs to its outputs.

A rule is a small function of a `Call`, registered by the op's name without overload and without
the trailing underscore of in-place ops::

    @rule("softmax", "log_softmax")
    def along_one_dim(call: Call) -> Value:
        call.fix_dims(call.first, [call.dim()], "it mixes all channels")
        return call.like(call.first)

It may tie labels, fix them with a reason, merge several into one unit, and it returns one `Value`
for each output. It has to see to two things:

* What it returns is what eager code makes of smaller tensors: for any choice of units the sliced
  inputs give the sliced outputs.
* Only dense layers, which are recorded as consumers, may mix a unit into the values of others. Any
  other op that does, such as a sum over channels, fixes what it reads.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import FunctionSchema
from torch._ops import OpOverload
from torch.fx import Node

from mipp.graph.exported import module_path, source_line
from mipp.graph.findings import Extent, Flow, Labels, SizeUse, Term
from mipp.graph.labels import UNKNOWN, DependsOnValues, Source, Value, known
from mipp.records import AxisKey, IntArray, Refusal
from mipp.tracing.size_attributes import SIZES_KEY, AttributeInt, terms_of

Made = Value | int | Sequence["Made"] | None
"""What an op makes: a value, or several in the op's own order.

`UNKNOWN` stands for a number that depends on values, None for anything else that is no tensor.
"""

Rule = Callable[["Call"], Made]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for the ops ``names``, such as ``"conv2d"`` or ``"torchvision::nms"``."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"two rules for {name}: {_RULES[name]} and {function}")
            _RULES[name] = function
        return function

    return register


def find_rule(op: OpOverload) -> Rule | None:
    """The rule of an op; every op that PyTorch tags as pointwise has one."""
    found = _RULES.get(op_name(op))
    if found is None and torch.Tag.pointwise in op.tags:
        return _RULES["pointwise"]
    return found


def op_name(op: OpOverload) -> str:
    """``aten.relu_.default`` -> ``relu``; a namespace other than aten is kept."""
    namespace, _, name = schema(op).name.partition("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    return name if namespace == "aten" else f"{namespace}::{name}"


def schema(op: OpOverload) -> FunctionSchema:
    """Names and defaults of an op's arguments."""
    return op._schema  # noqa: SLF001  # PyTorch has no public name for it


class Call:
    """One node of the graph as a rule sees it: arguments by schema name, and what can be said."""

    def __init__(self, flow: Flow, node: Node, arguments: dict[str, Any]) -> None:
        self.flow = flow
        self.node = node
        self.arguments = arguments
        self.op = op_name(node.target) if isinstance(node.target, OpOverload) else ""

    @property
    def at(self) -> str:
        """``aten.conv2d at net.py:12 `self.conv(x)` ``, for reasons."""
        label = self.op if "::" in self.op else f"aten.{self.op}"
        where = source_line(self.node)
        return f"{label} at {where}" if where else label

    # ---- arguments

    def get(self, name: str) -> Any:  # what the op takes
        """An argument as it is, None where the op has none of this name."""
        return self.arguments.get(name)

    def integer(self, name: str) -> int:
        """An integer argument."""
        return known(self.arguments[name])

    def dim(self, name: str = "dim") -> int:
        """An argument that is a dimension of the first tensor, counted from the front."""
        return known(self.arguments[name]) % len(self.first.shape)

    def integers(self, name: str) -> list[int]:
        """A list of integers, some maybe `UNKNOWN`; one is a list of one, None an empty list."""
        given = self.get(name)
        if given is None:
            return []
        listed = [given] if isinstance(given, int) else given
        return [item if item is UNKNOWN else int(item) for item in listed]

    def tensor(self, name: str) -> Value:
        """A tensor argument."""
        value = self.arguments[name]
        if not isinstance(value, Value):
            raise TypeError(f"{self.at}: {name} is {type(value).__name__}, a tensor was expected")
        return value

    def maybe_tensor(self, name: str) -> Value | None:
        """A tensor argument that may be left out."""
        return self.tensor(name) if self.get(name) is not None else None

    @property
    def first(self) -> Value:
        """The first argument that is a tensor."""
        return self.inputs[0]

    @property
    def inputs(self) -> list[Value]:
        """All arguments that are tensors, those in lists included."""
        return list(_values(self.arguments.values()))

    def size_attributes(self, name: str) -> list[AttributeInt | None]:
        """For each integer of an argument the attributes that give it, None where none do."""
        values = self.integers(name)
        known = [value for value in values if value is not UNKNOWN]
        number = (self.node.meta.get("custom") or {}).get(SIZES_KEY)
        noted = [] if number is None else self.flow.calls[number]
        for start in range(len(noted) - len(known) + 1):
            part = noted[start : start + len(known)]
            if list(part) == known:
                sizes = iter(part)
                found = [None if value is UNKNOWN else next(sizes) for value in values]
                return [size if isinstance(size, AttributeInt) else None for size in found]
        return [None] * len(values)

    def size_terms(self, name: str) -> tuple[AttributeInt, ...] | None:
        """The attributes that an integer is the sum of; None where there are other terms."""
        number = (self.node.meta.get("custom") or {}).get(SIZES_KEY)
        noted = [] if number is None else self.flow.calls[number]
        value = self.get(name) or 0
        found = (terms_of(size) for size in (0, *noted) if size == value)
        return next((terms for terms in found if terms is not None), None)

    # ---- what is found out

    def fix(self, labels: Labels, reason: str) -> None:
        """Marks labels as never to be removed; the reason gets the op and its source line."""
        self.flow.ties.fix(labels, f"{reason} ({self.at})")

    def fix_dims(self, value: Value, dims: Iterable[int], reason: str) -> list[Labels]:
        """Fixes all along ``dims`` of ``value``; returns its labels, with None along ``dims``."""
        labels = list(value.labels)
        for dim in dims:
            self.fix(labels[dim], reason)
            labels[dim] = None
        return labels

    def fix_all(self, reason: str) -> None:
        """Fixes all that goes into the op."""
        for value in self.inputs:
            self.fix_dims(value, range(len(value.shape)), reason)

    def tie(self, left: Labels, right: Labels) -> None:
        """``left`` and ``right`` are the same units, index by index."""
        self.flow.ties.tie(left, right, f"it is tied to channels that have to stay ({self.at})")

    def tie_all(self, met: Sequence[Labels]) -> Labels:
        """All of these labels are the same units; returns them, None where one of them is fixed."""
        for other in met[1:]:
            self.tie(met[0], other)
        return None if any(other is None for other in met) else met[0]

    def merge(self, rows: IntArray) -> IntArray:
        """Makes each row, shape ``(n_units, size)``, one unit; returns atoms ``(n_units,)``."""
        return self.flow.ties.merge(rows, self.at)

    def has_size(self, size: AttributeInt | None, labels: Labels, *, surely: bool = False) -> None:
        """A dimension with ``labels`` is as long as attributes of the model say.

        Args:
            size: What the attributes give; None where no attribute does.
            labels: The labels along the dimension.
            surely: It changes with them, whatever other factors its size has.
        """
        if size is not None and (surely or size.known):
            self.flow.size_uses.append(SizeUse(size, labels, self.at))

    def refuse(self, n_units: int, reason: str) -> None:
        """Lists the module that makes this call as not prunable."""
        name = module_path(self.node) or self.op
        self.flow.refused.append(Refusal(name, n_units, f"{reason} ({self.at})"))

    def refuse_weights(self, reason: str) -> None:
        """Lists the module where an input is a matrix, or several in one, that is a parameter."""
        if "weight_norm" in self.op:
            return  # the layer that takes the result is listed, with what to do
        for value in self.inputs:
            if value.source is not None and value.source.is_parameter and len(value.shape) > 1:
                self.refuse(value.shape[-1], f"{reason}: {value.source.tensor}")

    def tie_vector(self, vector: Value | None, labels: Labels) -> None:
        """Ties a bias or a norm's weight, shape ``(C,)`` or absent, with ``labels`` ``(C,)``."""
        if vector is not None and vector.shape[:1] > (1,):
            self.tie(vector.labels[0], labels)

    def norms(self, value: Value) -> bool:
        """Whether units along the last dimension may go though this call norms across them.

        It has to lie in a module with a weight along that dimension, such as an `nn.LayerNorm`.
        """
        path, labels = module_path(self.node), value.labels[-1]
        size = self.flow.sizes.get(AxisKey(f"{path}.weight".lstrip("."), 0))
        if not self.flow.residual or labels is None or size != value.shape[-1]:
            return False
        earlier = self.flow.norms.setdefault(path, labels)
        self.tie(earlier, labels)
        return True

    # ---- outputs

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only output."""
        return _shape(self.node.meta["val"])

    @property
    def batched(self) -> bool:
        """Whether any input holds the examples."""
        return any(value.batched for value in self.inputs)

    def out(self, labels: Sequence[Labels], source: Source | None = None) -> Value:
        """The only output, with one entry of ``labels`` for each dimension."""
        return self.value(self.shape, labels, source)

    def value(
        self, shape: tuple[int, ...], labels: Sequence[Labels], source: Source | None = None
    ) -> Value:
        """One output of several."""
        if len(labels) != len(shape):
            raise ValueError(f"{self.at}: {len(labels)} labels for an output of shape {shape}")
        for size, atoms in zip(shape, labels, strict=True):
            if atoms is not None and size == UNKNOWN:
                raise DependsOnValues
            if atoms is not None and atoms.shape != (size,):
                raise ValueError(f"{self.at}: labels of shape {atoms.shape} for a size of {size}")
        return Value(shape, tuple(labels), self.batched, source)

    def like(self, value: Value) -> Value:
        """An output of the same shape and labels as ``value``."""
        return self.out(value.labels)

    def each(self, labels: Sequence[Labels]) -> list[Value | None]:
        """All outputs, every one with the same labels; None for what is not a tensor."""
        made = self.node.meta["val"]
        outputs = made if isinstance(made, tuple | list) else [made]
        return [
            self.value(_shape(item), labels) if isinstance(item, torch.Tensor) else None
            for item in outputs
        ]

    def unlabelled(self) -> Made:
        """All outputs, however they are nested, with nothing to remove."""
        return self._unlabelled(self.node.meta.get("val"))

    def _unlabelled(self, made: object) -> Made:
        if isinstance(made, tuple | list):
            return [self._unlabelled(item) for item in made]
        if isinstance(made, torch.Tensor):
            return self.value(_shape(made), [None] * made.dim())
        return UNKNOWN if isinstance(made, torch.SymInt | torch.SymFloat | torch.SymBool) else None

    # ---- cost

    def positions(self, value: Value, *skipped: int) -> tuple[float, tuple[Extent, ...]]:
        """Positions for one example: product of ``value``'s dimensions but the ``skipped``."""
        skip = {dim % len(value.shape) for dim in skipped}
        dims = [dim for dim in range(len(value.shape)) if dim not in skip]
        free = [dim for dim in dims if value.labels[dim] is None]
        scale = math.prod(abs(value.shape[dim]) for dim in free)  # UNKNOWN counts once
        extents = [Extent(value.shape[d], value.labels[d]) for d in dims if d not in free]
        return scale / (self.flow.batch if value.batched else 1), tuple(extents)

    def count(self, name: str, scale: float | int, *extents: Extent, routed: bool = False) -> None:
        """Adds ``scale * product of extents`` multiply-accumulates for one example.

        Args:
            name: The weight, or the op.
            scale: A number for each example.
            *extents: Sizes that may get smaller.
            routed: For one position; how many there are depends on values.
        """
        self.flow.terms.append(Term(name, float(scale), extents, routed))


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The traced shape; it is static but for sizes that depend on values."""
    return tuple(size if type(size) is int else UNKNOWN for size in tensor.shape)


def _values(items: Iterable[Any]) -> Iterable[Value]:
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, list | tuple):
            yield from _values(item)
