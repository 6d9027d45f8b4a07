"""How many rows, Fisher examples and rounds are enough: accuracy after the refit, no retraining.

    python -m lab run settle    # three nets, two budgets each, three seeds

What was ``before`` was recorded with version 7951eab, which alone can measure it: 12 rows a feature
in the capture, 24 in the refit, 2,048 Fisher examples with drawn labels, rounds of 2 %, and another
elimination and refit. ``as before`` has those numbers in the code as it is; ``after`` has the
defaults, from which the others change one choice at a time. Accuracies are of images of the
training split that are not calibrated on (the parents have learned from them, all variants alike),
so that the test split has no say in a choice; it is only looked at for those three. Differences are
paired: the same parent, calibration images and budget. Parents are trained for few epochs, which is
enough to compare ways to prune them. Seconds are the processor's, of one thread, so that whatever
else the machine does is not in them.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SAMPLES, SEEDS, parent, test_batches
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
from mipp import Gaussian, Plan, Refit, data, retrain
from mipp.data.dataset import Dataset, balanced_indices
from mipp.errors import InputError
from mipp.statistics import CaptureConfig

NETS = {
    "lenet5": LENET,
    "vgg16": NetSpec(name="vgg16", data="cifar10", width=0.25, epochs=6),
    "resnet20": NetSpec(name="resnet20", data="cifar10", epochs=4),
}
BUDGETS = {
    "lenet5": ("params=5%", "macs=25%"),
    "vgg16": ("macs=50%", "macs=25%"),
    "resnet20": ("macs=50%", "macs=25%"),
}
N_VALIDATION = 10_000
"""Images of the training split that accuracy is measured on and nothing is calibrated on."""


def _drawn_labels(output: Tensor, _target: Tensor) -> Tensor:
    """The Fisher information by one label an example, drawn from the prediction, as it was."""
    log_p = output.log_softmax(1)
    labels = torch.multinomial(log_p.detach().exp(), 1)
    return -log_p.gather(1, labels).sum()


_CAPTURE_BEFORE = CaptureConfig(rows_per_feature=12, min_rows=4096, fisher_samples=2048)
VARIANTS: dict[str, dict[str, Any]] = {
    "as before": {
        "calibration": _CAPTURE_BEFORE,
        "estimator": Gaussian(share_per_round=0.02),
        "refit": Refit(rows_per_feature=24, min_rows=8192),
    },
    "after": {},
    "other draws": {"seed": 100},
    "12 rows": {"calibration": CaptureConfig(rows_per_feature=12)},
    "8 rows": {"calibration": CaptureConfig(rows_per_feature=8)},
    "2 rows": {"calibration": CaptureConfig(rows_per_feature=2)},
    "at least 2048 rows": {"calibration": CaptureConfig(min_rows=2048)},
    "at least 1024 rows": {"calibration": CaptureConfig(min_rows=1024)},
    "2048 Fisher examples": {"calibration": CaptureConfig(fisher_samples=2048)},
    "512 Fisher examples": {"calibration": CaptureConfig(fisher_samples=512)},
    "128 Fisher examples": {"calibration": CaptureConfig(fisher_samples=128), "batch": 64},
    "64 Fisher examples": {"calibration": CaptureConfig(fisher_samples=64), "batch": 64},
    "drawn labels": {"loss": _drawn_labels},
    "2048 Fisher examples, drawn labels": {
        "calibration": CaptureConfig(fisher_samples=2048),
        "loss": _drawn_labels,
    },
    "rounds of 2 %": {"estimator": Gaussian(share_per_round=0.02)},
    "rounds of 10 %": {"estimator": Gaussian(share_per_round=0.1)},
    "refit 24 rows": {"refit": Refit(rows_per_feature=24)},
    "refit 4 rows": {"refit": Refit(rows_per_feature=4)},
    "refit at least 4096": {"refit": Refit(min_rows=4096)},
    "refit at least 2048": {"refit": Refit(min_rows=2048)},
    "fewer of all": {
        "calibration": CaptureConfig(min_rows=2048, fisher_samples=128),
        "estimator": Gaussian(share_per_round=0.1),
        "refit": Refit(rows_per_feature=4, min_rows=4096),
        "batch": 64,
    },
}
"""Options by name; ``batch``: of the calibration images, ``seed``: of other draws."""

BEFORE = "before"
TESTED = (BEFORE, "as before", "after")
"""Variants whose accuracy on the test split is measured, too; no choice is made by it."""


@lru_cache(maxsize=2)
def parts(name: str) -> tuple[Dataset, Dataset]:
    """The training split in two: what may be calibrated on, and what accuracy is measured on."""
    whole = data.load(name, "train")
    order = balanced_indices(whole.labels, whole.num_classes, len(whole), seed=2026)
    return whole.subset(order[N_VALIDATION:]), whole.subset(order[:N_VALIDATION])


def _planned(
    name: str, seed: int, samples: int, options: dict[str, Any]
) -> tuple[list[Plan[Any]], float]:
    """Plans, one for each budget from one measurement, and the processor's seconds."""
    given = dict(options)
    rest, _ = parts(NETS[name].data)
    batches = data.calibration(rest, samples, given.pop("batch", 256), seed)
    model = parent(NETS[name], seed)
    drawn = seed + given.pop("seed", 0)
    torch.manual_seed(drawn)
    started = time.process_time()
    plans = mipp.plans(model, batches, BUDGETS[name], seed=drawn, **given)
    return plans, time.process_time() - started


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Accuracies of one variant, under each budget of the net."""
    name = next(name for name, net in NETS.items() if net.label == key["net"])
    seed, variant, net = key["seed"], key["variant"], NETS[name]
    if variant == BEFORE:
        raise InputError(
            f"The variant {BEFORE!r} is of version 7951eab and not on record for {net.label}, seed "
            f"{seed}; expected one of {', '.join(VARIANTS)}. Measure it with a checkout of that "
            "version, or choose others with --only."
        )
    plans, planned = _planned(name, seed, key["samples"], VARIANTS[variant])
    _, held_out = parts(net.data)
    splits = {"validation": data.Batches(held_out, 1000)}
    found: dict[str, Any] = {"seconds_plan": round(planned, 2)}
    if variant in TESTED:
        splits["test"] = test_batches(net)
        found["unpruned"] = _accuracies(parent(net, seed), splits)
    for budget, plan in zip(BUDGETS[name], plans, strict=True):
        started = time.process_time()
        small = plan.apply()
        found[budget] = {
            "seconds_apply": round(time.process_time() - started, 2),
            "macs": plan.after.macs / plan.before.macs,
            "params": plan.after.params / plan.before.params,
            **_accuracies(small, splits),
        }
    return found


def _accuracies(model: nn.Module, splits: dict[str, data.Batches]) -> dict[str, float]:
    return {name: retrain.evaluate(model, images).accuracy for name, images in splits.items()}


def tables(rows: Rows) -> Iterator[TextTable]:
    """For each net the differences to what was before, then accuracies on both splits."""
    for name, net in NETS.items():
        budgets, here = BUDGETS[name], [row for row in rows if row["net"] == net.label]
        before = {row["seed"]: row for row in here if row["variant"] == BEFORE}
        lines, splits = [], []
        for variant in (BEFORE, *VARIANTS):
            mine = [r for r in here if r["variant"] == variant and r["seed"] in before]
            if not mine:
                continue
            seconds = [
                spread((row["seconds_plan"] for row in mine), scale=1),
                spread((row[b]["seconds_apply"] for row in mine for b in budgets), scale=1),
            ]
            gained = _gained(mine, before, budgets, "validation")
            lines.append([variant, str(len(mine)), *gained, *seconds])
            for split in ("validation", "test") if variant in TESTED else ():
                parts = ("unpruned", *budgets)
                reached = [spread((r[p][split] for r in mine), digits=2) for p in parts]
                splits.append([f"{variant}, {split}", *reached])
            if variant in TESTED[1:]:
                found = _gained(mine, before, budgets, "test")
                splits.append([f"{variant}, points more, test", "", *found])
        if lines:
            title = f"{net.label}: points more than before, validation"
            header = ["variant", "seeds", *budgets, "plan, s", "apply, s"]
            yield TextTable(title, header, lines)
            yield TextTable("", ["accuracy, %", "unpruned", *budgets], splits)


def _gained(
    mine: Rows, before: dict[int, dict[str, Any]], budgets: tuple[str, ...], split: str
) -> list[str]:
    """Points of accuracy more than before with the same seed, one for each budget."""
    return [
        spread((r[b][split] - before[r["seed"]][b][split] for r in mine), digits=2) for b in budgets
    ]


def items(settings: Settings) -> Iterator[Key]:
    """Seed by seed and net by net."""
    for seed in range(settings["seeds"]):
        for net in NETS.values():
            for variant in (BEFORE, *VARIANTS):
                key = {"net": net.label, "seed": seed, "variant": variant}
                yield key | {"samples": settings["samples"]}


EXPERIMENT = Experiment(
    name="settle",
    title="How many rows, Fisher examples and rounds are enough",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES},
    threads=1,
)
