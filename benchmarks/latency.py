"""What `latency=50%` comes to on this machine: table, real model, and MACs for comparison.

    python benchmarks/latency.py            # some minutes on two cores

Random weights and images, L2 units: which units go does not change the time. For each network,
number of threads and batch size, in turns with the whole model: a plan for half the MACs, and one
for half the latency. Ratios are to the whole model, with half the range of the medians of five
parts of the runs; seconds depend on the machine.
"""

import argparse
import os
from functools import partial
from typing import Any

import torch
from common import Records, table
from torch import nn

import mipp
from mipp import capture, models, pipeline
from mipp.errors import BudgetError
from mipp.pipeline.latency import Speed
from mipp.pipeline.recording import masks

NETS = {"lenet5": 1.0, "resnet20": 1.0, "vgg16": 0.25}
"""Built-in names and width factors."""
SETTINGS = [(1, 1), (2, 1), (1, 32)]
"""Threads and batch size."""


def measure(name: str, threads: int, batch: int) -> dict[str, Any]:
    """Both plans of one network."""
    torch.set_num_threads(threads)
    model = models.build(name, width=NETS[name], seed=0).eval()
    images = torch.randn(32, *models.input_shape(name), generator=torch.Generator().manual_seed(0))
    data = [capture.read_batch(images)]
    settings = mipp.Latency(batch=batch)
    by_macs = mipp.plan(model, [images], "macs=50%", method="l2")
    speed = Speed(model, pipeline.usable_graph(model, data), data, settings)
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


def show(records: Records) -> None:
    """One line for each network and setting."""
    lines = []
    for row in records.rows:
        head = [row["net"], str(row["threads"]), str(row["batch"])]
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
    print(
        table(
            [
                "net", "threads", "batch", "whole (ms)", "time at macs=50%", "time at latency=50%",
                "by the table", "its MACs", "seconds to time",
            ],
            lines,
        )
    )  # fmt: skip


def main() -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    records = Records("latency")
    if not options.show:
        for name in options.nets:
            for threads, batch in SETTINGS:
                key = {"net": name, "threads": threads, "batch": batch}
                records.measure(key, partial(measure, name, threads, batch))
    show(records)


if __name__ == "__main__":
    main()
