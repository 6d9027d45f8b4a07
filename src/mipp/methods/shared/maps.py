"""Feature maps of units: what the activation function behind a layer gives.

A layer's outputs are followed through norms, sums, products and pooling to the activation function
behind them, call by call, without hooks on modules.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.errors import CalibrationError, InputError
from mipp.methods.method import Question
from mipp.records import KEPT, Axis, AxisKey, ChannelGraph, Group
from mipp.statistics import Batch
from mipp.tracing.function_mode import FunctionMode
from mipp.tracing.guards import measuring

_LAYERS = {f"conv{n}d": 0 for n in (1, 2, 3)} | {f"conv_transpose{n}d": 1 for n in (1, 2, 3)} | {
    "linear": 0
}  # fmt: skip
"""Functions with a weight as second argument -> the weight's dimension that makes the outputs."""

_ACTIVATIONS = {
    "relu", "relu_", "relu6", "gelu", "silu", "elu", "elu_", "celu", "selu", "leaky_relu", "prelu",
    "mish", "hardswish", "hardtanh", "hardsigmoid", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "softplus", "clamp", "clamp_", "clamp_min", "clamp_min_",
}  # fmt: skip

_SAME_CHANNELS = {
    "batch_norm", "instance_norm", "group_norm", "layer_norm", "add", "add_", "mul", "mul_", "sub",
    "div", "dropout", "dropout1d", "dropout2d", "dropout3d", "clone", "contiguous",
} | {
    f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)
}  # fmt: skip
"""Functions that have the channels of what they are given, in the same order."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of the channels of one group, for a batch.

    ``values``: one map a channel, ``space`` empty where a channel is one number. ``unit``: of each
    channel.
    """

    values: Float[Tensor, "batch channels *space"]
    unit: Int[Tensor, " channels"]

    def rows(self) -> Float[Tensor, "matrices channels columns"]:
        """A matrix for each example, a row a channel; one for the whole batch without ``space``."""
        if self.values.dim() > 2:
            return self.values.flatten(2)
        return self.values.T.unsqueeze(0)


def watch_maps(
    question: Question, batches: Sequence[Batch], see: Callable[[Group, Maps], None]
) -> None:
    """Runs the net in evaluation mode and calls ``see`` with all maps of the units that are left.

    Maps are those of every activation function that a group runs through: of a residual stream one
    for each block. Where there is none for some of its units, or it cannot be followed, they are
    what the layers that read the group take in.

    Raises:
        CalibrationError: maps that are not finite.
        InputError: units whose maps cannot be had either way.
    """
    with torch.no_grad(), measuring(question.model):
        heard = _heard(question, batches[0].part(0, 2), inputs=False)
        for inputs in (False, True):
            wanted = {
                group.index: group
                for group in question.graph.groups
                if (group.index in heard) != inputs
            }

            def tell(index: int, maps: Maps, wanted: Mapping[int, Group] = wanted) -> None:
                if index not in wanted or not len(maps.unit):
                    return
                if not bool(torch.isfinite(maps.values).all()):
                    raise CalibrationError(
                        f"Feature maps of group {wanted[index].name} are not finite. Check weights "
                        "and batches for infinite values, or use a model in float64."
                    )
                see(wanted[index], maps)

            if wanted:
                _run(question, batches, tell, inputs=inputs)
                if inputs:
                    _check_read(question, batches[0].part(0, 2), wanted)


def _heard(question: Question, batch: Batch, *, inputs: bool) -> set[int]:
    """Groups that have maps of every unit that is left."""
    seen: dict[int, set[int]] = {group.index: set() for group in question.graph.groups}

    def note(index: int, maps: Maps) -> None:
        seen[index].update(maps.unit.tolist())

    _run(question, [batch], note, inputs=inputs)
    return {
        group.index
        for group in question.graph.groups
        if len(seen[group.index])
        == question.keep.get(group.index, np.ones(group.n_units, dtype=bool)).sum()
    }


def _check_read(question: Question, batch: Batch, wanted: Mapping[int, Group]) -> None:
    missing = [wanted[index].name for index in set(wanted) - _heard(question, batch, inputs=True)]
    if missing:
        raise InputError(
            f"Feature maps of group {missing[0]} cannot be had: no activation function gives them, "
            "and no layer takes them in whole. Use a method that needs none, such as 'l2'."
        )


def _run(
    question: Question,
    batches: Sequence[Batch],
    tell: Callable[[int, Maps], None],
    *,
    inputs: bool,
) -> None:
    def found(axis: Axis, values: Tensor, channel_dim: int) -> None:
        for index in np.unique(axis.group[axis.group != KEPT]).tolist():
            tell(index, _maps(question, axis, index, values, channel_dim))

    for batch in batches:
        with _Follow(question.model, question.graph, found, inputs=inputs):
            question.model(*batch.args, **batch.kwargs)


def _maps(question: Question, axis: Axis, index: int, values: Tensor, channel_dim: int) -> Maps:
    """The kept channels of one group."""
    channels = np.flatnonzero(axis.kept(question.keep) & (axis.group == index))
    chosen = torch.from_numpy(channels).to(values.device)
    picked = values.index_select(channel_dim, chosen).movedim(channel_dim, 1)
    return Maps(picked.double(), torch.from_numpy(axis.unit[channels]).to(values.device))


class _Follow(FunctionMode):
    """Tells of what activation functions give, or (``inputs``) of what layers take in."""

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        found: Callable[[Axis, Tensor, int], None],
        *,
        inputs: bool,
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._graph, self._found, self._inputs = graph, found, inputs
        # the tensor is held, so that no other one gets its id
        self._followed: dict[int, tuple[Tensor, Axis, int]] = {}

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func`` and follows what it gives."""
        kind = getattr(func, "__name__", "")
        output = func(*args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if kind in _LAYERS:
            given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            self._layer(kind, given["input"], given["weight"], output)
        elif kind in _ACTIVATIONS or kind in _SAME_CHANNELS:
            source = next((self._followed[id(t)] for t in tensors if id(t) in self._followed), None)
            if source is not None and isinstance(output, Tensor):
                _, axis, channel_dim = source
                self._follow(output, axis, channel_dim)
                if kind in _ACTIVATIONS and not self._inputs:
                    self._found(axis, output, channel_dim)
        return output

    def _layer(self, kind: str, values: Tensor, weight: Tensor, output: Tensor) -> None:
        name = self._names.get(id(weight))
        if name is None:
            return
        out_dim = _LAYERS[kind]
        channel_dim = -1 if kind == "linear" else 1
        made = self._graph.axes.get(AxisKey(name, out_dim))
        if made is not None:
            self._follow(output, made, channel_dim)
        read = self._graph.axes.get(AxisKey(name, 1 - out_dim))
        if self._inputs and read is not None and values.shape[channel_dim] == read.size:
            self._found(read, values, channel_dim)

    def _follow(self, output: Tensor, axis: Axis, channel_dim: int) -> None:
        if output.dim() > 1 and output.shape[channel_dim] == axis.size:
            self._followed[id(output)] = (output, axis, channel_dim)
