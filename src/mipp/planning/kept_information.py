"""How much information a choice of units keeps between the layers of a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack, overload

import numpy as np
from torch import nn

from mipp import graph, processes
from mipp.checks import checked
from mipp.errors import InputError
from mipp.methods.consumer_views import Views
from mipp.options import Options, Progress, UnitKeywords
from mipp.planning.model_outputs import answering
from mipp.planning.option_values import unit_options
from mipp.planning.unit_plan import Plan
from mipp.problem import Clock, Problem, calibration, masks
from mipp.progress import following
from mipp.prunable import example
from mipp.records import ChannelGraph
from mipp.tracing.guards import check_ordinary, gradients_enabled


@dataclass(frozen=True)
class KeptInformation:
    """Nats per example between one group and one of its consumers.

    Attributes:
        group: its name.
        consumer: name of the layer that reads it.
        before: nats that all units transfer to all outputs of the consumer; with
            ``next_layer="pruned"`` to those that stay.
        after: nats that the units which stay transfer to the same outputs.

    Examples:
        >>> KeptInformation("conv1", "conv2", before=4.0, after=3.0).share
        0.75
    """

    group: str
    consumer: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """``after`` as a share of ``before``; 1 where there was none."""
        return self.after / self.before if self.before > 0 else 1.0


Choice = Plan[Any] | Mapping[str, Sequence[int]]
"""A plan, or group name -> units that stay; groups that are absent keep all of theirs."""


@overload
def information_kept(
    model: nn.Module,
    batches: Iterable[Any],
    keep: Choice,
    *,
    progress: Progress | bool | None = None,
    **options: Unpack[UnitKeywords],
) -> tuple[KeptInformation, ...]: ...


@overload
def information_kept(
    model: nn.Module,
    batches: Iterable[Any],
    keep: Sequence[Choice],
    *,
    progress: Progress | bool | None = None,
    **options: Unpack[UnitKeywords],
) -> list[tuple[KeptInformation, ...]]: ...


@processes.raises_on_all_ranks
@gradients_enabled()
@checked
def information_kept(
    model: nn.Module,
    batches: Iterable[Any],
    keep: Choice | Sequence[Choice],
    *,
    progress: Progress | bool | None = None,
    **options: Any,
) -> tuple[KeptInformation, ...] | list[tuple[KeptInformation, ...]]:
    """Measures what a choice of units keeps, between each group and each layer that reads it.

    Args:
        model: the unpruned model. It is left exactly as it was.
        batches: as in `mipp.plan`; best other examples than the plan was made with.
        keep: a plan, or group name -> indices of the units that stay; groups that are absent keep
            all of theirs. Of a list of these, what they have in common is measured once; with the
            whole next layer that is nearly everything, learned estimators included.
        progress: as in `mipp.plan`.
        options: of `mipp.plan`, of which ``estimator``, ``noise``, ``target``, ``next_layer``,
            ``samples``, ``calibration``, ``loss``, ``outputs``, ``memory`` and ``seed`` count.
            ``next_layer="pruned"`` measures only what is transferred to the outputs that stay.

    Returns:
        A record for each pair of group and layer; for a list of choices a list of these.

    Raises:
        InputError: a group that the model does not have, or units that its group does not have.
        CalibrationError, GraphError: as in `mipp.plan`.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> (found,) = mipp.information_kept(net, batches, {"0": range(8)})
        >>> found.group, found.consumer, found.share
        ('0', '2', 1.0)
    """
    several = isinstance(keep, Sequence)
    keeps: Sequence[Choice] = keep if isinstance(keep, Sequence) else [keep]
    settings = unit_options(**options)
    with following(progress) as report:
        found = _kept(model, batches, keeps, settings, report)
    return found if several else found[0]


def _kept(
    model: nn.Module,
    batches: Iterable[Any],
    keeps: Sequence[Choice],
    settings: Options,
    report: Progress,
) -> list[tuple[KeptInformation, ...]]:
    """What each choice keeps."""
    own = graph.unwrap(model)
    check_ordinary(own)
    data = calibration(own, batches, settings.samples)
    original = answering(own, settings.outputs, example(own, data))
    problem = Problem.of(original, data, settings, report, Clock())
    traced = problem.graph
    chosen = [dict(keep.keep) if isinstance(keep, Plan) else dict(keep) for keep in keeps]
    for one in chosen:
        _check(traced, one)
    kept = [masks(traced, one) for one in chosen]
    views = Views(problem)
    found: list[list[KeptInformation]] = [[] for _ in keeps]
    for part in views.parts():
        views_of = views.of(part)
        for group in part:
            scorer, before = None, np.zeros(0)
            everything = np.ones(group.n_units, dtype=bool)
            for mine, out in zip(kept, found, strict=True):
                if scorer is None or settings.next_layer == "pruned":
                    shown = mine if settings.next_layer == "pruned" else {}
                    scorer = settings.estimator.scorer(
                        views_of(group, shown), group.n_units, settings.seed
                    )
                    before = scorer.total()
                stays = np.flatnonzero(mine.get(group.index, everything))
                after = before if len(stays) == group.n_units else scorer.transfers(stays)
                names = [traced.consumers[index].name for index in group.consumers]
                out += [
                    KeptInformation(group.name, name, float(b * factor), float(a * factor))
                    for name, factor, b, a in zip(
                        names, views.factors(group), before, after, strict=True
                    )
                ]
    return [tuple(one) for one in found]


def _check(traced: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> None:
    sizes = {group.name: group.n_units for group in traced.groups}
    for name, units in keep.items():
        if name not in sizes:
            raise InputError(f"keep names {name!r}, which is no group. Groups: {', '.join(sizes)}.")
        wrong = [unit for unit in units if not 0 <= unit < sizes[name]]
        if wrong or len(units) == 0:
            raise InputError(
                f"keep[{name!r}] has {wrong or 'no units'}; expected some of 0 to "
                f"{sizes[name] - 1}."
            )
