"""From a model and batches to one curve of nats lost for every group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mipp import capture, information, methods, selection
from mipp.pipeline.clock import Clock
from mipp.pipeline.observe import Observer
from mipp.pipeline.options import Options, Progress
from mipp.records import AxisKey, ChannelGraph, Consumer, Curve, Group, IntArray, Keep, Scorer
from mipp.taps import weight_matrix


@dataclass(eq=False)
class Curves:
    """Makes the curves of a model; second moments are kept between calls when they fit.

    ``loss``: after the first call, in words which loss was used. ``protected``: groups that keep
    all their units.
    """

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[capture.Batch]
    options: Options
    progress: Progress
    clock: Clock
    loss: str = ""
    protected: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._held: dict[int, capture.Statistics] = {}
        self._observer: Observer | None = None
        if self.options.method == "mipp" and self.options.needs_rows:
            self._observer = Observer(self.model, self.graph, self.batches, self.options)

    def make(self, keep: Keep, share: float | None) -> dict[int, Curve]:
        """Curves of all groups; only the outputs in ``keep`` count as what the consumers give.

        With a stop rule, or a ``share`` of the information to keep and ``order="ordered"``, each
        unit is tested on the way, and the curve ends with the last that goes. With
        ``next_layer="pruned"`` each group is judged by what was kept of those before it.
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

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress("score", done, units)

        kept = dict(keep)
        for part in self._parts():
            views_of = self._views(part)
            for group in part:
                views = views_of(group, kept)
                scorer = self.options.estimator.scorer(views, group.n_units, self.options.seed)
                curve = curves[group.index] = self._curve(scorer, share, advance)
                if self.options.next_layer == "pruned":
                    stays = np.ones(group.n_units, dtype=bool)
                    stays[curve.order] = group.index in self.protected
                    kept[group.index] = stays
        return curves

    def _curve(self, scorer: Scorer, share: float | None, advance: Callable[[int], None]) -> Curve:
        order, stop = self.options.order, self.options.stop
        if stop is None and share is not None and order == "ordered":
            stop = selection.Share(share)
        if stop is None:
            return selection.eliminate(scorer, order, advance)
        return selection.eliminate_until(scorer, stop, order, advance)

    def _views(self, part: Sequence[Group]) -> Callable[[Group, Keep], list[information.View]]:
        """Measures what the groups' consumers take in; views of one group given what is kept."""
        observer, consumers = self._observer, self.graph.consumers
        if observer is None:
            statistics = self._measure(part)
            return lambda group, keep: [
                self._view(group, consumers[c], statistics[c], keep) for c in group.consumers
            ]
        with_fisher = self.options.target == "activations" and self._fisher_wanted()
        fishers = {c: s.fisher for c, s in self._measure(part).items()} if with_fisher else {}
        self.clock.lap("plan")
        rows = observer.rows(sorted({c for group in part for c in group.consumers}))
        self.clock.lap("capture")
        return lambda group, keep: [
            observer.view(group, c, rows, fishers.get(c), keep) for c in group.consumers
        ]

    def _fisher_wanted(self) -> bool:
        return self.options.estimator.noise == "fisher"

    def _parts(self) -> list[list[Group]]:
        """Groups in passes whose second moments fit into the memory allowed."""
        parts: list[list[Group]] = []
        room, held = -1, set[int]()
        for group in self.graph.groups:
            new = [c for c in group.consumers if c not in held]
            size = sum(self._bytes(c) for c in new)
            if size > room:
                parts.append([])
                room, held = self.options.memory, set()
                size = sum(self._bytes(c) for c in group.consumers)
            parts[-1].append(group)
            held |= set(group.consumers)
            room -= size
        return parts

    def _bytes(self, index: int) -> int:
        consumer = self.graph.consumers[index]
        shape = self.graph.shapes[consumer.weight]
        outputs = shape[consumer.out_dim]
        inputs = int(np.prod(shape)) // outputs
        rows = self._observer.bytes(index) if self._observer is not None else 0
        return 8 * (inputs**2 + outputs**2) + rows

    def _measure(self, part: Sequence[Group]) -> Mapping[int, capture.Statistics]:
        wanted = sorted({c for group in part for c in group.consumers})
        if any(c not in self._held for c in wanted):
            self.clock.lap("plan")
            self._held, self.loss = capture.capture(
                self.model,
                {c: self.graph.consumers[c] for c in wanted},
                self.batches,
                loss=self.options.loss if self._fisher_wanted() else None,
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
