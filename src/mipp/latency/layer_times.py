"""Running times of every convolution and linear call on its own, at several widths.

Each call is run as the model runs it (number type, memory format, stride, device), or elsewhere, on
slices of its own input and weight. Calls of the same shapes and settings are timed once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp.latency.timing import Stopwatch, Work
from mipp.records import AxisKey, FloatArray, LatencyTable, LayerTable
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.guards import memory_format

_CONV, _TRANSPOSE = ("conv", 1, 0), ("conv", 0, 1)
"""Kind, and the dimensions of the weight for input and output channels."""
_CALLS: dict[Any, tuple[str, int, int]] = {
    torch.conv1d: _CONV,
    torch.conv2d: _CONV,
    torch.conv3d: _CONV,
    torch.conv_transpose1d: _TRANSPOSE,
    torch.conv_transpose2d: _TRANSPOSE,
    torch.conv_transpose3d: _TRANSPOSE,
    torch.nn.functional.linear: ("linear", 1, 0),
}


@dataclass(frozen=True, eq=False)
class LayerRun:
    """What a convolution or linear layer does with its input; calling it does so in PyTorch.

    Attributes:
        function: such as `torch.conv2d`.
        input: of the call, with as many channels as the weight takes.
        weight: of the layer.
        bias: of the layer, if it has one.
        groups: of a convolution.
        settings: keywords of a convolution, such as ``stride``; those left out have torch's
            defaults.

    Examples:
        >>> layer = LayerRun(torch.conv2d, torch.ones(1, 2, 4, 4), torch.ones(3, 2, 1, 1), None)
        >>> layer().shape
        torch.Size([1, 3, 4, 4])
    """

    function: Callable[..., Tensor]
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    groups: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Tensor:
        """The layer's output."""
        if self.function is torch.nn.functional.linear:
            return self.function(self.input, self.weight, self.bias)
        return self.function(
            self.input, self.weight, self.bias, **self.settings, groups=self.groups
        )


@dataclass(frozen=True, eq=False)
class _Call:
    """One call at full width."""

    name: str
    weight_name: str
    whole: LayerRun
    channel_dim: int
    in_dim: int
    out_dim: int
    outputs: int
    look: tuple[Any, ...]

    @property
    def depthwise(self) -> bool:
        """Whether every channel has its own filters, so that one axis determines all sizes."""
        groups = self.whole.groups
        return groups > 1 and groups == self.whole.input.shape[self.channel_dim]

    def axes(self, prunable: Callable[[AxisKey], bool]) -> tuple[AxisKey, ...]:
        """The axes of the weight that may get smaller, that of the input first."""
        if self.depthwise:
            # the weight of a depthwise convolution has all its channels along dimension 0
            dims: tuple[int, ...] = (0,)
        elif self.whole.groups > 1:
            dims = ()
        else:
            dims = (self.in_dim, self.out_dim)
        keys = (AxisKey(self.weight_name, dim) for dim in dims)
        return tuple(key for key in keys if prunable(key))

    def at(self, sizes: Mapping[AxisKey, int]) -> LayerRun:
        """The call at these sizes."""
        whole = self.whole
        taken, weight, bias, groups = whole.input, whole.weight, whole.bias, whole.groups
        for key, size in sizes.items():
            weight = weight.narrow(key.dim, 0, size)
            if self.depthwise:
                groups = max(1, whole.groups * size // whole.weight.shape[0])
                weight = weight.narrow(0, 0, size - size % groups)
                taken = taken.narrow(self.channel_dim, 0, groups)
            elif key.dim == self.in_dim:
                taken = taken.narrow(self.channel_dim, 0, size)
        if bias is not None and sizes:
            # of a depthwise convolution the channels times the filters of each, either way round
            makes = (
                weight.shape[0] * weight.shape[1] if self.depthwise else weight.shape[self.out_dim]
            )
            bias = bias[:makes].clone()
        taken, weight = _compact(taken, whole.input), _compact(weight, whole.weight)
        return replace(whole, input=taken, weight=weight, bias=bias, groups=groups)


class _Recorder(FunctionMode):
    """Records every convolution and linear call with a named weight."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._counts: dict[str, int] = {}
        self.calls: list[_Call] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func`` and records it."""
        output = func(*args, **kwargs)
        if func in _CALLS:
            self._note(func, args, kwargs, output)
        return output

    def _note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Tensor) -> None:
        kind, in_dim, out_dim = _CALLS[func]
        order = ("input", "weight", "bias", "stride", "padding", *_rest(func))
        given = dict(zip(order, args, strict=False)) | kwargs
        name = self._names.get(id(given["weight"]))
        if name is None:
            return
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        taken, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        groups = given.pop("groups", 1)
        more = dict(given) if kind == "conv" else {}
        self.calls.append(
            _Call(
                name=name.rpartition(".")[0] + (f"#{count}" if count else ""),
                weight_name=name,
                whole=LayerRun(
                    function=func,
                    input=taken.detach(),
                    weight=weight.detach(),
                    bias=None if bias is None else bias.detach(),
                    groups=groups,
                    settings=more,
                ),
                channel_dim=taken.dim() - 1 if kind == "linear" else taken.dim() - weight.dim() + 1,
                in_dim=in_dim,
                out_dim=out_dim,
                outputs=output.numel(),
                look=(
                    func, taken.shape, taken.stride(), taken.dtype, weight.shape, weight.stride(),
                    bias is None, groups, str(sorted(more.items())),
                ),
            )
        )  # fmt: skip


def _rest(func: Any) -> tuple[str, ...]:
    transposed = _CALLS[func] is _TRANSPOSE
    return ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")


def _compact(part: Tensor, whole: Tensor) -> Tensor:
    """A copy of the slice, which lies in memory as the whole does."""
    return part if part is whole else part.contiguous(memory_format=memory_format(whole))


def time_layers(
    model: nn.Module,
    run: Work,
    prunable: Callable[[AxisKey], bool],
    stopwatch: Stopwatch,
    device: torch.device,
    *,
    shares: Sequence[float | int],
    seconds: float | int,
    ready: Callable[[LayerRun], Work] = lambda layer: layer,
) -> tuple[LatencyTable, LatencyTable]:
    """Time every call of a layer at several widths.

    Milliseconds never fall with a width: where they were measured to fall, see `never_falling`.

    Args:
        model: its named weights are those of the layers.
        run: one forward pass of the model.
        prunable: which axes of weights can get smaller.
        stopwatch: times the runs.
        device: of the model.
        shares: of the full sizes that are timed, rising, the last one 1.
        seconds: for each call and choice of sizes.
        ready: makes of a layer what is timed; in PyTorch, itself.

    Returns:
        Milliseconds of every call, and how many numbers it outputs.

    Examples:
        >>> from mipp.latency import take_turns
        >>> model, x = nn.Linear(4, 2), torch.ones(1, 4)
        >>> times, outputs = time_layers(
        ...     model, lambda: model(x), lambda axis: axis.dim == 0, take_turns,
        ...     torch.device("cpu"), shares=(0.5, 1), seconds=0.001,
        ... )
        >>> outputs.layers[0].sizes, outputs.layers[0].values.tolist()
        (((1, 2),), [1.0, 2.0])
    """
    with torch.inference_mode(), _Recorder(model) as recorder:
        run()
    seen: dict[Any, FloatArray] = {}
    times, outputs = [], []
    for call in recorder.calls:
        axes = call.axes(prunable)
        sizes = tuple(_sizes(call.whole.weight.shape[key.dim], shares) for key in axes)
        look = (call.look, tuple(key.dim for key in axes))
        if look not in seen:
            works = [ready(one) for one in _runs(call, axes, sizes)]
            runs = stopwatch(works, seconds=seconds * len(works), fewest=5, device=device)
            del works  # which can hold a copy of the weights each
            medians = np.array([np.median(mine) for mine in runs])
            seen[look] = never_falling(medians.reshape([len(some) for some in sizes]))
        times.append(LayerTable(call.name, axes, sizes, seen[look]))
        outputs.append(LayerTable(call.name, axes, sizes, _outputs(call, axes, sizes)))
    return LatencyTable(0.0, tuple(times)), LatencyTable(0.0, tuple(outputs))


def _sizes(full: int, shares: Sequence[float | int]) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(share * full)) for share in shares}))


def _runs(
    call: _Call, axes: Sequence[AxisKey], sizes: Sequence[Sequence[int]]
) -> Iterator[LayerRun]:
    """The call at every choice of sizes."""
    for at in np.ndindex(*(len(some) for some in sizes)):
        yield call.at({key: sizes[n][at[n]] for n, key in enumerate(axes)})


def never_falling(values: FloatArray) -> FloatArray:
    """The mean of the lowest rising surface above and the highest below, along all axes.

    Examples:
        >>> never_falling(np.array([1.0, 3.0, 2.0])).tolist()
        [1.0, 2.5, 2.5]
    """
    above, below = values, values
    for axis in range(values.ndim):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    return np.asarray((above + below) / 2)


def _outputs(call: _Call, axes: Sequence[AxisKey], sizes: Sequence[Sequence[int]]) -> FloatArray:
    values = np.full(tuple(len(some) for some in sizes), float(call.outputs))
    makes = 0 if call.depthwise else call.out_dim
    for place, key in enumerate(axes):
        if key.dim == makes:
            shape = [1] * values.ndim
            shape[place] = -1
            values = values * (np.array(sizes[place]) / call.whole.weight.shape[makes]).reshape(
                shape
            )
    return values
