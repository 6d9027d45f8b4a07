"""Measurements as figures need them: names of rows, what belongs together, and the order."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from lab.measurements import Item, MethodSpec, Record
from lab.report.summaries import over_seeds
from mipp.report.tables import Summary

RETRAINED = {"retrained": "retrained", "refit": "refitted", "at_once": "at once"}
"""Accuracies of a pruned net, what matters most first."""

BESIDES = ("fraction", "imbalance", "deformation")
"""Fields of an item, beside net and stage, that set apart what must not share a figure."""


def method_of(item: Item) -> MethodSpec | None:
    """The method as it is shown; nets from scratch are methods of their own."""
    if item.method is None or item.initial in (None, "pruned"):
        return item.method
    widths = "uniform widths" if item.initial == "uniform" else f"widths of {item.method.label}"
    label = f"scratch, {widths}, equal {item.training}"
    return MethodSpec(label=label, name="scratch")


def label_of(record: Record) -> str:
    """What the row is called in figures and tables."""
    method = method_of(record.item)
    return "" if method is None else method.label


def setting_of(record: Record) -> str:
    """Net, stage and what else was special, in words."""
    item = record.item
    words = [item.net.label]
    if item.stage is not None:
        words.append("pruned after training" if item.stage == "trained" else "pruned untrained")
    if item.fraction is not None:
        words.append(f"{100 * item.fraction:g} % of the images")
    if item.imbalance is not None:
        words.append(f"imbalance 1:{item.imbalance}")
    if item.deformation is not None:
        words.append(f"deformation {item.deformation}")
    return ", ".join(words)


def together(
    records: Iterable[Record], key: Callable[[Record], Any]
) -> Iterator[tuple[Any, list[Record]]]:
    """Records by key, in the order in which keys are first met."""
    order: dict[Any, int] = {}
    rows = list(records)
    for record in rows:
        order.setdefault(key(record), len(order))
    for found, group in groupby(sorted(rows, key=lambda r: order[key(r)]), lambda r: order[key(r)]):
        mine = list(group)
        assert order[key(mine[0])] == found
        yield key(mine[0]), mine


def by_label(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by the label that they are shown under."""
    return dict(together(records, label_of))


def budgets_of(records: Iterable[Record]) -> list[str]:
    """All budgets, those of one resource together, the largest first."""
    found = {record.item.budget for record in records if record.item.budget is not None}
    return sorted(found, key=_size)


def latest(records: Iterable[Record]) -> list[Record]:
    """Each item once, as it was measured last; in the order of the file."""
    return list({record.id: record for record in records}.values())


def mean_of(records: Sequence[Record], value: Callable[[Record], float | None]) -> Summary | None:
    """Mean and standard deviation of what ``value`` finds in the records."""
    return over_seeds(value(record) for record in records)


def accuracy_of(outcome: str, *, balanced: bool = False) -> Callable[[Record], float | None]:
    """Reads one of the accuracies of a record; None where it was not measured."""

    def read(record: Record) -> float | None:
        result = record.result
        found = result.balanced_accuracy if balanced else result.accuracy
        return None if found is None else getattr(found, outcome)

    return read


def outcomes_of(records: Sequence[Record], *, balanced: bool = False) -> list[str]:
    """Which of `RETRAINED` were measured at all."""
    return [
        name for name in RETRAINED
        if any(accuracy_of(name, balanced=balanced)(record) is not None for record in records)
    ]  # fmt: skip


def _size(budget: str) -> tuple[str, float, str]:
    found = re.match(r"\s*(\w+)\s*=\s*([\d.]+)\s*([%kMGT]?)", budget)
    if found is None:
        return budget, 0.0, budget
    factor = {"%": 0.01, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(found[3], 1.0)
    return found[1], -float(found[2]) * factor, budget
