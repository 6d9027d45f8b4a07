"""Accuracy after pruning with no retraining: MIPP beside uniform L2, global Taylor and random.

    python -m lab run quality               # LeNet5 on MNIST, VGG16 (quarter width) on CIFAR-10
    python -m lab show quality              # the tables

Every method gets the same calibration images and the same refit (or none). Three parents, trained
with seeds 0, 1, 2; mean and standard deviation over them. Seconds are those of plan and apply.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SAMPLES, SEEDS, VGG, calibration, parent, test_batches
from lab.tables import TextTable, spread
from mipp import retrain

NETS = {"lenet5": LENET, "vgg16": VGG}
METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "l2": {"method": "l2"},
    "taylor": {"method": "taylor"},
    "taylor, uniform": {"method": "taylor", "allocation": "uniform"},
    "random": {"method": "random"},
}
BUDGETS = {
    "lenet5": ("params=10%", "params=5%", "params=2%", "macs=25%", "macs=10%"),
    "vgg16": ("macs=50%", "macs=25%", "macs=10%"),
}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracy with and without refit of one plan."""
    net = next(net for net in NETS.values() if net.label == key["net"])
    seed, method, budget = key["seed"], key["method"], key["budget"]
    model = parent(net, seed)
    batches = calibration(net, key["samples"], seed)
    test = test_batches(net)
    started = time.perf_counter()
    plan = mipp.plan(model, batches, budget, seed=seed, **METHODS[method])
    planned = time.perf_counter() - started
    plain = plan.apply(refit=False)
    started = time.perf_counter()
    refitted = plan.apply()
    applied = time.perf_counter() - started
    return {
        "unpruned": retrain.evaluate(model, test).accuracy,
        "none": retrain.evaluate(plain, test).accuracy,
        "refit": retrain.evaluate(refitted, test).accuracy,
        "macs": plan.after.macs / plan.before.macs,
        "params": plan.after.params / plan.before.params,
        "units": plan.after.units / plan.before.units,
        "seconds_plan": round(planned, 2),
        "seconds_apply": round(applied, 2),
    }


def tables(rows: Rows) -> Iterator[TextTable]:
    """One table for each net."""
    for name, net in NETS.items():
        here = [row for row in rows if row["net"] == net.label]
        if not here:
            continue
        seeds = sorted({row["seed"] for row in here})
        full = {row["seed"]: row["unpruned"] for row in here}
        title = f"{net.label}, unpruned {spread(full.values())} %, {len(seeds)} seeds"
        header = ["method", "refit", *BUDGETS[name]]
        lines = []
        for variant in ("refit", "none"):
            for method in METHODS:
                line = [method, "yes" if variant == "refit" else "no"]
                for budget in BUDGETS[name]:
                    mine = [r for r in here if r["budget"] == budget and r["method"] == method]
                    line.append(spread(r[variant] for r in mine))
                lines.append(line)
        yield TextTable(title, header, lines)


def items(settings: Settings) -> Iterator[Key]:
    """Net by net, and seed by seed."""
    for name, net in NETS.items():
        for seed in range(settings["seeds"]):
            for budget, method in itertools.product(BUDGETS[name], METHODS):
                key = {"net": net.label, "seed": seed, "budget": budget, "method": method}
                yield key | {"samples": settings["samples"]}


EXPERIMENT = Experiment(
    name="quality",
    title="Accuracy after pruning without retraining",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES},
)
