"""Tuning without labels: accuracy at once, after the refit, and after it and `mipp.tune`.

    python -m lab run tuning    # two nets, three methods, three draws of calibration images

The small nets learn from the same calibration images that they were planned with, as the unpruned
net answers for them (`Plan.apply_tuned`, whose refit leaves out what tuning holds out). Draws are
other calibration images of the training split, for the same parent. Accuracy is that of the test
split, and so are the nats from the unpruned net. The learning rate of `mipp.Tune` and its number of
passes were chosen with the first draw and mipp, on images of the training split that are never
calibrated on. Methods other than mipp have uniform widths, and are measured with the most images
alone. Seconds are the processor's, of one thread, with the refits.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import parent, test_batches
from lab.experiments.settle import NETS, parts
from lab.tables import TextTable, spread
from lab.wide_plans import divergence
from mipp import data, retrain

IMAGES = {"lenet5": (2560,), "vgg16": (256, 1024, 2560)}
"""How many calibration images there are."""
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
    some = [x for x, _ in itertools.islice(test, 2)]
    found: dict[str, Any] = {"unpruned": _accuracy(model, test)}
    for budget, plan in zip(BUDGETS[name], plans, strict=True):
        small = plan.apply()
        found[budget] = {
            "at once": _accuracy(plan.apply(refit=False), test),
            "refit": _accuracy(small, test),
            "refit nats": divergence(model, small, some),
        }
        for column, settings in SETTINGS[name].items():
            started = time.process_time()
            own, tuned = plan.apply_tuned(settings)
            found[budget][column] = {
                "accuracy": _accuracy(own, test),
                "nats": divergence(model, own, some),
                "held_out": (tuned.before, tuned.after),
                "on_all": len(tuned.on_all),
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
        lines = []
        for images, budget, method in itertools.product(IMAGES[name], budgets, METHODS):
            mine = [r for r in here if (r["samples"], r["method"]) == (images, method)]
            if mine:
                lines.append([str(images), *_line(mine, method, budget, name)])
        if lines:
            unpruned = spread((row["unpruned"] for row in here), digits=2)
            columns = [c for column in SETTINGS[name] for c in (column, "more", "nats", "s")]
            header = ["images", "budget", "method", "draws", "at once", "refit", "nats", *columns]
            title = f"{NETS[name].label}: test accuracy, %; unpruned {unpruned}"
            yield TextTable(title, header, lines)


def _line(mine: Rows, method: str, budget: str, name: str) -> list[str]:
    found = [row[budget] for row in mine]
    line = [budget, method, str(len(mine))]
    line += [spread((row[when] for row in found), digits=2) for when in ("at once", "refit")]
    line.append(spread((row["refit nats"] for row in found), scale=1, digits=3))
    for column in SETTINGS[name]:
        tuned = [row[column] for row in found]
        more = (t["accuracy"] - row["refit"] for t, row in zip(tuned, found, strict=True))
        line += [
            spread((t["accuracy"] for t in tuned), digits=2),
            spread(more, digits=2),
            spread((t["nats"] for t in tuned), scale=1, digits=3),
            spread((t["seconds"] for t in tuned), scale=1),
        ]
    return line


def items(settings: Settings) -> Iterator[Key]:
    """Draw by draw."""
    for draw in range(settings["draws"]):
        for name, images in IMAGES.items():
            for samples, method in itertools.product(images, METHODS):
                if method == "mipp" or samples == max(images):
                    key = {"net": NETS[name].label, "method": method, "draw": draw}
                    yield key | {"samples": samples}


EXPERIMENT = Experiment(
    name="tuning",
    title="Tuning without labels on the calibration images",
    items=items,
    measure=measure,
    tables=tables,
    settings={"draws": 3},
    threads=1,
)
