"""Rules of ops that gather by index."""

import numpy as np
import torch

from mipp.graph.labels import Value
from mipp.graph.rules import Call, rule


@rule("index")
def index(call: Call) -> Value:
    """``x[:, indices]``: dimensions that are not indexed pass."""
    x, indices = call.tensor("self"), list(call.get("indices"))
    indexed = [dim for dim, item in enumerate(indices) if item is not None]
    if any(node.meta["val"].dtype == torch.bool for node in call.node.all_input_nodes[1:]):
        call.fix_all("a mask takes as many elements as it holds")
        return call.out([None] * len(call.shape))
    call.fix_dims(x, indexed, "it takes channels by their place")
    labels = [atoms for dim, atoms in enumerate(x.labels) if dim not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    place = indexed[0] if adjacent else 0
    n_new = len(call.shape) - len(labels)
    return call.out([*labels[:place], *[None] * n_new, *labels[place:]])


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value:
    """Each index several times in a row, the same number of times for all."""
    x, repeats, dim = call.first, call.get("repeats"), call.get("dim")
    if not isinstance(repeats, int) or dim is None:
        call.fix_all("indices are repeated by numbers that the code computes")
        return call.out([None] * len(call.shape))
    labels = list(x.labels)
    atoms = labels[dim]
    labels[dim] = None if atoms is None else np.repeat(atoms, repeats)
    return call.out(labels)
