"""See what every convolution, linear and BatchNorm call takes in, and change it on the way.

Calls are recognised by the parameter they use, not by the module they sit in, so functional calls
(`F.linear(x, self.weight)`) and modules that are used twice are seen like any other. Nothing is
attached to the model: leaving the ``with`` block removes everything, also after an error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mipp.attention import attention_forward, written_out
from mipp.guards import as_it_was
from mipp.records import Kind

LINEAR: tuple[Kind, ...] = ("linear", "matmul")
"""Kinds whose inputs have the features in the last dimension."""

_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSE_ARGUMENTS = (
    "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
)  # fmt: skip
_LINEAR_ARGUMENTS = ("input", "weight", "bias")
_MATMUL_ARGUMENTS = ("input", "weight")
_ADDMM_ARGUMENTS = ("bias", "input", "weight")
_NORM_ARGUMENTS = ("input", "running_mean", "running_var")
_RAW_NORM_ARGUMENTS = (
    "input", "weight", "bias", "running_mean", "running_var",
)  # fmt: skip

_SIGNATURES: dict[Any, tuple[Kind | Literal["norm"], tuple[str, ...]]] = {
    torch.conv1d: ("conv", _CONV_ARGUMENTS),
    torch.conv2d: ("conv", _CONV_ARGUMENTS),
    torch.conv3d: ("conv", _CONV_ARGUMENTS),
    torch.conv_transpose1d: ("conv_transpose", _TRANSPOSE_ARGUMENTS),
    torch.conv_transpose2d: ("conv_transpose", _TRANSPOSE_ARGUMENTS),
    torch.conv_transpose3d: ("conv_transpose", _TRANSPOSE_ARGUMENTS),
    torch.nn.functional.linear: ("linear", _LINEAR_ARGUMENTS),
    **dict.fromkeys(
        (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__),
        ("matmul", _MATMUL_ARGUMENTS),
    ),
    torch.addmm: ("matmul", _ADDMM_ARGUMENTS),
    torch.nn.functional.batch_norm: ("norm", _NORM_ARGUMENTS),
    torch.batch_norm: ("norm", _RAW_NORM_ARGUMENTS),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a convolution or linear layer, before it runs.

    ``name`` is the weight's parameter name and ``call`` counts its calls in this forward pass.
    ``input`` has shape (batch, channels, *space) or (*batch, features). ``groups``: of a
    convolution. ``run`` makes the output, with the weight as it is then.
    """

    name: str
    call: int
    kind: Kind
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    run: Callable[[], Tensor]
    groups: int = 1

    @property
    def key(self) -> tuple[str, int]:
        """What a consumer is found by: weight name and number of the call."""
        return self.name, self.call


@dataclass(frozen=True, eq=False)
class NormCall:
    """One BatchNorm call on running statistics, before it runs."""

    input: Tensor
    running_mean: Tensor
    running_var: Tensor


class Taps(TorchFunctionMode):
    """Calls ``after(call, output)`` for each call on a named weight.

    ``after`` returns the output that the model goes on with. ``on_norm`` runs before each BatchNorm
    call that uses running statistics. ``grouped``: grouped convolutions are seen, too.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        after: Callable[[Call, Tensor], Tensor] | None = None,
        on_norm: Callable[[NormCall], None] | None = None,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._places = {p.data_ptr(): p for p in model.parameters() if p.dim() == 2}
        self._counts: dict[str, int] = {}
        self._after, self._on_norm, self._grouped = after, on_norm, grouped

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs ``func``, seen by the callbacks if it is a tapped call."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.multi_head_attention_forward and written_out(dict(kwargs)):
            with self:
                return attention_forward(*args, **kwargs)
        kind, names = _SIGNATURES.get(func, (None, ()))
        if kind is None:
            return func(*args, **kwargs)
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        if kind == "norm":
            if self._on_norm and given.get("running_mean") is not None:
                self._on_norm(NormCall(given["input"], given["running_mean"], given["running_var"]))
            return func(*args, **kwargs)
        if kind in LINEAR:
            kind, given = self._untransposed(kind, given)
        name = self._names.get(id(given.get("weight")))
        other = given.get("groups", 1) != 1 and not self._grouped
        other |= kind == "matmul" and given["weight"].dim() != 2
        if name is None or other:
            return func(*args, **kwargs)
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        call = _call(name, count, kind, given, lambda: func(*args, **kwargs))
        output = call.run()
        return self._after(call, output) if self._after else output

    def _untransposed(self, kind: Kind, given: dict[str, Any]) -> tuple[Kind, dict[str, Any]]:
        """The same product with the parameter itself, where ``weight`` is that, transposed."""
        weight = given.get("weight")
        if not isinstance(weight, Tensor) or weight.dim() != 2 or id(weight) in self._names:
            return kind, given
        own = self._places.get(weight.data_ptr())
        if own is None or (own.shape, own.stride()) != (weight.mT.shape, weight.mT.stride()):
            return kind, given
        return ("matmul" if kind == "linear" else "linear"), given | {"weight": own}


def _call(
    name: str, count: int, kind: Kind, given: Mapping[str, Any], run: Callable[[], Tensor]
) -> Call:
    weight: Tensor = given["weight"]
    space = weight.dim() - 2 if kind not in LINEAR else 0
    stride = _per_dim(given.get("stride", 1), space)
    dilation = _per_dim(given.get("dilation", 1), space)
    padding = given.get("padding", 0)
    if padding == "valid":
        sides = ((0, 0),) * space
    elif padding == "same":
        # torch puts the odd one of an even kernel's zeros behind
        totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        sides = tuple((t // 2, t - t // 2) for t in totals)
    else:
        sides = tuple((p, p) for p in _per_dim(padding, space))
    return Call(
        name=name,
        call=count,
        kind=kind,
        input=given["input"],
        weight=weight,
        bias=given.get("bias"),
        stride=stride,
        padding=sides,
        dilation=dilation,
        run=run,
        groups=given.get("groups", 1),
    )


def _per_dim(value: int | Sequence[int], space: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * space
    given = tuple(int(v) for v in value)
    return given * space if len(given) == 1 else given


def n_positions(call: Call, output: Tensor) -> int:
    """How many rows ``X`` one call has in all: examples times positions."""
    if call.kind in LINEAR:
        return math.prod(call.input.shape[:-1])
    channels_last = call.input if call.kind == "conv_transpose" else output
    space = call.weight.dim() - 2
    batch = channels_last.shape[0] if channels_last.dim() == space + 2 else 1
    return batch * math.prod(channels_last.shape[-space:])


def token_mask(kwargs: Mapping[str, Any]) -> Bool[Tensor, "batch length"] | None:
    """Which tokens of each example are no padding, by the keyword ``attention_mask``.

    None where there is none of shape (batch, length), or nothing is padded.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool((mask != 0).all()):
        return None
    return mask != 0


def counted(
    call: Call, output: Tensor, mask: Bool[Tensor, "batch length"] | None
) -> Int[Tensor, " n"] | None:
    """Which of the `n_positions` are no padding, where the call runs on every token; else None."""
    if mask is None or call.kind not in LINEAR or n_positions(call, output) != mask.numel():
        return None
    shape = call.input.shape[:-1]
    return (
        mask.flatten().nonzero().flatten().cpu() if len(shape) == 1 or shape == mask.shape else None
    )


def input_rows(call: Call, output: Tensor, pick: Int[Tensor, " rows"]) -> Float[Tensor, "rows d"]:
    """The inputs ``X`` of the picked positions, out of `n_positions`, as float32 or float64.

    Features are in the order of the columns of `weight_matrix`: for a convolution the patch,
    channel first.
    """
    if call.kind == "conv":
        return _windows(call, call.input, tuple(output.shape[2 - call.weight.dim() :]), pick)
    return _wide(_tokens(call.input, call.kind, call.weight.dim())[pick])


def output_rows(call: Call, values: Tensor, pick: Int[Tensor, " rows"]) -> Float[Tensor, "rows m"]:
    """``values`` (shaped like the call's output) at the picked positions, as float32 or float64.

    For a transposed convolution, whose outputs overlap, the window of outputs that the picked input
    position adds to: right for gradients, not for the outputs themselves.
    """
    if call.kind == "conv_transpose":
        return _windows(call, values, tuple(call.input.shape[2 - call.weight.dim() :]), pick)
    return _wide(_tokens(values, call.kind, call.weight.dim())[pick])


def weight_matrix(kind: Kind, weight: Tensor) -> Float[Tensor, "m d"]:
    """The weight as the matrix ``W`` of ``Y = W X``, one row an output, as a view or a copy."""
    if kind in ("conv_transpose", "matmul"):
        return weight.flatten(1).T
    return weight.flatten(1)


def _tokens(values: Tensor, kind: Kind, weight_dim: int) -> Float[Tensor, "rows features"]:
    if kind in LINEAR:
        return values.reshape(-1, values.shape[-1])
    batched = values if values.dim() == weight_dim else values.unsqueeze(0)
    return batched.flatten(2).transpose(1, 2).reshape(-1, batched.shape[1])


def _windows(
    call: Call, values: Tensor, grid: tuple[int, ...], pick: Int[Tensor, " rows"]
) -> Float[Tensor, "rows window"]:
    """Windows of ``values`` under the kernel at the picked cells of ``grid``, channel first."""
    kernel = call.weight.shape[2:]
    batched = values if values.dim() == call.weight.dim() else values.unsqueeze(0)
    padding: list[int] = []
    for size, (front, behind), n, step, dilation, cells in zip(
        batched.shape[2:], call.padding, kernel, call.stride, call.dilation, grid, strict=True
    ):
        # what the last window needs can lie beyond the padding (output_padding), or short of it
        needed = (cells - 1) * step + dilation * (n - 1) + 1
        padding = [front, max(behind, needed - size - front), *padding]
    padded = nn.functional.pad(batched, padding)
    where = torch.unravel_index(pick, (padded.shape[0], *grid))
    strides = padded.stride()
    view = padded.as_strided(
        (padded.shape[0], padded.shape[1], *grid, *kernel),
        (
            strides[0],
            strides[1],
            *(s * step for s, step in zip(strides[2:], call.stride, strict=True)),
            *(s * d for s, d in zip(strides[2:], call.dilation, strict=True)),
        ),
        padded.storage_offset(),
    )
    picked: tuple[Tensor | slice, ...] = (where[0], slice(None), *where[1:])
    rows = view[picked]
    return _wide(rows.flatten(1))


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


@contextmanager
def measuring(model: nn.Module, *, values: bool = True):  # type: ignore[no-untyped-def]
    """Evaluation mode and frozen parameters for the time of the block, all put back after it.

    Attributes, buffers and torch's random generators are put back, too; see
    `mipp.guards.as_it_was`, also for ``values``.
    """
    with as_it_was(model, values=values):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield model
