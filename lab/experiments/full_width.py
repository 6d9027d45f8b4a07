"""Nets at full width on CIFAR, pruned at once, tuned without labels, and retrained.

    python -m lab run full-width                       # trains the parents first: hours of one core
    python -m lab run full-width --nets resnet20       # one net
    python -m lab run full-width --only part="at once"
    python -m lab show full-width --picture          # the tables, and docs/img/frontier.svg

One parent a net. Parts, each with its own items:

``at once``    accuracy at every budget of the net, refitted and (draw 0) bare, of every method;
               widths; and how much information the choice keeps, measured on other images.
``channels``   ResNet-18 with the same share of every layer gone, as others publish it.
``tuned``      `mipp.tune` on the same calibration images, without labels.
``retrained``  a sixth of the parent's epochs, the same for all; what is changed is the variant.
``scratch``    nets of MIPP's widths with new weights: as many epochs as the retraining, as parent
               and retraining together, or as much compute.

Calibration images are of those that the parent learned from; only Taylor sees their labels. All
methods have the same refit. What is chosen by accuracy is chosen on validation images, which the
parent has not learned from; the tables have the test split. Seconds are the processor's.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments import curve_picture
from lab.experiments.full_width_retraining import VARIANTS, retrained, scratch
from lab.experiments.full_width_tables import tables
from lab.wide_nets import NETS, WideNet
from lab.wide_plans import METHODS, SHARES, batches_for, figures, planned, share_of
from mipp import retrain

SAMPLES = 1024
DRAWS = {"mipp": 3, "l2": 3}
"""How many draws of calibration images a method has, where not one."""
TUNED = {
    "resnet20": ("macs=50%", "macs=35%", "macs=25%", "macs=15%"),
    "resnet56": ("macs=50%", "macs=47.4%", "macs=25%"),
    "vgg16": ("macs=50%", "macs=26.6%", "macs=15%"),
    "resnet18": ("macs=50%", "macs=25%", "macs=15%"),
}
TUNED_METHODS = ("mipp", "l2", "obs")
RETRAINED = {
    "resnet20": ("macs=35%",),
    "resnet56": ("macs=47.4%",),
    "vgg16": ("macs=50%", "macs=26.6%"),
    "resnet18": ("macs=25%",),
}
RETRAINED_METHODS = ("mipp", "l2", "taylor", "random")
VARIED = "resnet20"
"""The net whose retraining is varied, over three draws."""
INSIDE = "layer*.conv1"
"""Names of ResNet-18's groups that are inside a block."""
CHANNELS: dict[str, dict[str, Any]] = {
    "three quarters of all channels": {"budget": "units=25%", "samples": 128},
    "three quarters inside blocks": {"budget": {INSIDE: "units=25%"}, "samples": 128},
    "70 % of all channels": {"budget": "units=30%", "samples": SAMPLES},
    "70 % inside blocks": {"budget": {INSIDE: "units=30%"}, "samples": SAMPLES},
}
"""The same share of every layer of ResNet-18 gone, as GRAIL and Model Folding do it."""
DRAWN = {"MIPP": "mipp", "OBS": "obs", "L2": "l2", "random": "random"}
"""Curves of the picture, by what they are called there."""
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "frontier.svg"


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One item of the part that the key names."""
    return PARTS[key["part"]](key)


def accuracies(net: WideNet, model: nn.Module, *, validation: bool = False) -> dict[str, float]:
    """On the test split, and on the part for validation where wanted."""
    splits = {"test": wide_nets.test_batches(net)}
    if validation:
        splits["validation"] = wide_nets.validation_batches(net)
    return {
        name: retrain.evaluate(model, images, channels_last="auto").accuracy
        for name, images in splits.items()
    }


def _at_once(key: Key) -> dict[str, Any]:
    made = planned(key["net"].partition("/")[0], key["method"], key["samples"], key["draw"])
    found: dict[str, Any] = {
        "unpruned": accuracies(made.net, made.model),
        "seconds_plan": round(made.seconds, 1),
    }
    others = batches_for(made.net, "", key["samples"], 500 + key["draw"])
    kept = mipp.information_kept(
        made.model, others, list(made.plans.values()), seed=key["draw"], progress=False
    )
    for (budget, plan), layers in zip(made.plans.items(), kept, strict=True):
        found[budget] = figures(plan) | {
            "refit": accuracies(made.net, plan.apply(progress=False)),
            "kept": sum(layer.share for layer in layers) / len(layers),
            "nats_lost": sum(layer.before - layer.after for layer in layers),
        }
        if key["draw"] == 0:
            found[budget]["bare"] = accuracies(made.net, plan.apply(refit=False))
    return found


def _channels(key: Key) -> dict[str, Any]:
    net, case = NETS["resnet18"], CHANNELS[key["case"]]
    model = wide_nets.parent(net, 0, progress=False)
    batches = batches_for(net, key["method"], key["samples"], key["draw"])
    options = METHODS[key["method"]] | {"allocation": "uniform"}
    plan = mipp.plan(model, batches, case["budget"], seed=key["draw"], progress=False, **options)
    return figures(plan) | {
        "unpruned": accuracies(net, model),
        "refit": accuracies(net, plan.apply(progress=False)),
        "bare": accuracies(net, plan.apply(refit=False)),
    }


def _tuned(key: Key) -> dict[str, Any]:
    made = planned(key["net"].partition("/")[0], key["method"], key["samples"], key["draw"])
    plan = made.plans[key["budget"]]
    small, done = plan.apply_tuned(mipp.Tune(augment="flip-shift"), progress=False)
    return {
        "refit": accuracies(made.net, plan.apply(progress=False), validation=True),
        "tuned": accuracies(made.net, small, validation=True),
        "divergence": [done.before, done.after],
        "passes": len(done.passes),
        "seconds": round(done.seconds, 1),
    }


def _retrained(key: Key) -> dict[str, Any]:
    made = planned(key["net"].partition("/")[0], key["method"], key["samples"], key["draw"])
    small, about = retrained(made, key["budget"], key["variant"], key["draw"])
    return about | accuracies(made.net, small, validation=True)


def _scratch(key: Key) -> dict[str, Any]:
    made = planned(key["net"].partition("/")[0], "mipp", key["samples"], key["draw"])
    small, about = scratch(made, key["budget"], key["training"], key["draw"])
    return about | accuracies(made.net, small, validation=True)


PARTS: dict[str, Callable[[Key], dict[str, Any]]] = {
    "at once": _at_once,
    "channels": _channels,
    "tuned": _tuned,
    "retrained": _retrained,
    "scratch": _scratch,
}


def items(settings: Settings) -> Iterator[Key]:
    """Net by net; what starts from the same plans follows each other."""
    for net in NETS.values():
        common = {"net": net.label, "samples": settings["samples"]}
        for method in METHODS:
            for draw in range(DRAWS.get(method, 1)):
                yield from _of_plans(net, common | {"method": method, "draw": draw})
        for training in ("short", "epochs", "compute"):
            for budget in RETRAINED.get(net.name, ()):
                yield common | {
                    "part": "scratch",
                    "budget": budget,
                    "training": training,
                    "draw": 0,
                }
    for case, wanted in CHANNELS.items():
        for method in ("mipp", "l2"):
            for draw in range(3):
                yield {
                    "net": NETS["resnet18"].label,
                    "samples": wanted["samples"],
                    "method": method,
                    "draw": draw,
                    "part": "channels",
                    "case": case,
                }


def _of_plans(net: WideNet, start: Key) -> Iterator[Key]:
    """Items of one method and draw."""
    yield start | {"part": "at once"}
    if start["method"] in TUNED_METHODS:
        for budget in TUNED.get(net.name, ()):
            yield start | {"part": "tuned", "budget": budget}
    for budget in RETRAINED.get(net.name, ()) if start["method"] in RETRAINED_METHODS else ():
        varied = net.name == VARIED and start["method"] == "mipp"
        for variant in VARIANTS if varied else ("plain",):
            yield start | {"part": "retrained", "budget": budget, "variant": variant}


def picture(rows: Rows) -> Path:
    """Draws VGG16's accuracy at once, with the refit, against the MACs that are left."""
    mine = [r for r in rows if r["net"] == NETS["vgg16"].label and r["part"] == "at once"]
    curves: dict[str, dict[float, list[float]]] = {name: {} for name in DRAWN}
    for name, method in DRAWN.items():
        for budget in SHARES:
            found = [row[budget]["refit"]["test"] for row in mine if row["method"] == method]
            curves[name][share_of(budget)] = found
    title = "VGG16, CIFAR-10: pruned and refitted, no training, no labels"
    PICTURE.write_text(curve_picture.draw(title, curves, mine[0]["unpruned"]["test"]))
    return PICTURE


EXPERIMENT = Experiment(
    name="full_width",
    title="Nets at full width: at once, tuned without labels, retrained",
    items=items,
    measure=measure,
    tables=tables,
    settings={"samples": SAMPLES},
    threads=1,
    picture=picture,
)
