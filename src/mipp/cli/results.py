"""What pruning came to, for people and for machines."""

import shlex
import sys
from dataclasses import dataclass
from typing import Any

from mipp import planning, report
from mipp.cli import text_tables
from mipp.cli.output import Output


@dataclass(frozen=True, eq=False)
class Outcome:
    """A pruned model in numbers: before and after.

    ``accuracy`` (share of right answers), ``latency_ms`` (one example on the CPU, with so many
    ``threads``): before, after.
    ``retrained``: accuracy after retraining, None without. ``apply_seconds``: slicing and refit.
    """

    plan: planning.Plan[Any]
    accuracy: tuple[float, float]
    retrained: float | None
    latency_ms: tuple[float, float]
    threads: int
    apply_seconds: float
    seed: int

    def show(self, output: Output) -> None:
        """The tables."""
        plan = self.plan
        output.show(text_tables.groups_after(plan.summary))
        for name, difference in plan.record.inexact.items():
            output.say(f"not exact: {name}, norms see fewer units: outputs move {difference:.2%}")
        if plan.collapsed:
            output.say(f"nothing is left of {', '.join(plan.collapsed)}")
        if plan.refused:
            output.show(text_tables.refusals(plan.refused))
        for note in plan.record.notes():
            output.say(note)
        rows = []
        for what, before, after in (
            ("MACs", plan.before.macs, plan.after.macs),
            ("parameters", plan.before.params, plan.after.params),
            ("units", plan.before.units, plan.after.units),
        ):
            left = text_tables.percent(text_tables.share(before, after))
            rows.append((what, text_tables.exact(before), text_tables.exact(after), left))
        first, second = self.latency_ms
        faster = f"{first / second:.2f}x as fast"
        latency = f"ms for one example, {self.threads} CPU thread{'s' * (self.threads > 1)}"
        rows.append((latency, f"{first:.3f}", f"{second:.3f}", faster))
        full, pruned = (f"{100 * value:.2f} %" for value in self.accuracy)
        rows.append(("accuracy", full, pruned, self._points(self.accuracy[1])))
        if self.retrained is not None:
            retrained = f"{100 * self.retrained:.2f} %"
            rows.append(("accuracy, retrained", "", retrained, self._points(self.retrained)))
        output.show(text_tables.totals(rows))

    def measured(self, data: str) -> report.Measured:
        """What a report says of it beside the plan. ``data``: what accuracy was measured on."""
        return report.Measured(
            accuracy=self.accuracy,
            retrained=self.retrained,
            latency_ms=self.latency_ms,
            command=shlex.join(["mipp", *sys.argv[1:]]),
            data=f"accuracy on the test split of {data}; latency on the CPU with {self.threads} "
            f"thread{'s' * (self.threads != 1)}; seed {self.seed}",
        )

    def content(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        plan = self.plan
        seconds = plan.seconds or {}
        trained = {"train": seconds["train"]} if "train" in seconds else {}
        return {
            "accuracy": _pair(*self.accuracy) | {"retrained": self.retrained},
            "macs": _pair(plan.before.macs, plan.after.macs),
            "params": _pair(plan.before.params, plan.after.params),
            "units": _pair(plan.before.units, plan.after.units),
            "latency_ms": _pair(*self.latency_ms),
            "seconds": {
                "capture": seconds.get("capture"),
                "plan": seconds.get("plan"),
                "apply": self.apply_seconds,
                **trained,
            },
            "groups": [
                {
                    "name": row.name,
                    "units": _pair(row.units_before, row.units_after),
                    "exact": row.name not in plan.record.inexact,
                    "information": text_tables.share(row.nats_before, row.nats_after),
                    "macs": _pair(row.macs_before, row.macs_after),
                    "params": _pair(row.params_before, row.params_after),
                }
                for row in plan.summary
            ],
            "refused": [
                {"name": row.name, "units": row.n_units, "reason": row.reason}
                for row in plan.refused
            ],
            "notes": plan.record.notes(),
            "seed": self.seed,
        }

    def _points(self, accuracy: float) -> str:
        return f"{100 * (accuracy - self.accuracy[0]):+.2f} points"


def _pair(before: float | int, after: float | int) -> dict[str, float | int]:
    return {"before": before, "after": after}
