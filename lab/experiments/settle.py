"""How many rows, Fisher examples and rounds are enough: accuracy after the refit, no retraining.

    python -m lab run settle    # three nets, two budgets each, three seeds

One choice is changed at a time, from what it was ``before``. Accuracies are of images of the
training split that are not calibrated on (the parents have learned from them, all variants alike),
so that the test split has no say in a choice; it is only looked at for what was ``before`` and for
the defaults ``after``. Differences are paired: the same parent, calibration images and budget.
Parents are trained for few epochs, which is enough to compare ways to prune them. Seconds are the
processor's, of one thread, so that whatever else the machine does is not in them.
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

_CAPTURE: dict[str, Any] = {"rows_per_feature": 12, "min_rows": 4096, "fisher_samples": 2048}
_REFIT: dict[str, Any] = {"rows_per_feature": 24, "min_rows": 8192}


def _signs(output: Tensor, _target: Tensor) -> Tensor:
    """The Fisher information by random signs about the square root of ``diag(p) - p p^T``.

    Its expectation is that of a label drawn from the prediction ``p``, as it was before.
    """
    p = output.detach().softmax(1)
    roots = p.sqrt() * torch.randint(2, p.shape).mul(2).sub(1)
    return (output * (roots - p * roots.sum(1, keepdim=True))).sum()


def _variant(
    capture: dict[str, Any] | None = None,
    share: float = 0.02,
    refit: dict[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Options of a plan that differ from what they were before in what is given."""
    return others | {
        "calibration": CaptureConfig(**_CAPTURE | (capture or {})),
        "estimator": Gaussian(share_per_round=share),
        "refit": Refit(**_REFIT | (refit or {})),
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "before": _variant(),
    "refit 8 rows": _variant(refit={"rows_per_feature": 8}),
    "refit 4 rows": _variant(refit={"rows_per_feature": 4}),
    "refit at least 4096": _variant(refit={"min_rows": 4096}),
    "refit at least 2048": _variant(refit={"min_rows": 2048}),
    "refit 8 rows, at least 2048": _variant(refit={"rows_per_feature": 8, "min_rows": 2048}),
    "8 rows": _variant({"rows_per_feature": 8}),
    "4 rows": _variant({"rows_per_feature": 4}),
    "2 rows": _variant({"rows_per_feature": 2}),
    "4 rows, at least 2048": _variant({"rows_per_feature": 4, "min_rows": 2048}),
    "4 rows, at least 1024": _variant({"rows_per_feature": 4, "min_rows": 1024}),
    "2 rows, at least 1024": _variant({"rows_per_feature": 2, "min_rows": 1024}),
    "512 Fisher examples": _variant({"fisher_samples": 512}),
    "256 Fisher examples": _variant({"fisher_samples": 256}),
    "128 Fisher examples": _variant({"fisher_samples": 128}, batch=64),
    "64 Fisher examples": _variant({"fisher_samples": 64}, batch=64),
    "signs, 2048 Fisher examples": _variant(loss=_signs),
    "signs, 512 Fisher examples": _variant({"fisher_samples": 512}, loss=_signs),
    "signs, 256 Fisher examples": _variant({"fisher_samples": 256}, loss=_signs),
    "signs, 64 Fisher examples": _variant({"fisher_samples": 64}, loss=_signs, batch=64),
    "rounds of 5 %": _variant(share=0.05),
    "rounds of 10 %": _variant(share=0.1),
    "fast": _variant({"rows_per_feature": 4, "fisher_samples": 256}, 0.05, {"rows_per_feature": 8}),
    "signs, fast": _variant(
        {"rows_per_feature": 4, "fisher_samples": 256}, 0.05, {"rows_per_feature": 8}, loss=_signs
    ),
    "signs, fastest": _variant(
        {"rows_per_feature": 4, "min_rows": 2048, "fisher_samples": 256},
        0.05,
        {"rows_per_feature": 8, "min_rows": 2048},
        loss=_signs,
    ),
    "other draws": _variant(seed=100),
    "after": {},
}
"""Options by name; ``batch``: of the calibration images, ``seed``: of other draws."""

TESTED = ("before", "after")
"""Variants whose accuracy on the test split is measured, too; no choice is made by it."""


@lru_cache(maxsize=2)
def _parts(name: str) -> tuple[Dataset, Dataset]:
    """The training split in two: what may be calibrated on, and what accuracy is measured on."""
    whole = data.load(name, "train")
    order = balanced_indices(whole.labels, whole.num_classes, len(whole), seed=2026)
    return whole.subset(order[N_VALIDATION:]), whole.subset(order[:N_VALIDATION])


@lru_cache(maxsize=1)
def _planned(
    name: str, seed: int, samples: int, options: tuple[tuple[str, Any], ...]
) -> tuple[list[Plan[Any]], float]:
    """Plans, one for each budget from one measurement, and the processor's seconds.

    Kept for the next variant, which may differ in the refit alone.
    """
    given = dict(options)
    rest, _ = _parts(NETS[name].data)
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
    options = dict(VARIANTS[variant])
    refit = options.pop("refit", True)
    plans, planned = _planned(name, seed, key["samples"], tuple(options.items()))
    _, held_out = _parts(net.data)
    splits = {"validation": data.Batches(held_out, 1000)}
    found: dict[str, Any] = {"seconds_plan": round(planned, 2)}
    if variant in TESTED:
        splits["test"] = test_batches(net)
        found["unpruned"] = _accuracies(parent(net, seed), splits)
    for budget, plan in zip(BUDGETS[name], plans, strict=True):
        started = time.process_time()
        small = plan.apply(refit=refit)
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
        before = {row["seed"]: row for row in here if row["variant"] == "before"}
        lines, splits = [], []
        for variant in VARIANTS:
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
            if variant == "after":
                found = _gained(mine, before, budgets, "test")
                splits.append(["after, points more, test", "", *found])
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
            for variant in VARIANTS:
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
