"""Tables of `lab.experiments.full_width`: first the one that sums it up, then part by part."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import stats

from lab.experiment import Rows
from lab.tables import TextTable, spread
from lab.wide_nets import NETS
from lab.wide_plans import BUDGETS, METHODS, share_of

OURS, SPLIT = "mipp", "test"
PUBLISHED = {
    ("resnet20", "macs=73%"): "60.4 at once (ModelOpt FastNAS, dense 90.97)",
    ("resnet56", "macs=47.4%"): "93.5 to 93.8 retrained (Torch-Pruning, dense 93.53)",
    ("vgg16", "macs=26.6%"): "93.1 retrained (OTO v2)",
    ("vgg19", "macs=11.2%"): "67.6 to 70.4 retrained (Torch-Pruning, dense 73.50)",
}
"""By those who propose the methods, on parents and with trainings of their own: the examples of
NVIDIA's ModelOpt (``cifar_resnet``), ``reproduce`` of Torch-Pruning, and arXiv 2303.06862."""


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """A summary; of each net at once, tuned, retrained; what others publish; correlations."""
    yield from _summary(rows)
    for net in NETS.values():
        mine = [row for row in rows if row["net"] == net.label]
        yield from _at_once(net.name, _part(mine, "at once"))
        yield from _tuned(_part(mine, "tuned"))
        yield from _retrained(_part(mine, "retrained"), _part(mine, "scratch"))
    yield from _channels(_part(rows, "channels"))
    yield from _correlations(_part(rows, "at once"), _part(rows, "retrained"))


def _summary(rows: Rows) -> Iterator[TextTable]:
    """A line for each net and budget; rivals are the best of those measured on test images."""
    lines = []
    for name, net in NETS.items():
        mine = [row for row in rows if row["net"] == net.label]
        at_once, tuned = _part(mine, "at once"), _part(mine, "tuned")
        retrained = [r for r in _part(mine, "retrained") if r["variant"] == "plain"]
        scratch = [r for r in _part(mine, "scratch") if r["training"] == "epochs"]
        for budget in BUDGETS[name] if at_once else ():
            once = _by_method((r["method"], r[budget]["refit"][SPLIT]) for r in at_once)
            after = _by_method(
                (r["method"], r["tuned"][SPLIT]) for r in tuned if r["budget"] == budget
            )
            later = _by_method((r["method"], r[SPLIT]) for r in retrained if r["budget"] == budget)
            new = [row[SPLIT] for row in scratch if row["budget"] == budget]
            cells = [spread(found.get(OURS, [])) for found in (once, after, later)]
            rivals = [_best_rival(found) for found in (once, after, later)]
            published = PUBLISHED.get((name, budget), "-")
            lines.append([f"{net.label}, {budget}", *cells, *rivals, spread(new), published])
    if lines:
        header = [
            "net, budget", "ours at once", "tuned", "retrained", "best rival at once",
            "its tuned", "its retrained", "new weights", "published",
        ]  # fmt: skip
        yield TextTable("Accuracy on the test split, %", header, lines)


def _by_method(pairs: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for method, accuracy in pairs:
        found.setdefault(method, []).append(accuracy)
    return found


def _best_rival(found: dict[str, list[float]]) -> str:
    rivals = {name: values for name, values in found.items() if not name.startswith(OURS)}
    if not rivals:
        return "-"
    best = max(rivals, key=lambda name: float(np.mean(rivals[name])))
    return f"{spread(rivals[best])} ({best})"


def _part(rows: Rows, part: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["part"] == part]


def _at_once(name: str, rows: Rows) -> Iterator[TextTable]:
    if not rows:
        return
    lines = []
    for kind, word in (("refit", ""), ("bare", ", no refit")):
        for method in METHODS:
            first = BUDGETS[name][0]
            mine = [r for r in rows if r["method"] == method and kind in r[first]]
            if mine:
                reached = [spread(row[b][kind][SPLIT] for row in mine) for b in BUDGETS[name]]
                lines.append([method + word, str(len(mine)), *reached])
    unpruned = 100 * rows[0]["unpruned"][SPLIT]
    title = f"{rows[0]['net']}, unpruned {unpruned:.2f} %: accuracy at once"
    yield TextTable(title, ["method", "draws", *BUDGETS[name]], lines)


def _tuned(rows: Rows) -> Iterator[TextTable]:
    lines = []
    budgets = sorted({row["budget"] for row in rows}, key=share_of, reverse=True)
    for budget, method in itertools.product(budgets, METHODS):
        mine = [row for row in rows if row["budget"] == budget and row["method"] == method]
        if mine:
            gains = [row["tuned"][SPLIT] - row["refit"][SPLIT] for row in mine]
            cells = [spread(row[kind][SPLIT] for row in mine) for kind in ("refit", "tuned")]
            seconds = spread((row["seconds"] for row in mine), 1, 0)
            lines.append([budget, method, str(len(mine)), *cells, spread(gains), seconds])
    if lines:
        header = ["budget", "method", "draws", "at once", "tuned", "points", "seconds"]
        yield TextTable(f"{rows[0]['net']}: tuned without labels", header, lines)


def _retrained(rows: Rows, scratch: Rows) -> Iterator[TextTable]:
    lines = []
    for budget in dict.fromkeys(row["budget"] for row in [*rows, *scratch]):
        here = [row for row in rows if row["budget"] == budget]
        for method, variant in dict.fromkeys((row["method"], row["variant"]) for row in here):
            mine = [r for r in here if (r["method"], r["variant"]) == (method, variant)]
            lines.append([budget, f"{method}, {variant}", *_trained(mine)])
        new = [row for row in scratch if row["budget"] == budget]
        for training in dict.fromkeys(row["training"] for row in new):
            mine = [row for row in new if row["training"] == training]
            lines.append([budget, f"new weights, {training}", *_trained(mine)])
    if lines:
        header = ["budget", "net", "n", "epochs", "validation", "test"]
        yield TextTable(f"{[*rows, *scratch][0]['net']}: retrained", header, lines)


def _trained(rows: Rows) -> list[str]:
    reached = [spread((row[split] for row in rows), digits=2) for split in ("validation", SPLIT)]
    return [str(len(rows)), str(rows[0]["epochs"]), *reached]


def _channels(rows: Rows) -> Iterator[TextTable]:
    lines = []
    for case, method in itertools.product(dict.fromkeys(r["case"] for r in rows), METHODS):
        mine = [row for row in rows if row["case"] == case and row["method"] == method]
        if mine:
            reached = [spread(row[kind][SPLIT] for row in mine) for kind in ("refit", "bare")]
            left = spread(row["macs"] for row in mine)
            images = str(mine[0]["samples"])
            lines.append([case, images, method, str(len(mine)), left, *reached])
    if lines:
        header = ["gone", "images", "units by", "draws", "MACs left", "refit", "no refit"]
        yield TextTable("ResNet-18, the same share of every layer: accuracy at once", header, lines)


def _correlations(rows: Rows, retrained: Rows) -> Iterator[TextTable]:
    """Over the choices of one net and budget: kept information against accuracy."""
    lines = []
    for name, net in NETS.items():
        here = [row for row in rows if row["net"] == net.label]
        for measure, sign in (("kept", 1), ("nats_lost", -1)):
            cells = []
            for budget in BUDGETS[name]:
                for kind in ("refit", "bare"):
                    there = [row for row in here if kind in row[budget]]
                    kept = [sign * row[budget][measure] for row in there]
                    reached = [row[budget][kind][SPLIT] for row in there]
                    cells.append((kind, correlation(kept, reached)))
            found = [
                spread((c for k, c in cells if k == kind and c is not None), 1, 2)
                for kind in ("refit", "bare")
            ]
            after = _after_retraining(here, retrained, measure, sign)
            if here:
                lines.append([net.label, measure.replace("_", " "), str(len(here)), *found, after])
    if lines:
        header = ["net", "measure", "choices", "at once", "no refit", "retrained"]
        title = (
            "Spearman correlation with accuracy over the choices of one budget; mean over budgets"
        )
        yield TextTable(title, header, lines)


def _after_retraining(rows: Rows, retrained: Rows, measure: str, sign: int) -> str:
    found = []
    nets = {row["net"] for row in rows}
    plain = [r for r in retrained if r["variant"] == "plain" and r["net"] in nets]
    for budget in dict.fromkeys(row["budget"] for row in plain):
        kept, reached = [], []
        for row in rows:
            same = [
                other[SPLIT]
                for other in plain
                if (other["budget"], other["method"], other["draw"])
                == (budget, row["method"], row["draw"])
            ]
            kept += [sign * row[budget][measure]] * len(same)
            reached += same
        found.append(correlation(kept, reached))
    return spread((c for c in found if c is not None), 1, 2)


def correlation(kept: list[float], reached: list[float]) -> float | None:
    """Spearman's; None for fewer than four choices, or where one side is constant."""
    if len(kept) < 4 or np.ptp(kept) == 0 or np.ptp(reached) == 0:
        return None
    return float(stats.spearmanr(kept, reached).statistic)
