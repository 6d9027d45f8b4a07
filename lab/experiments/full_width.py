"""Nets at full width, pruned and not retrained: MIPP beside its rivals, all with the same refit.

    python -m lab run full-width                   # parents are trained first (hours of one core)
    python -m lab run full-width --nets resnet20   # 40 minutes with its parent

One parent a net, three draws of calibration images for MIPP and uniform L2, one for the others.
The images are those that the parent learned from; only Taylor looks at their labels. All budgets of
a method come from one measurement. Accuracy is that of the test split. ``published`` repeats what
others report: the same net and budget as far as their text says, on a parent of ours.
Seconds are the processor's.
"""

import time
from collections.abc import Iterator
from typing import Any

from torch import nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable, spread
from lab.wide_nets import NETS
from mipp import retrain

SHARES = ("macs=75%", "macs=50%", "macs=35%", "macs=25%", "macs=15%")
BUDGETS = {
    "resnet20": (*SHARES, "macs=73%"),
    "resnet56": (*SHARES, "macs=47.4%"),
    "vgg16": (*SHARES, "macs=26.6%"),
    "resnet18": SHARES,
    "vgg19": (*SHARES, "macs=11.2%"),
}
"""Of every net what the tables have, and the budget at which somebody published a result."""
METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "l2": {"method": "l2"},
    "flap": {"method": "flap"},
    "obs": {"method": "obs"},
    "taylor": {"method": "taylor"},
    "random": {"method": "random"},
}
DRAWS = {"mipp": 3, "l2": 3}
"""How many draws of calibration images a method has, where not one."""
STREAMS = "conv1", "layer*.conv2", "layer*.downsample*"
"""Names of ResNet-18's groups that are not inside a block."""
CHANNELS: dict[str, dict[str, Any]] = {
    "three quarters of the channels, 128 images": {"budget": "units=25%", "samples": 128},
    "three quarters inside the blocks, 128 images": {
        "budget": "units=25%",
        "samples": 128,
        "protect": STREAMS,
    },
    "70 % of the channels, 1024 images": {"budget": "units=30%", "samples": 1024},
    "70 % inside the blocks, 1024 images": {
        "budget": "units=30%",
        "samples": 1024,
        "protect": STREAMS,
    },
}
"""Of ResNet-18, the same share of every layer, as GRAIL and Model Folding do it."""
SAMPLES = 1024


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracy at all budgets of one net, method and draw."""
    net = NETS[key["net"].partition("/")[0]]
    model = wide_nets.parent(net, 0, progress=False)
    test = wide_nets.test_batches(net)
    options, budgets = dict(METHODS[key["method"]]), BUDGETS[net.name]
    if key["part"] == "channels":
        case = CHANNELS[key["case"]]
        budgets = (case["budget"],)
        options |= {"allocation": "uniform", "protect": case.get("protect")}
    pairs = wide_nets.calibration(net, key["samples"], key["draw"])
    labels = key["method"] == "taylor"
    batches: list[Any] = pairs if labels else [x for x, _ in pairs]
    started = time.process_time()
    plans = mipp.plans(model, batches, budgets, seed=key["draw"], progress=False, **options)
    found: dict[str, Any] = {
        "unpruned": retrain.evaluate(model, test, channels_last="auto").accuracy,
        "seconds_plan": round(time.process_time() - started, 1),
    }
    for budget, plan in zip(budgets, plans, strict=True):
        started = time.process_time()
        small = plan.apply(progress=False)
        seconds = time.process_time() - started
        found[budget] = figures(plan) | {
            "bare": retrain.evaluate(plan.apply(refit=False), test, channels_last="auto").accuracy,
            "refit": retrain.evaluate(small, test, channels_last="auto").accuracy,
            "seconds_apply": round(seconds, 1),
        }
    return found


def figures(plan: "mipp.Plan[nn.Module]") -> dict[str, float]:
    """What a plan leaves, as shares of the whole net."""
    return {
        "macs": plan.after.macs / plan.before.macs,
        "params": plan.after.params / plan.before.params,
        "units": plan.after.units / plan.before.units,
    }


def items(settings: Settings) -> Iterator[Key]:
    """Net by net: all budgets of each method and draw, then the same share of every layer."""
    for net in NETS.values():
        common = {"net": net.label, "samples": settings["samples"]}
        for method in METHODS:
            for draw in range(DRAWS.get(method, 1)):
                yield common | {"part": "budgets", "method": method, "draw": draw}
        for case, wanted in CHANNELS.items() if net.name == "resnet18" else ():
            for method in ("mipp", "l2"):
                for draw in range(3):
                    yield common | {
                        "part": "channels",
                        "case": case,
                        "method": method,
                        "draw": draw,
                        "samples": wanted["samples"],
                    }


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """Of each net accuracy by budget with the refit and without; then the published settings."""
    for net in NETS.values():
        here = [row for row in rows if row["net"] == net.label and row["part"] == "budgets"]
        if not here:
            continue
        unpruned = here[0]["unpruned"]
        header = ["method", "draws", *BUDGETS[net.name]]
        lines = []
        for kind, word in (("refit", ""), ("bare", ", no refit")):
            for method in METHODS:
                mine = [row for row in here if row["method"] == method]
                if mine:
                    reached = [spread(row[b][kind] for row in mine) for b in BUDGETS[net.name]]
                    lines.append([method + word, str(len(mine)), *reached])
        yield TextTable(f"{net.label}, unpruned {100 * unpruned:.2f} %, test", header, lines)
    yield from _channels([row for row in rows if row["part"] == "channels"])


def _channels(rows: Rows) -> Iterator[TextTable]:
    lines = []
    for case, wanted in CHANNELS.items():
        for method in ("mipp", "l2"):
            mine = [row for row in rows if row["case"] == case and row["method"] == method]
            if mine:
                found = [row[wanted["budget"]] for row in mine]
                lines.append(
                    [
                        case,
                        method,
                        str(len(mine)),
                        *(spread(r[kind] for r in found) for kind in ("macs", "refit", "bare")),
                    ]
                )
    if lines:
        header = ["ResNet-18, removed", "units by", "draws", "MACs left", "refit", "no refit"]
        yield TextTable("The same share of every layer, accuracy in %", header, lines)


EXPERIMENT = Experiment(
    name="full_width",
    title="Nets at full width, pruned and not retrained",
    items=items,
    measure=measure,
    tables=tables,
    settings={"samples": SAMPLES},
    threads=1,
)
