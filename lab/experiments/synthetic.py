"""Do masks that know their data reach more accuracy? Networks with redundant nodes (synthetic).

    python -m lab run synthetic               # two networks, two starts, three seeds
    python -m lab show synthetic --picture    # the tables, and docs/img/synthetic.svg

A fixed network (`synthetic_nets`) is pruned for each of six tasks, several times with fresh data
``D``, to as many nodes as the task needs. Each method gives a mask ``M``. Recorded: how much the
masks say of the task (`synthetic_masks`), how much information the nodes that are kept still
transfer to the next layer, which share of the needed nodes is kept, and the accuracy at once (after
the least-squares refit) and after a short retraining, the same for all. docs/research/synthetic.md.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.synthetic_masks import correlation, distinct, nats_about_task
from lab.experiments.synthetic_nets import Design, Kind, Problem, Start
from lab.experiments.synthetic_picture import Panel, Point, draw
from lab.tables import TextTable, spread
from mipp import statistics, surgery
from mipp.methods.consumer_views import Views
from mipp.planning.option_values import unit_options
from mipp.problem import Clock
from mipp.problem import Problem as Measured
from mipp.problem import masks as as_masks
from mipp.records import Scorer

KINDS: tuple[Kind, ...] = ("standard", "convolutional")
STARTS: tuple[Start, ...] = ("constructed", "initial")
METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, relative": {"noise": 0.1},
    "mipp, relative, pruned next": {"noise": 0.1, "passes": 2},
    "mipp, labels": {"target": "labels"},
    "mipp, masked": {"estimator": "masked"},
    "taylor": {"method": "taylor"},
    "l2": {"method": "l2"},
    "random": {"method": "random"},
}
CONTROLS = {
    "known": "what the task needs",
    "swapped": "what the other two blocks need",
    "unpruned": "all nodes",
}
SLOW = {"mipp, labels", "mipp, masked"}
"""Take seconds for a mask: on the standard network only, `masked` on the constructed one only."""
REPETITIONS, RETRAINED = 6, 2
"""Data sets per task, and how many of them are retrained on and measured for accuracy."""
SAMPLES, FRESH = 512, 2048
EPOCHS, RATE, BATCH = 5, 3e-3, 64
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "synthetic.svg"

Batches = list[tuple[Tensor, Tensor]]


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """All masks of one method on one network, and what becomes of them."""
    kind, start, seed, method = (key[part] for part in ("kind", "start", "seed", "method"))
    began = time.process_time()
    problem = Problem(Design(kind, start, seed))
    rows: list[dict[str, float]] = []
    bits, tasks, repetitions = [], [], []
    for task in range(len(problem.design.tasks)):
        held = _seeded(seed, task, 999)
        yardsticks = {}
        test = problem.draw(task, FRESH, held)
        for repetition in range(REPETITIONS):
            generator = _seeded(seed, task, repetition)
            data = problem.draw(task, SAMPLES, generator)
            plan = _plan(problem, data, method, task, repetition)
            kept = [plan.keep[name] for name in sorted(plan.keep)]
            bits.append(np.concatenate([_bits(k, problem.design.width) for k in kept]))
            tasks.append(task)
            repetitions.append(repetition)
            row = {"coverage": problem.coverage(task, kept)}
            if repetition < RETRAINED:
                for noise in ("fisher", 0.1):
                    if noise not in yardsticks:
                        yardsticks[noise] = _yardstick(problem.net, test, noise)
                    row[f"nats {noise}"] = _share_kept(yardsticks[noise], plan)
                row |= _accuracies(problem, plan, task, test, generator)
            rows.append(row)
    masks = np.stack(bits)
    names = sorted({name for row in rows for name in row})
    return {
        "about_task": nats_about_task(masks, np.array(tasks), np.array(repetitions)),
        "distinct": distinct(masks),
        "masks": len(masks),
        **{name: mean(row[name] for row in rows if name in row) for name in names},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _seeded(*numbers: int) -> torch.Generator:
    seed = 0
    for number in numbers:
        seed = seed * 1009 + number
    return torch.Generator().manual_seed(seed)


def _batches(data: tuple[Tensor, Tensor]) -> Batches:
    return list(zip(*(part.split(256) for part in data), strict=True))


def _bits(kept: Sequence[int], width: int) -> np.ndarray:
    mask = np.zeros(width, dtype=bool)
    mask[list(kept)] = True
    return mask


def _plan(
    problem: Problem, data: tuple[Tensor, Tensor], method: str, task: int, repetition: int
) -> "mipp.Plan[nn.Module]":
    """The mask of a method, or of a control, in layers of equal width."""
    nodes = problem.design.width if method == "unpruned" else problem.design.needed
    plan = mipp.plan(
        problem.net, _batches(data), f"units={2 * nodes}", allocation="uniform",
        seed=100 * task + repetition, **METHODS.get(method, {"method": "l2"}),
    )  # fmt: skip
    if method in ("known", "swapped"):
        chosen = problem.one_of_each(task, swapped=method == "swapped")
        return _with_keep(plan, dict(zip(sorted(plan.keep), map(tuple, chosen), strict=True)))
    return plan


def _with_keep(
    plan: "mipp.Plan[nn.Module]", keep: Mapping[str, tuple[int, ...]]
) -> "mipp.Plan[nn.Module]":
    """The same plan with other units, to be applied and refitted like any other."""
    assert plan.traced is not None
    kept = surgery.kept_indices(plan.traced, as_masks(plan.traced, keep))
    axes = surgery.axis_keeps(plan.traced, kept)
    return replace(plan, record=replace(plan.record, keep=keep, axes=axes))


def _yardstick(
    net: nn.Module, data: tuple[Tensor, Tensor], noise: float | str
) -> dict[str, Scorer]:
    """What each layer transfers to the next, on data that no mask was made from."""
    options = unit_options(noise=noise)
    batches = statistics.read_batches(_batches(data), None)
    traced = mipp.planning.prunable_graph(net, batches)
    views = Views(Measured(net, traced, batches, options, lambda *_: None, Clock()))
    show = views.of(traced.groups)
    return {
        group.name: options.estimator.scorer(show(group, {}), group.n_units)
        for group in traced.groups
    }


def _share_kept(scorers: Mapping[str, Scorer], plan: "mipp.Plan[nn.Module]") -> float:
    """Share of the nats between adjacent layers, summed over layers, that the mask keeps."""
    kept = sum(float(s.transfers(np.array(plan.keep[n])).sum()) for n, s in scorers.items())
    return kept / sum(float(s.total().sum()) for s in scorers.values())


def _accuracies(
    problem: Problem,
    plan: "mipp.Plan[nn.Module]",
    task: int,
    test: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> dict[str, float]:
    """At once, bare and refitted; and retrained, from bare where the net knows nothing."""
    bare, fitted = plan.apply(refit=False), plan.apply(refit=True)
    found = {"bare": _accuracy(bare, test), "refit": _accuracy(fitted, test)}
    net = fitted if problem.design.start == "constructed" else bare
    _train(net, problem.draw(task, FRESH, generator), generator)
    return found | {"retrained": _accuracy(net, test)}


def _train(net: nn.Module, data: tuple[Tensor, Tensor], generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    x, y = data
    for _ in range(EPOCHS):
        for pick in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[pick]), y[pick]).backward()
            optimizer.step()


def _accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((net(data[0]).argmax(1) == data[1]).float().mean())


MEASURES = {
    "about_task": "I(T; M), nats",
    "coverage": "needed nodes kept",
    "nats fisher": "information kept (Fisher)",
    "nats 0.1": "information kept (relative)",
}
"""Fields of a record that might tell the accuracy, in words."""
ENDS: dict[Start, dict[str, str]] = {
    "constructed": {"refit": "at once, refitted", "retrained": "retrained"},
    # a net that knows nothing has nothing to refit
    "initial": {"retrained": "trained"},
}
"""The accuracies that count, in words; the first is in the picture."""


def _by_network(rows: Rows) -> Iterator[tuple[Start, Kind, Rows]]:
    for start in STARTS:
        for kind in KINDS:
            mine = [r for r in rows if r["kind"] == kind and r["start"] == start]
            if mine:
                yield start, kind, mine


def tables(rows: Rows) -> Iterator[TextTable]:
    """The methods on each network, and what their accuracy goes with."""
    for start, kind, mine in _by_network(rows):
        seeds = len({row["seed"] for row in mine})
        title = f"{kind} network, {start}, {seeds} seeds, {mine[0]['masks']} masks a row"
        yield _methods_table(title, mine, ENDS[start])
        yield _correlation_table(mine, ENDS[start])


def picture(rows: Rows) -> Path:
    """Draws accuracy over what the masks say of the task."""
    panels = []
    for start, kind, mine in _by_network(rows):
        end, words = next(iter(ENDS[start].items()))
        panels.append(Panel(f"{kind}, {start}", words, _points(mine, end)))
    PICTURE.write_text(draw(panels, math.log(len(Design("standard", "initial", 0).tasks))))
    return PICTURE


def _methods_table(title: str, rows: Rows, ends: Mapping[str, str]) -> TextTable:
    lines = []
    for method in (*METHODS, *CONTROLS):
        mine = [row for row in rows if row["method"] == method]
        if not mine:
            continue
        name = f"*{method}: {CONTROLS[method]}*" if method in CONTROLS else method
        about = [row["about_task"] for row in mine]
        shares = [spread(row[m] for row in mine) for m in (*list(MEASURES)[1:], *ends)]
        different = f"{mean(row['distinct'] for row in mine):.0f}"
        seconds = f"{mean(row['cpu_seconds'] for row in mine):.0f}"
        nats = f"{mean(about):.2f} ± {stdev(about):.2f}" if len(about) > 1 else f"{about[0]:.2f}"
        lines.append([name, nats, different, *shares, seconds])
    header = ["method", MEASURES["about_task"], "different masks", *list(MEASURES.values())[1:]]
    return TextTable(title, [*header, *ends.values(), "CPU seconds"], lines)


def _correlation_table(rows: Rows, ends: Mapping[str, str]) -> TextTable:
    """Over all rows but the unpruned net, and over those of methods that see their own data."""
    lines = []
    for name, words in MEASURES.items():
        line = [words]
        for left_out in ({"unpruned"}, set(CONTROLS)):
            mine = [row for row in rows if row["method"] not in left_out]
            for end in ends:
                found = correlation([r[name] for r in mine], [r[end] for r in mine])
                line.append(" / ".join(f"{value:.2f}" for value in found))
        lines.append(line)
    heads = [f"{words}{extra}" for extra in ("", ", no controls") for words in ends.values()]
    return TextTable("", ["Pearson / Spearman with accuracy", *heads], lines)


def _points(rows: Rows, end: str) -> list[Point]:
    points = []
    for method in (*METHODS, *CONTROLS):
        mine = [row for row in rows if row["method"] == method]
        if mine and method != "unpruned":
            family = "control" if method in CONTROLS else method.split(",")[0]
            family = family if family in ("mipp", "control") else "other"
            about, accuracy = [r["about_task"] for r in mine], [r[end] for r in mine]
            points.append(Point(method, family, about, accuracy))
    return points


def items(settings: Settings) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(settings["seeds"]):
        for kind, start in itertools.product(KINDS, STARTS):
            for method in (*METHODS, *CONTROLS):
                if method not in SLOW or _worth_it(kind, start, method):
                    yield {"kind": kind, "start": start, "seed": seed, "method": method}


def _worth_it(kind: Kind, start: Start, method: str) -> bool:
    return kind == "standard" and (method != "mipp, masked" or start == "constructed")


EXPERIMENT = Experiment(
    name="synthetic",
    title="Do masks that know their data reach more accuracy? Networks with redundant nodes",
    items=items,
    measure=measure,
    tables=tables,
    picture=picture,
    settings={"seeds": 3},
    threads=1,
)
