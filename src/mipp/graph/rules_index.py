"""Rules of ops that gather by index or run along a sequence."""

import math

import numpy as np
import torch

from mipp.graph.labels import Value
from mipp.graph.rules import Call, Made, rule


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


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Made:
    """Recurrent layers keep all their features; their cost is counted."""
    call.fix_all("recurrent layers keep all their features")
    steps = 1
    if call.get("batch_sizes") is None:  # packed sequences say nothing of lengths in shapes
        x = call.tensor("input")
        steps = x.shape[1 if call.get("batch_first") else 0]
    matrices = [value for value in call.inputs if value.source and len(value.shape) == 2]
    call.count(call.op, steps * sum(math.prod(matrix.shape) for matrix in matrices))
    return call.unlabelled()
