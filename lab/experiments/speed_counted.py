"""What plan and apply must at least compute: operations counted, in units of a bare pass.

    python -m lab run speed_counted

Nothing is run but one example, to trace the model. Counted are multiply-accumulates; those in
double precision count twice. With ``d`` inputs and ``m`` outputs of a consumer, ``r`` rows, and
``d'``, ``m'`` and ``r'`` of them in the pruned net, half of whose MACs are left (widths of 0.7):

* gradients: two passes over the examples that are passed back.
* products: ``r d^2 / 2``, of a symmetric matrix.
* elimination: ``d^3 / 2`` in double precision for the inverse, ``0.22 d^3`` for its corrections
  until 0.7 of the units are left.
* refit: a pass of the pruned net, ``r' d'^2 / 2 + r' d' m'`` for products, and in double precision
  ``d'^3 / 6 + d'^2 m'`` for the solution.

What is measured takes longer: windows are copied, small layers are bound by memory, and small
factorisations run at a fraction of the speed of large products. A model of seven billion parameters
(32 layers of 4,096, 11,008 gated neurons each) is counted from its sizes alone, with 128 texts of
2,048 tokens and numbers in bfloat16 (sums and hidden states of one layer as `mipp` keeps them).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.speed_nets import NETS, Batch
from lab.tables import TextTable
from mipp import graph, statistics
from mipp.prunable import prunable_graph

WIDTH = 0.7
"""Share of inputs and of outputs that is left with half of the MACs."""
HALF = 0.5
"""Share of the inputs that is left where outputs stay."""
PARTS = ("look", "gradients", "products", "elimination", "refit")
SEVEN = "llama-7b"


@dataclass(frozen=True)
class Site:
    """A consumer: inputs, outputs, positions of an example, and whether its outputs are pruned."""

    d: int
    m: int
    positions: float
    narrowed: bool


def passes(sites: list[Site], macs: float, n: int, fisher: int) -> dict[str, float]:
    """Each part, in bare passes over ``n`` examples, of which ``fisher`` are passed back."""
    found = dict.fromkeys(PARTS, 0.0)
    left = WIDTH if any(site.narrowed for site in sites) else HALF
    for site in sites:
        d, m = site.d * left, site.m * (WIDTH if site.narrowed else 1)
        rows = min(max(4.0 * site.d, 4096), site.positions * n)
        again = min(max(0.6 * 8 * site.d, 8192), site.positions * n)
        found["products"] += rows * site.d**2 / 2
        found["elimination"] += (2 / 2 + (1 - left**3) / 3) * site.d**3
        found["refit"] += again * (d**2 / 2 + d * m) + 2 * (d**3 / 6 + d**2 * m)
    whole = macs * n
    found = {part: value / whole for part, value in found.items()}
    found["look"], found["gradients"] = 1.0, 2 * fisher / n
    found["refit"] += 0.5
    return found


def traced(name: str) -> dict[str, Any]:
    """Counts of one of the nets of `lab.experiments.speed`."""
    net = NETS[name]
    batches = net.batches()
    example: Batch = batches[0]
    small: Any = (
        {k: v[:1] for k, v in example.items()} if isinstance(example, dict) else (example[0][:1],)
    )
    found = prunable_graph(net.make().eval(), statistics.read_batches([small], None))
    n = sum(len(next(iter(b.values())) if isinstance(b, dict) else b[0]) for b in batches)
    protected = bool(net.options)
    sites = []
    for consumer in found.consumers:
        shape = found.shapes[consumer.weight]
        m = shape[consumer.out_dim]
        d = int(torch.Size(shape).numel()) // m
        if not protected or d > m:  # of transformers the MLPs alone
            sites.append(Site(d, m, float(consumer.uses), not protected and m > 10))
    fisher = 0 if net.noise != "fisher" else int(min(512, max(64, n / 4)))
    counted = passes(sites, graph.cost(found).macs, n, fisher)
    return counted | {"label": net.label, "widest": max(site.d for site in sites)}


def seven_billion() -> dict[str, Any]:
    """Counts, and gigabytes on one device."""
    layers, wide, hidden, tokens, texts = 32, 4096, 11_008, 2048, 128
    sites = [Site(hidden, wide, tokens, narrowed=False)] * layers
    weights = layers * (4 * wide**2 + 3 * wide * hidden) + 2 * 32_000 * wide
    macs = tokens * (weights - 32_000 * wide + layers * tokens * wide)
    counted = passes(sites, macs, texts, 0)
    gigabytes = {
        "weights": 2 * weights,
        "hidden states of all texts, three of each": 3 * 2 * texts * tokens * wide,
        "second moments, inverse and a copy of one layer": 3 * 8 * hidden**2,
        "outputs noted of one layer": 4 * 0.6 * 8 * hidden * wide,
    }
    gb = {name: value / 1e9 for name, value in gigabytes.items()}
    return counted | {"label": "7 B, 128 texts of 2,048", "widest": hidden, "gigabytes": gb}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Counts of one net."""
    return seven_billion() if key["net"] == SEVEN else traced(key["net"])


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """Passes of each part."""
    found = {row["net"]: row for row in rows}
    lines = [
        [row["label"], str(row["widest"]), *[f"{row[part]:.2f}" for part in PARTS],
         f"{sum(row[part] for part in PARTS):.1f}"]
        for name in [*NETS, SEVEN] if (row := found.get(name))
    ]  # fmt: skip
    yield TextTable("", ["net", "widest layer", *PARTS, "passes in all"], lines)
    if SEVEN in found:
        each = found[SEVEN]["gigabytes"]
        said = ", ".join(f"{name} {value:.1f}" for name, value in each.items())
        yield f"Gigabytes for 7 B on one device: {said}; {sum(each.values()):.1f} in all."


def items(_settings: Settings) -> Iterator[Key]:
    """All nets."""
    yield from ({"net": net} for net in [*NETS, SEVEN])


EXPERIMENT = Experiment(
    name="speed_counted",
    title="What plan and apply must at least compute, counted in bare passes",
    items=items,
    measure=measure,
    tables=tables,
)
