"""The cost of ops that have no rule: what goes into them stays, so that it is a number.

PyTorch's own flop formulas say it, with the shapes of the traced call. A few ops that multiply are
not known to these and have a formula here. What neither knows is listed, not guessed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.fx.node import map_arg
from torch.utils.flop_counter import FlopCounterMode

from mipp.graph.exported import module_path
from mipp.graph.rules.rule import Call

Shape = Sequence[int]


def _weighted(call: Call, made: Shape) -> int:
    """What a row of the weight reads, for each output; sampling is not counted, as elsewhere."""
    return math.prod(made) * math.prod(call.tensor("weight").shape[1:])


def _conv_tbc(call: Call, made: Shape) -> int:
    width, channels, _ = call.tensor("weight").shape
    return math.prod(made) * width * channels


def _addbmm(call: Call, made: Shape) -> int:
    items, _, summed = call.tensor("batch1").shape
    return math.prod(made) * items * summed


def _cdist(call: Call, made: Shape) -> int:
    return math.prod(made) * call.tensor("x1").shape[-1]


_FORMULAS: dict[str, Callable[[Call, Shape], int]] = {
    "bilinear": _weighted,
    "torchvision::deform_conv2d": _weighted,
    "conv_tbc": _conv_tbc,
    "addbmm": _addbmm,
    "cdist": _cdist,
}

_MULTIPLIES = (
    "fft_", "_fft_", "stft", "istft", "linalg_", "cholesky", "_cholesky", "lu_", "inverse",
    "pinverse", "matrix_", "_trilinear", "triangular_solve", "geqrf", "ormqr",
)  # fmt: skip
"""How the names of ATen ops begin that do more than a number of operations for each element."""


def count_fixed(call: Call) -> None:
    """Counts an op without a rule, or lists it as left out of the cost."""
    macs = _macs(call)
    if macs is None:
        _leave_out(call)
    elif macs:
        examples = call.flow.batch if call.batched else 1
        call.count(module_path(call.node) or call.op, macs / examples)


def list_uncounted(call: Call) -> None:
    """Lists a node that runs graphs of its own, such as a loop or a branch on values."""
    if any(isinstance(leaf, GraphModule) for leaf in call.arguments.values()):
        _leave_out(call)


def _leave_out(call: Call) -> None:
    if call.at not in call.flow.uncounted:  # a loop has one line for all its steps
        call.flow.uncounted.append(call.at)


def _macs(call: Call) -> float | None:
    """Multiply-accumulates of the call as traced; None where nobody knows."""
    op, made = call.node.target, call.node.meta.get("val")
    assert isinstance(op, OpOverload)
    formula = _FORMULAS.get(call.op)
    if formula is not None and isinstance(made, Tensor):
        return float(formula(call, call.shape))
    known = _by_torch(call)
    if known:
        return known
    foreign = (
        bool(call.inputs)
        and "::" in call.op
        and not call.op.startswith(("prims::", "torchvision::"))
    )
    return None if known is None or foreign or call.op.startswith(_MULTIPLIES) else 0.0


def _by_torch(call: Call) -> float | None:
    """What PyTorch's counter says, which takes ops apart that are made of others; 0 for none."""

    def traced(node: Any) -> Any:
        return node.meta.get("val")

    args, kwargs = map_arg((call.node.args, call.node.kwargs), traced)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call.node.target(*args, **kwargs)  # type: ignore[operator] # an op, see above
        flops = counter.get_total_flops()
    except Exception:  # noqa: BLE001 # sizes that depend on values, ops that run on no fake tensor
        return None
    return flops / 2 if isinstance(flops, int) else None
