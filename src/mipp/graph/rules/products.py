"""Rules of matrix products: with a parameter like a linear layer, else between activations."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.fx import Node

from mipp.graph.attention_products import SUMMED, summed_over
from mipp.graph.findings import Extent, Labels
from mipp.graph.labels import Value
from mipp.graph.rules.dense import dense_labels, dense_linear, parameter_axis
from mipp.graph.rules.pointwise import tie_broadcast
from mipp.graph.rules.rule import Call, rule
from mipp.tracing.contractions import (
    LinearForm,
    einsum_form,
    repeats,
    subscripts_of,
    weight_on_the_left,
    weight_on_the_right,
)

NO_LAYER = "mipp sees no layer in this product with a weight"


def as_weight(value: Value) -> Value | None:
    """The matrix that a value is, if that is one parameter, seen from either side.

    It may be repeated along dimensions in front, as ``weight.expand(n, -1, -1)`` is.
    """
    source = value.source
    if source is None or len(value.shape) < 2 or any(d is not None for d in source.dims[:-2]):
        return None
    matrix = Value(
        value.shape[-2:], value.labels[-2:], source=replace(source, dims=source.dims[-2:])
    )
    axes = parameter_axis(matrix, 0), parameter_axis(matrix, 1)
    return None if None in axes else matrix


def is_weight(value: Value) -> bool:
    """Whether a value is a matrix that is one parameter, or that repeated."""
    return as_weight(value) is not None


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: Call) -> Value:
    """``left @ right``; products with a vector are not counted, nor does PyTorch count them."""
    left, right = call.inputs
    made = _layer(call, left, right, call.shape)
    if made is not None:
        return made
    if len(left.shape) < 2 or len(right.shape) < 2:
        call.fix_all("it multiplies with a vector")
        return call.out([None] * len(call.shape))
    return product(call, left, right, call.node.all_input_nodes)


@rule("addmm", "baddbmm")
def added_product(call: Call) -> Value:
    """``bias + left @ right``, of which one may be a weight."""
    names = ("mat1", "mat2") if call.op == "addmm" else ("batch1", "batch2")
    bias, left, right = (call.tensor(name) for name in ("self", *names))
    scaled = call.get("alpha") not in (None, 1) or call.get("beta") not in (None, 1)
    if is_weight(right) and not is_weight(left) and len(bias.shape) == 1 and not scaled:
        return dense_linear(call, left, right, bias, in_dim=0)
    summed = None if scaled else _layer(call, left, right, call.shape)
    if summed is None:
        summed = product(call, left, right, call.node.all_input_nodes[-2:])
    return call.out(tie_broadcast(call, [bias, summed], call.shape))


def _layer(call: Call, left: Value, right: Value, shape: tuple[int, ...]) -> Value | None:
    """``left @ right`` as a linear layer; None unless one side is a weight that repeats nothing."""
    weights = as_weight(left), as_weight(right)
    if (weights[0] is None) == (weights[1] is None):
        return None
    x, weight = (right, weights[0]) if weights[0] is not None else (left, weights[1])
    if weight is None or len(x.shape) < 2 or len(x.shape) != len(shape):
        return None
    if x.shape[:-2] != shape[:-2]:  # the repeated weight repeats x
        return None
    form = (weight_on_the_right if weights[0] is None else weight_on_the_left)(len(shape))
    return _contracted(call, x, weight, form)


def _contracted(call: Call, x: Value, weight: Value, form: LinearForm) -> Value:
    """A product with a weight as a linear layer."""
    turned = Value(
        tuple(x.shape[dim] for dim in form.x_order),
        tuple(x.labels[dim] for dim in form.x_order),
        x.batched,
    )
    labels = dense_labels(call, turned, weight, None, form.in_dim, form.y_order[-1])
    return call.out([labels[dim] for dim in form.back])


def product(call: Call, left: Value, right: Value, nodes: Sequence[Node]) -> Value:
    """``left @ right``; what is summed over has to stay, what goes along passes."""
    call.refuse_weights(NO_LAYER)
    summed = summed_over(call, left.labels[-1], right.labels[-2], nodes)
    parts = [Value(v.shape[:-2], v.labels[:-2]) for v in (left, right)]
    labels = tie_broadcast(call, parts, call.shape[:-2])
    out = call.out([*labels, left.labels[-2], right.labels[-1]])
    scale, positions = call.positions(out)
    call.count(call.op, scale, Extent(left.shape[-1], summed), *positions)
    return out


@rule("einsum")
def einsum(call: Call) -> Value:
    """A sum of products, such as ``bnc,cd->bnd``; with a parameter it may be a linear layer."""
    equation = str(call.get("equation"))
    letters = subscripts_of(equation, [len(value.shape) for value in call.inputs])
    if letters is None or repeats(letters[0]):
        call.fix_all("mipp reads no einsum without an output or with a diagonal")
        return call.out([None] * len(call.shape))
    subscripts, made = letters
    if len(subscripts) == 2 and is_weight(call.inputs[0]) != is_weight(call.inputs[1]):
        at = 0 if is_weight(call.inputs[0]) else 1
        x, weight = call.inputs[1 - at], call.inputs[at]
        form = einsum_form(subscripts, made, at)
        if form is not None and len(weight.shape) == 2 and not _broadcasts(subscripts, call.inputs):
            return _contracted(call, x, weight, form)
    return _sum_of_products(call, list(zip(subscripts, call.inputs, strict=True)), made)


def _broadcasts(subscripts: Sequence[str], values: Sequence[Value]) -> bool:
    """Whether a letter stands for different sizes: einsum repeats what has size 1."""
    sizes: dict[str, set[int]] = {}
    for letters, value in zip(subscripts, values, strict=True):
        for letter, size in zip(letters, value.shape, strict=True):
            sizes.setdefault(letter, set()).add(size)
    return any(len(found) > 1 for found in sizes.values())


def _sum_of_products(call: Call, operands: list[tuple[str, Value]], made: str) -> Value:
    call.refuse_weights(NO_LAYER)
    sizes: dict[str, int] = {}
    labels: dict[str, Labels] = {}
    for letters, value in operands:
        for letter, size, atoms in zip(letters, value.shape, value.labels, strict=True):
            if letter not in made:
                others = [
                    v.labels[text.index(letter)] for text, v in operands
                    if letter in text and v is not value
                ]  # fmt: skip
                pair = (atoms, others[0]) if value is operands[0][1] and others else (None, atoms)
                of_pair = call.node.all_input_nodes if len(operands) == 2 else []
                if letter not in labels:
                    labels[letter] = summed_over(call, *pair, of_pair)
                elif labels[letter] is None:
                    call.fix(atoms, SUMMED)
            elif letter in labels:
                call.tie(labels[letter], atoms)
            if letter in made and atoms is None and size > 1:
                labels[letter] = None
            if size > 1:
                labels.setdefault(letter, atoms)
            sizes[letter] = max(size, sizes.get(letter, 1))
    # where nothing is summed over, numbers are multiplied one by one
    if len(operands) > 1 and set(sizes) - set(made):
        whole = Value(tuple(sizes.values()), tuple(labels.get(k) for k in sizes), call.batched)
        scale, positions = call.positions(whole)
        call.count(call.op, scale, *positions)
    return call.out([labels.get(letter) for letter in made])


def _repeated(part: Value, leading: tuple[int, ...]) -> Value:
    """Leading dimensions of keys or values, each head as often as query heads share it."""
    if not leading or part.shape[-1:] in ((), (1,), leading[-1:]):
        return part
    atoms = part.labels[-1]
    atoms = None if atoms is None else np.repeat(atoms, leading[-1] // part.shape[-1])
    return Value((*part.shape[:-1], leading[-1]), (*part.labels[:-1], atoms), part.batched)


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """``softmax(query @ key.T) @ value``: heads and the features of ``value`` pass."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    own_scale = call.get("scale") is not None
    nodes = [node for node in call.node.args[:2] if isinstance(node, Node)]
    summed = summed_over(
        call, query.labels[-1], key.labels[-1], nodes, power=0.0 if own_scale else 0.5,
        sure=not own_scale,
    )  # fmt: skip
    call.fix(key.labels[-2], "softmax runs along this dimension")
    call.fix(value.labels[-2], SUMMED)
    leading = call.shape[:-2]
    parts = [Value(v.shape[:-2], v.labels[:-2]) for v in (query, key, value)]
    if call.get("enable_gqa"):
        parts[1:] = [_repeated(part, leading) for part in parts[1:]]
    labels = tie_broadcast(call, parts, leading)
    scores = Value(
        (*leading, query.shape[-2], key.shape[-2]),
        (*labels, query.labels[-2], None),
        batched=call.batched,
    )
    mask = call.maybe_tensor("attn_mask")
    if mask is not None:
        tie_broadcast(call, [scores, mask], scores.shape)
    scale, positions = call.positions(scores)
    call.count(call.op, scale, Extent(query.shape[-1], summed), *positions)
    call.count(call.op, scale, Extent(value.shape[-1], value.labels[-1]), *positions)
    return call.out([*labels, query.labels[-2], value.labels[-1]])
