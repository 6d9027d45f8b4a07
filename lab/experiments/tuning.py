"""Tuning without labels: accuracy at once, after the refit, and after it and `mipp.tune`.

    python -m lab run tuning    # two nets, three methods, three draws of calibration images

The small nets learn from the same calibration images that they were planned with, as the unpruned
net answers for them. Draws are other calibration images of the training split, for the same parent;
accuracy is that of the test split. The learning rate of `mipp.Tune` and its number of passes were
chosen with the first draw and mipp, on images of the training split that are never calibrated on.
Methods other than mipp have uniform widths. Seconds are the processor's, of one thread.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import SAMPLES, parent, test_batches
from lab.experiments.settle import NETS, parts
from lab.tables import TextTable, spread
from mipp import data, retrain

BUDGETS = {"lenet5": ("macs=10%", "macs=5%"), "vgg16": ("macs=25%", "macs=10%")}
METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "l2": {"method": "l2", "allocation": "uniform"},
    "random": {"method": "random", "allocation": "uniform"},
}
SETTINGS = {
    "lenet5": {"tuned": mipp.Tune()},
    "vgg16": {"tuned": mipp.Tune(), "tuned, flip-shift": mipp.Tune(augment="flip-shift")},
}
"""Of tuning, by the names of the columns."""


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracies of one method's nets, under each budget, before and after tuning."""
    name = next(name for name in BUDGETS if NETS[name].label == key["net"])
    net, draw = NETS[name], key["draw"]
    model, test = parent(net, 0).eval(), test_batches(net)
    batches = data.calibration(parts(net.data)[0], key["samples"], 256, draw)
    torch.manual_seed(draw)
    plans = mipp.plans(model, batches, BUDGETS[name], seed=draw, **METHODS[key["method"]])
    found: dict[str, Any] = {"unpruned": _accuracy(model, test)}
    for budget, plan in zip(BUDGETS[name], plans, strict=True):
        small = plan.apply()
        found[budget] = {
            "at once": _accuracy(plan.apply(refit=False), test), "refit": _accuracy(small, test)
        }  # fmt: skip
        for column, settings in SETTINGS[name].items():
            started = time.process_time()
            own, tuned = plan.apply_tuned(settings)
            found[budget][column] = {
                "accuracy": _accuracy(own, test),
                "nats": (tuned.before, tuned.after),
                "passes": len(tuned.passes),
                "kept": tuned.kept,
                "seconds": time.process_time() - started,
            }
    return found


def _accuracy(model: torch.nn.Module, test: data.Batches) -> float:
    return retrain.evaluate(model, test, channels_last="auto").accuracy


def tables(rows: Rows) -> Iterator[TextTable]:
    """For each net a line for each budget and method."""
    for name, budgets in BUDGETS.items():
        here = [row for row in rows if row["net"] == NETS[name].label]
        lines = [
            _line([row for row in here if row["method"] == method], method, budget, name)
            for budget in budgets
            for method in METHODS
            if any(row["method"] == method for row in here)
        ]
        if lines:
            unpruned = spread((row["unpruned"] for row in here), digits=2)
            columns = [c for column in SETTINGS[name] for c in (column, "more", "nats", "s")]
            header = ["budget", "method", "draws", "at once", "refit", *columns]
            title = f"{NETS[name].label}: test accuracy, %; unpruned {unpruned}"
            yield TextTable(title, header, lines)


def _line(mine: Rows, method: str, budget: str, name: str) -> list[str]:
    found = [row[budget] for row in mine]
    line = [budget, method, str(len(mine))]
    line += [spread((row[when] for row in found), digits=2) for when in ("at once", "refit")]
    for column in SETTINGS[name]:
        tuned = [row[column] for row in found]
        more = (t["accuracy"] - row["refit"] for t, row in zip(tuned, found, strict=True))
        before, after = (sum(t["nats"][k] for t in tuned) / len(tuned) for k in (0, 1))
        line += [
            spread((t["accuracy"] for t in tuned), digits=2),
            spread(more, digits=2),
            f"{before:.3f} to {after:.3f}",
            spread((t["seconds"] for t in tuned), scale=1),
        ]
    return line


def items(settings: Settings) -> Iterator[Key]:
    """Draw by draw."""
    for draw in range(settings["draws"]):
        for name in BUDGETS:
            for method in METHODS:
                key = {"net": NETS[name].label, "method": method, "draw": draw}
                yield key | {"samples": settings["samples"]}


EXPERIMENT = Experiment(
    name="tuning",
    title="Tuning without labels on the calibration images",
    items=items,
    measure=measure,
    tables=tables,
    settings={"draws": 3, **SAMPLES},
    threads=1,
)
