"""``mipp prune --granularity weight`` and its patterns: zeros in a model of the same size."""

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from torch import nn

from mipp import planning, report, retrain, selection
from mipp.cli import text_tables
from mipp.cli.datasets import Source
from mipp.cli.model_names import Network
from mipp.cli.output import Output
from mipp.errors import InputError
from mipp.options import WeightOptions
from mipp.planning.option_values import weight_budget, weight_options
from mipp.retrain import Recipe


@dataclass(frozen=True)
class WeightTask:
    """What is to be done to a model. ``options``: of `mipp.plan`. ``retrain``: None for not."""

    granularity: str
    budget: selection.Budget | None
    options: Mapping[str, Any]
    retrain: Recipe | None
    seed: int

    def __post_init__(self) -> None:
        """Options that do not fit are told now, before data are read."""
        weight_budget(self.budget, self.read())

    def read(self) -> WeightOptions:
        """The options as a record."""
        return weight_options(self.granularity, self.options)


@dataclass(frozen=True, eq=False)
class WeightOutcome:
    """A model with zeros in numbers, before and after; see `mipp.cli.results.Outcome`."""

    plan: planning.WeightPlan[Any]
    accuracy: tuple[float, float]
    retrained: float | None
    apply_seconds: float
    seed: int

    def measured(self, data: str) -> report.Measured:
        """What a report says of it beside the plan. ``data``: what accuracy was measured on."""
        return report.Measured(
            accuracy=self.accuracy,
            retrained=self.retrained,
            command=shlex.join(["mipp", *sys.argv[1:]]),
            data=f"accuracy on the test split of {data}; seed {self.seed}",
        )

    def show(self, output: Output) -> None:
        """The tables."""
        plan = self.plan
        output.show(_layers(plan))
        if plan.collapsed:
            output.say(f"nothing is left of {', '.join(plan.collapsed)}")
        if plan.refused:
            table = text_tables.new_table("not pruned", weights="right", why="left")
            for refusal in plan.refused:
                table.add_row(refusal.name, text_tables.exact(refusal.n_units), refusal.reason)
            output.show(table)
        for note in plan.record.notes():
            output.say(note)
        full, pruned = (f"{100 * value:.2f} %" for value in self.accuracy)
        rows = [
            (what, text_tables.exact(before), text_tables.exact(after),
             text_tables.percent(text_tables.share(before, after)))
            for what, before, after in (
                ("weights that are not zero", plan.before.weights, plan.after.weights),
                ("parameters without zeros", plan.before.params, plan.after.params),
            )
        ]  # fmt: skip
        rows.append(("accuracy", full, pruned, self._points(self.accuracy[1])))
        if self.retrained is not None:
            retrained = f"{100 * self.retrained:.2f} %"
            rows.append(("accuracy, retrained", "", retrained, self._points(self.retrained)))
        output.show(text_tables.totals(rows))

    def content(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        plan = self.plan
        seconds = plan.seconds or {}
        return {
            "granularity": plan.record.granularity,
            "accuracy": _pair(*self.accuracy) | {"retrained": self.retrained},
            "weights": _pair(plan.before.weights, plan.after.weights),
            "params": _pair(plan.before.params, plan.after.params),
            "seconds": {
                "capture": seconds.get("capture"),
                "plan": seconds.get("plan"),
                "apply": self.apply_seconds,
            },
            "layers": [
                {
                    "name": row.name,
                    "weights": _pair(row.weights_before, row.weights_after),
                    "information": text_tables.share(row.nats_before, row.nats_after),
                    "empty_rows": row.empty_rows,
                }
                for row in plan.summary
            ],
            "refused": [
                {"name": row.name, "weights": row.n_units, "reason": row.reason}
                for row in plan.refused
            ],
            "notes": plan.record.notes(),
            "seed": self.seed,
        }

    def _points(self, accuracy: float) -> str:
        return f"{100 * (accuracy - self.accuracy[0]):+.2f} points"


def check_unused(*, preset: object) -> None:
    """Raise `InputError` for what plans of single weights do not have."""
    if preset is not None:
        raise InputError(
            f"--preset {preset} was given with a --granularity of single weights; it is for "
            "units. Leave one of the two out."
        )


def run_weights(
    task: WeightTask, network: Network, model: nn.Module, source: Source, output: Output
) -> tuple[nn.Module, WeightOutcome]:
    """The model with zeros, and what it came to."""

    def accuracy(of: nn.Module) -> float:
        with output.busy("evaluating"):
            return retrain.evaluate(network.classifier(of), source.test()).accuracy

    before = accuracy(model)
    batches = source.calibration(task.read().samples, task.seed)
    with output.stages() as progress:
        plan = planning.plan(
            model, batches, task.budget, granularity=task.granularity,  # type: ignore[call-overload]
            progress=progress, seed=task.seed, **task.options,
        )  # fmt: skip
    start = time.perf_counter()
    with output.busy("setting zeros and refitting"):
        pruned = plan.apply()
    seconds = time.perf_counter() - start
    after, retrained = accuracy(pruned), None
    if task.retrain is not None:
        retrain.train(
            network.classifier(pruned),
            source.train(task.retrain.batch_size, task.seed, task.retrain.augment),
            task.retrain,
            teacher=network.classifier(model) if task.retrain.distill_weight else None,
            step=plan.hold(pruned),
            seed=task.seed,
        )
        retrained = accuracy(pruned)
    return pruned, WeightOutcome(plan, (before, after), retrained, seconds, task.seed)


def _layers(plan: planning.WeightPlan[Any]) -> Table:
    measured = any(row.nats_before == row.nats_before for row in plan.summary)
    nats = {"information": "right"} if measured else {}
    table = text_tables.new_table("layer", weights="right", left="right", **nats, empty="right")
    for row in plan.summary:
        kept = (
            [text_tables.percent(text_tables.share(row.nats_before, row.nats_after))]
            if measured
            else []
        )
        table.add_row(
            row.name,
            f"{text_tables.short(row.weights_before)} → {text_tables.short(row.weights_after)}",
            text_tables.percent(text_tables.share(row.weights_before, row.weights_after)),
            *kept,
            str(row.empty_rows),
        )
    told = "information: share of the nats that is kept, output by output. " if measured else ""
    table.caption = f"{told}empty: outputs that read nothing any more."
    return table


def _pair(before: float | int, after: float | int) -> dict[str, float | int]:
    return {"before": before, "after": after}
