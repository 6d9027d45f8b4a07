"""From a model and batches to one curve of nats lost for every group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mipp import capture, information, methods, selection
from mipp.pipeline.clock import Clock
from mipp.pipeline.options import Options, Progress
from mipp.records import AxisKey, ChannelGraph, Consumer, Curve, Group, IntArray, Keep
from mipp.taps import weight_matrix


@dataclass(eq=False)
class Curves:
    """Makes the curves of a model; second moments are kept between calls when they fit.

    ``loss``: after the first call, in words which loss was used.
    """

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[capture.Batch]
    options: Options
    progress: Progress
    clock: Clock
    loss: str = ""

    def __post_init__(self) -> None:
        self._held: dict[int, capture.Statistics] = {}

    def make(self, keep: Keep, share: float | None) -> dict[int, Curve]:
        """Curves of all groups; only the outputs in ``keep`` count as what the consumers give.

        With a ``share`` of the information to keep and ``order="ordered"``, each unit is tested
        against it on the way, once (the paper's pass), and the curve ends with the last that goes.
        """
        if self.options.method != "mipp":
            method = methods.get(self.options.method)
            question = methods.Question(
                self.model, self.graph, self.batches, self.options.loss, self.options.seed
            )
            scores = method.score(question)
            self.clock.lap("plan" if method.needs == "weights" else "capture")
            return methods.curves(scores)
        curves: dict[int, Curve] = {}
        units = sum(group.n_units for group in self.graph.groups)
        done = 0
        for part in self._parts():
            statistics = self._measure(part)
            for group in part:
                views = [
                    self._view(group, self.graph.consumers[c], statistics[c], keep)
                    for c in group.consumers
                ]
                scorer = self.options.estimator.scorer(views, group.n_units)
                if share is not None and self.options.order == "ordered":
                    curves[group.index] = selection.one_pass(scorer, share)
                else:
                    curves[group.index] = selection.eliminate(scorer, self.options.order)
                done += group.n_units
                self.progress("score", done, units)
        return curves

    def _parts(self) -> list[list[Group]]:
        """Groups in passes whose second moments fit into the memory allowed."""
        parts: list[list[Group]] = []
        room, held = -1, set[int]()
        for group in self.graph.groups:
            new = [c for c in group.consumers if c not in held]
            size = sum(self._bytes(self.graph.consumers[c]) for c in new)
            if size > room:
                parts.append([])
                room, held = self.options.memory, set()
                size = sum(self._bytes(self.graph.consumers[c]) for c in group.consumers)
            parts[-1].append(group)
            held |= set(group.consumers)
            room -= size
        return parts

    def _bytes(self, consumer: Consumer) -> int:
        shape = self.graph.shapes[consumer.weight]
        outputs = shape[consumer.out_dim]
        inputs = int(np.prod(shape)) // outputs
        return 8 * (inputs**2 + outputs**2)

    def _measure(self, part: Sequence[Group]) -> Mapping[int, capture.Statistics]:
        wanted = sorted({c for group in part for c in group.consumers})
        if any(c not in self._held for c in wanted):
            self.clock.lap("plan")
            self._held, self.loss = capture.capture(
                self.model,
                {c: self.graph.consumers[c] for c in wanted},
                self.batches,
                loss=self.options.loss if self.options.estimator.noise == "fisher" else None,
                config=self.options.calibration,
                seed=self.options.seed,
                advance=self._advance(),
            )
            self.clock.lap("capture")
        return self._held

    def _advance(self) -> Callable[[], None]:
        count = iter(range(1, len(self.batches) + 1))
        return lambda: self.progress("capture", next(count), len(self.batches))

    def _view(
        self, group: Group, consumer: Consumer, seen: capture.Statistics, keep: Keep
    ) -> information.ConsumerView:
        weight: Tensor = self.model.get_parameter(consumer.weight).detach()
        matrix = weight_matrix(consumer.kind, weight).to(seen.covariance.dtype)
        in_axis = self.graph.axes[consumer.in_axis]
        per_input = matrix.shape[1] // in_axis.size
        mine = in_axis.group == group.index
        unit = np.repeat(np.where(mine, in_axis.unit, -1), per_input)
        columns = np.flatnonzero(np.repeat(mine | in_axis.kept(keep), per_input))
        rows = self._rows(consumer, keep, matrix.shape[0])
        device = matrix.device
        row = torch.as_tensor(rows, device=device)
        column = torch.as_tensor(columns, device=device)
        fisher = seen.fisher
        return information.ConsumerView(
            covariance=seen.covariance[column][:, column],
            weight=matrix[row][:, column],
            fisher=None if fisher is None else fisher[row][:, row],
            unit=torch.as_tensor(unit[columns], device=device),
            uses=consumer.uses,
        )

    def _rows(self, consumer: Consumer, keep: Keep, n_rows: int) -> IntArray:
        axis = self.graph.axes.get(AxisKey(consumer.weight, consumer.out_dim))
        if axis is None:
            return np.arange(n_rows)
        return np.flatnonzero(np.repeat(axis.kept(keep), n_rows // axis.size))
