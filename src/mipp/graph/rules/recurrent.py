"""Rules of recurrent layers, and of their cells.

One hidden size holds for all layers and both directions of such a module, so hidden feature ``i``
of all of them is one unit, with its rows in every gate. What is read inside the kernel cannot be
measured: units are judged by the layers that read the output, and the inputs stay.
"""

from dataclasses import dataclass

import numpy as np

from mipp.graph.findings import Extent, Labels
from mipp.graph.labels import Value
from mipp.graph.rules.dense import advice, parameter_axis, produce
from mipp.graph.rules.rule import Call, Made, rule
from mipp.records import IntArray

INSIDE = "a recurrent layer reads it in its kernel, where nothing is measured"
COMPUTED = "the weights of this recurrent layer are computed, not parameters themselves"


@dataclass(frozen=True, eq=False)
class _Layer:
    """The parameters of one layer in one direction."""

    from_input: Value
    from_hidden: Value
    biases: tuple[Value, ...]
    projection: Value | None


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Made:
    """Hidden features are units; with a projection (``proj_size``) its outputs are."""
    layers = _layers(call)
    if not all(map(_whole, layers)):
        reason = COMPUTED + advice(call)
        call.fix_all(reason)
        call.refuse(layers[0].from_hidden.shape[1], reason)
        _count(call, layers)
        return call.unlabelled()
    for value in call.inputs[:1]:
        call.fix_dims(value, range(len(value.shape)), INSIDE)
    n_directions = 2 if call.get("bidirectional") else 1
    made: IntArray | None = None
    for index, layer in enumerate(layers):
        hidden = _hidden(call, layer)
        made = hidden if made is None else made
        call.tie(made, hidden)
        call.tie(layer.from_hidden.labels[1], made)
        if index < n_directions:
            call.fix(layer.from_input.labels[1], INSIDE)
        else:
            call.tie(layer.from_input.labels[1], np.tile(made, n_directions))
    assert made is not None
    _initial(call, made, projected=layers[0].projection is not None)
    _count(call, layers)
    return _outputs(call, made, n_directions, projected=layers[0].projection is not None)


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(call: Call) -> Made:
    """One step: hidden features are units, tied to those of the state that it is given."""
    biases = (call.maybe_tensor(name) for name in ("b_ih", "b_hh"))
    layer = _Layer(
        call.tensor("w_ih"), call.tensor("w_hh"), tuple(b for b in biases if b is not None), None
    )
    call.fix(call.tensor("input").labels[-1], INSIDE)
    call.fix(layer.from_input.labels[1], INSIDE)
    _count_step(call, layer)
    if not _whole(layer):
        call.fix_all(COMPUTED + advice(call))
        return call.unlabelled()
    made = _hidden(call, layer)
    call.tie(layer.from_hidden.labels[1], made)
    _initial(call, made, projected=False)
    return call.each([*call.tensor("input").labels[:-1], made])


def _count_step(call: Call, layer: _Layer) -> None:
    """Both matrices for each row of the input."""
    rows, positions = call.positions(call.tensor("input"), -1)
    for matrix in (layer.from_input, layer.from_hidden):
        call.count(_name(call, matrix), rows, *_sides(matrix), *positions)


def _whole(layer: _Layer) -> bool:
    """Whether the weights are parameters themselves."""
    return all(
        parameter_axis(value, dim) is not None
        for value in (layer.from_input, layer.from_hidden)
        for dim in (0, 1)
    )


def _layers(call: Call) -> list[_Layer]:
    params: list[Value] = list(call.get("params"))
    n_layers = call.integer("num_layers") * (2 if call.get("bidirectional") else 1)
    per_layer = len(params) // n_layers
    with_biases = bool(call.get("has_biases"))
    layers = []
    for start in range(0, len(params), per_layer):
        own = params[start : start + per_layer]
        projection = own[-1] if per_layer in (3, 5) else None
        layers.append(_Layer(own[0], own[1], tuple(own[2:4]) if with_biases else (), projection))
    return layers


def _hidden(call: Call, layer: _Layer) -> IntArray:
    """Atoms of the outputs of one layer, one for each feature, after tying all its gates."""
    matrix = layer.from_input
    rows, size = matrix.labels[0], layer.from_hidden.shape[1]
    if layer.projection is not None:
        reason = f"{INSIDE}; what it projects to can be pruned"
        call.fix(layer.projection.labels[1], reason)
        for value in (layer.from_input, layer.from_hidden, *layer.biases):
            call.fix(value.labels[0], reason)
        key = parameter_axis(layer.projection, 0)
        rows = layer.projection.labels[0]
    else:
        for value in (layer.from_hidden, *layer.biases):
            call.tie(value.labels[0], rows)
        key = parameter_axis(matrix, 0)
    if rows is None or key is None or size == 1:
        call.fix(rows, "it makes a single feature")
        return np.zeros(size, np.int64)
    produce(call, key)
    return call.merge(rows.reshape(-1, size).T)


def _initial(call: Call, made: IntArray, *, projected: bool) -> None:
    """Initial states: others are tied, zeros are taken to have the new size.

    PyTorch's own have, and so have those of the size that the layer says; of those that are not the
    sliced model is refused when it is tried.
    """
    given = call.get("hx")
    states = list(given) if isinstance(given, list | tuple) else [given]
    nodes = call.node.args[1 if call.get("batch_sizes") is None else 2]
    made_here = nodes if isinstance(nodes, list | tuple) else [nodes]
    for index, (state, node) in enumerate(zip(states, made_here, strict=True)):
        zeros = str(getattr(node, "target", "")).startswith(("aten.zeros.", "aten.new_zeros."))
        hidden = projected and index == 1
        if isinstance(state, Value) and not (zeros and state.labels[-1] is None):
            call.tie(state.labels[-1], None if hidden else made)


def _outputs(call: Call, made: IntArray, n_directions: int, *, projected: bool) -> Made:
    outputs: list[Made] = []
    for index, item in enumerate(call.node.meta["val"]):
        labels: list[Labels] = [None] * item.dim()
        if index == 0:
            labels[-1] = np.tile(made, n_directions)
        elif not (index == 2 and projected):
            labels[-1] = made
        outputs.append(call.value(tuple(item.shape), labels))
    return outputs


def _count(call: Call, layers: list[_Layer]) -> None:
    """Every matrix once a step."""
    steps = 1
    if call.get("batch_sizes") is None:  # packed sequences say nothing of lengths in shapes
        x = call.tensor("input")
        steps = x.shape[1 if call.get("batch_first") else 0]
    for layer in layers:
        for matrix in (layer.from_input, layer.from_hidden, layer.projection):
            if matrix is not None:
                call.count(_name(call, matrix), steps, *_sides(matrix))


def _name(call: Call, matrix: Value) -> str:
    return matrix.source.tensor if matrix.source else call.op


def _sides(matrix: Value) -> list[Extent]:
    return [
        Extent(size, matrix.labels[dim], parameter_axis(matrix, dim))
        for dim, size in enumerate(matrix.shape)
    ]
