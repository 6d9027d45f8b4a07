"""MIPP for single weights: moments of each layer, a curve for each row, one price for all."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mipp import statistics, weights
from mipp.methods.method import WeightChoice, WeightTarget
from mipp.methods.mipp import check_finite
from mipp.methods.shared.unstructured import enough_memory, whole
from mipp.problem import WeightProblem, report_batches
from mipp.records import IntArray
from mipp.selection.curve_points import trail_of
from mipp.selection.spend_weights import Choice, spend
from mipp.weights.regression import Rows, errors_left


def informed(problem: WeightProblem, targets: Sequence[WeightTarget]) -> Iterator[WeightChoice]:
    """Measures, eliminates in all rows, and then spends each budget on the curves.

    Where the moments of all layers do not fit into the memory allowed, they are measured again for
    each target.
    """
    measuring = _Measuring(problem)
    curves: dict[str, weights.RowCurves] = {}
    measured: list[tuple[list[weights.Layer], dict[str, statistics.Statistics]]] = []
    parts = _parts(problem)
    for part in parts:
        seen = measuring.of(part)
        for layer in part:
            with enough_memory(problem, "eliminating weights of", [layer]):
                blocks = _rows(problem, layer, seen[layer.name], weights.precision(layer))
                curves[layer.name] = weights.curves_of(
                    blocks, problem.allowed(layer), problem.options.pattern
                )
            problem.progress("score", len(curves), len(problem.layers))
        if len(parts) == 1:
            measured.append((part, seen))
    choices = {n: Choice(c.kept.cpu().numpy(), c.nats.cpu().numpy()) for n, c in curves.items()}
    trails = tuple(trail_of(name, choice) for name, choice in choices.items())
    for target in targets:
        keep = _spent(problem, curves, choices, target)
        masks: dict[str, Tensor] = {}
        nats: dict[str, tuple[float, float]] = {}
        for part, seen in measured or ((part, measuring.of(part)) for part in parts):
            for layer in part:
                name = layer.name
                masks[name], nats[name] = _chosen(
                    problem, layer, seen[name], curves[name], keep[name]
                )
        yield WeightChoice(masks, nats, trails=trails, loss=measuring.loss)


class _Measuring:
    """Measures some layers at a time.

    Attributes:
        loss: in words, which loss was used; empty before the first measurement.
    """

    def __init__(self, problem: WeightProblem) -> None:
        self._problem, self.loss = problem, ""

    def of(self, part: Sequence[weights.Layer]) -> dict[str, statistics.Statistics]:
        problem, options = self._problem, self._problem.options
        problem.clock.lap("plan")
        with enough_memory(problem, "measuring", part):
            seen, how = weights.measure(
                problem.model, part, problem.batches,
                loss=options.loss if options.noise == "fisher" else None,
                config=options.calibration, seed=options.seed, advance=report_batches(problem),
            )  # fmt: skip
        self.loss = self.loss or how
        problem.positions.update({name: one.uses for name, one in seen.items()})
        problem.clock.lap("capture")
        return seen


def _parts(problem: WeightProblem) -> list[list[weights.Layer]]:
    """Layers in passes whose moments fit into the memory allowed."""
    config, layers = problem.options.calibration, problem.layers
    passes = statistics.in_passes(
        [[n] for n in range(len(layers))],
        lambda n: weights.n_bytes(layers[n], config),
        problem.options.memory,
    )
    return [[layers[n] for n in part] for part in passes]


def _spent(
    problem: WeightProblem,
    curves: Mapping[str, weights.RowCurves],
    choices: Mapping[str, Choice],
    target: WeightTarget,
) -> dict[str, IntArray]:
    """Weights that each row keeps, by parameter."""
    pattern, spread = problem.options.pattern, problem.options.spread
    if pattern is not None:
        width = {layer.name: layer.block[1] for layer in problem.layers}
        return {n: np.full(len(c.kept), pattern.quota(width[n])) for n, c in curves.items()}
    assert spread != "global"
    return spend(choices, target.most, target.information, spread)


def _chosen(
    problem: WeightProblem,
    layer: weights.Layer,
    seen: statistics.Statistics,
    curves: weights.RowCurves,
    keep: IntArray,
) -> tuple[Tensor, tuple[float, float]]:
    """The mask of a layer, and its nats before and lost."""
    blocks = _rows(problem, layer, seen, torch.float64)
    masks = weights.chosen(
        blocks, problem.allowed(layer), curves, torch.from_numpy(keep), problem.options.pattern
    )
    lost = sum(float(r.nats(errors_left(r, m)).sum())
               for r, m in zip(blocks, masks, strict=True))  # fmt: skip
    check_finite(layer.module, curves.total, lost)
    return whole(layer, masks), (curves.total, lost)


def _rows(
    problem: WeightProblem, layer: weights.Layer, seen: statistics.Statistics, dtype: torch.dtype
) -> list[Rows]:
    weight, options = problem.model.get_parameter(layer.name), problem.options
    return weights.rows_of(layer, seen, weight, options.noise, options.ridge, dtype)
