"""What finding the mask costs, and what it is worth: learned estimators beside the closed form.

    python -m lab run discovery_cost    # LeNet5 on MNIST, three seeds

Same trained network, same 5120 images, same widths (a share of the units, equal in every group), so
that estimator and order alone decide which units go. ``mlp`` in ``ordered`` elimination is the
paper's way. Seconds are processor time of `mipp.plans` on one thread: passes through the network,
estimation and elimination of all units. The second table lets every estimator stop by itself at
95 % confidence, judging by the pruned next layer.
"""

import time
from collections.abc import Iterator
from typing import Any

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SEEDS, outcomes, parent
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
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
EPOCHS, RATE = 1, 0.05
"""Of retraining, the same for all."""


def shares(net: NetSpec, seed: int, way: str, samples: int) -> dict[str, Any]:
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


def stopped(net: NetSpec, seed: int, way: str, samples: int) -> dict[str, Any]:
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


def tables(rows: Rows) -> Iterator[TextTable]:
    """Accuracy and seconds of every way, and ratios of seconds to the closed form."""
    base = [r["seconds"] for r in rows if r["way"] == "gaussian, greedy (default)"]
    if not base:
        return
    typical = sorted(base)[len(base) // 2]
    for start in ("none", "refit", "retrained"):
        lines = []
        for way in WAYS:
            mine = [r for r in rows if r["way"] == way]
            times = [r["seconds"] for r in mine]
            lines.append(
                [
                    way,
                    *(spread(r["accuracy"][b][start] for r in mine) for b in SHARES),
                    spread(times, 1),
                    spread([t / typical for t in times], 1),
                ]
            )
        title = f"{LENET.label}, {len(base)} seeds, accuracy in percent: {start}"
        yield TextTable(title, ["way", *SHARES, "seconds", "times the closed form"], lines)
    lines = []
    for way in STOPS:
        mine = [r for r in rows if r["way"] == f"stop: {way}"]
        lines.append(
            [
                way,
                *(spread(r[k] for r in mine) for k in ("units", "macs", "params")),
                *(spread(r["accuracy"][s] for r in mine) for s in ("none", "refit", "retrained")),
                spread([r["seconds"] for r in mine], 1),
            ]
        )
    title = "Stopping by itself, 95 % confidence; percent of the unpruned net, accuracy in percent"
    header = ["estimator", "units", "MACs", "params", "at once", "refit", "retrained", "seconds"]
    yield TextTable(title, header, lines)


def items(settings: Settings) -> Iterator[Key]:
    """Shares of the units first, then what each estimator removes by itself."""
    key = {"net": LENET.label, "samples": settings["samples"]}
    for ways in (reversed(WAYS), [f"stop: {way}" for way in reversed(STOPS)]):
        named = list(ways)
        for seed in range(settings["seeds"]):
            yield from (key | {"seed": seed, "way": way} for way in named)


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One way on one net."""
    seed, samples = key["seed"], key["samples"]
    stop = key["way"].removeprefix("stop: ")
    if stop != key["way"]:
        return stopped(LENET, seed, stop, samples)
    return shares(LENET, seed, key["way"], samples)


EXPERIMENT = Experiment(
    name="discovery_cost",
    title="What finding the mask costs, and what it is worth",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, "samples": 5120},
    threads=1,
)
