"""Whether attention of fewer features per head scales its scores as before, found by running it.

``1 / sqrt(head_dim)`` may be a number that was worked out when the model was built, or be worked
out again in each call; a traced graph shows the same constant for both.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipp.records import ChannelGraph, DotProduct
from mipp.surgery.check import NO_KWARGS, trial_keep
from mipp.surgery.keeps import kept_indices
from mipp.surgery.mask import mask_model
from mipp.surgery.outputs import map_tensors
from mipp.surgery.slice import slice_graph
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.guards import as_it_was

_HIDDEN = -1000.0
"""Scores below are those of places that a mask hides."""


def with_attention_scale(
    model: nn.Module,
    graph: ChannelGraph,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = NO_KWARGS,
) -> ChannelGraph:
    """The graph with the power of each product that keeps the scores of the example as they were.

    What goes into each softmax is compared between masked and sliced models, so that the scale is
    seen however small the scores are. All products are tried at once as they are supposed, then
    all the other way, then one by one. A product that fits neither way is left as supposed, for
    `mipp.surgery.probe` to find.

    Args:
        model: The model.
        graph: Its groups.
        args: Positional arguments of an example.
        kwargs: Keyword arguments of it.
    """
    if all(product.sure for product in graph.products):
        return graph
    trial = trial_keep(graph)

    def right(products: Iterable[DotProduct], groups: Iterable[int]) -> bool:
        changed = replace(graph, products=tuple(products))
        keep = {index: trial[index] for index in groups}
        masked = mask_model(model, changed, keep)
        small = slice_graph(model, changed, kept_indices(changed, keep))
        return _same_scores(masked, small, args, kwargs)

    of_products = {
        int(group) for p in graph.products for group in graph.axes[p.left[0]].group[p.rows]
    } - {-1}
    for products in (graph.products, [_other(p) for p in graph.products]):
        if right(products, of_products):
            return replace(graph, products=tuple(products))
    found = list(graph.products)
    for place, product in enumerate(found):
        mine = {int(group) for group in graph.axes[product.left[0]].group[product.rows]} - {-1}
        other = [*found[:place], _other(product), *found[place + 1 :]]
        if not right(found, mine) and right(other, mine):
            found = other
    return replace(graph, products=tuple(found))


def _other(product: DotProduct) -> DotProduct:
    return product if product.sure else replace(product, power=0.5 - product.power)


def _same_scores(
    masked: nn.Module, small: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    with as_it_was(masked, small) as rewind:
        found = []
        for model in (masked, small):
            rewind()
            scores = _Scores()
            own_args, own_kwargs = map_tensors((list(args), dict(kwargs)), torch.clone)
            try:
                with torch.no_grad(), scores:
                    model(*own_args, **own_kwargs)
            except RuntimeError:
                return False  # a shape that does not fit: `probe` says which
            found.append(scores.seen)
    return len(found[0]) == len(found[1]) and all(map(_alike, *found))


def _alike(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    seen = (first > _HIDDEN) & (second > _HIDDEN)
    tolerance = math.sqrt(torch.finfo(first.dtype).eps)
    first, second = first[seen].double(), second[seen].double()
    return bool((first - second).norm() <= tolerance * first.norm())


class _Scores(FunctionMode):
    """Records what goes into each softmax, that in attention kernels included."""

    splits_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func``, and looks at what it is given."""
        if func is F.scaled_dot_product_attention:
            self.seen.append(_scores(*args, **kwargs))
        elif func in (torch.softmax, F.softmax, Tensor.softmax):
            scores = args[0] if args else kwargs["input"]
            if scores.is_floating_point():
                self.seen.append(scores.detach().clone())
        return func(*args, **kwargs)


def _scores(
    query: Tensor, key: Tensor, *_args: Any, scale: float | None = None, **_: Any
) -> Tensor:
    if key.dim() > 2 and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    return query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
