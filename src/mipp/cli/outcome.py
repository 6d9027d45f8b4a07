"""The result of ``mipp prune``: a pruned model in numbers, before and after."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipp import planning, report, tuning
from mipp.cli import text_tables
from mipp.cli.looks import SHRANK, WORSE
from mipp.cli.metrics import Metric
from mipp.cli.output import Output
from mipp.progress import in_words

AnyPlan = planning.Plan[Any] | planning.WeightPlan[Any] | planning.BlockPlan[Any]
WARNED = {"too few examples": "fewer rows than features", "not changed": "left as it is"}
"""Start of a note -> words of the warning that says the same."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A pruned model in numbers: before and after.

    Attributes:
        plan: of units, blocks or single weights.
        others: plans for other budgets, from the same measurement.
        metric: by which the models were measured; None if by none.
        scores: of the metric, before and after; None without a metric.
        tuned: what came of tuning, None without; ``tuned_score`` is the score after it.
        retrained: score after retraining, None without.
        latency_ms: milliseconds for one example on the CPU, before and after; None where the
            model has zeros, which save no time by themselves.
        threads: of the CPU, with which latency was measured.
        apply_seconds: for slicing, or setting zeros, and the refit.
        seed: of the task.
        warnings: that came while all this was done.
    """

    plan: AnyPlan
    metric: Metric | None
    scores: tuple[float, float] | None
    retrained: float | None
    latency_ms: tuple[float, float] | None
    threads: int
    apply_seconds: float
    seed: int
    tuned: tuning.Tuned | None = None
    tuned_score: float | None = None
    others: Sequence[AnyPlan] = ()
    warnings: Sequence[str] = ()

    def show(self, output: Output) -> None:
        """Prints what became of each group, what is refused, and what to know about the figures."""
        plan = self.plan
        if isinstance(plan, planning.Plan):
            output.show(text_tables.groups_after(plan.summary))
        elif isinstance(plan, planning.BlockPlan):
            output.show(text_tables.blocks_after(plan.summary))
        else:
            output.show(text_tables.layers_after(plan.summary))
        if plan.refused:
            output.show(text_tables.refusals(plan.refused, _rows(plan)[0]))
        if isinstance(plan, planning.Plan):
            for name, difference in plan.record.inexact.items():
                output.note(
                    f"not exact: {name}, norms see fewer units: outputs move {difference:.2%}"
                )
        if not isinstance(plan, planning.BlockPlan) and plan.collapsed:
            output.note(f"nothing is left of {', '.join(plan.collapsed)}")
        for note in (*self.warnings, *plan.record.notes()):
            if not self._warned_of(note):
                output.note(note)

    def _warned_of(self, note: str) -> bool:
        """Whether a warning says the same at more length."""
        long = next((words for start, words in WARNED.items() if note.startswith(start)), None)
        return long is not None and any(long in warning for warning in self.warnings)

    def show_totals(self, output: Output) -> None:
        """Prints the figures of the whole model, before and after."""
        rows = []
        for _, words, before, after in self._counts():
            left = text_tables.percent(text_tables.share(before, after))
            style = SHRANK if after < before else ""
            rows.append((words, text_tables.exact(before), text_tables.exact(after), left, style))
        if self.latency_ms is not None:
            threads = f"{self.threads} CPU thread{'s' * (self.threads > 1)}"
            rows.append(_times(f"ms for one example, {threads}", *self.latency_ms))
        if (asked := self._budget_ms()) is not None:
            words = f"ms of the budget: batch {asked['batch']}, {asked['runtime']}"
            rows.append(_times(words, asked["before"], asked["after"]))
        if self.tuned is not None:
            nats = self.tuned.unit == "nats"
            words = "nats from the unpruned model" if nats else "error, of the variance"
            apart = f"{self.tuned.before:.3g}", f"{self.tuned.after:.3g}"
            rows.append((words, *apart, self._tuning(), ""))
        output.show(text_tables.totals([*rows, *self._measured()]))

    def _tuning(self) -> str:
        """How long it was tuned, and whether that helped."""
        assert self.tuned is not None
        n = len(self.tuned.passes)
        spent = f"{n} pass{'es' * (n != 1)}, {in_words(self.tuned.seconds)}"
        return spent if self.tuned.better else f"no better in {spent}"

    def measured(self, data: str) -> report.Measured:
        """What a report shows beside the plan. ``data``: what the metric was measured on."""
        after = [s for s in (self.tuned_score, self.retrained) if s is not None]
        where, known = "", [*(self.scores or ()), *after]
        if self.metric is not None:
            where = f"{self.metric.name} on the test split of {data}; "
        if self.latency_ms is not None:
            where += f"latency on the CPU with {self.threads} thread{'s' * (self.threads != 1)}; "
        shares = self.metric is not None and self.metric.name == "accuracy"
        other = None
        if self.metric is not None and not shares:
            other = self.metric.name, tuple(known)
        return report.Measured(
            accuracy=self.scores if shares else None,
            tuned=self.tuned_score if shares else None,
            tuning=None if self.tuned is None else str(self.tuned),
            retrained=self.retrained if shares else None,
            other=other,
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
        if isinstance(plan, planning.BlockPlan):
            made["nats_lost"] = plan.record.nats
        scores = None
        if self.metric is not None and self.scores is not None:
            after = {"tuned": self.tuned_score, "retrained": self.retrained}
            scores = _pair(*self.scores) | after
            made["metric"] = {"name": self.metric.name, **scores}
        made["accuracy"] = scores if self.metric and self.metric.name == "accuracy" else None
        made |= {key: _pair(before, after) for key, _, before, after in self._counts()}
        if self.latency_ms is not None:
            made["latency_ms"] = _pair(*self.latency_ms)
        if (asked := self._budget_ms()) is not None:
            made["budget_latency_ms"] = asked
        made["seconds"] = {
            "capture": seconds.get("capture"),
            "plan": seconds.get("plan"),
            "apply": self.apply_seconds,
            **({} if self.tuned is None else {"tune": self.tuned.seconds}),
            **trained,
        }
        made["tuning"] = None if self.tuned is None else _tuning_content(self.tuned)
        what, rows = _rows(plan)
        return made | rows | {
            "refused": [
                {"name": row.name, what: row.n_units, "reason": row.reason} for row in plan.refused
            ],
            "notes": plan.record.notes(),
            "seed": self.seed,
        }  # fmt: skip

    def _budget_ms(self) -> dict[str, Any] | None:
        """What was measured for a budget of latency: milliseconds, where, and of how many."""
        plan = self.plan
        if isinstance(plan, planning.WeightPlan):
            return None
        how, before, after = plan.record.options.get("latency"), plan.before, plan.after
        if before.latency is None or after.latency is None or not isinstance(how, Mapping):
            return None
        times: dict[str, Any] = dict(_pair(before.latency, after.latency))
        return times | {name: how[name] for name in ("runtime", "batch")}

    def _counts(self) -> list[tuple[str, str, float | int, float | int]]:
        """Key, words, and number before and after, of all that the plan counts."""
        plan = self.plan
        if isinstance(plan, planning.Plan):
            return [
                ("macs", "MACs", plan.before.macs, plan.after.macs),
                ("params", "parameters", plan.before.params, plan.after.params),
                ("units", "units", plan.before.units, plan.after.units),
            ]
        if isinstance(plan, planning.BlockPlan):
            return [
                ("macs", "MACs", plan.before.macs, plan.after.macs),
                ("params", "parameters", plan.before.params, plan.after.params),
                ("units", "blocks", plan.before.units, plan.after.units),
            ]
        return [
            ("weights", "weights that are not zero", plan.before.weights, plan.after.weights),
            ("params", "parameters without zeros", plan.before.params, plan.after.params),
        ]

    def _measured(self) -> list[tuple[str, str, str, str, str]]:
        """Rows of the metric: before, after, the difference, and the style."""
        if self.metric is None or self.scores is None:
            return []
        metric, (before, after) = self.metric, self.scores
        found = [(metric.name, metric.text(before), after)]
        if self.tuned_score is not None:
            found.append((f"{metric.name}, tuned", "", self.tuned_score))
        if self.retrained is not None:
            found.append((f"{metric.name}, retrained", "", self.retrained))
        return [
            (
                words, first, metric.text(value), metric.change(before, value),
                WORSE if metric.worse(before, value) else "",
            )
            for words, first, value in found
        ]  # fmt: skip


def _rows(
    plan: AnyPlan,
) -> tuple[str, dict[str, list[dict[str, Any]]]]:
    """The word for what is removed, and a row for each group, block or layer."""
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
    if isinstance(plan, planning.BlockPlan):
        blocks = [
            {
                "name": row.name,
                "class": row.kind,
                "removed": row.removed or None,
                "nats_alone": row.nats_alone,
                "nats_then": row.nats_then if row.removed else None,
                "macs": row.macs,
                "params": row.params,
            }
            for row in plan.summary
        ]
        return "blocks", {"blocks": blocks}
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


def _tuning_content(tuned: tuning.Tuned) -> dict[str, Any]:
    """What came of tuning, as ``--json`` has it."""
    trained, held_out = tuned.examples
    return _pair(tuned.before, tuned.after) | {
        "unit": tuned.unit,
        "passes": len(tuned.passes),
        "kept": tuned.kept,
        "passes_on_all": len(tuned.on_all),
        "stopped": tuned.stopped,
        "examples": {"trained": trained, "held_out": held_out},
    }


def _times(words: str, before: float, after: float) -> tuple[str, str, str, str, str]:
    """A row of milliseconds among the totals."""
    style = SHRANK if after < 0.95 * before else ""
    return words, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}x as fast", style


def _pair(before: float | int, after: float | int) -> dict[str, float | int]:
    return {"before": before, "after": after}
