"""A U-Net on made scenes of digits: Dice before, at once, tuned without labels, and retrained.

    python -m lab run segmentation    # 20 minutes of one core, with the parent

One parent, three draws of 256 calibration scenes (no labels), which are of those it learned from.
Dice is the mean over the ten digits on 500 scenes of the test split's digits. Retraining has two of
the parent's twelve epochs, with labels, the same for all.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torch.optim import AdamW

import mipp
from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.scenes import UNet, dice, scenes
from lab.tables import TextTable, spread
from mipp import surgery
from mipp.retrain.numerics import numerics_for

BUDGETS = ("macs=50%", "macs=25%", "macs=10%")
METHODS = ("mipp", "l2", "obs", "random")
N_TRAIN, N_TEST, N_CALIBRATION, BATCH = 3000, 500, 256, 32
EPOCHS, RETRAINING = 12, 2
RATE = 2e-3
TUNE = mipp.Tune(loss="categorical", batch_size=BATCH)
KINDS = ("bare", "refit", "tuned", "retrained")


def train(model: nn.Module, images: Tensor, classes: Tensor, epochs: int, rate: float) -> None:
    """AdamW with a one-cycle learning rate, in place; the order is the same for all."""
    generator = torch.Generator().manual_seed(0)
    optimizer = AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    bfloat16 = numerics_for(torch.device("cpu"), "auto", "auto").precision == "bfloat16"
    steps = epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            x = images[index].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), classes[index]).backward()
            optimizer.step()
            schedule.step()
    model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@cache
def parent() -> nn.Module:
    """The trained U-Net, from the cache or trained now."""
    torch.manual_seed(0)
    model = UNet()
    path = parents.cache() / f"unet-scenes-e{EPOCHS}-seed0.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            train(model, *scenes("train", N_TRAIN, 0), EPOCHS, RATE)
            surgery.save(model, path)
        return surgery.load(model, path).eval()


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """All budgets of one method and draw."""
    model, (images, classes) = parent(), scenes("train", N_TRAIN, 0)
    test = scenes("test", N_TEST, 1)
    generator = torch.Generator().manual_seed(key["draw"])
    chosen = torch.randperm(len(images), generator=generator)[:N_CALIBRATION]
    batches = list(images[chosen].split(BATCH))
    options: Any = {"method": key["method"], "loss": "categorical", "seed": key["draw"]}
    plans = mipp.plans(model, batches, BUDGETS, progress=False, **options)
    found: dict[str, Any] = {"unpruned": dice(model, *test)}
    for budget, plan in zip(BUDGETS, plans, strict=True):
        small = plan.apply(progress=False)
        reached = {
            "bare": dice(plan.apply(refit=False), *test),
            "refit": dice(small, *test),
        }
        tuned = plan.apply(progress=False, tune=TUNE)
        reached["tuned"] = dice(tuned, *test)
        train(small, images, classes, RETRAINING, RATE / 5)
        reached["retrained"] = dice(small, *test)
        found[budget] = reached | {"macs": plan.after.macs / plan.before.macs}
    return found


def tables(rows: Rows) -> Iterator[TextTable]:
    """Dice by budget and method."""
    lines = []
    for budget in BUDGETS:
        for method in METHODS:
            mine = [row for row in rows if row["method"] == method]
            if mine:
                cells = [spread(row[budget][kind] for row in mine) for kind in KINDS]
                lines.append([budget, method, str(len(mine)), *cells])
    unpruned = spread((row["unpruned"] for row in rows[:1]), digits=2)
    header = ["budget", "method", "draws", "no refit", "at once", "tuned", "retrained"]
    yield TextTable(f"U-Net on scenes of digits, unpruned {unpruned} %: Dice in %", header, lines)


def items(settings: Settings) -> Iterator[Key]:
    """Draw by draw."""
    for draw in range(settings["draws"]):
        for method in METHODS:
            yield {"method": method, "draw": draw}


EXPERIMENT = Experiment(
    name="segmentation",
    title="A U-Net on made scenes: Dice at once, tuned and retrained",
    items=items,
    measure=measure,
    tables=tables,
    settings={"draws": 3},
    threads=1,
)
