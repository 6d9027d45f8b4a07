"""Rules of ops that gather or scatter by index."""

import numpy as np
import torch

from mipp.graph.flow import Labels
from mipp.graph.labels import Value
from mipp.graph.rules import Call, rule


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
        wide = back <= len(values.shape) and values.shape[-back] == x.shape[dim] > 1
        if wide:
            call.tie(x.labels[dim], values.labels[-back])
        labels[dim] = None if wide and values.labels[-back] is None else x.labels[dim]
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
    labels: list[Labels] = [None] * len(x.shape)
    for other in range(len(x.shape)):
        if other != dim:
            call.tie(x.labels[other], source.labels[other])
            labels[other] = x.labels[other] if source.labels[other] is not None else None
    return call.out(labels)


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
    labels[dim] = None if atoms is None else np.repeat(atoms, repeats)
    (size,) = call.spelled("repeats")
    if x.shape[dim] == 1 and repeats > 1 and size is not None:
        labels[dim] = call.flow.ties.fresh(repeats)
        call.spells(size, labels[dim])
    return call.out(labels)
