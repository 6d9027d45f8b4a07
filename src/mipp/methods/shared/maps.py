"""Feature maps of units: the outputs of the activation function behind a layer.

A layer's outputs are followed through norms, sums, products and pooling to the activation function
behind them, call by call, without hooks on modules.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.errors import CalibrationError, InputError
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.samples import ExampleMethod
from mipp.records import KEPT, Axis, AxisKey, ChannelGraph, FloatArray, Group
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
"""Functions whose outputs have the channels of their inputs, in the same order."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of the channels of one group, for a batch.

    Attributes:
        values: One map a channel; ``space`` is empty where a channel is one number.
        unit: The unit of each channel.
    """

    values: Float[Tensor, "batch channels *space"]
    unit: Int[Tensor, " channels"]

    def rows(self) -> Float[Tensor, "matrices channels columns"]:
        """A matrix per example, a row per channel; one for the whole batch without ``space``."""
        if self.values.dim() > 2:
            return self.values.flatten(2)
        return self.values.T.unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class MapMethod(ExampleMethod, ScoringMethod):
    """A method whose scores are means over feature maps.

    Attributes:
        examples: Images, drawn from the batches; 640, of which the authors of HRank and CHIP make
            five batches. None for all.
    """

    needs = "data"
    at_init = True
    ranking = "local"

    examples: int | None = 640

    @abstractmethod
    def add(self, sums: list[FloatArray], maps: Maps, precision: float) -> None:
        """Adds the maps of one batch, in place.

        Args:
            sums: The number of maps of each unit, shape ``(n_units,)``, and two sums over them.
            maps: Of one batch.
            precision: Of the net's numbers.
        """

    def mean(self, count: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:  # noqa: ARG002
        """The scores of one group from its sums."""
        return first / np.maximum(count, 1)

    def score(self, question: Question) -> Scores:
        """The means over all maps."""
        sums = {g.index: [np.zeros(g.n_units) for _ in range(3)] for g in question.graph.groups}
        precision = torch.finfo(next(question.model.parameters()).dtype).eps

        def see(group: Group, maps: Maps) -> None:
            self.add(sums[group.index], maps, precision)

        watch_maps(question, self.drawn(question), see)
        return {index: self.mean(*of_group) for index, of_group in sums.items()}


def watch_maps(
    question: Question, batches: Sequence[Batch], see: Callable[[Group, Maps], None]
) -> None:
    """Runs the net in evaluation mode and looks at all maps of the units that are left.

    The maps are those of every activation function that a group runs through: of a residual stream
    one for each block. Where there is none for some of its units, or it cannot be followed, the
    maps are the inputs of the layers that read the group.

    Args:
        question: The net, and the units that are left.
        batches: The examples.
        see: Called with each group and its maps.

    Raises:
        CalibrationError: Maps are not finite.
        InputError: Neither way gives the maps of some unit.
    """
    with torch.no_grad(), measuring(question.model):
        complete = _complete(question, batches[0].part(0, 2), inputs=False)
        for inputs in (False, True):
            wanted = {
                group.index: group
                for group in question.graph.groups
                if (group.index in complete) != inputs
            }

            def found(index: int, maps: Maps, wanted: Mapping[int, Group] = wanted) -> None:
                if index not in wanted or not len(maps.unit):
                    return
                if not bool(torch.isfinite(maps.values).all()):
                    raise CalibrationError(
                        f"Feature maps of group {wanted[index].name} are not finite. Check weights "
                        "and batches for infinite values, or use a model in float64."
                    )
                see(wanted[index], maps)

            if wanted:
                _run(question, batches, found, inputs=inputs)
                if inputs:
                    _check_read(question, batches[0].part(0, 2), wanted)


def _complete(question: Question, batch: Batch, *, inputs: bool) -> set[int]:
    """Groups with maps of every unit that is left."""
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
    missing = [
        wanted[index].name for index in set(wanted) - _complete(question, batch, inputs=True)
    ]
    if missing:
        raise InputError(
            f"Feature maps of group {missing[0]} are not available: no activation function returns "
            "them, and no layer reads them whole. Use a method that needs none, such as 'l2'."
        )


def _run(
    question: Question,
    batches: Sequence[Batch],
    found: Callable[[int, Maps], None],
    *,
    inputs: bool,
) -> None:
    def on_axis(axis: Axis, values: Tensor, channel_dim: int) -> None:
        for index in np.unique(axis.group[axis.group != KEPT]).tolist():
            found(index, _maps(question, axis, index, values, channel_dim))

    for batch in batches:
        with _Follow(question.model, question.graph, on_axis, inputs=inputs):
            question.model(*batch.args, **batch.kwargs)


def _maps(question: Question, axis: Axis, index: int, values: Tensor, channel_dim: int) -> Maps:
    """The kept channels of one group."""
    channels = np.flatnonzero(axis.kept(question.keep) & (axis.group == index))
    chosen = torch.from_numpy(channels).to(values.device)
    picked = values.index_select(channel_dim, chosen).movedim(channel_dim, 1)
    return Maps(picked.double(), torch.from_numpy(axis.unit[channels]).to(values.device))


class _Follow(FunctionMode):
    """Reports the outputs of activation functions, or with ``inputs`` the inputs of layers."""

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
        # the tensor is kept, so that no other one gets its id
        self._followed: dict[int, tuple[Tensor, Axis, int]] = {}

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs ``func`` and follows its output."""
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
