"""What every convolution, linear and BatchNorm call reads and makes, and how to change it.

Calls are recognised by the parameter they use, not by the module they sit in, so functional calls
(`F.linear(x, self.weight)`) and modules that are used twice are seen like any other. Nothing is
attached to the model: leaving the ``with`` block removes everything, also after an error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mipp.records import Kind
from mipp.tracing.contractions import PRODUCTS, SUMS, factors_of, linear_form
from mipp.tracing.function_mode import FunctionMode

LINEAR: tuple[Kind, ...] = ("linear", "matmul")
"""Kinds whose inputs have the features in the last dimension."""

_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSE_ARGUMENTS = (
    "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
)  # fmt: skip
_LINEAR_ARGUMENTS = ("input", "weight", "bias")
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
    torch.nn.functional.batch_norm: ("norm", _NORM_ARGUMENTS),
    torch.batch_norm: ("norm", _RAW_NORM_ARGUMENTS),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a convolution or linear layer, before it runs.

    Attributes:
        name: The name of the weight's parameter.
        call: The number of calls on this weight before this one, in the same forward pass.
        kind: The kind of layer.
        input: What it reads, of shape (batch, channels, *space) or (*batch, features); the features
            of `weight @ x` are moved last.
        weight: The parameter.
        bias: The bias, or None.
        stride: Of a convolution, one number for each dimension of space.
        padding: The same, before and behind.
        dilation: The same as ``stride``.
        run: Makes the output, laid out like ``input``, with the weight as it is then.
        groups: Of a convolution.
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
        """The weight's name and the number of the call, by which a consumer is found."""
        return self.name, self.call

    @property
    def grid(self) -> tuple[int, ...]:
        """Cells of one example that have a row: outputs of a convolution, in every dimension.

        Of a transposed convolution its inputs; empty for a linear layer.
        """
        if self.kind in LINEAR:
            return ()
        space = self.weight.dim() - 2
        sizes = tuple(self.input.shape[-space:])
        if self.kind == "conv_transpose":
            return sizes
        dims = zip(
            sizes, self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True
        )
        return tuple(
            (n + front + behind - dilation * (kernel - 1) - 1) // step + 1
            for n, kernel, step, (front, behind), dilation in dims
        )


@dataclass(frozen=True, eq=False)
class NormCall:
    """One BatchNorm call on running statistics, before it runs."""

    input: Tensor
    running_mean: Tensor
    running_var: Tensor


class CallHooks(FunctionMode):
    """Runs functions of the caller's at every call on a named weight, inside a ``with`` block.

    Args:
        model: The model whose weights are recognised.
        before: Called with each `Call` before it runs.
        after: Called with each `Call` and its output; what it returns is the output that the model
            goes on with.
        on_norm: Called before each BatchNorm call that uses running statistics.
        grouped: Whether grouped convolutions are seen, too.
    """

    splits_attention = True

    def __init__(
        self,
        model: nn.Module,
        *,
        before: Callable[[Call], None] | None = None,
        after: Callable[[Call, Tensor], Tensor] | None = None,
        on_norm: Callable[[NormCall], object] | None = None,
        grouped: bool = False,
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._places = {_place(p): p for p in model.parameters() if p.dim() == 2}
        self._places.pop(0, None)
        self._counts: dict[str, int] = {}
        self._before, self._after = before, after
        self._on_norm, self._grouped = on_norm, grouped

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func``, seen by the caller's functions if it is a call on a named weight."""
        if func in PRODUCTS:
            return self._product(func, args, kwargs)
        if func in SUMS:
            return self._sum(func, args, kwargs)
        kind, names = _SIGNATURES.get(func, (None, ()))
        if kind is None:
            return func(*args, **kwargs)
        given = dict(zip(names, args, strict=False)) | kwargs
        if kind == "norm":
            if self._on_norm and given.get("running_mean") is not None:
                self._on_norm(NormCall(given["input"], given["running_mean"], given["running_var"]))
            return func(*args, **kwargs)
        if kind == "linear":
            weight, transposed = self._matrix(given.get("weight"))
            if weight is not None:
                kind, given = "matmul" if transposed else "linear", given | {"weight": weight}
        if given.get("groups", 1) != 1 and not self._grouped:
            return func(*args, **kwargs)
        return self._seen(kind, given, lambda: func(*args, **kwargs))

    def _seen(self, kind: Kind, given: Mapping[str, Any], run: Callable[[], Tensor]) -> Tensor:
        """Runs a call, seen by the callback if its weight is a parameter."""
        name = self._names.get(id(given.get("weight")))
        # inside of torch.vmap there are no rows to be had
        if name is None or torch._C._functorch.is_batchedtensor(given["input"]):  # noqa: SLF001
            return run()
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        call = _call(name, count, kind, given, run)
        if self._before:
            self._before(call)
        output = call.run()
        return self._after(call, output) if self._after else output

    def _product(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """A product of tensors; of two with a weight among them it is a linear layer."""
        factors = factors_of(func, args, kwargs)
        found = [self._matrix(factor) for factor in factors]
        at = max((at for at, (own, _) in enumerate(found) if own is not None), default=None)
        form = None if at is None else linear_form(func, args, factors, at)
        if at is None or form is None:
            made: Tensor = func(*args, **kwargs)
            return made
        weight, transposed = found[at]
        given = {"input": factors[1 - at].permute(form.x_order), "weight": weight}
        kind: Kind = "linear" if (form.in_dim == 1) != transposed else "matmul"
        seen = self._seen(kind, given, lambda: func(*args, **kwargs).permute(form.y_order))
        return seen.permute(form.back)

    def _sum(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """``added + left @ right``: a linear layer with a bias, or a product and a sum."""
        names, product = SUMS[func]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        scaled = len(args) > 3 or bool(given.keys() - set(names))
        added, left, right = (given.get(name) for name in names)
        (weight, transposed), on_the_left = self._matrix(right), self._matrix(left)[0]
        if scaled or added is None or (weight is None and on_the_left is None):
            made: Tensor = func(*args, **kwargs)
            return made
        if weight is not None and on_the_left is None and added.dim() == 1:
            kind: Kind = "linear" if transposed else "matmul"
            layer = {"input": left, "weight": weight, "bias": added}
            return self._seen(kind, layer, lambda: func(*args, **kwargs))
        return added + self._product(product, (left, right), {})

    def _matrix(self, value: object) -> tuple[Tensor | None, bool]:
        """The parameter that a matrix is, repeated or not, and whether it is seen transposed."""
        if not isinstance(value, Tensor) or value.dim() < 2:
            return None, False
        if id(value) in self._names:
            return (value, False) if value.dim() == 2 else (None, False)
        own = self._places.get(_place(value))
        if own is None:
            return None, False
        repeats = zip(value.shape[:-2], value.stride()[:-2], strict=True)
        if any(size > 1 and step > 0 for size, step in repeats):
            return None, False
        look, as_own = (value.shape[-2:], value.stride()[-2:]), (own.shape, own.stride())
        if look == as_own:
            return own, False
        turned = tuple(part[::-1] for part in as_own)
        return (own, True) if look == turned else (None, False)


def _place(value: Tensor) -> int:
    """Where the numbers of a tensor begin; 0 for one without storage, as inside of `torch.vmap`."""
    try:
        return value.data_ptr()
    except RuntimeError:
        return 0


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


def n_positions(call: Call) -> int:
    """How many rows ``X`` one call has in all: examples times positions."""
    if call.kind in LINEAR:
        return math.prod(call.input.shape[:-1])
    batch = call.input.shape[0] if call.input.dim() == call.weight.dim() else 1
    return batch * math.prod(call.grid)


def of_one_length(tensors: Sequence[Tensor]) -> bool:
    """Whether dimension 0 counts the examples in all of these inputs, so that they can be cut.

    It does not where the edges of a graph (2, edges) or a recurrent state (layers, batch, features)
    stand beside the input. One of length 1 is broadcast, and stays whole. Sparse tensors are never
    cut.
    """
    batched = [tensor for tensor in tensors if tensor.dim() > 0]
    strided = all(tensor.layout is torch.strided for tensor in batched)
    longer = {len(tensor) for tensor in batched} - {1}
    # the state of one layer, (1, batch, features), has the examples in its second dimension
    states = [t for t in batched if len(t) == 1 and t.dim() > 2 and t.shape[1] in longer]
    return strided and bool(batched) and len(longer) <= 1 and not states


def token_mask(kwargs: Mapping[str, Any]) -> Bool[Tensor, "batch length"] | None:
    """Which tokens of each example are no padding, by the keyword ``attention_mask``.

    None where there is none of shape (batch, length), or nothing is padded.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool((mask != 0).all()):
        return None
    return mask != 0


def counted(call: Call, mask: Bool[Tensor, "batch length"] | None) -> Int[Tensor, " n"] | None:
    """Which of the `n_positions` are no padding, where the call runs on every token; else None."""
    if mask is None or call.kind not in LINEAR or n_positions(call) != mask.numel():
        return None
    shape = call.input.shape[:-1]
    return (
        mask.flatten().nonzero().flatten().cpu() if len(shape) == 1 or shape == mask.shape else None
    )


def input_rows(call: Call, pick: Int[Tensor, " rows"]) -> Float[Tensor, "rows d"]:
    """The inputs ``X`` of the picked positions, out of `n_positions`, as float32 or float64.

    Features are in the order of the columns of `weight_matrix`: for a convolution the patch,
    channel first.
    """
    if call.kind == "conv":
        return _windows(call, call.input, pick)
    return _wide(_tokens(call.input, call.kind, call.weight.dim())[pick])


def output_rows(call: Call, values: Tensor, pick: Int[Tensor, " rows"]) -> Float[Tensor, "rows m"]:
    """``values`` (shaped like the call's output) at the picked positions, as float32 or float64.

    For a transposed convolution, whose outputs overlap, the window of outputs that the picked input
    position adds to: right for gradients, not for the outputs themselves.
    """
    if call.kind == "conv_transpose":
        return _windows(call, values, pick)
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
    call: Call, values: Tensor, pick: Int[Tensor, " rows"]
) -> Float[Tensor, "rows window"]:
    """Windows of ``values`` under the kernel at the picked cells of the grid, channel first."""
    kernel, grid = call.weight.shape[2:], call.grid
    batched = values if values.dim() == call.weight.dim() else values.unsqueeze(0)
    wide = padded(call, batched, grid)
    where = torch.unravel_index(pick, (wide.shape[0], *grid))
    strides = wide.stride()
    view = wide.as_strided(
        (wide.shape[0], wide.shape[1], *grid, *kernel),
        (
            strides[0],
            strides[1],
            *(s * step for s, step in zip(strides[2:], call.stride, strict=True)),
            *(s * d for s, d in zip(strides[2:], call.dilation, strict=True)),
        ),
        wide.storage_offset(),
    )
    picked: tuple[Tensor | slice, ...] = (where[0], slice(None), *where[1:])
    rows = view[picked]
    return _wide(rows.flatten(1))


def padded(
    call: Call, values: Float[Tensor, "n c *space"], grid: tuple[int, ...]
) -> Float[Tensor, "n c *wide"]:
    """``values`` with zeros about them, so that the window of every cell of ``grid`` is inside."""
    padding: list[int] = []
    for size, (front, behind), n, step, dilation, cells in zip(
        values.shape[2:], call.padding, call.weight.shape[2:], call.stride, call.dilation, grid,
        strict=True,
    ):  # fmt: skip
        # what the last window needs can lie beyond the padding (output_padding), or short of it
        needed = (cells - 1) * step + dilation * (n - 1) + 1
        padding = [front, max(behind, needed - size - front), *padding]
    return nn.functional.pad(values, padding)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
