"""Rules of ops that gather or scatter by index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload

from mipp.graph.findings import Labels
from mipp.graph.labels import UNKNOWN, DependsOnValues, Value
from mipp.graph.rules.pointwise import FILLED
from mipp.graph.rules.rule import Call, op_name, rule

EXPANDING = ("expand", "expand_as", "broadcast_to")
"""Ops that repeat dimensions of size 1."""

COPYING = ("to", "_to_copy", "type_as", "clone", "contiguous", "alias", "detach")
"""Ops that give the same numbers, maybe of another type."""


@rule("index")
def index(call: Call) -> Value:
    """``x[:, indices]`` or ``x[mask]``: dimensions that are not indexed pass."""
    x = call.tensor("self")
    indexed = _indexed(call)
    call.fix_dims(x, indexed, "it takes channels by their place")
    labels = [atoms for dim, atoms in enumerate(x.labels) if dim not in indexed]
    place = _place(indexed)
    n_new = len(call.shape) - len(labels)
    return call.out([*labels[:place], *[None] * n_new, *labels[place:]])


@rule("index_put", "_unsafe_index_put")
def index_put(call: Call) -> Value:
    """``x[indices] = values``, or added: dimensions that are not indexed are the same in both."""
    x, values = call.tensor("self"), call.tensor("values")
    indexed = _indexed(call)
    call.fix_dims(x, indexed, "it writes channels by their place")
    passing = [dim for dim in range(len(x.shape)) if dim not in indexed]
    # values are as x[indices] has them; ones that are broadcast have fewer dimensions
    after = len(passing) - _place(indexed)
    behind = passing[len(passing) - after :]
    labels: list[Labels] = [None] * len(x.shape)
    for back, dim in enumerate(reversed(behind), start=1):
        wide = back <= len(values.shape) and values.shape[-back] != 1 and x.shape[dim] != 1
        labels[dim] = _into(call, x.labels[dim], values.labels[-back]) if wide else x.labels[dim]
    call.fix_dims(values, range(len(values.shape) - len(behind)), "it is put where indices say")
    call.fix_dims(x, passing[: len(passing) - after], "it writes channels by their place")
    return call.out(labels)


@rule("index_add", "index_copy")
def index_add(call: Call) -> Value:
    """``x`` with rows of ``source`` added where the indices along one dimension say."""
    x, source, dim = call.tensor("self"), call.tensor("source"), call.dim()
    reason = "it adds to channels by their place"
    call.fix(x.labels[dim], reason)
    call.fix(source.labels[dim], reason)
    pairs = enumerate(zip(x.labels, source.labels, strict=True))
    return call.out([None if d == dim else _into(call, *pair) for d, pair in pairs])


@rule("scatter_add", "scatter_reduce", "scatter")
def scatter(call: Call) -> Value:
    """``x`` with numbers of ``src`` added (or written) where an index says, place by place.

    Units along other dimensions pass where the index is one column, expanded.
    """
    x, index, source = call.tensor("self"), call.tensor("index"), call.get("src")
    if not isinstance(source, Value):
        call.fix_all("it writes channels by their place")
        return call.out([None] * len(x.shape))
    labels: list[Labels] = [None] * len(x.shape)
    for dim in range(len(x.shape)):
        if dim != call.dim() and _along(call, index, [x, source], dim):
            labels[dim] = _into(call, x.labels[dim], source.labels[dim])
        else:
            for value in (x, index, source):
                call.fix(value.labels[dim], "an index says where it is put")
    return call.out(labels)


@rule("gather")
def gather(call: Call) -> Value:
    """Numbers of ``x`` from where an index says, place by place; units pass as in `scatter`."""
    x, index, labels = call.tensor("self"), call.tensor("index"), list[Labels]()
    for dim, atoms in enumerate(x.labels):
        passes = dim != call.dim() and _along(call, index, [x], dim)
        labels.append(atoms if passes else None)
        for value in () if passes else (x, index):
            call.fix(value.labels[dim], "it takes channels by their place")
    return call.out(labels)


def _along(call: Call, index: Value, values: Sequence[Value], dim: int) -> bool:
    """Whether the index is the same all along a dimension, which it has whole as the values do."""
    node: Any = call.node.args[2]
    expanded = isinstance(node.target, OpOverload) and op_name(node.target) in EXPANDING
    if not expanded or any(value.shape[dim] != index.shape[dim] for value in values):
        return False
    shape = node.args[0].meta["val"].shape
    place = dim - len(index.shape) + len(shape)
    if place >= 0 and shape[place] != 1:
        return False
    if index.labels[dim] is not None:
        call.tie(index.labels[dim], values[-1].labels[dim])
    return True


def _blank(node: Any) -> bool:
    """Whether a tensor holds one number everywhere."""
    while isinstance(node.target, OpOverload) and op_name(node.target) in COPYING:
        node = node.args[0]
    return isinstance(node.target, OpOverload) and op_name(node.target) in FILLED


def _into(call: Call, labels: Labels, source: Labels) -> Labels:
    """Labels of a dimension of the op's tensor when ``source`` is put into it, index by index.

    Zeros of the size of the source get smaller with it; where the code has another size, the sliced
    model does not run, and the group is put back.
    """
    if labels is None and _blank(call.node.args[0]):
        return source
    call.tie(labels, source)
    return None if source is None else labels


def _indexed(call: Call) -> list[int]:
    """Dimensions that the indices of a call take; a mask takes as many as it has itself."""
    dims: list[int] = []
    at = 0
    for node in call.node.args[1]:  # type: ignore[union-attr] # None, or a node for each
        made = None if node is None else node.meta["val"]  # type: ignore[union-attr]
        n_taken = made.dim() if made is not None and made.dtype == torch.bool else 1
        if made is not None:
            dims += range(at, at + n_taken)
        at += n_taken
    return dims


def _place(indexed: list[int]) -> int:
    """Where what is picked lies in ``x[indices]``: where the indices were, if side by side."""
    return indexed[0] if indexed == list(range(indexed[0], indexed[-1] + 1)) else 0


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value:
    """Each index several times in a row, the same number of times for all.

    How often a single one is repeated, an attribute may say, which can get smaller.
    """
    x, repeats, dim = call.first, call.get("repeats"), call.get("dim")
    if not isinstance(repeats, int) or dim is None:
        call.fix_all("indices are repeated by numbers that the code computes")
        return call.out([None] * len(call.shape))
    labels = list(x.labels)
    atoms = labels[dim]
    if repeats is UNKNOWN and atoms is not None:
        raise DependsOnValues
    labels[dim] = None if atoms is None else np.repeat(atoms, repeats)
    (size,) = call.size_attributes("repeats")
    if x.shape[dim] == 1 and repeats > 1 and size is not None:
        labels[dim] = call.flow.ties.fresh(repeats)
        call.has_size(size, labels[dim])
    return call.out(labels)
