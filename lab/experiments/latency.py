"""What `latency=50%` comes to on this machine: table, real model, and MACs for comparison.

    python -m lab run latency                     # some minutes; processor time of one thread
    python -m lab run latency --set clock=wall    # real time, also of two threads: alone on it

Random weights and images, L2 units: which units go does not change the time. For each network,
number of threads and batch size, in turns with the whole model: a plan for half the MACs, and one
for half the latency. Ratios are to the whole model, with half the range of the medians of five
parts of the runs; milliseconds depend on the machine. Processor time is what one thread takes by
itself: what else runs on the machine does not count, except in the caches.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp import latency, models, planning, statistics
from mipp.errors import BudgetError
from mipp.planning.latency_budget import Speed
from mipp.problem import masks
from mipp.records import FloatArray

NETS = {"lenet5": 1.0, "resnet20": 1.0, "vgg16": 0.25}
"""Built-in names and width factors."""
CPU_SETTINGS = [(1, 1), (1, 32)]
WALL_SETTINGS = [(1, 1), (2, 1), (1, 32)]
"""Threads and batch size."""


def processor_time(
    works: Sequence[latency.Work], *, seconds: float | int, fewest: int, device: torch.device
) -> list[FloatArray]:
    """Like `mipp.latency.take_turns`, by the time that this process had a processor."""
    assert device.type == "cpu"
    laps: list[list[float]] = [[] for _ in works]
    with torch.inference_mode():
        for work in works:
            work()
        end = time.process_time() + seconds
        while len(laps[0]) < fewest or time.process_time() < end:
            for work, mine in zip(works, laps, strict=True):
                start = time.process_time()
                work()
                mine.append(1e3 * (time.process_time() - start))
    return [np.array(mine) for mine in laps]


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Both plans of one network."""
    name, threads, batch, clock = (key[part] for part in ("net", "threads", "batch", "clock"))
    torch.set_num_threads(threads)
    model = models.build(name, width=NETS[name], seed=0).eval()
    images = torch.randn(32, *models.input_shape(name), generator=torch.Generator().manual_seed(0))
    data = [statistics.read_batch(images)]
    stopwatch: latency.Stopwatch = processor_time if clock == "cpu" else latency.take_turns
    settings = mipp.Latency(batch=batch, layer_seconds=0.005, stopwatch=stopwatch)
    by_macs = mipp.plan(model, [images], "macs=50%", method="l2")
    speed = Speed(model, planning.prunable_graph(model, data), data, settings)
    half = speed.time(by_macs.apply(refit=False))
    found: dict[str, Any] = {
        "whole_ms": speed.full.ms,
        "whole_scatter_ms": speed.full.scatter,
        "macs_half_ratio": half.ms / speed.full.ms,
        "macs_half_scatter": half.scatter / speed.full.ms,
        "load": os.getloadavg()[0],
    }
    try:
        plan = mipp.plan(model, [images], "latency=50%", method="l2", latency=settings)
    except BudgetError as error:
        return found | {"error": str(error)}
    assert plan.before.latency is not None
    assert plan.after.latency is not None
    again = speed.time(plan.apply(refit=False))
    return found | {
        "ratio": plan.after.latency / plan.before.latency,
        "ratio_again": again.ms / speed.full.ms,
        "scatter_again": again.scatter / speed.full.ms,
        "macs": plan.after.macs / plan.before.macs,
        "table": speed.predicted(plan_keep(plan)) / speed.full.ms,
        "seconds_timing": (plan.seconds or {})["timing"],
    }


def plan_keep(plan: "mipp.Plan[nn.Module]") -> Any:
    """The plan's units as masks."""
    assert plan.traced is not None
    return masks(plan.traced, plan.keep)


def tables(rows: Rows) -> list[TextTable]:
    """One line for each network and setting."""
    lines = []
    for row in rows:
        head = [row["net"], row["clock"], str(row["threads"]), str(row["batch"])]
        head.append(f"{row['whole_ms']:.2f} ± {row['whole_scatter_ms']:.2f}")
        head.append(f"{row['macs_half_ratio']:.2f} ± {row['macs_half_scatter']:.2f}")
        if "error" in row:
            lines.append([*head, "not reached", "-", "-", "-"])
            continue
        lines.append(
            [
                *head,
                f"{row['ratio_again']:.2f} ± {row['scatter_again']:.2f}",
                f"{row['table']:.2f}",
                f"{row['macs']:.2f}",
                f"{row['seconds_timing']:.0f}",
            ]
        )
    header = [
        "net", "clock", "threads", "batch", "whole (ms)", "time at macs=50%", "time at latency=50%",
        "by the table", "its MACs", "seconds to time",
    ]  # fmt: skip
    return [TextTable("", header, lines)]


def items(settings: Settings) -> Iterator[Key]:
    """Each net at each number of threads and batch size."""
    clock = settings["clock"]
    for name in NETS:
        for threads, batch in WALL_SETTINGS if clock == "wall" else CPU_SETTINGS:
            yield {"net": name, "threads": threads, "batch": batch, "clock": clock}


EXPERIMENT = Experiment(
    name="latency",
    title="What latency=50% comes to on this machine",
    items=items,
    measure=measure,
    tables=tables,
    settings={"clock": "cpu"},
)
