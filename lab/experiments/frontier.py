"""Accuracy at once against the time of a pass: PyTorch and ONNX Runtime, batches of 1 and 32.

    python -m lab run frontier --only part=times     # from the records of full-width alone
    python -m lab run frontier                       # trains parents for plans of half the latency
    python -m lab run frontier --set clock=wall      # real time, also of two threads: alone on it
    python -m lab show frontier --picture            # docs/img/latency.svg

Widths and accuracies are those of the records of ``full-width`` (draw 0); the nets that are timed
have these widths and new weights. All pruned nets of one item and the whole one are timed in turns,
by the processor's time of one thread unless the clock is ``wall``; times are ratios to the whole
net's. ``budget`` has a plan for ``latency=50%``, timed again after it was made.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import mipp
from lab import wide_nets
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.curve_picture import draw
from lab.experiments.latency import processor_time
from lab.measurements import Row
from lab.report_command import RECORDS
from lab.store import Store
from lab.tables import TextTable
from lab.wide_nets import NETS
from lab.wide_plans import SHARES, batches_for, of_widths
from mipp import latency, retrain
from mipp.errors import BudgetError, CalibrationWarning, InputError
from mipp.planning.runtimes import ready
from mipp.statistics import read_batch

TIMED = ("resnet20", "vgg16", "resnet18")
METHODS = {"mipp": "MIPP", "mipp, uniform": "MIPP, uniform", "l2": "L2", "flap": "FLAP"}
"""In the records, and in the picture."""
RUNTIMES = ("torch", "onnxruntime")
PLACES = {"cpu": ((1, 1), (1, 32)), "wall": ((1, 1), (2, 1), (1, 32), (2, 32))}
"""Clock -> threads and batch sizes."""
SECONDS = 20
"""Of the turns of all nets."""
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "latency.svg"
DRAWN: dict[str, Any] = {
    "net": "vgg16/cifar10",
    "runtime": "onnxruntime",
    "threads": 1,
    "batch": 1,
}


@cache
def _records(net: str) -> dict[str, dict[str, Any]]:
    """What ``full-width`` has of the net at once, by method."""
    rows = [record.content for record in Store(RECORDS, "full_width", Row).records()]
    found = {
        row["method"]: row
        for row in rows
        if row["net"] == net and row["part"] == "at once" and row["draw"] == 0
    }
    if missing := [method for method in ("mipp", "l2") if method not in found]:
        raise InputError(
            f"There are no records of {', '.join(missing)} for {net}. Run first: "
            f"python -m lab run full-width --nets {net.partition('/')[0]}"
        )
    return found


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Times of all pruned nets of one net, runtime, batch size and number of threads."""
    torch.set_num_threads(key["threads"])
    stopwatch: latency.Stopwatch = processor_time if key["clock"] == "cpu" else latency.take_turns
    net = NETS[key["net"].partition("/")[0]]
    if key["part"] == "budget":
        whole = wide_nets.parent(net, 0, progress=False).eval()
        return _budget(net, whole, key, stopwatch)
    x = torch.randn(key["batch"], 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = wide_nets.fresh(net, 0).eval()  # what the weights are does not change its time
    nets = {"whole": whole}
    for method, budget in _pairs(net.label):
        widths = _records(net.label)[method][budget]["widths"]
        nets[f"{method}, {budget}"] = _of_widths(whole, widths, x)
    works = [_work(model, x, key["runtime"]) for model in nets.values()]
    laps = stopwatch(works, seconds=settings["seconds"], fewest=5, device=torch.device("cpu"))
    times = dict(zip(nets, laps, strict=True))
    ratios = {name: _ratio(mine, times["whole"]) for name, mine in times.items() if name != "whole"}
    return {"whole_ms": float(np.median(times["whole"])), "turns": len(laps[0]), "ratios": ratios}


def _pairs(net: str) -> list[tuple[str, str]]:
    """Methods that were measured on the net, and budgets."""
    known = _records(net)
    return [(method, budget) for method in METHODS if method in known for budget in SHARES]


def _of_widths(whole: nn.Module, widths: Mapping[str, int], x: torch.Tensor) -> nn.Module:
    """A net of these widths; which units stay does not change its time."""
    options: Any = {"method": "l2", "progress": False}
    with warnings.catch_warnings(action="ignore", category=CalibrationWarning):
        plan = mipp.plan(whole, [x[:1].repeat(2, 1, 1, 1)], of_widths(widths), **options)
    return plan.apply(refit=False).eval()


def _work(model: nn.Module, x: torch.Tensor, runtime: Any) -> latency.Work:
    return ready(model, read_batch(x), mipp.Latency(runtime=runtime))


def _ratio(mine: np.ndarray[Any, Any], whole: np.ndarray[Any, Any]) -> float:
    return float(np.median(mine) / np.median(whole))


def _budget(
    net: wide_nets.WideNet, whole: nn.Module, key: Key, stopwatch: latency.Stopwatch
) -> dict[str, Any]:
    """A plan for half the latency, and what it comes to when it is timed once more."""
    settings = mipp.Latency(batch=key["batch"], runtime=key["runtime"], stopwatch=stopwatch)
    batches = batches_for(net, "mipp", 1024, 0)
    try:
        plan = mipp.plan(whole, batches, "latency=50%", latency=settings, seed=0, progress=False)
    except BudgetError as error:
        return {"error": str(error)}
    small = plan.apply(progress=False).eval()
    x = batches[0][: key["batch"]]
    device = torch.device("cpu")
    works = [_work(model, x, key["runtime"]) for model in (whole, small)]
    laps = stopwatch(works, seconds=5, fewest=5, device=device)
    test = wide_nets.test_batches(net)
    return {
        "again": _ratio(laps[1], laps[0]),
        "macs": plan.after.macs / plan.before.macs,
        "widths_by": [plan.record.options["latency"][name] for name in ("allocation", "round_to")],
        "accuracy": retrain.evaluate(small, test, channels_last="auto").accuracy,
    }


def tables(rows: Rows) -> Iterator[TextTable]:
    """Of each net and place, times by method and budget; then the plans for half the latency."""
    timed = [row for row in rows if row["part"] == "times"]
    for net in dict.fromkeys(row["net"] for row in timed):
        here = [row for row in timed if row["net"] == net]
        lines = []
        for method, budget in _pairs(net):
            cells = [f"{row['ratios'][f'{method}, {budget}']:.2f}" for row in here]
            accuracy = 100 * _records(net)[method][budget]["refit"]["test"]
            lines.append([f"{method}, {budget}", f"{accuracy:.1f}", *cells])
        header = ["pruned", "accuracy at once", *map(_place, here)]
        milliseconds = ", ".join(f"{row['whole_ms']:.1f}" for row in here)
        yield TextTable(f"{net}: time, of the whole net's ({milliseconds} ms)", header, lines)
    budgets = [row for row in rows if row["part"] == "budget"]
    if budgets:
        lines = [
            [
                row["net"],
                _place(row),
                _widths_by(*row["widths_by"]) if "widths_by" in row else "-",
                *(_cell(row, name) for name in ("again", "macs", "accuracy")),
            ]
            for row in budgets
        ]
        header = ["net", "where", "widths", "time again", "MACs", "accuracy at once"]
        yield TextTable("Plans for latency=50%", header, lines)


def _widths_by(allocation: str, multiple: int) -> str:
    return allocation if multiple == 1 else f"{allocation}, in multiples of {multiple}"


def _cell(row: dict[str, Any], name: str) -> str:
    if "error" in row:
        return "not reached"
    return f"{100 * row[name]:.1f} %" if name == "accuracy" else f"{row[name]:.2f}"


def _place(row: dict[str, Any]) -> str:
    clock = "" if row["clock"] == "cpu" else ", wall"
    return f"{row['runtime']}, batch {row['batch']}, threads {row['threads']}{clock}"


def items(settings: Settings) -> Iterator[Key]:
    """Net by net."""
    if settings["clock"] not in PLACES:
        raise InputError(f"clock={settings['clock']} was given; expected cpu or wall.")
    for name in TIMED:
        for threads, batch in PLACES[settings["clock"]]:
            place = {"threads": threads, "batch": batch, "clock": settings["clock"]}
            common = {"net": NETS[name].label, **place}
            for part in ("times", "budget") if threads == 1 else ("times",):
                for runtime in RUNTIMES:
                    yield common | {"part": part, "runtime": runtime}


def picture(rows: Rows) -> Path:
    """Draws accuracy at once against the time of VGG16 in ONNX Runtime."""
    wanted = DRAWN | {"part": "times"}
    mine = [row for row in rows if {name: row.get(name) for name in wanted} == wanted]
    if not mine:
        raise InputError(f"There is no record of {json.dumps(DRAWN)}. Run it first.")
    row, known = mine[-1], _records(DRAWN["net"])
    curves: dict[str, dict[float, list[float]]] = {}
    for method, budget in _pairs(DRAWN["net"]):
        curve = curves.setdefault(METHODS[method], {})
        ratio = row["ratios"][f"{method}, {budget}"]
        curve[ratio] = [known[method][budget]["refit"]["test"]]
    whole = known["mipp"]["unpruned"]["test"]
    title = "VGG16, CIFAR-10: pruned, not retrained, ONNX Runtime, one image"
    left = "time of a pass that is left"
    PICTURE.write_text(draw(title, curves, whole, left=left, ticks=(0.25, 0.5, 0.75)))
    return PICTURE


EXPERIMENT = Experiment(
    name="frontier",
    title="Accuracy against the time of a pass, in PyTorch and ONNX Runtime",
    items=items,
    measure=measure,
    tables=tables,
    settings={"clock": "cpu", "seconds": SECONDS},
    picture=picture,
)
