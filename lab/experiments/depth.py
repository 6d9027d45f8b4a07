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
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.latency import processor_time
from lab.tables import TextTable, spread
from lab.wide_nets import NETS
from mipp import latency, retrain
from mipp.options import Order

BUDGETS = ("macs=77%", "macs=54%")
METHODS = ("blocks", "blocks, ordered", "units", "blocks, then units")
DRAWS = 3
BATCH = 32
SECONDS = 2.0


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Accuracy of one method at one budget, and its time."""
    net = NETS[key["net"].partition("/")[0]]
    draw, samples = key["draw"], settings["samples"]
    model, images = _model(), _images(samples, draw)
    plan, gone, nats = _plan(key["method"], key["budget"], samples, draw)
    whole = _blocks(samples, draw, "greedy")[BUDGETS[0]].before
    found: dict[str, Any] = {
        "macs": plan.after.macs / whole.macs,
        "params": plan.after.params / whole.params,
        "gone": list(gone),
        "nats": nats,
    }
    if key["part"] == "tuned":
        small, done = plan.apply_tuned(mipp.Tune(augment="flip-shift"), progress=False)
        return found | {
            "tuned": accuracy(net, small),
            "divergence": [done.before, done.after],
            "passes": len(done.passes),
            "seconds": round(done.seconds, 1),
        }
    small = plan.apply(progress=False)
    ratio, scatter = time_share(model, small, images[0][:BATCH])
    return found | {
        "unpruned": _unpruned(),
        "refit": accuracy(net, small),
        "bare": accuracy(net, plan.apply(refit=False)),
        "time": ratio,
        "time_scatter": scatter,
    }


def accuracy(net: wide_nets.WideNet, model: nn.Module) -> float:
    """Of the test split."""
    images = wide_nets.test_batches(net)
    return retrain.evaluate(model, images, channels_last="auto").accuracy


@lru_cache(maxsize=1)
def _model() -> nn.Module:
    return wide_nets.parent(NETS["resnet20"], 0, progress=False)


@lru_cache(maxsize=1)
def _unpruned() -> float:
    return accuracy(NETS["resnet20"], _model())


@lru_cache(maxsize=1)
def _images(samples: int, draw: int) -> list[torch.Tensor]:
    return [x for x, _ in wide_nets.calibration(NETS["resnet20"], samples, draw)]


@lru_cache(maxsize=2)
def _blocks(samples: int, draw: int, order: Order) -> dict[str, "mipp.BlockPlan[nn.Module]"]:
    """The plan of blocks for each budget."""
    made = mipp.plans(
        _model(), _images(samples, draw), BUDGETS, granularity="block", order=order, seed=draw,
        progress=False,
    )  # fmt: skip
    return dict(zip(BUDGETS, made, strict=True))


def _plan(
    method: str, budget: str, samples: int, draw: int
) -> tuple["mipp.BlockPlan[nn.Module] | mipp.Plan[nn.Module]", tuple[str, ...], float | None]:
    """The plan, the blocks that are gone by it, and the nats that these cost."""
    images = _images(samples, draw)
    blocks = _blocks(samples, draw, "ordered" if method == "blocks, ordered" else "greedy")
    left = f"macs={blocks[budget].after.macs}"
    if method == "units":
        return mipp.plan(_model(), images, left, seed=draw, progress=False), (), None
    if method == "blocks, then units":
        first = blocks[BUDGETS[0]]
        thin = first.apply(progress=False)
        second = mipp.plan(thin, images, left, seed=draw, progress=False)
        return second, first.removed, first.record.nats
    plan = blocks[budget]
    return plan, plan.removed, plan.record.nats


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
                    spread(r["bare"] for r in once),
                    spread(r["refit"] for r in once),
                    spread(r["tuned"] for r in tuned),
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
