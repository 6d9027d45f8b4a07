"""One large layer, 1024 x 1024 or 4096 x 4096: time, memory and nats lost with single weights.

    python -m lab run weights_large --only d=1024

See `lab.experiments.weights` for networks.
"""

import resource
import time
from collections.abc import Iterator
from typing import Any

import torch

from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp.methods.layerwise import SparseGPT
from mipp.selection.spend_weights import Choice, spend
from mipp.weights import chosen, curves_of
from mipp.weights import row_curves as curves_module
from mipp.weights.regression import Rows as RowMoments
from mipp.weights.regression import best_weights

SIZES = (1024, 4096)
WORK = ("product", "sparsegpt", "mipp, path", "mipp")
"""``mipp`` is what plans do; ``mipp, path`` what they do with layers that are larger still. All are
judged with the best weights on what stays."""
LEFT = (0.5, 0.2, 0.1)
"""Shares of the weights of a large layer that stay."""


def made_up(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moments of d rectified inputs, of which a few say most; weights of d rows."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator) / d**0.5
    mixing *= torch.arange(1, d + 1).unsqueeze(1) ** -0.5
    x = (torch.randn(4 * d, d, generator=generator) @ mixing).relu()
    x = (x - x.mean(0)) / x.std()
    return x.T @ x / len(x), torch.randn(d, d, generator=generator) / d**0.5


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """A d x d layer: seconds of the processor, memory, and nats lost where so much of it stays."""
    work, d = key["work"], key["d"]
    moment, weight = made_up(d)
    rows = RowMoments(moment, weight, 0.1 * ((weight @ moment) * weight).sum(1))
    whole = [torch.ones_like(weight, dtype=torch.bool)]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    masks, times = [], []
    started = time.process_time()
    if work in ("mipp", "mipp, path"):
        if work == "mipp, path":
            curves_module.EXACT = 0
        curves = curves_of([rows], whole, None)
        first = time.process_time() - started
        choice = Choice(curves.kept.numpy(), curves.nats.numpy())
        precise = RowMoments(moment.double(), weight.double(), rows.noise.double())
        for share in LEFT:
            started = time.process_time()
            keep = torch.from_numpy(spend({"": choice}, share * d * d, None)[""])
            masks += chosen([precise], whole, curves, keep, None)
            times.append(first + time.process_time() - started)
    elif work == "sparsegpt":
        for share in LEFT:
            started = time.process_time()
            masks.append(SparseGPT(damping=1e-4).prune(weight, moment, share, "uniform")[0])
            times.append(time.process_time() - started)
    else:
        _ = weight @ moment
        times.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": times,
        "mib": (peak - held) / 1024,
        "nats": [float(rows.nats(_errors(rows, mask)).sum()) for mask in masks],
    }


def _errors(rows: RowMoments, mask: torch.Tensor) -> torch.Tensor:
    new = best_weights(rows, mask)
    off = rows.weight - new
    return ((off @ rows.covariance) * off).sum(1)


def tables(rows: Rows) -> list[TextTable]:
    """Times as ratios to one product of two such matrices, of the same run."""
    lines = []
    for d in dict.fromkeys(row["d"] for row in rows):
        mine = {row["work"]: row for row in rows if row["d"] == d}
        if "product" not in mine:
            continue
        for work in WORK[1:]:
            for place, share in enumerate(LEFT if work in mine else ()):
                row = mine[work]
                seconds = row["seconds"][place]
                ratio = seconds / mine["product"]["seconds"][0]
                lines.append([f"{d} x {d}", f"{share:.0%}", work, f"{seconds:.1f}", f"{ratio:.0f}",
                              f"{row['mib']:.0f}", f"{row['nats'][place]:.1f}"])  # fmt: skip
    header = ["layer", "left", "work", "CPU seconds", "ratio to one product",
              "peak MiB above start", "nats lost"]  # fmt: skip
    return [TextTable("", header, lines)]


def items(_settings: Settings) -> Iterator[Key]:
    """The smaller layer first."""
    for d in SIZES:
        exact = d**4 * 2 / 3 <= curves_module.EXACT  # else plans follow the path, too
        yield from ({"work": work, "d": d} for work in (WORK if exact else WORK[:-1]))


EXPERIMENT = Experiment(
    name="weights_large",
    title="Single weights of one large layer: time, memory and nats lost",
    items=items,
    measure=measure,
    tables=tables,
    threads=1,
    isolated=True,
)
