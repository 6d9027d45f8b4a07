"""What the consumers of each group take in, measured and shown as the group sees it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from mipp import information, out_of_memory, statistics
from mipp.covariance import FEW
from mipp.errors import CalibrationError
from mipp.planning.clock import Clock
from mipp.planning.few_rows import n_features
from mipp.planning.observe import Observer
from mipp.planning.options import Options, Progress
from mipp.records import ChannelGraph, Consumer, Group, Keep

ViewsOf = Callable[[Group, Keep], list[information.View]]
"""The consumers of a group, given what is kept of the outputs and of other groups."""


@dataclass(eq=False)
class Views:
    """Measures a model group by group; second moments are kept between calls when they fit.

    ``loss``: after the first measurement, in words which loss was used.
    """

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[statistics.Batch]
    options: Options
    progress: Progress
    clock: Clock
    loss: str = ""

    def __post_init__(self) -> None:
        self._held: dict[int, statistics.Statistics] = {}
        self._observer: Observer | None = None
        if self.options.needs_rows:
            self._observer = Observer(self.model, self.graph, self.batches, self.options)

    def parts(self) -> list[list[Group]]:
        """Groups in passes whose measurements fit into the memory allowed."""
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

    def of(self, part: Sequence[Group]) -> ViewsOf:
        """Measures what the groups' consumers take in."""
        observer, consumers = self._observer, self.graph.consumers
        if observer is None:
            statistics = self._measure(part)
            return lambda group, keep: [
                self._view(group, consumers[c], statistics[c], keep) for c in group.consumers
            ]
        with_fisher = self.options.target == "activations" and self._fisher_wanted()
        fishers = {c: s.fisher for c, s in self._measure(part).items()} if with_fisher else {}
        self.clock.lap("plan")
        read_by = sorted({c for group in part for c in group.consumers})
        with self.enough_memory("gathering rows for", read_by):
            rows = observer.rows(read_by)
        self.clock.lap("capture")
        return lambda group, keep: [
            observer.view(group, c, rows, fishers.get(c), keep) for c in group.consumers
        ]

    def enough_memory(self, doing: str, consumers: Sequence[int]) -> AbstractContextManager[None]:
        """Says which of the consumers is the largest, should memory run out inside."""
        largest = max(consumers, key=self._bytes)
        consumer = self.graph.consumers[largest]
        features = n_features(self.graph, consumer)
        return out_of_memory.enough_memory(
            doing, consumer.name, features, self._bytes(largest), CalibrationError,
            f"Lower memory= (now {self.options.memory:,} bytes), which holds fewer layers at a "
            "time, give fewer samples=, name the layer in protect=, or take a method that needs no "
            "moments, such as method='l2'.",
        )  # fmt: skip

    def _fisher_wanted(self) -> bool:
        return self.options.estimator.noise == "fisher"

    def _bytes(self, index: int) -> int:
        consumer = self.graph.consumers[index]
        shape = self.graph.shapes[consumer.weight]
        inputs = n_features(self.graph, consumer)
        # the window of outputs of a transposed convolution belongs to its Fisher matrix
        outputs = int(np.prod(shape)) // inputs
        rows = self._observer.bytes(index) if self._observer is not None else 0
        fisher = outputs**2 if self._fisher_wanted() else 0
        seen = consumer.uses * sum(len(batch) for batch in self.batches)
        # far fewer rows than features are kept as they are, see `mipp.covariance.Factor`
        held = int(seen) if FEW * seen <= inputs else inputs
        return 8 * (inputs * held + fisher) + rows

    def _measure(self, part: Sequence[Group]) -> Mapping[int, statistics.Statistics]:
        wanted = sorted({c for group in part for c in group.consumers})
        if any(c not in self._held for c in wanted):
            self.clock.lap("plan")
            with self.enough_memory("measuring", wanted):
                self._held, self.loss = statistics.capture(
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
        self, group: Group, consumer: Consumer, seen: statistics.Statistics, keep: Keep
    ) -> information.ConsumerView:
        weight: Tensor = self.model.get_parameter(consumer.weight).detach()
        return information.consumer_view(
            self.graph, group, consumer, weight, seen.covariance, seen.fisher, keep
        )
