"""Planning and applying next to one bare pass and to peers: ratios, and memory above the start.

    python -m lab run speed --nets lenet5                  # one net
    python -m lab run speed --nets vit-b16 --only work=mipp  # one work of it
    python -m lab show speed                               # the table of all that is recorded

It needs the extras: pip install -e '.[lab,transformers]'. Every figure is measured in a
process of its own, one after the other, on the same random weights and examples:

* ``pass``: the examples forward through the model, once.
* ``mipp``: `mipp.plan` and `Plan.apply` with its refit, the same with a quarter of the default
  memory, and with ``method="l2"``, ``obs`` and ``flap``.
* ``gram``: units by the size of their weights, and GRAIL's one pass and ridge solve, see
  `lab.experiments.grail`.
* ``taylor``: one Taylor step of Torch-Pruning on the same batches.

Each process times a bare pass of its own right after the work, over a quarter of the batches, and
the ratio is to that: seconds depend on the machine, and the ratios are what to quote. They are of
processor time, so that other work on the machine counts little; measure with one thread
(``OMP_NUM_THREADS=1``), since several that wait for each other take processor time, too. A tiny net
is planned first, so that loading `torch.export` (seconds, once in a process) is in no figure. Peak
memory is what the process had at most, less what it held before the work began (model and
examples).
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import mipp
from lab import memory
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.grail import grail
from lab.experiments.speed_nets import NETS, Batch, Net, loss_of, outputs_of
from lab.tables import TextTable

MIB = 2**20
Work = Callable[[Net, nn.Module, list[Batch]], dict[str, float]]


def one_pass(_net: Net, model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """The bare pass."""
    with torch.no_grad():
        for batch in batches:
            outputs_of(model, batch)
    return {}


def planned(method: str, **more: Any) -> Work:
    """Plan and apply, with the seconds of each."""

    def work(net: Net, model: nn.Module, batches: list[Batch]) -> dict[str, float]:
        options = dict(net.options, method=method, **more)
        if method == "mipp":
            options["noise"] = net.noise
        started = time.process_time()
        plan = mipp.plan(model, batches, net.budget, **options)
        between = time.process_time()
        plan.apply()
        return {"plan": between - started, "apply": time.process_time() - between}

    return work


def gram_and_ridge(net: Net, model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """GRAIL's recipe with magnitude units."""
    grail(model, batches, net.budget, outputs_of, **net.options)
    return {}


def torch_pruning(net: Net, model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """Gradients over the same batches, then one Taylor step of Torch-Pruning."""
    import torch_pruning as tp  # noqa: PLC0415 - a peer, only in the extra

    first = batches[0]
    inputs = {k: v[:1] for k, v in first.items()} if isinstance(first, dict) else first[0][:1]
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    last = list(layers.values())[-1]
    ignored = [m for n, m in layers.items() if not n.endswith(net.roots)] if net.roots else [last]
    pruner = tp.pruner.BasePruner(
        model,
        inputs,
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=net.share,
        ignored_layers=ignored,
        global_pruning=not net.roots,
        output_transform=(lambda out: out.logits) if isinstance(first, dict) else None,
    )
    for batch in batches:
        loss_of(model, batch).backward()
    pruner.step()
    return {}


LITTLE = "mipp-1gib"
"""With a quarter of the default memory, for nets that do not say how much they have."""
WORKS: dict[str, tuple[str, Work]] = {
    "pass": ("one bare pass", one_pass),
    "mipp": ("mipp", planned("mipp")),
    LITTLE: ("mipp, memory=1GiB", planned("mipp", memory="1GiB")),
    "l2": ("L2, refit of mipp", planned("l2")),
    "taylor": ("Torch-Pruning's Taylor", torch_pruning),
    "obs": ("OBS", planned("obs")),
    "flap": ("FLAP", planned("flap")),
    "gram": ("Gram and ridge (GRAIL)", gram_and_ridge),
}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Seconds of processor time, peak memory and the stages."""
    net, (_, work) = NETS[key["net"]], WORKS[key["work"]]
    model, batches = net.make().eval(), net.batches()
    untouched = copy.deepcopy(model) if key["work"] == "taylor" else model
    _load(model, batches[0])
    with warnings.catch_warnings(), memory.peak(torch.device("cpu")) as peak:
        warnings.simplefilter("ignore")
        started = time.process_time()
        stages = work(net, model, batches)
        seconds = time.process_time() - started
    return {
        "seconds": seconds,
        "pass": _seconds_of_a_pass(net, untouched, batches),
        "mib": peak() / MIB,
        "stages": stages,
        "threads": torch.get_num_threads(),
    }


def _load(model: nn.Module, batch: Batch) -> None:
    """Loads what is loaded on first use."""
    import torch_pruning  # noqa: F401, PLC0415 - a peer, only in the extra

    with torch.no_grad():
        outputs_of(model, _first(batch))
    tiny = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mipp.prune(tiny, [torch.randn(64, 2)], "units=50%", seed=0)


def _first(batch: Batch) -> Batch:
    if isinstance(batch, dict):
        return {name: value[:1] for name, value in batch.items()}
    return batch[0][:1], batch[1][:1]


def _seconds_of_a_pass(net: Net, model: nn.Module, batches: list[Batch]) -> float:
    """Of all batches, from a quarter of them."""
    part = batches[::4]
    started = time.process_time()
    one_pass(net, model, part)
    examples = [sum(map(_size, some)) for some in (batches, part)]
    return (time.process_time() - started) * examples[0] / examples[1]


def _size(batch: Batch) -> int:
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0])


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """Ratios to the pass, and where the time goes."""
    lines = []
    found = {(row["net"], row["work"]): row for row in rows}
    for name, net in NETS.items():
        for work, (label, _) in WORKS.items():
            row = found.get((name, work))
            if row is None:
                continue
            stages = ", ".join(f"{k} {v:.1f}" for k, v in row["stages"].items())
            ratio = f"{row['seconds'] / row['pass']:.2f}"
            seconds, mib = f"{row['seconds']:.1f}", f"{row['mib']:.0f}"
            lines.append([net.label, label, seconds, ratio, mib, stages or "-"])
    header = ["net", "work", "CPU seconds", "ratio to a pass", "peak MiB above start", "stages (s)"]
    yield TextTable("", header, lines)


def items(_settings: Settings) -> Iterator[Key]:
    """All works of a net after its bare pass."""
    yield from (
        {"net": name, "work": work}
        for name, net in NETS.items()
        for work in WORKS
        if not (work == LITTLE and "memory" in net.options)
    )


EXPERIMENT = Experiment(
    name="speed",
    title="Planning and applying next to one bare pass and to peers",
    items=items,
    measure=measure,
    tables=tables,
    threads=1,
    isolated=True,
)
