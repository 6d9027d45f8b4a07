"""From a model and batches to one curve of nats lost for every group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from mipp import selection, statistics
from mipp.errors import CalibrationError
from mipp.planning.clock import Clock
from mipp.planning.consumer_views import Views
from mipp.planning.few_rows import warn_without_information
from mipp.planning.options import Options, Progress
from mipp.planning.prunable import protected
from mipp.records import ChannelGraph, Curve, Group, Keep, Scorer


def check_finite(name: str, *nats: float) -> None:
    """Raise `CalibrationError` for information that is NaN or infinite."""
    if not np.isfinite(nats).all():
        raise CalibrationError(
            f"The information that {name} transfers is not a finite number (it starts at "
            f"{nats[0]} nats); expected finite nats. Check the model's weights and its activations "
            "on the batches for extreme values, give the model in float64, use noise=0.1, or name "
            "the layer in protect=."
        )


@dataclass(eq=False)
class Curves:
    """Makes the curves of a model."""

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[statistics.Batch]
    options: Options
    progress: Progress
    clock: Clock

    def __post_init__(self) -> None:
        self._views = Views(
            self.model, self.graph, self.batches, self.options, self.progress, self.clock
        )

    @property
    def loss(self) -> str:
        """After the first call of `make`, in words which loss was used."""
        return self._views.loss

    def make(self, keep: Keep, share: float | None) -> dict[int, Curve]:
        """Curves of all groups; only the outputs in ``keep`` count as what the consumers give.

        With a stop rule, or a ``share`` of the information to keep and ``order="ordered"``, each
        unit is tested on the way, and the curve ends with the last that goes. With
        ``next_layer="pruned"`` each group is judged by what the rule keeps of those before it (of
        which a budget of cost may then keep more).
        """
        curves: dict[int, Curve] = {}
        units = sum(group.n_units for group in self.graph.groups)
        spared = protected(self.graph, self.options.protect)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress("score", done, units)

        kept = dict(keep)
        for part in self._views.parts():
            views_of = self._views.of(part)
            for group in part:
                with self._views.enough_memory("eliminating units read by", group.consumers):
                    scorer = self.options.estimator.scorer(
                        views_of(group, kept), group.n_units, self.options.seed
                    )
                    if group.index in spared:
                        curves[group.index] = selection.untouched(scorer)
                        check_finite(group.name, curves[group.index].total)
                        advance(group.n_units)
                        continue
                    curve = curves[group.index] = self._curve(scorer, share, advance)
                    check_finite(group.name, curve.total, *curve.nats_lost)
                if self.options.next_layer == "pruned":
                    stays = np.ones(group.n_units, dtype=bool)
                    stays[curve.order[: self._goes(group, curve, share)]] = False
                    kept[group.index] = stays
        warn_without_information(curves.values())
        return curves

    def _goes(self, group: Group, curve: Curve, share: float | None) -> int:
        """How many units of the group the rule removes."""
        limits = selection.Limits(self.options.min_units, self.options.round_to)
        most = len(curve.order) if share is None else selection.removable(curve, share)
        return max(w for w in limits.widths(group.index, group.n_units) if w <= most)

    def _curve(self, scorer: Scorer, share: float | None, advance: Callable[[int], None]) -> Curve:
        order, stop = self.options.order, self.options.stop
        if stop is None and share is not None and order == "ordered":
            stop = selection.Share(share)
        if stop is None:
            return selection.eliminate(scorer, order, advance)
        return selection.eliminate_until(scorer, stop, order, advance)
