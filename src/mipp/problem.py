"""What all stages of planning share: a model, its graph, the batches and the options."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp import processes, statistics, surgery, weights
from mipp.errors import CalibrationError, InputError
from mipp.options import Options, Progress, WeightOptions
from mipp.pieces import pieces_of
from mipp.prunable import N_TRACED, example, prunable_graph, without
from mipp.records import AxisKey, BoolArray, ChannelGraph, IntArray, Keep, Refusal
from mipp.tracing.guards import checksum
from mipp.tracing.notes import Notes


class Clock:
    """Seconds that each stage took, from lap to lap.

    The stages are ``capture`` (tracing, and every pass through the model), ``plan`` (scoring and
    selection), ``train`` (the training that some methods do) and ``timing`` (of layers and models,
    for a budget of latency).

    Attributes:
        seconds: by stage.
    """

    def __init__(self) -> None:
        self.seconds = {"capture": 0.0, "plan": 0.0}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Adds the time since the last lap to the stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


class Noted:
    """Notes for a refit, as long as the model and the batches are what they were.

    Args:
        model: that is measured.
        batches: that it is measured on.
        config: the refit that they are for.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[statistics.Batch],
        config: surgery.Refit,
    ) -> None:
        self._model, self._batches, self._config = model, batches, config
        self._notes: Notes | None = None
        self._sums: list[int] = []

    def put(self, notes: Notes) -> None:
        """Keeps the notes."""
        self._notes, self._sums = notes, self._checksums()

    def get(self, config: surgery.Refit) -> Notes | None:
        """The notes for a refit; None where there are none for it, or they are out of date."""
        planned, notes = self._config, self._notes
        if notes is None:
            return None
        fewer = config.rows_per_feature <= planned.rows_per_feature
        fits = fewer and config.min_rows <= planned.min_rows and config.mode != "closed"
        as_planned = config.mode == "norm" or planned.mode == "sequential"
        return notes if fits and as_planned and self._sums == self._checksums() else None

    def _checksums(self) -> list[int]:
        model = [*self._model.parameters(), *self._model.buffers()]
        inputs = [tensor for batch in self._batches for tensor in batch.tensors()]
        return [checksum(tensor) for tensor in (*model, *inputs)]


@dataclass(frozen=True, eq=False)
class Problem:
    """Units of a model that may go.

    Attributes:
        model: as it is measured, which is with the outputs that ``outputs=`` picks.
        graph: its groups of units.
        batches: calibration batches.
        options: of the plan.
        progress: called as ``progress(stage, done, total)``.
        clock: seconds of each stage.
        noted: where what a refit will need is noted on the way; None for nowhere.
    """

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[statistics.Batch]
    options: Options
    progress: Progress
    clock: Clock
    noted: Noted | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Sequence[statistics.Batch],
        options: Options,
        progress: Progress,
        clock: Clock,
    ) -> "Problem":
        """Traces the model.

        Raises:
            GraphError: the model cannot be traced, or nothing in it can be pruned.
        """
        graph = prunable_graph(model, batches, **options.wider)
        clock.lap("capture")
        noted = None if options.refit is None else Noted(model, batches, options.refit)
        return cls(model, graph, batches, options, progress, clock, noted)

    def pruned(self, keep: Mapping[str, Sequence[int]]) -> "Problem":
        """The problem of the model with only these units left, by group name, refitted."""
        kept = surgery.kept_indices(self.graph, masks(self.graph, keep))
        small = surgery.slice_graph(self.model, self.graph, kept)
        options = self.options
        if options.refit is not None:
            refit_on_batches(
                small, self.model, self.graph, kept, self.batches, options.refit, options.seed,
                notes=None if self.noted is None else self.noted.get(options.refit),
                memory=options.memory,
            )  # fmt: skip

        graph = prunable_graph(small, self.batches, **options.wider)
        known = {group.name for group in self.graph.groups}
        new = {g.index: "it could not be pruned in the whole model" for g in graph.groups
               if g.name not in known}  # fmt: skip
        graph = without(graph, new) if new else graph
        self.clock.lap("capture")
        return replace(self, model=small, graph=graph, noted=None)


def whole_masks(graph: ChannelGraph) -> dict[int, BoolArray]:
    """Masks that keep every unit, by group index."""
    return {group.index: np.ones(group.n_units, dtype=bool) for group in graph.groups}


def masks(graph: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> Keep:
    """Kept unit indices by group name as masks by group index."""
    found = {}
    for group in graph.groups:
        if group.name in keep:
            mask = np.zeros(group.n_units, dtype=bool)
            mask[list(keep[group.name])] = True
            found[group.index] = mask
    return found


@dataclass(frozen=True, eq=False)
class WeightProblem:
    """Single weights of a model that may go.

    Attributes:
        model: as in `Problem`.
        layers: whose weights can go.
        refused: other layers, and why their weights stay.
        batches: as in `Problem`.
        options: as in `Problem`.
        progress: as in `Problem`.
        clock: as in `Problem`.
        live: parameter name -> which of its weights are not zero.
        positions: by parameter, how many each layer has in an example; known once it is measured.
    """

    model: nn.Module
    layers: tuple[weights.Layer, ...]
    refused: tuple[Refusal, ...]
    batches: Sequence[statistics.Batch]
    options: WeightOptions
    progress: Progress
    clock: Clock
    live: Mapping[str, Tensor]
    positions: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Sequence[statistics.Batch],
        options: WeightOptions,
        progress: Progress,
        clock: Clock,
    ) -> "WeightProblem":
        """Finds the layers.

        Raises:
            GraphError: there are none whose weights can go.
        """
        args, kwargs = example(model, batches)
        layers, refused = weights.find_layers(model, statistics.Batch(args, kwargs), batches)
        if options.pattern is not None:
            layers, uneven = weights.in_whole_runs(layers, options.pattern)
            refused = (*refused, *uneven)
        layers = weights.without_protected(layers, options.protect)
        processes.agree("the layers found", [f"{l.name} {l.shape}" for l in layers])
        clock.lap("capture")
        live = {l.name: model.get_parameter(l.name).detach() != 0 for l in layers}
        return cls(model, layers, refused, batches, options, progress, clock, live)

    @property
    def n_live(self) -> int:
        """Weights that are not zero, in layers that can be pruned."""
        return sum(int(live.sum()) for live in self.live.values())

    @property
    def others(self) -> int:
        """Number of parameters that cannot go: biases, norms, layers that stay."""
        all_of_them = sum(p.numel() for p in self.model.parameters())
        return all_of_them - sum(live.numel() for live in self.live.values())

    def allowed(self, layer: weights.Layer) -> list[Tensor]:
        """Which weights of each block are not zero, in the order of `weights.cells_first`."""
        order = weights.cells_first(layer)
        return [block[:, order] for block in layer.blocks(self.live[layer.name])]

    def share(self, most: float | None) -> float:
        """``most`` weights as a share of those that are not zero; 1 for None."""
        return 1.0 if most is None else min(1.0, most / max(self.n_live, 1))


def less_memory(options: Options | WeightOptions) -> str:
    """What to do where measuring or elimination runs out of memory."""
    return (
        f"Lower memory= (now {options.memory:,} bytes), which holds fewer layers at a time, give "
        "fewer samples=, name the layer in protect=, or take a method that needs no moments, such "
        "as method='l2'."
    )


def report_batches(problem: Problem | WeightProblem) -> Callable[[], None]:
    """The function that a pass calls after each batch, to report progress."""
    count = iter(range(1, len(problem.batches) + 1))
    return lambda: problem.progress("capture", next(count), len(problem.batches))


def refit_on_batches(
    small: nn.Module,
    original: nn.Module,
    traced: ChannelGraph,
    kept: Mapping[AxisKey, IntArray],
    batches: Sequence[statistics.Batch],
    config: surgery.Refit,
    seed: int,
    hold: Callable[[], None] = lambda: None,
    notes: Notes | None = None,
    memory: float = math.inf,
) -> None:
    """Refits a sliced model, in place, on the calibration batches.

    Args:
        small: the sliced model.
        original: the model before.
        traced: groups of the original.
        kept: indices that stay, by axis.
        batches: calibration batches.
        config: how to fit.
        seed: of the rows that are drawn.
        hold: called after each fit, to put back what must not be fitted.
        notes: of the original on these batches, if they were taken.
        memory: bytes allowed.
    """
    with statistics.blaming(None):
        pieces = pieces_of(original, batches)
        surgery.refit(small, original, traced, kept, pieces, config, notes, seed, hold, memory)


def calibration(
    model: nn.Module | None, batches: Iterable[Any], samples: int | None
) -> list[statistics.Batch]:
    """Reads the calibration batches, and tries the model on the first one.

    Batches that the model cannot take in part, such as a dense adjacency matrix with its nodes,
    are marked as whole; those whose labels it shifts, as such.

    Args:
        model: None for reading alone.
        batches: as in `mipp.plan`.
        samples: number of examples that are read at most; None for all.

    Raises:
        CalibrationError: the model fails on the first batch.
        InputError: the model has no weights.
    """
    data = statistics.read_batches(batches, samples)
    if model is not None:
        statistics.check_call(model, data[0])
        data = statistics.agreed(model, data)
    if model is not None and any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has parameters on the meta device, which have no values; "
            "weights were expected. Load them, or initialise them after model.to_empty(device=...)."
        )
    if model is None:
        return data
    statistics.check_images(model, data[0], partial(_fails, model))
    if not _fails(model, data[0].part(0, N_TRACED)):
        return statistics.noting_shift(model, data, N_TRACED)
    if why := _fails(model, data[0]):
        usual = (
            "Check that model(*args, **kwargs) runs in eval mode on what the batches hold: a "
            "tensor is the only argument, a dict has keyword arguments, of a pair the first is "
            "the input."
        )
        raise CalibrationError(
            f"{type(model).__name__} fails on the first calibration batch: {why}. "
            f"{statistics.advice(data[0]) or usual}"
        )
    whole = [replace(batch, whole=True) for batch in data]
    return statistics.noting_shift(model, whole, N_TRACED)


def _fails(model: nn.Module, batch: statistics.Batch) -> str:
    """Why the model fails on a batch, empty if it does not."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moved = batch.to(device)
    return surgery.failure(model, moved.args, moved.kwargs)
