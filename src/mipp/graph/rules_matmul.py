"""Rules of matrix products: with a parameter like a linear layer, else between activations."""

from collections.abc import Sequence
from string import ascii_letters

import numpy as np
from torch.fx import Node

from mipp.graph.flow import Extent, Labels
from mipp.graph.labels import Value
from mipp.graph.products import SUMMED, summed_over
from mipp.graph.rules import Call, rule
from mipp.graph.rules_layers import dense_linear, parameter_axis
from mipp.graph.rules_pointwise import tie_broadcast

NO_LAYER = "mipp sees no layer in this product with a weight"


def is_weight(value: Value) -> bool:
    """Whether a value is a matrix that is one parameter, seen from either side."""
    return len(value.shape) == 2 and None not in (
        parameter_axis(value, 0),
        parameter_axis(value, 1),
    )


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: Call) -> Value:
    """``left @ right``; products with a vector are not counted, nor does PyTorch count them."""
    left, right = call.inputs
    if is_weight(right) and not is_weight(left) and len(left.shape) > 1:
        return dense_linear(call, left, right, None, in_dim=0)
    if len(left.shape) < 2 or len(right.shape) < 2:
        call.fix_all("it multiplies with a vector")
        return call.out([None] * len(call.shape))
    return product(call, left, right, call.node.all_input_nodes)


@rule("addmm")
def addmm(call: Call) -> Value:
    """``bias + left @ weight``."""
    bias, left, right = call.tensor("self"), call.tensor("mat1"), call.tensor("mat2")
    scaled = call.get("alpha") not in (None, 1) or call.get("beta") not in (None, 1)
    if is_weight(right) and not is_weight(left) and len(bias.shape) == 1 and not scaled:
        return dense_linear(call, left, right, bias, in_dim=0)
    summed = product(call, left, right, call.node.all_input_nodes[-2:])
    return call.out(tie_broadcast(call, [bias, summed], call.shape))


@rule("baddbmm")
def baddbmm(call: Call) -> Value:
    """``added + left @ right`` for each item of the batch."""
    summed = product(call, call.tensor("batch1"), call.tensor("batch2"),
                     call.node.all_input_nodes[-2:])  # fmt: skip
    return call.out(tie_broadcast(call, [call.tensor("self"), summed], call.shape))


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
    terms, _, made = str(call.get("equation")).replace(" ", "").partition("->")
    ranks = [len(value.shape) for value in call.inputs]
    made, *subscripts = _without_dots(made, terms.split(","), ranks)
    operands = list(zip(subscripts, call.inputs, strict=True))
    if "->" not in call.get("equation") or any(len(set(s)) != len(s) for s in subscripts):
        call.fix_all("mipp reads no einsum without an output or with a diagonal")
        return call.out([None] * len(call.shape))
    if len(operands) == 2:
        for (letters, x), (matrix, weight) in (operands, operands[::-1]):
            summed = letters[-1]
            if (
                is_weight(weight)
                and not is_weight(x)
                and summed in matrix
                and made == letters[:-1] + matrix.replace(summed, "")
            ):
                return dense_linear(call, x, weight, None, in_dim=matrix.index(summed))
    return _sum_of_products(call, operands, made)


def _without_dots(made: str, terms: list[str], ranks: list[int]) -> list[str]:
    """The output and the operands of an einsum, with a letter for each dimension of the dots."""
    free = [letter for letter in ascii_letters if letter not in made + "".join(terms)]
    n_dots = [rank - len(term.replace(".", "")) for term, rank in zip(terms, ranks, strict=True)]
    written = [made, *terms]
    return [
        text.replace("...", "".join(free[:n][::-1]))
        for text, n in zip(written, [max(n_dots), *n_dots], strict=True)
    ]


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
    if len(operands) > 1:
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
