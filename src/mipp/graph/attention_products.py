"""Products of two activations that sum over features inside heads: scores of queries and keys.

A feature of queries and the same feature of keys can go together. What that changes is the number
of features, from which most code takes the scale of the scores (`mipp.records.DotProduct`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg

from mipp.graph.findings import Labels, SummedOver
from mipp.graph.rules.rule import Call, find_rule, op_name
from mipp.records import AxisKey, DotProduct, IntArray

SUMMED = "a product of two activations sums over it"
_MOVES = {
    "alias", "chunk", "clone", "contiguous", "detach", "expand", "flatten", "permute", "reshape",
    "select", "slice", "split", "split_with_sizes", "squeeze", "to", "_to_copy", "transpose",
    "unbind", "unflatten", "unsafe_view", "_unsafe_view", "unsqueeze", "view", "repeat_interleave",
}  # fmt: skip
"""Ops that only move numbers, so that where they come from is found by moving their places."""


def summed_over(
    call: Call,
    left: Labels,
    right: Labels,
    nodes: Sequence[Node],
    power: float = 0.5,
    *,
    sure: bool = False,
) -> Labels:
    """What may be removed of what a product sums over: features inside heads, or nothing.

    Args:
        call: The product.
        left: Labels of the left side along what it sums over.
        right: The same of the right side.
        nodes: The two sides.
        power: As in `mipp.records.DotProduct`; by default the scale is that of a size that is read
            when the model runs.
        sure: As in `mipp.records.DotProduct`.
    """
    inside = [atoms for _, atoms in call.flow.in_heads]
    known = np.concatenate(inside) if inside else np.zeros(0, np.int64)
    if left is None or right is None or len(nodes) != 2 or not np.isin(left, known).all():
        call.fix(left, SUMMED)
        call.fix(right, SUMMED)
        return None
    made = [_made_by(node, call.flow.makers) for node in nodes]
    if made[0] is None:
        reason = "no layer is found that makes what this product sums over, to keep its scale"
        call.fix(left, reason)
        call.fix(right, reason)
        return None
    call.tie(left, right)
    keys, rows = made[0]
    other = made[1][0] if made[1] is not None else ()
    name = keys[0].tensor
    product = DotProduct(name, keys, other, rows, float(power), sure)
    earlier = [item.product for item in call.flow.products]
    if not any(item.left == keys and np.array_equal(item.rows, rows) for item in earlier):
        call.flow.products.append(SummedOver(left, product))
    return left


def _made_by(
    node: Node, makers: dict[Node, tuple[AxisKey, ...]]
) -> tuple[tuple[AxisKey, ...], IntArray] | None:
    """Weight and bias of the layer call that a tensor comes from, and which of its outputs it is.

    Between the two lie ops that move numbers, and ones that change them where they are.
    """
    path: list[Node] = []
    while node not in makers:
        before = _before(node, makers)
        if before is None:
            return None
        if _moves(node):
            path.append(node)
        node = before
    shape = node.meta["val"].shape
    places: object = torch.arange(shape[-1], dtype=torch.int32).expand(tuple(shape))
    for step in reversed(path):
        places = _moved(step, places)
    assert isinstance(places, Tensor)
    return makers[node], np.unique(places.numpy()).astype(np.int64)


def _moves(node: Node) -> bool:
    return not isinstance(node.target, OpOverload) or op_name(node.target) in _MOVES


def _before(node: Node, makers: dict[Node, tuple[AxisKey, ...]]) -> Node | None:
    """The input that the numbers come from; of several of the same shape one that a layer makes."""
    if node.op != "call_function" or not node.all_input_nodes:
        return None
    if _moves(node):
        return node.all_input_nodes[0]
    assert isinstance(node.target, OpOverload)
    rule = find_rule(node.target)
    if rule is None or rule.__name__ != "pointwise":
        return None
    shape = getattr(node.meta.get("val"), "shape", None)
    alike = [n for n in node.all_input_nodes if getattr(n.meta.get("val"), "shape", None) == shape]
    return next((n for n in alike if _comes_from_layer(n, makers)), None)


def _comes_from_layer(node: Node, makers: dict[Node, tuple[AxisKey, ...]]) -> bool:
    while node not in makers:
        before = _before(node, makers)
        if before is None:
            return False
        node = before
    return True


def _moved(step: Node, places: object) -> object:
    """What an op that only moves numbers makes of their places."""
    source = step.all_input_nodes[0]
    if isinstance(places, Tensor):
        places = places.contiguous()

    def put(node: Node) -> Any:
        return places if node is source else node

    args: Any = map_arg(step.args, put)
    kwargs: Any = map_arg(step.kwargs, put)
    if isinstance(step.target, OpOverload) and op_name(step.target) in ("to", "_to_copy"):
        return places  # places are whole numbers whatever the model computes in
    assert callable(step.target)
    return step.target(*args, **kwargs)
