"""What finding the mask costs, and what it is worth: learned estimators beside the closed form.

    python benchmarks/discovery_cost.py            # LeNet5 / MNIST, three seeds
    python benchmarks/discovery_cost.py --show

Same trained network, same 5120 images, same widths (a share of the units, equal in every group), so
that estimator and order alone decide which units go. ``mlp`` in ``ordered`` elimination is the
paper's way. Seconds are processor time of `mipp.plans` on one thread: passes through the network,
estimation and elimination of all units. The second table lets every estimator stop by itself at
95 % confidence, judging by the pruned next layer.
"""

import time
from functools import partial
from typing import Any

import torch
from common import LENET, Net, Records, arguments, outcomes, parent, spread, table

import mipp
from mipp import data

SHARES = ("units=50%", "units=30%", "units=20%", "units=10%")
PAPER = mipp.presets.paper()["estimator"]
WAYS: dict[str, dict[str, Any]] = {
    "mlp, ordered (paper)": {"estimator": PAPER, "order": "ordered"},
    "masked, ordered": {"estimator": "masked", "order": "ordered"},
    "masked, greedy": {"estimator": "masked"},
    "gaussian, ordered": {"order": "ordered"},
    "gaussian, greedy (default)": {},
}
STOPS: dict[str, dict[str, Any]] = {
    "mlp (paper)": mipp.presets.paper(),
    "masked": mipp.presets.paper(estimator="masked"),
    "gaussian": mipp.presets.paper(estimator="gaussian"),
}
EPOCHS, RATE = 1.0, 0.05
"""Of retraining, the same for all."""


def shares(net: Net, seed: int, way: str, samples: int) -> dict[str, Any]:
    """One elimination, spent on every budget."""
    model = parent(net, seed)
    calibration = data.calibration(data.load(net.data, "train"), samples, 256, seed)
    started = time.process_time()
    plans = mipp.plans(model, calibration, SHARES, seed=seed, allocation="uniform", **WAYS[way])
    seconds = time.process_time() - started
    found = {
        budget: outcomes(net, plan, seed, EPOCHS, RATE)
        for budget, plan in zip(SHARES, plans, strict=True)
    }
    return {"accuracy": found, "seconds": seconds}


def stopped(net: Net, seed: int, way: str, samples: int) -> dict[str, Any]:
    """The paper's own rule: how much goes, and what is left."""
    model = parent(net, seed)
    calibration = data.calibration(data.load(net.data, "train"), samples, 256, seed)
    started = time.process_time()
    plan = mipp.plan(model, calibration, seed=seed, **STOPS[way] | {"refit": True})
    seconds = time.process_time() - started
    return {
        "accuracy": outcomes(net, plan, seed, EPOCHS, RATE),
        "seconds": seconds,
        "units": plan.after.units / plan.before.units,
        "macs": plan.after.macs / plan.before.macs,
        "params": plan.after.params / plan.before.params,
        "widths": {s.name: s.units_after for s in plan.summary},
    }


def show(records: Records) -> None:
    """Accuracy and seconds of every way, and ratios of seconds to the closed form."""
    base = [r["seconds"] for r in records.rows if r["way"] == "gaussian, greedy (default)"]
    if not base:
        return
    typical = sorted(base)[len(base) // 2]
    for start in ("none", "refit", "retrained"):
        lines = []
        for way in WAYS:
            mine = [r for r in records.rows if r["way"] == way]
            times = [r["seconds"] for r in mine]
            lines.append(
                [
                    way,
                    *(spread(r["accuracy"][b][start] for r in mine) for b in SHARES),
                    spread(times, 1),
                    spread([t / typical for t in times], 1),
                ]
            )
        print(f"\n{LENET.label}, {len(base)} seeds, accuracy in percent: {start}\n")
        print(table(["way", *SHARES, "seconds", "times the closed form"], lines))
    lines = []
    for way in STOPS:
        mine = [r for r in records.rows if r["way"] == f"stop: {way}"]
        lines.append(
            [
                way,
                *(spread(r[k] for r in mine) for k in ("units", "macs", "params")),
                *(spread(r["accuracy"][s] for r in mine) for s in ("none", "refit", "retrained")),
                spread([r["seconds"] for r in mine], 1),
            ]
        )
    print(
        "\nStopping by itself, 95 % confidence; percent of the unpruned net, accuracy in percent\n"
    )
    header = ["estimator", "units", "MACs", "params", "at once", "refit", "retrained", "seconds"]
    print(table(header, lines))


def main() -> None:
    """Measures what is missing, then prints the tables."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(samples=5120)
    options = parser.parse_args()
    records = Records("discovery_cost")
    if not options.show:
        torch.set_num_threads(1)
        seeds = range(options.first_seed, options.seeds)
        key = {"net": LENET.label, "samples": options.samples}
        for seed in seeds:
            for way in reversed(WAYS):
                work = partial(shares, LENET, seed, way, options.samples)
                records.measure(key | {"seed": seed, "way": way}, work)
        for seed in seeds:
            for way in reversed(STOPS):
                work = partial(stopped, LENET, seed, way, options.samples)
                records.measure(key | {"seed": seed, "way": f"stop: {way}"}, work)
    show(records)


if __name__ == "__main__":
    main()
