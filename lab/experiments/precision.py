"""A training step in float32 and bfloat16, contiguous and channels-last, by processor.

    python -m lab run precision

One step of SGD (forward in the model's precision or by autocast to bfloat16, backward, update) on
a batch of random images: a warm-up of each of the four ways, then all of them in turn, and the
median of each. Ratios to the first way, float32 and contiguous, of the same run are what to quote.

A processor with more instructions stands in for those with fewer: oneDNN, which computes the
convolutions and products, takes the highest set of instructions that it may use from
``ONEDNN_MAX_CPU_ISA``. ``mipp.retrain.Recipe(precision="auto")`` rests on this table.
"""

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp import models

NETS: dict[str, dict[str, Any]] = {
    "vgg16-w0.25": {"name": "vgg16", "width": 0.25},
    "resnet20": {"name": "resnet20"},
    "lenet5": {"name": "lenet5"},
    "mlp": {"name": "mlp"},
}
INSTRUCTIONS = {
    "all": "as it is",
    "AVX512_CORE_BF16": "AVX512-BF16, no AMX",
    "AVX512_CORE": "AVX512, no bfloat16",
    "AVX2": "AVX2",
}
WAYS = [(name, last) for name in ("float32", "bfloat16") for last in (False, True)]


class _Way:
    """A copy of the net with its images, trained one way."""

    def __init__(self, net: str, precision: str, channels_last: bool, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = models.input_shape(NETS[net]["name"])
        self.model = models.build(**NETS[net], seed=0).train()
        self.x = torch.randn(batch, *shape, generator=generator)
        self.y = torch.randint(0, 10, (batch,), generator=generator)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if self.x.dim() == 4:
                self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self) -> float:
        """One step; its seconds."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(self.x)
        nn.functional.cross_entropy(logits.float(), self.y).backward()
        self.optimizer.step()
        return time.perf_counter() - started


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Median seconds of a step in each way, in a process that oneDNN has not computed in yet."""
    if key["instructions"] != "all":
        os.environ["ONEDNN_MAX_CPU_ISA"] = key["instructions"]
    ways = [_Way(key["net"], *way, settings["batch"]) for way in WAYS]
    for way in ways:
        way.step()
    times = [[way.step() for way in ways] for _ in range(settings["steps"])]
    return {
        "batch": settings["batch"],
        "seconds": [statistics.median(column) for column in zip(*times, strict=True)],
    }


def tables(rows: Rows) -> Iterator[TextTable]:
    """A row for each net and set of instructions."""
    names = [f"{name}{', channels-last' if last else ''}" for name, last in WAYS]
    lines = []
    for row in rows:
        base = row["seconds"][0]
        ratios = [f"{seconds / base:.2f}" for seconds in row["seconds"]]
        words = INSTRUCTIONS[row["instructions"]]
        lines.append([row["net"], words, f"{1000 * base:.0f}", *ratios])
    yield TextTable("", ["net", "processor", "ms, float32", *names], lines)


def items(_settings: Settings) -> Iterator[Key]:
    """Each net with each set of instructions."""
    yield from ({"net": net, "instructions": one} for net in NETS for one in INSTRUCTIONS)


EXPERIMENT = Experiment(
    name="precision",
    title="A training step in float32 and bfloat16, contiguous and channels-last, by processor",
    items=items,
    measure=measure,
    tables=tables,
    settings={"steps": 7, "batch": 128},
    threads=1,
    isolated=True,
)
