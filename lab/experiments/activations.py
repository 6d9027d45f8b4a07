"""How many activations are enough, for each estimator.

    python -m lab run activations    # LeNet5 on MNIST, three seeds

Plans are made from 256 to 20 000 training images, with the same widths in every group (a share of
the units), so that only the choice of units changes. The refit always uses the same 2560 images, so
that it does not. *Overlap* is the share of kept units that two plans from different images have in
common, averaged over the pairs of three draws; by chance it would be the share of units kept.
Seconds are processor time on one thread.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SEEDS, outcomes, parent
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
from mipp import data

SIZES = (256, 1024, 5120, 20_000)
SHARES = ("units=50%", "units=20%", "units=10%")
WAYS: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "gaussian, noise 0.1": {"noise": 0.1},
    "masked": {"estimator": "masked"},
    "mlp, ordered (paper)": {
        "estimator": mipp.presets.paper()["estimator"],
        "order": "ordered",
    },
}
COST = {"gaussian": 1, "gaussian, noise 0.1": 1, "masked": 10, "mlp, ordered (paper)": 100}
"""About how long they take, as multiples of one another."""

LARGEST = {"mlp, ordered (paper)": 1024}
OVERLAP = {"masked": 5120, "mlp, ordered (paper)": 0}
"""More images than these take too long on two cores; the table has no such rows."""


def accuracies(net: NetSpec, seed: int, way: str, samples: int) -> dict[str, Any]:
    """Accuracy and kept units of one elimination, spent on every budget."""
    model = parent(net, seed)
    train = data.load(net.data, "train")
    # the draw of images differs between seeds; the images of the refit do not
    calibration = data.calibration(train, samples, 256, 1000 + seed)
    fitting = data.calibration(train, 2560, 256, 77)
    started = time.process_time()
    plans = mipp.plans(
        model, calibration, SHARES, seed=seed, samples=None, allocation="uniform", **WAYS[way]
    )
    seconds = time.process_time() - started
    found = {}
    for budget, plan in zip(SHARES, plans, strict=True):
        again = mipp.Plan.from_json(plan.to_json(), model, fitting)
        found[budget] = outcomes(net, again, seed, 0, 0)
    return {"accuracy": found, "seconds": seconds}


def overlap(net: NetSpec, way: str, samples: int) -> dict[str, Any]:
    """How alike the choices are that three draws of images lead to, on the first parent."""
    model = parent(net, 0)
    train = data.load(net.data, "train")
    kept: dict[str, list[set[tuple[str, int]]]] = {budget: [] for budget in SHARES}
    for draw in range(3):
        calibration = data.calibration(train, samples, 256, 2000 + draw)
        plans = mipp.plans(
            model, calibration, SHARES, seed=draw, samples=None, allocation="uniform", **WAYS[way]
        )
        for budget, plan in zip(SHARES, plans, strict=True):
            kept[budget].append({(g, u) for g, units in plan.keep.items() for u in units})
    return {
        "overlap": {
            budget: float(np.mean([len(a & b) / len(a) for a, b in itertools.combinations(s, 2)]))
            for budget, s in kept.items()
        }
    }


def tables(rows: Rows) -> Iterator[TextTable]:
    """Accuracy after the refit and without, and overlap, by number of images."""
    for budget in SHARES:
        lines = []
        for way, size in itertools.product(WAYS, SIZES):
            mine = [r for r in rows if r["way"] == way and r["samples"] == size]
            runs = [r for r in mine if "accuracy" in r]
            alike = [r["overlap"][budget] for r in mine if "overlap" in r]
            if not runs:
                continue
            lines.append(
                [
                    way,
                    str(size),
                    *(spread(r["accuracy"][budget][s] for r in runs) for s in ("none", "refit")),
                    spread(alike) if alike else "-",
                    spread([r["seconds"] for r in runs], 1),
                    str(len(runs)),
                ]
            )
        header = ["estimator", "images", "at once", "refit", "overlap", "seconds", "seeds"]
        yield TextTable(f"{LENET.label}, {budget}: percent", header, lines)


def items(settings: Settings) -> Iterator[Key]:
    """All ways and sizes, the cheapest first, so that a part of a run has most of the table."""
    pairs = [(w, n) for w, n in itertools.product(WAYS, SIZES) if n <= LARGEST.get(w, n)]
    for way, size in sorted(pairs, key=lambda pair: COST[pair[0]] * pair[1]):
        for seed in range(settings["seeds"]):
            yield {"net": LENET.label, "seed": seed, "way": way, "samples": size}
        if size <= OVERLAP.get(way, size):
            yield {"net": LENET.label, "kind": "overlap", "way": way, "samples": size}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracies, or overlaps of three draws."""
    if key.get("kind") == "overlap":
        return overlap(LENET, key["way"], key["samples"])
    return accuracies(LENET, key["seed"], key["way"], key["samples"])


EXPERIMENT = Experiment(
    name="activations",
    title="How many activations are enough, for each estimator",
    items=items,
    measure=measure,
    tables=tables,
    settings=SEEDS,
    threads=1,
)
