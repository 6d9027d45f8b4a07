"""Single weights: MIPP beside magnitude, Wanda, SparseGPT, SNIP, GraSP and SynFlow.

    pip install -e '.[lab,transformers]'
    python -m lab run weights    # LeNet5, VGG11 at a quarter of its width, a transformer
    python -m lab run weights --nets lenet5 --seeds 0    # a part of it

Trained parents (seeds 0, 1, 2). Sparsity is that of the weights of convolutions and linear layers,
first and last ones too; 2:4 of those whose inputs come in fours. Accuracy is told *at once*, with
the weights that the method's source leaves, and with the *update* that all share (least squares,
layer after layer; it is MIPP's own). *Retrained*: from the method's own weights, zeros held, the
image nets for an epoch (``--set epochs=N``) at a fifth of the recipe's rate, the transformer for 25
steps. Seconds are those until the weights are chosen; MIPP's plans for all shares are made from one
measurement, whose seconds are in each of them. The transformer is the pretrained AntiBERTy (see
antiberty.py): of its MLPs alone, and its quality is the accuracy at masked residues.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

import mipp
from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments import antiberty, transformer
from lab.experiments.nets import (
    LENET,
    SAMPLES,
    SEEDS,
    VGG11,
    calibration,
    parent,
    test_batches,
    train_batches,
)
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
from mipp import retrain

SPARSITIES = ("50 %", "80 %", "90 %", "95 %", "2:4")
SLOWER = 5
"""Retraining has the recipe's peak rate over this."""
TRANSFORMER = "antiberty"
NOT_OF_THE_TRANSFORMER = ("mipp, noise 0.1", "snip", "grasp", "synflow")
"""For time; and the last is made for nets with non-negative inputs."""
TRANSFORMER_STEPS = 25
"""Of retraining the transformer, 8 chains each."""

METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, per layer": {"allocation": "uniform"},
    "mipp, noise 0.1": {"noise": 0.1},
    "magnitude, global": {"method": "l2", "allocation": "global"},
    "magnitude, per layer": {"method": "l2", "allocation": "uniform"},
    "wanda": {"method": "wanda"},
    "sparsegpt": {"method": "sparsegpt"},
    "snip": {"method": "snip"},
    "grasp": {"method": "grasp"},
    "synflow": {"method": "synflow"},
}
GLOBAL = ("magnitude, global",)
"""Rows that a pattern leaves no choice: the pattern says how many weights each output keeps."""


@dataclasses.dataclass(frozen=True, eq=False)
class Net:
    """What a table is made for.

    ``parent(seed)``: the trained net; ``calibration(seed)``: batches with labels; ``quality``: of a
    net, higher is better (a share of right answers here); ``retrain(net, plan, seed)``: in place,
    with the plan's zeros held; None where there is no retraining. ``protect``: layers that stay.
    """

    label: str
    parent: Callable[[int], nn.Module]
    calibration: Callable[[int], Sequence[Any]]
    quality: Callable[[nn.Module], float]
    retrain: Callable[[nn.Module, mipp.WeightPlan[nn.Module], int], None] | None
    protect: tuple[str, ...] = ()


def image_net(net: NetSpec, samples: int, epochs: int) -> Net:
    """One of the nets of `lab.experiments.nets`."""

    def retrained(model: nn.Module, plan: mipp.WeightPlan[nn.Module], seed: int) -> None:
        recipe = parents.recipe_of(net)
        recipe = dataclasses.replace(recipe, epochs=epochs, peak_lr=recipe.peak_lr / SLOWER)
        batches = train_batches(net, recipe, seed + 100)
        retrain.train(model, batches, recipe, step=plan.hold(model), seed=seed, progress=False)

    return Net(
        label=net.label,
        parent=partial(parent, net),
        calibration=lambda seed: calibration(net, samples, seed),
        quality=lambda model: retrain.evaluate(model, test_batches(net)).accuracy,
        retrain=retrained if epochs else None,
    )


def transformer_net() -> Net:
    """AntiBERTy (see antiberty.py and transformer.py), of which only the MLPs can go."""
    return Net(
        label=TRANSFORMER,
        parent=lambda _seed: transformer.net(),
        calibration=transformer.calibration,
        quality=lambda model: antiberty.quality(model, transformer.test())["accuracy"],
        retrain=lambda model, plan, seed: transformer.train(
            model, seed, steps=TRANSFORMER_STEPS, take_step=plan.hold(model)
        ),
        protect=("*attention*", "cls"),
    )


def asked(method: str, sparsity: str, weights: int, params: int) -> dict[str, Any]:
    """Options of `mipp.plan`. ``weights``, of ``params``, are those that can go."""
    if ":" in sparsity:
        options = {n: v for n, v in METHODS[method].items() if n != "allocation"}
        return options | {"granularity": sparsity}
    share = 1 - float(sparsity.removesuffix("%")) / 100
    most = params - weights + round(share * weights)
    return METHODS[method] | {"granularity": "weight", "budget": f"params={most}"}


@lru_cache(maxsize=1)
def planned(
    net: Net, seed: int, method: str, weights: int, params: int
) -> dict[str, mipp.WeightPlan[nn.Module]]:
    """MIPP's plans for all shares: measured once, and followed once."""
    shares = [sparsity for sparsity in SPARSITIES if ":" not in sparsity]
    given = [asked(method, sparsity, weights, params) for sparsity in shares]
    budgets = [options.pop("budget") for options in given]
    plans = mipp.plans(net.parent(seed), net.calibration(seed), budgets, protect=net.protect,
                       seed=seed, **given[0])  # fmt: skip
    return dict(zip(shares, plans, strict=True))


@lru_cache(maxsize=1)
def unpruned(net: Net, seed: int) -> float:
    """Quality of the parent."""
    return net.quality(net.parent(seed))


def row(net: Net, seed: int, method: str, sparsity: str) -> dict[str, Any]:
    """One row: quality at once, with the shared update and retrained; sizes and seconds."""
    model, batches = net.parent(seed), net.calibration(seed)
    params = sum(p.numel() for p in model.parameters())
    everything = mipp.plan(
        model, batches[:1], "params=100%", granularity="weight", method="l2", protect=net.protect
    )
    weights = everything.before.weights
    options = asked(method, sparsity, weights, params)
    if "method" not in METHODS[method] and ":" not in sparsity:
        plan = planned(net, seed, method, weights, params)[sparsity]
    else:
        plan = mipp.plan(model, batches, protect=net.protect, seed=seed, **options)
    found: dict[str, Any] = {
        "unpruned": unpruned(net, seed),
        "seconds": round(sum((plan.seconds or {}).values()), 2),
        "left": 1 - (params - plan.after.params) / weights,
        "collapsed": len(plan.collapsed),
        "layers": {row.name: row.weights_after / row.weights_before for row in plan.summary},
    }
    for how, refit in (("own", "own" if "method" in METHODS[method] else True), ("update", True)):
        pruned = plan.apply(refit=refit)
        found[how] = net.quality(pruned)
        if net.retrain is not None and how == "own":
            net.retrain(pruned, plan, seed)
            found[f"{how}, retrained"] = net.quality(pruned)
            found["held"] = all(
                torch.equal(pruned.get_parameter(n)[~mask], torch.zeros(int((~mask).sum())))
                for n, mask in plan.masks.items()
            )
        if "method" not in METHODS[method]:
            found["update"] = found["own"]  # MIPP's own is the shared update
            break
    return found


@lru_cache(maxsize=1)
def net_of(label: str, samples: int, epochs: int) -> Net:
    """The net of that label; the last one is kept, so that its plans are."""
    if label == TRANSFORMER:
        return transformer_net()
    return image_net(next(n for n in (LENET, VGG11) if n.label == label), samples, epochs)


def items(settings: Settings) -> Iterator[Key]:
    """All rows, seed by seed."""
    given = {"samples": settings["samples"], "epochs": settings["epochs"]}
    for seed in range(settings["seeds"]):
        for label in (LENET.label, VGG11.label, TRANSFORMER):
            for method, sparsity in itertools.product(METHODS, SPARSITIES):
                left_out = label == TRANSFORMER and method in NOT_OF_THE_TRANSFORMER
                if not left_out and not (":" in sparsity and method in GLOBAL):
                    key = {"net": label, "seed": seed, "method": method, "sparsity": sparsity}
                    yield key | given


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One row: quality at once, with the shared update and retrained; sizes and seconds."""
    net = net_of(key["net"], key["samples"], key["epochs"])
    return row(net, key["seed"], key["method"], key["sparsity"])


KINDS = {
    "own": "at once",
    "update": "with the update that all share",
    "own, retrained": "retrained",
}


def tables_by_share(rows: Rows) -> Iterator[TextTable | str]:
    """A table for each net and kind: a row for each method, a column for each share.

    Cells of fewer seeds than others say how many.
    """
    for label in dict.fromkeys(row["net"] for row in rows):
        of_net = [row for row in rows if row["net"] == label]
        most = len({row["seed"] for row in of_net})
        yield f"{label}, unpruned {spread({r['seed']: r['unpruned'] for r in of_net}.values())}"
        for kind, words in KINDS.items():
            lines = []
            for method in METHODS:
                mine = [row for row in of_net if row["method"] == method and kind in row]
                cells = [[r[kind] for r in mine if r["sparsity"] == s] for s in SPARSITIES]
                if mine:
                    lines.append([method] + [
                        spread(cell) + (f" ({len(cell)})" if len(cell) < most else "")
                        if cell else ""
                        for cell in cells
                    ])  # fmt: skip
            if lines:
                yield TextTable(f"{label}, {words}:", ["", *SPARSITIES], lines)


def whole_table(rows: Rows) -> TextTable:
    """One table: a row for each net, sparsity and method; mean and deviation over seeds."""
    lines = []
    for label in dict.fromkeys(row["net"] for row in rows):
        for sparsity in dict.fromkeys(row["sparsity"] for row in rows):
            for method in METHODS:
                mine = [
                    row for row in rows
                    if (row["net"], row["sparsity"], row["method"]) == (label, sparsity, method)
                ]  # fmt: skip
                if not mine:
                    continue
                lines.append([
                    label, sparsity, method, str(len(mine)),
                    spread(row["left"] for row in mine),
                    spread(row["unpruned"] for row in mine),
                    *(spread(row[kind] for row in mine if kind in row) for kind in KINDS),
                    spread((row["seconds"] for row in mine), 1.0),
                ])  # fmt: skip
    header = ["net", "zeros", "method", "seeds", "weights left %", "unpruned", *KINDS.values(),
              "seconds"]  # fmt: skip
    return TextTable("", header, lines)


def tables(rows: Rows) -> Iterator[TextTable | str]:
    """All columns, then a table for each net and kind of accuracy."""
    yield whole_table(rows)
    yield from tables_by_share(rows)


EXPERIMENT = Experiment(
    name="weights",
    title="Single weights: MIPP beside magnitude, Wanda, SparseGPT, SNIP, GraSP and SynFlow",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES, "epochs": 1},
    threads=1,
)
