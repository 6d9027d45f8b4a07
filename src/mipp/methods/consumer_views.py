"""The inputs of the consumers of each group, measured and shown as the group sees them.

Moments are enough for an estimator in closed form; others read rows of observations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mipp import information, out_of_memory, processes, statistics, surgery
from mipp.errors import CalibrationError, InputError
from mipp.methods.shared.by_group import (
    collect_by_group,
    consumers_of,
    measured_bytes,
    one_layer_at_a_time,
    passes,
)
from mipp.pieces import runs_side_by_side
from mipp.problem import Problem, less_memory, report_batches
from mipp.records import AxisKey, Consumer, FloatArray, Group, Keep
from mipp.statistics.few_rows import n_features
from mipp.tracing.notes import Key, Notes

ViewsOf = Callable[[Group, Keep], list[information.View]]
"""The consumers of a group, given what is kept of the outputs and of other groups."""


class Views:
    """Measures a model group by group; second moments are kept between calls when they fit.

    Attributes:
        loss: in words, which loss was used; empty before the first measurement.
        loss_per_nat: by consumer, of those that have been measured.
    """

    def __init__(self, problem: Problem) -> None:
        self.model, self.graph, self.batches = problem.model, problem.graph, problem.batches
        self.options, self.clock, self._problem = problem.options, problem.clock, problem
        self.loss = ""
        here = sum(len(batch) for batch in problem.batches)
        self._n_examples = processes.total("the number of examples", here)
        self.loss_per_nat: dict[int, statistics.LossPerNat] = {}
        self._statistics: dict[int, statistics.Statistics] = {}
        self._observer = Observer(problem) if problem.options.needs_rows else None

    def each(self, score: Callable[[Group, ViewsOf], None], *, any_order: bool) -> None:
        """Calls ``score`` with each group, measured.

        Where the measurements of all groups do not fit into the memory allowed, they are made layer
        after layer while all batches run side by side, and forgotten when a group has been scored;
        where that cannot be (several processes, rows of observations, an order to keep to), in
        several passes. So they are where that is less than running batches again and again, since
        not all of them have room to wait.
        """
        parts = self.parts()
        layered = any_order and self._observer is None
        if layered and one_layer_at_a_time(
            self.model, self.graph, self.batches, self.options.memory, len(parts)
        ):
            self._each_in_order(score)
            return
        for part in parts:
            views_of = self.of(part)
            for group in part:
                score(group, views_of)
            del views_of  # and what was measured, before the next pass

    def _each_in_order(self, score: Callable[[Group, ViewsOf], None]) -> None:
        consumers = self.graph.consumers

        def score_measured(group: Group, seen: Mapping[int, statistics.Statistics]) -> None:
            self.clock.lap("capture")
            self.loss_per_nat |= {c: seen[c].loss_per_nat for c in seen}

            def views_of(group: Group, keep: Keep) -> list[information.View]:
                return [self._view(group, consumers[c], seen[c], keep) for c in group.consumers]

            score(group, views_of)
            self.clock.lap("plan")

        self.clock.lap("plan")
        with self.enough_memory("measuring", consumers_of(self.graph.groups)):
            self.loss = collect_by_group(
                self.model, self.graph, self.batches, score_measured,
                loss=self.options.loss if self._fisher_wanted() else None,
                config=self.options.calibration, seed=self.options.seed,
                advance=report_batches(self._problem), memory=self.options.memory,
            )  # fmt: skip
        self.clock.lap("capture")

    def parts(self) -> list[list[Group]]:
        """Groups in passes whose measurements fit into the memory allowed."""
        return passes(self.graph, self._bytes, self.options.memory)

    def of(self, part: Sequence[Group]) -> ViewsOf:
        """Measures what the groups' consumers take in."""
        observer, consumers = self._observer, self.graph.consumers
        if observer is None:
            statistics = self._measure(part)
            return lambda group, keep: [
                self._view(group, consumers[c], statistics[c], keep) for c in group.consumers
            ]
        with_fisher = self.options.target == "activations" and self._fisher_wanted()
        seen = self._measure(part) if with_fisher else {}
        self.clock.lap("plan")
        read_by = consumers_of(part)
        with self.enough_memory("gathering rows for", read_by):
            rows = observer.rows(read_by)
        self.clock.lap("capture")
        return lambda group, keep: [
            observer.view(group, c, rows, seen.get(c), keep) for c in group.consumers
        ]

    def enough_memory(self, doing: str, consumers: Sequence[int]) -> AbstractContextManager[None]:
        """Says which of the consumers is the largest, should memory run out inside."""
        largest = max(consumers, key=self._bytes)
        consumer = self.graph.consumers[largest]
        features = n_features(self.graph, consumer)
        return out_of_memory.enough_memory(
            doing, consumer.name, features, self._bytes(largest), CalibrationError,
            less_memory(self.options),
        )  # fmt: skip

    def _fisher_wanted(self) -> bool:
        return self.options.estimator.noise == "fisher"

    def factors(self, group: Group) -> FloatArray:
        """Nats of the loss for each nat measured, at each consumer of a group.

        That is for half of its units: one factor, so that shares of the information are as
        measured.
        """
        found = []
        for index in group.consumers:
            consumer = self.graph.consumers[index]
            own = float((self.graph.axes[consumer.in_axis].group == group.index).mean())
            features = n_features(self.graph, consumer) * (1 - own / 2)
            found.append(self.loss_per_nat.get(index, statistics.LossPerNat())(features))
        return np.array(found)

    def _loss_per_nat(self, seen: statistics.Statistics) -> statistics.LossPerNat:
        measured = seen.loss_per_nat
        # learned estimators have held-out rows of their own
        return measured if self._observer is None else replace(measured, rows=math.inf)

    def _bytes(self, index: int) -> int:
        rows = self._observer.bytes(index) if self._observer is not None else 0
        fisher = self._fisher_wanted()
        return measured_bytes(self.graph, index, self._n_examples, fisher=fisher) + rows

    def _measure(self, part: Sequence[Group]) -> Mapping[int, statistics.Statistics]:
        wanted = consumers_of(part)
        if any(c not in self._statistics for c in wanted):
            self.clock.lap("plan")
            with self.enough_memory("measuring", wanted):
                notes, rows = self._notes(wanted)
                self._statistics = {}  # those of the last pass go before the next are measured
                self._statistics, self.loss = statistics.capture(
                    self.model,
                    {c: self.graph.consumers[c] for c in wanted},
                    self.batches,
                    loss=self.options.loss if self._fisher_wanted() else None,
                    config=self.options.calibration,
                    seed=self.options.seed,
                    advance=report_batches(self._problem),
                    notes=notes,
                    rows_noted=rows,
                )
            if notes is not None and self._problem.noted is not None:
                self._problem.noted.put(notes)
            self.clock.lap("capture")
            self.loss_per_nat |= {i: self._loss_per_nat(s) for i, s in self._statistics.items()}
        return self._statistics

    def _notes(self, measured: Sequence[int]) -> tuple[Notes | None, dict[Key, float] | None]:
        """Where to note what the refit needs, and how many rows; None where it has to look again.

        It has to where consumers are measured in several passes, or the notes would take more than
        a quarter of the memory allowed.
        """
        refit, everything = self.options.refit, len(self.graph.consumers)
        if (
            refit is None
            or self._problem.noted is None
            or len(measured) < everything
            or not runs_side_by_side(self.model, self.batches)  # so that a refit joins them
        ):
            return None, None
        rows = surgery.rows_noted(self.graph, refit)
        if rows is None:
            return None, None
        examples, size = sum(len(batch) for batch in self.batches), 0.0
        for consumer in self.graph.consumers:
            wanted = rows.get((consumer.weight, consumer.call), 0)
            outputs = self.graph.shapes[consumer.weight][consumer.out_dim]
            size += 4 * outputs * min(wanted, consumer.uses * examples)
        if size > self.options.memory / 4:
            return None, None
        return Notes(squares=refit.norm == "full"), rows

    def _view(
        self, group: Group, consumer: Consumer, seen: statistics.Statistics, keep: Keep
    ) -> information.ConsumerView:
        weight: Tensor = self.model.get_parameter(consumer.weight).detach()
        return information.consumer_view(
            self.graph, group, consumer, weight, seen.covariance, seen.fisher, keep,
        )  # fmt: skip


class Observer:
    """Collects rows for some groups at a time, and shows each consumer as its group sees it."""

    def __init__(self, problem: Problem) -> None:
        if processes.rank_and_size()[1] > 1:
            raise InputError(
                "Rows of observations are not merged over processes. Use estimator='gaussian' "
                "without stop= and target=, or plan in one process."
            )
        self.model, self.graph, self.batches = problem.model, problem.graph, problem.batches
        self.options = options = problem.options
        wants_maps = options.target != "activations"
        self.shape: information.RowShape = "maps" if wants_maps else options.estimator.row_shape
        self._answers: Tensor | None = None
        if options.target in ("outputs", "labels"):
            self._answers = statistics.answers(self.model, self.batches, options.target)

    def rows(self, wanted: Sequence[int]) -> dict[int, statistics.Rows]:
        """The rows of these consumers, in one pass over the batches."""
        return statistics.collect_rows(
            self.model,
            {c: self.graph.consumers[c] for c in wanted},
            self.batches,
            shape=self.shape,
            config=self.options.calibration,
            seed=self.options.seed,
        )

    def bytes(self, consumer: int) -> int:
        """About how many bytes the rows of one consumer take."""
        found = self.graph.consumers[consumer]
        shape = self.graph.shapes[found.weight]
        n_samples = sum(len(batch) for batch in self.batches)
        if self.shape == "maps":
            # inputs have about as many positions as outputs
            width = shape[found.in_dim] + shape[found.out_dim]
            return int(4 * n_samples * found.uses * width)
        features = int(np.prod(shape)) // shape[found.out_dim]
        config = self.options.calibration
        wanted = config.rows(features, statistics.OF_ROWS)
        rows = min(wanted, n_samples * found.uses)
        return 4 * int(rows) * (features + shape[found.out_dim])

    def view(
        self,
        group: Group,
        index: int,
        rows: Mapping[int, statistics.Rows],
        measured: statistics.Statistics | None,
        keep: Keep,
    ) -> information.Observations:
        """One consumer of the group: its kept inputs, and the targets to predict from them."""
        consumer, seen = self.graph.consumers[index], rows[index]
        fisher = None if measured is None else measured.fisher
        columns, unit = information.features_seen(
            self.graph, group, consumer, seen.inputs.shape[1], keep
        )
        device = seen.inputs.device
        targets, noise = self._targets(index, seen, fisher, keep)
        return information.Observations(
            inputs=seen.inputs[:, torch.as_tensor(columns, device=device)],
            targets=targets,
            unit=torch.as_tensor(unit, device=device),
            uses=consumer.uses if self.shape == "positions" else 1,
            noise=noise,
            example=seen.example.to(device),
        )

    def _targets(
        self, index: int, seen: statistics.Rows, fisher: Float[Tensor, "m m"] | None, keep: Keep
    ) -> tuple[Tensor, float]:
        """The targets to predict, in units of their noise; and the variance of that noise."""
        consumer = self.graph.consumers[index]
        noise = self.options.estimator.noise
        if self._answers is not None:
            answers = self._answers.to(seen.inputs.device)
            if not answers.is_floating_point():
                return answers, 0.0
            share = 0.1 if noise == "fisher" else noise
            return information.in_units_of_noise(answers, float(share)), 1.0
        n_channels = self.graph.shapes[consumer.weight][consumer.out_dim]
        per_output = seen.outputs.shape[1] // n_channels
        axis = self.graph.axes.get(AxisKey(consumer.weight, consumer.out_dim))
        kept = np.arange(n_channels) if axis is None else np.flatnonzero(axis.kept(keep))
        chosen = torch.as_tensor(kept, device=seen.outputs.device)
        y = seen.outputs.view(len(seen.outputs), n_channels, per_output)[:, chosen]
        if fisher is not None and len(fisher) == n_channels:
            # the same Fisher matrix at every position of a map
            white = information.fisher_whitening(fisher[chosen][:, chosen])
            return torch.einsum("rc,ncp->nrp", white.to(y.dtype), y).flatten(1), 1.0
        flat = y.flatten(1)
        if fisher is not None and self.shape == "maps":
            raise InputError(
                f"{consumer.name} is a transposed convolution, whose Fisher matrix is that of one "
                "input position. Give the estimator row_shape='positions', or noise=0.1."
            )
        if fisher is not None:
            # of a transposed convolution: the window of outputs of each input position
            window = (chosen.unsqueeze(1) * per_output + torch.arange(per_output)).flatten()
            white = information.fisher_whitening(fisher[window][:, window])
            return flat @ white.T.to(flat.dtype), 1.0
        return information.in_units_of_noise(flat, float(noise)), 1.0
