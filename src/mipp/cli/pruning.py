"""The work of ``mipp prune``, which the demo does too, and its result: before and after."""

import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import graph, latency, methods, planning, report, retrain, selection, statistics
from mipp.cli import text_tables
from mipp.cli.arguments import FINE_TUNING
from mipp.cli.datasets import Source
from mipp.cli.model_names import Network
from mipp.cli.output import Guard, Output
from mipp.errors import GraphError
from mipp.options import Options, WeightOptions
from mipp.planning.budget_values import wanted_budget, weight_budget
from mipp.planning.option_values import read_options
from mipp.prunable import with_routes
from mipp.records import Cost
from mipp.retrain import Recipe
from mipp.tracing.guards import duplicate

FEWEST, LONGEST = 11, 1.0
"""Fewest runs of a model, and seconds for each model after which no further run starts."""


@dataclass(frozen=True)
class Task:
    """What to do with a model.

    Attributes:
        budget: what may be left.
        options: of `mipp.plan`.
        retrain: the recipe of retraining; None for no retraining.
        seed: of the plan, of the order of batches and of training.
        train: the recipe of methods that train, None for the others.
        granularity: of `mipp.plan`.
    """

    budget: selection.Budget | None
    options: Mapping[str, Any]
    retrain: Recipe | None
    seed: int
    train: Recipe | None = None
    granularity: str = "unit"

    def __post_init__(self) -> None:
        """Options that do not fit are reported now, before data are read."""
        options = self.read()
        if isinstance(options, WeightOptions):
            weight_budget(self.budget, options)
        else:
            wanted_budget(self.budget, options)

    def read(self) -> Options | WeightOptions:
        """The options as a record."""
        return read_options(self.granularity, self.with_training(()))

    def with_training(self, batches: Iterable[Any]) -> dict[str, Any]:
        """The options, with these batches if the method trains."""
        given = {} if self.train is None else {"training": methods.Training(batches, self.train)}
        return dict(self.options) | given


@dataclass(frozen=True, eq=False)
class Outcome:
    """A pruned model in numbers: before and after.

    Attributes:
        plan: of units, or of single weights.
        accuracy: share of correct answers, before and after.
        retrained: accuracy after retraining, None without.
        latency_ms: milliseconds for one example on the CPU, before and after; None where the
            model has zeros, which save no time by themselves.
        threads: of the CPU, with which latency was measured.
        apply_seconds: for slicing, or setting zeros, and the refit.
        seed: of the task.
    """

    plan: planning.Plan[Any] | planning.WeightPlan[Any]
    accuracy: tuple[float, float]
    retrained: float | None
    latency_ms: tuple[float, float] | None
    threads: int
    apply_seconds: float
    seed: int

    def show(self, output: Output) -> None:
        """Prints the tables."""
        plan = self.plan
        if isinstance(plan, planning.Plan):
            output.show(text_tables.groups_after(plan.summary))
            for name, difference in plan.record.inexact.items():
                output.say(
                    f"not exact: {name}, norms see fewer units: outputs move {difference:.2%}"
                )
        else:
            output.show(text_tables.layers_after(plan.summary))
        if plan.collapsed:
            output.say(f"nothing is left of {', '.join(plan.collapsed)}")
        if plan.refused:
            what = "units" if isinstance(plan, planning.Plan) else "weights"
            output.show(text_tables.refusals(plan.refused, what))
        for note in plan.record.notes():
            output.say(note)
        rows = []
        for _, words, before, after in self._counts():
            left = text_tables.percent(text_tables.share(before, after))
            rows.append((words, text_tables.exact(before), text_tables.exact(after), left))
        if self.latency_ms is not None:
            first, second = self.latency_ms
            words = f"ms for one example, {self.threads} CPU thread{'s' * (self.threads > 1)}"
            rows.append((words, f"{first:.3f}", f"{second:.3f}", f"{first / second:.2f}x as fast"))
        full, pruned = (f"{100 * value:.2f} %" for value in self.accuracy)
        rows.append(("accuracy", full, pruned, self._points(self.accuracy[1])))
        if self.retrained is not None:
            retrained = f"{100 * self.retrained:.2f} %"
            rows.append(("accuracy, retrained", "", retrained, self._points(self.retrained)))
        output.show(text_tables.totals(rows))

    def measured(self, data: str) -> report.Measured:
        """What a report shows beside the plan. ``data``: what accuracy was measured on."""
        where = f"accuracy on the test split of {data}; "
        if self.latency_ms is not None:
            where += f"latency on the CPU with {self.threads} thread{'s' * (self.threads != 1)}; "
        return report.Measured(
            accuracy=self.accuracy,
            retrained=self.retrained,
            latency_ms=self.latency_ms,
            command=shlex.join(["mipp", *sys.argv[1:]]),
            data=f"{where}seed {self.seed}",
        )

    def content(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        plan = self.plan
        seconds = plan.seconds or {}
        trained = {"train": seconds["train"]} if "train" in seconds else {}
        made: dict[str, Any] = {}
        if isinstance(plan, planning.WeightPlan):
            made["granularity"] = plan.record.granularity
        made["accuracy"] = _pair(*self.accuracy) | {"retrained": self.retrained}
        made |= {key: _pair(before, after) for key, _, before, after in self._counts()}
        if self.latency_ms is not None:
            made["latency_ms"] = _pair(*self.latency_ms)
        made["seconds"] = {
            "capture": seconds.get("capture"),
            "plan": seconds.get("plan"),
            "apply": self.apply_seconds,
            **trained,
        }
        what, rows = _rows(plan)
        return made | rows | {
            "refused": [
                {"name": row.name, what: row.n_units, "reason": row.reason} for row in plan.refused
            ],
            "notes": plan.record.notes(),
            "seed": self.seed,
        }  # fmt: skip

    def _counts(self) -> list[tuple[str, str, float | int, float | int]]:
        """Key, words, and number before and after, of all that the plan counts."""
        plan = self.plan
        if isinstance(plan, planning.Plan):
            return [
                ("macs", "MACs", plan.before.macs, plan.after.macs),
                ("params", "parameters", plan.before.params, plan.after.params),
                ("units", "units", plan.before.units, plan.after.units),
            ]
        return [
            ("weights", "weights that are not zero", plan.before.weights, plan.after.weights),
            ("params", "parameters without zeros", plan.before.params, plan.after.params),
        ]

    def _points(self, accuracy: float) -> str:
        return f"{100 * (accuracy - self.accuracy[0]):+.2f} points"


def run(
    task: Task, network: Network, model: nn.Module, source: Source, output: Output, guard: Guard
) -> tuple[nn.Module, Outcome]:
    """The pruned model, and its numbers before and after."""

    def accuracy(of: nn.Module) -> float:
        with output.busy("evaluating"):
            return retrain.evaluate(network.classifier(of), source.test()).accuracy

    before = accuracy(model)
    batches = source.calibration(task.read().samples, task.seed)
    options = task.with_training(
        () if task.train is None
        else source.train(task.train.batch_size, task.seed, task.train.augment)
    )  # fmt: skip
    with output.followed() as progress, guard.arguments():
        plan: planning.Plan[Any] | planning.WeightPlan[Any] = planning.plan(
            model, batches, task.budget, granularity=task.granularity,  # type: ignore[call-overload]
            progress=progress, seed=task.seed, **options,
        )  # fmt: skip
    of_units = isinstance(plan, planning.Plan)
    start = time.perf_counter()
    with output.followed() as progress:
        small = plan.apply(progress=progress)
    seconds = time.perf_counter() - start
    after, retrained = accuracy(small), None
    if task.retrain is not None:
        with output.followed() as progress:
            retrain.train(
                network.classifier(small),
                source.train(task.retrain.batch_size, task.seed, task.retrain.augment),
                task.retrain,
                teacher=network.classifier(model) if task.retrain.distill_weight else None,
                step=None if isinstance(plan, planning.Plan) else plan.hold(small),
                seed=task.seed,
                progress=progress,
            )
        retrained = accuracy(small)
    times = None
    if of_units:
        # no spinner, which would run in a thread of its own beside what is measured
        first, second = latency_ms([model, small], source.test())
        times = (first, second)
    outcome = Outcome(
        plan=plan,
        accuracy=(before, after),
        retrained=retrained,
        latency_ms=times,
        threads=torch.get_num_threads(),
        apply_seconds=seconds,
        seed=task.seed,
    )
    return small, outcome


def fine_tuning(
    recipe: Recipe, epochs: int, peak_lr: float | None = None, distill: float = 0.0
) -> Recipe:
    """A recipe that continues from good weights."""
    rate = recipe.peak_lr / FINE_TUNING if peak_lr is None else peak_lr
    return replace(recipe, epochs=epochs, peak_lr=rate, distill_weight=distill)


def _rows(
    plan: planning.Plan[Any] | planning.WeightPlan[Any],
) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """The word for what is removed, and a row for each group or layer."""
    if isinstance(plan, planning.Plan):
        groups = [
            {
                "name": row.name,
                "units": _pair(row.units_before, row.units_after),
                "exact": row.name not in plan.record.inexact,
                "information": text_tables.share(row.nats_before, row.nats_after),
                "macs": _pair(row.macs_before, row.macs_after),
                "params": _pair(row.params_before, row.params_after),
            }
            for row in plan.summary
        ]
        return "units", {"groups": groups}
    layers = [
        {
            "name": row.name,
            "weights": _pair(row.weights_before, row.weights_after),
            "information": text_tables.share(row.nats_before, row.nats_after),
            "empty_rows": row.empty_rows,
        }
        for row in plan.summary
    ]
    return "weights", {"layers": layers}


def _pair(before: float | int, after: float | int) -> dict[str, float | int]:
    return {"before": before, "after": after}


def latency_ms(
    models: Sequence[nn.Module], batches: Iterable[Any], others: Sequence[latency.Work] = ()
) -> list[float]:
    """Median milliseconds on the CPU for one example, of each model, then of each other work.

    They take turns, so that other load on the machine slows all of them alike. The number of
    threads stays as it is.
    """
    cpu = torch.device("cpu")
    example = statistics.read_batches(batches, 1)[0].to(cpu)
    works = [_work(duplicate(model).cpu().eval(), example) for model in models]
    works += others
    runs = latency.take_turns(works, seconds=LONGEST * len(works), fewest=FEWEST, device=cpu)
    return [float(np.median(mine)) for mine in runs]


def _work(model: nn.Module, example: statistics.Batch) -> latency.Work:
    return lambda: model(*example.args, **example.kwargs)


def cost_of(model: nn.Module, batches: Iterable[Any]) -> Cost | None:
    """Exact cost of a model as it is; None if it cannot be traced."""
    data = statistics.read_batches(batches, 64)
    first = data[0].part(0, 2).to(next(model.parameters()).device)
    try:
        return graph.cost(with_routes(model, graph.trace(model, first.args, first.kwargs), data))
    except GraphError:
        return None
