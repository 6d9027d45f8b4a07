"""Planning and applying next to the bare forward passes and to Torch-Pruning's Taylor, as ratios.

    python -m lab run speed    # needs the extra: pip install 'torch-mipp[lab]'

Every figure is measured in a process of its own, one after the other, on the same random weights
and images: the calibration images forward through the model, once; `mipp.plan` + `Plan.apply`; one
Taylor step of Torch-Pruning on the same batches. Peak memory is the process's own, less what it
held before it started (model and images). Seconds depend on the machine; the ratios of one run are
what to quote.
"""

import resource
import time
from typing import Any

import torch

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.tables import TextTable
from mipp import models

CASES: dict[str, dict[str, Any]] = {
    "lenet5": {"name": "lenet5", "samples": 2048, "batch": 256},
    "vgg16": {"name": "vgg16", "samples": 512, "batch": 128},
    "resnet18": {"name": "resnet18", "samples": 512, "batch": 128},
    "resnet50 at 224": {"name": "resnet50_imagenet", "samples": 512, "batch": 16},
}


def images(case: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    shape = models.input_shape(case["name"])
    made = []
    for start in range(0, case["samples"], case["batch"]):
        n = min(case["batch"], case["samples"] - start)
        x = torch.randn(n, *shape, generator=generator)
        made.append((x, torch.randint(0, 10, (n,), generator=generator)))
    return made


def forward(model: torch.nn.Module, batches: list[Any]) -> dict[str, float]:
    """The bare passes."""
    model.eval()
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    return {}


def planned(model: torch.nn.Module, batches: list[Any], **options: Any) -> dict[str, float]:
    """Plan and apply, with the seconds of each stage."""
    plan = mipp.plan(model, batches, "macs=50%", **options)
    started = time.perf_counter()
    plan.apply()
    return dict(plan.seconds or {}) | {"apply": time.perf_counter() - started}


def torch_pruning(model: torch.nn.Module, batches: list[Any]) -> dict[str, float]:
    """Torch-Pruning: gradients over the same batches, one Taylor step, 30 % of the channels."""
    import torch_pruning as tp  # noqa: PLC0415 - a peer, only in the extra

    model.eval()
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        model,
        batches[0][0][:1],
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=0.3,
        ignored_layers=[last],
        global_pruning=True,
    )
    for x, y in batches:
        torch.nn.functional.cross_entropy(model(x), y).backward()
    pruner.step()
    return {}


WORK = {
    "forward": forward,
    "mipp": planned,
    "torch-pruning": torch_pruning,
}


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """Seconds, peak memory and the stages."""
    case = CASES[key["case"]]
    model = models.build(case["name"], seed=0)
    batches = images(case)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    stages = WORK[key["work"]](model, batches)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mib": (peak - held) / 1024, "stages": stages}


def tables(rows: Rows) -> list[TextTable]:
    """Ratios to the forward passes, and where the time goes."""
    lines = []
    for case in CASES:
        here = {r["work"]: r for r in rows if r["case"] == case and "seconds" in r}
        if "forward" not in here:
            continue
        base = here["forward"]
        for work in (name for name in WORK if name in here):
            row = here[work]
            stages = ", ".join(f"{k} {v:.1f}" for k, v in row["stages"].items())
            lines.append(
                [
                    case,
                    work,
                    f"{row['seconds']:.1f}",
                    f"{row['seconds'] / base['seconds']:.2f}",
                    f"{row['mib']:.0f}",
                    stages or "-",
                ]
            )
    header = ["net", "work", "seconds", "ratio to forward", "peak MiB above start", "stages (s)"]
    return [TextTable("", header, lines)]


EXPERIMENT = Experiment(
    name="speed",
    title="Planning and applying next to the bare forward passes and to Torch-Pruning",
    items=lambda _: ({"case": case, "work": work} for case in CASES for work in WORK),
    measure=measure,
    tables=tables,
    isolated=True,
)
