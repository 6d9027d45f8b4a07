"""Accuracy after pruning with no retraining: MIPP beside uniform L2, global Taylor and random.

    python benchmarks/quality.py            # LeNet5 / MNIST and VGG16 (quarter width) / CIFAR-10
    python benchmarks/quality.py --show     # the tables of what is recorded

Every method gets the same calibration images and the same refit (or none). Three parents, trained
with seeds 0, 1, 2; mean and standard deviation over them. Seconds are those of plan and apply.
"""

import time
from functools import partial
from typing import Any

from common import NETS, Net, Records, arguments, parent, spread, table, test_batches

import mipp
from mipp import data, retrain

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


def measure(net: Net, seed: int, method: str, budget: str, samples: int) -> dict[str, Any]:
    """Accuracy with and without refit of one plan."""
    model = parent(net, seed)
    calibration = data.calibration(data.load(net.data, "train"), samples, 256, seed)
    test = test_batches(net)
    started = time.perf_counter()
    plan = mipp.plan(model, calibration, budget, seed=seed, **METHODS[method])
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


def show(records: Records) -> None:
    """Prints one table for each net."""
    for name, net in NETS.items():
        rows = [row for row in records.rows if row["net"] == net.label]
        if not rows:
            continue
        seeds = sorted({row["seed"] for row in rows})
        full = {row["seed"]: row["unpruned"] for row in rows}
        print(f"\n{net.label}, unpruned {spread(full.values())} %, {len(seeds)} seeds\n")
        header = ["method", "refit", *BUDGETS[name]]
        lines = []
        for variant in ("refit", "none"):
            for method in METHODS:
                line = [method, "yes" if variant == "refit" else "no"]
                for budget in BUDGETS[name]:
                    mine = [r for r in rows if r["budget"] == budget and r["method"] == method]
                    line.append(spread(r[variant] for r in mine))
                lines.append(line)
        print(table(header, lines))


def main() -> None:
    """Measures what is missing, then prints the tables."""
    options = arguments(__doc__ or "").parse_args()
    records = Records("quality")
    if not options.show:
        for name in options.nets:
            net = NETS[name]
            for seed in range(options.seeds):
                for budget in BUDGETS[name]:
                    for method in METHODS:
                        key = {
                            "net": net.label,
                            "seed": seed,
                            "budget": budget,
                            "method": method,
                            "samples": options.samples,
                        }
                        given = net, seed, method, budget, options.samples
                        records.measure(key, partial(measure, *given))
    show(records)


if __name__ == "__main__":
    main()
