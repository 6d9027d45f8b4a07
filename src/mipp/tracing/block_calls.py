"""What every module takes in and gives in a forward pass, and passes that go around some modules.

A block is a module whose first tensor comes out in the shape in which it went in. Whether its input
is also added to its output is read from the graph of gradients: some way back from the output meets
the input without passing a product with weights.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from mipp.tracing.calls import Call, CallHooks
from mipp.tracing.guards import as_it_was, measuring

_PRODUCTS = ("Convolution", "mm", "Mm", "ScaledDotProduct", "Embedding", "Lstm", "Rnn", "Gru")
"""Parts of the names of gradients of products."""


def _grouped_flops(rows: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Of a product in which each row meets one of several matrices, as those of experts."""
    return int(2 * math.prod(rows) * weights[-1])


def _lstm_flops(steps: Any, of_inputs: Any, of_state: Any, *_: Any, **__: Any) -> int:
    """Of a recurrent layer; the first shape is (steps, examples, features)."""
    return int(2 * math.prod(steps[:2]) * (math.prod(of_inputs) + math.prod(of_state)))


_FLOPS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._grouped_mm: _grouped_flops,  # noqa: SLF001 - the name of an op
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
}
"""What torch's own counter does not know."""


_Look = tuple[tuple[int, ...], torch.dtype] | None


@dataclass(frozen=True, eq=False)
class _Start:
    """A call as it begins; its input may be changed in place.

    Attributes:
        look: Shape and number type of the first tensor.
        node: Where its gradient goes.
        flops: Counted until then.
    """

    look: _Look
    node: Node | None
    flops: int


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """The calls of one module in a forward pass.

    Attributes:
        count: How many there were.
        shapes: Of the first floating-point tensor that goes in and of the one that comes out, with
            their number types; None where there is none.
        plain: Whether it takes that tensor alone, and gives one tensor.
        residual: Whether the input is added to the output, or the output of a norm of such a sum.
        macs: Multiply-accumulates for one example.
    """

    count: int
    shapes: tuple[_Look, ...]
    plain: bool
    residual: bool
    macs: float

    @property
    def keeps_shape(self) -> bool:
        """Whether what comes out looks like what goes in."""
        taken, given = self.shapes
        return taken is not None and taken == given


def module_calls(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], examples: int
) -> tuple[dict[str, ModuleCall], float]:
    """The calls of every module by its path, and multiply-accumulates of the model for one example.

    A module with several paths has its calls under each.
    Attention runs as plain products, whose cost is known.

    Args:
        model: The model, which is left as it was.
        args: Positional arguments of an example.
        kwargs: Keyword arguments of it.
        examples: How many examples they are.
    """
    found: dict[str, ModuleCall] = {}
    counts: Counter[str] = Counter()
    started: dict[str, list[_Start]] = {}
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)

    def before(name: str, _: nn.Module, args: Any, kwargs: Any) -> None:
        taken, flops = first_tensor((args, kwargs)), counter.get_total_flops()
        node = None if taken is None else taken.grad_fn
        started.setdefault(name, []).append(_Start(_look(taken), node, flops))

    def after(name: str, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        start, given = started[name].pop(), first_tensor(output)
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if leaf is not None]
        counts[name] += 1
        found[name] = ModuleCall(
            count=counts[name],
            shapes=(start.look, _look(given)),
            plain=len(inputs) == 1 and isinstance(output, Tensor),
            residual=given is not None and _adds(start.node, given.grad_fn),
            macs=(counter.get_total_flops() - start.flops) / 2 / examples,
        )

    with ExitStack() as stack:
        stack.enter_context(as_it_was(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        for name, module in model.named_modules():
            pre = module.register_forward_pre_hook(partial(before, name), with_kwargs=True)
            stack.callback(pre.remove)
            post = module.register_forward_hook(partial(after, name), with_kwargs=True)
            stack.callback(post.remove)
        args, kwargs = pytree.tree_map_only(Tensor, _with_gradients, (args, dict(kwargs)))
        with counter:
            model(*args, **kwargs)
    firsts = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        if firsts[module] in found:
            found[name] = found[firsts[module]]
    return found, counter.get_total_flops() / 2 / examples


def _with_gradients(tensor: Tensor) -> Tensor:
    """A copy that gradients lead to, no leaf, so that a model can change it in place."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.detach().requires_grad_(True).clone()


def first_tensor(value: Any) -> Tensor | None:
    """The first floating-point tensor in tuples, lists, dicts and what transformers return."""
    leaves = pytree.tree_leaves(value)
    return next((t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()), None)


def _look(tensor: Tensor | None) -> _Look:
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _adds(goal: Node | None, start: Node | None) -> bool:
    """Whether a way back from the output ``start`` to the input ``goal`` passes no product."""
    if start is None or goal is None:
        return False
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        if node is goal:
            return node is not start
        if any(part in node.name() for part in _PRODUCTS):
            continue
        for other, _ in node.next_functions:
            if other is not None and other not in seen:
                seen.add(other)
                waiting.append(other)
    return False


def go_around(model: nn.Module, names: Collection[str]) -> None:
    """Lets the named modules, in place, give back the first tensor that they take in.

    They still run, so that whatever else they return is there, and that calls of layers and norms
    have the numbers that they have in the whole model.
    """
    for name in names:
        module = model.get_submodule(name)
        vars(module)["forward"] = partial(_around, module.forward)


def run_through(model: nn.Module, names: Collection[str]) -> None:
    """Undoes `go_around`."""
    for name in names:
        vars(model.get_submodule(name)).pop("forward", None)


def _around(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    leaves, form = pytree.tree_flatten((args, kwargs))
    at = _first_of(leaves)
    # a forward that works in place would change what goes around it
    own = [leaf.clone() if n == at else leaf for n, leaf in enumerate(leaves)]
    own_args, own_kwargs = pytree.tree_unflatten(own, form)
    made, form = pytree.tree_flatten(forward(*own_args, **own_kwargs))
    made[_first_of(made)] = leaves[at]
    return pytree.tree_unflatten(made, form)


def _first_of(leaves: Sequence[Any]) -> int:
    """Place of the first floating-point tensor."""
    return next(
        n for n, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    )  # fmt: skip


def weights_in_order(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """Names of the weights of layers in the order of their first calls."""
    names: dict[str, None] = {}

    def after(call: Call, output: Tensor) -> Tensor:
        names.setdefault(call.name)
        return output

    with torch.no_grad(), measuring(model), CallHooks(model, after=after, grouped=True):
        model(*args, **dict(kwargs))
    return tuple(names)
