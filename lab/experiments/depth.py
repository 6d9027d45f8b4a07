"""Blocks against widths at equal multiply-accumulates: ResNet-20 on CIFAR-10, and its time.

    python -m lab run depth                        # a quarter of an hour of one core; tuning more
    python -m lab run depth --only part="at once"

One parent, three draws of 1,024 calibration images. Blocks of ResNet-20 come in steps of 11.6 % of
its MACs, hence the budgets 77 % and 54 %; units get exactly the share that is left without the
blocks. ``blocks, then units`` takes the blocks of 77 % out, and units of what is left. Refit and
tuning are the same for all. Accuracy is that of the test split. Processor time of a pass of 32
images is measured in turns with the whole net, one thread, as in `latency`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.full_width import accuracies
from lab.experiments.latency import processor_time
from lab.tables import TextTable, spread
from lab.wide_nets import NETS
from mipp import latency

BUDGETS = ("macs=77%", "macs=54%")
METHODS = ("blocks", "blocks, ordered", "units", "blocks, then units")
DRAWS = 3
BATCH = 32
SECONDS = 4.0


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Accuracy of one method at one budget, and its time."""
    net = NETS[key["net"].partition("/")[0]]
    model = wide_nets.parent(net, 0, progress=False)
    images = [x for x, _ in wide_nets.calibration(net, settings["samples"], key["draw"])]
    plans = _plans(model, images, key)
    found: dict[str, Any] = {
        "macs": plans[-1].after.macs / plans[0].before.macs,
        "params": plans[-1].after.params / plans[0].before.params,
        "gone": [
            name for plan in plans if isinstance(plan, mipp.BlockPlan) for name in plan.removed
        ],
    }
    if key["part"] == "tuned":
        small = plans[-1].apply(progress=False)
        done = mipp.tune(
            small, model, images, mipp.Tune(augment="flip-shift"), seed=key["draw"], progress=False
        )
        return found | {
            "tuned": accuracies(net, small),
            "divergence": [done.before, done.after],
            "passes": len(done.passes),
            "seconds": round(done.seconds, 1),
        }
    small = plans[-1].apply(progress=False)
    ratio, scatter = time_share(model, small, images[0][:BATCH])
    return found | {
        "unpruned": accuracies(net, model),
        "refit": accuracies(net, small),
        "bare": accuracies(net, _bare(plans)),
        "time": ratio,
        "time_scatter": scatter,
        "nats": [plan.record.nats for plan in plans if isinstance(plan, mipp.BlockPlan)],
    }


def _plans(
    model: nn.Module, images: list[torch.Tensor], key: Key
) -> list["mipp.BlockPlan[nn.Module] | mipp.Plan[nn.Module]"]:
    """One plan, or two that are applied one after the other."""
    draw, method, budget = key["draw"], key["method"], key["budget"]

    def of_blocks(budget: str, **options: Any) -> "mipp.BlockPlan[nn.Module]":
        return mipp.plan(
            model, images, budget, granularity="block", seed=draw, progress=False, **options
        )

    if method == "blocks, ordered":
        return [of_blocks(budget, order="ordered")]
    blocks = of_blocks(BUDGETS[0] if method == "blocks, then units" else budget)
    if method == "blocks":
        return [blocks]
    if method == "units":
        same = f"macs={blocks.after.macs}"
        return [mipp.plan(model, images, same, seed=draw, progress=False)]
    thin = blocks.apply(progress=False)
    left = of_blocks(budget).after.macs
    return [blocks, mipp.plan(thin, images, f"macs={left}", seed=draw, progress=False)]


def _bare(plans: list["mipp.BlockPlan[nn.Module] | mipp.Plan[nn.Module]"]) -> nn.Module:
    """The last plan without a refit of its own."""
    return plans[-1].apply(refit=False)


def time_share(model: nn.Module, small: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Processor time of the small net as a share of the whole one's, and its scatter."""
    works: list[latency.Work] = [lambda: model(x), lambda: small.eval()(x)]
    whole, mine = processor_time(works, seconds=SECONDS, fewest=15, device=x.device)
    return float(np.median(mine) / np.median(whole)), latency.scatter(mine, whole)


def tables(rows: Rows) -> list[TextTable]:
    """A line for each budget and method."""
    lines = []
    for budget in BUDGETS:
        for method in METHODS:
            mine = [r for r in rows if (r["budget"], r["method"]) == (budget, method)]
            once = [r for r in mine if r["part"] == "at once"]
            tuned = [r for r in mine if r["part"] == "tuned"]
            if not mine:
                continue
            lines.append(
                [
                    method,
                    spread(r["macs"] for r in mine),
                    spread(r["params"] for r in mine),
                    spread((r["time"] for r in once), digits=0),
                    spread(r["bare"]["test"] for r in once),
                    spread(r["refit"]["test"] for r in once),
                    spread(r["tuned"]["test"] for r in tuned),
                    str(max(len(once), len(tuned))),
                ]
            )
    header = [
        "what goes", "MACs left, %", "params left, %", "time, %", "bare", "refitted", "tuned",
        "draws",
    ]  # fmt: skip
    return [TextTable("", header, lines)]


def items(settings: Settings) -> Iterator[Key]:
    """All at once before anything is tuned."""
    for part in ("at once", "tuned"):
        for draw in range(DRAWS):
            for budget in BUDGETS:
                for method in METHODS:
                    if (method, budget) != ("blocks, then units", BUDGETS[0]):
                        yield {
                            "net": NETS["resnet20"].label, "samples": settings["samples"],
                            "part": part, "draw": draw, "budget": budget, "method": method,
                        }  # fmt: skip


EXPERIMENT = Experiment(
    name="depth",
    title="Whole blocks against widths at equal MACs, at once and tuned",
    items=items,
    measure=measure,
    tables=tables,
    settings={"samples": 1024},
    threads=1,
)
