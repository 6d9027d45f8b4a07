"""Every method on the same footing: accuracy at once and retrained, sizes, seconds, collapses.

    python -m lab run methods    # LeNet5 on MNIST and VGG11 (quarter width) on CIFAR-10

Two states: ``trained`` parents (seeds 0, 1, 2), and nets at ``init``. All methods share graph,
groups, budgets, calibration images and surgery. Accuracy is told *at once*, with the weights that
the plan leaves; with the *refit* that all share; and *retrained* from the weights that the plan
leaves (from the refit in two rows), for one epoch by the same recipe (after pruning a trained net a
fifth of its rate, at init its own). What a method trains itself is told beside it: OTO and DHSPG
get one epoch, and are not retrained; IMP's rounds come on top. Scratch nets are trained, in the
state ``trained``, for as many epochs as parent and retraining together. Seconds are those until the
units are chosen, on one thread. Collapses: groups that would be emptied if every layer did not keep
a unit.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

from torch import nn

import mipp
from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import (
    LENET,
    SAMPLES,
    SEEDS,
    VGG11,
    build,
    calibration,
    finetune,
    parent,
    test_batches,
    train_batches,
)
from lab.tables import TextTable, spread
from mipp import methods, retrain

NETS = {"lenet5": LENET, "vgg11": VGG11}
STATES = ("trained", "init")
BUDGETS = {
    "lenet5": ("params=10%", "params=5%", "params=2%"),
    "vgg11": ("params=25%", "params=10%", "params=4%"),
}
EPOCHS = 1
SLOWER = 5
"""Retraining after pruning a trained net has the recipe's peak rate over this."""

METHODS: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, retrained from the refit": {"from": "refit"},
    "mipp, uniform": {"allocation": "uniform"},
    "mipp-leave-one-out": {"method": "mipp-leave-one-out", "allocation": "priced"},
    "mipp-solo": {"method": "mipp-solo", "allocation": "priced"},
    "random": {"method": "random"},
    "random, MIPP's widths": {"method": "random", "widths": "mipp"},
    "l1": {"method": "l1"},
    "l2": {"method": "l2"},
    "l2, retrained from the refit": {"method": "l2", "from": "refit"},
    "l2, global": {"method": "l2", "allocation": "global"},
    "l2, MIPP's widths": {"method": "l2", "widths": "mipp"},
    "fpgm": {"method": "fpgm"},
    "bnscale": {"method": "bnscale"},
    "taylor": {"method": "taylor"},
    "taylor, uniform": {"method": "taylor", "allocation": "uniform"},
    "hrank": {"method": "hrank"},
    "chip": {"method": methods.CHIP(examples=64)},
    "thinet": {"method": "thinet"},
    "obs": {"method": "obs"},
    "obs, global": {"method": "obs", "allocation": "global"},
    "flap": {"method": "flap"},
    "sosp": {"method": "sosp"},
    "sosp, l1": {"method": methods.SOSP(aggregation="l1")},
    "snip": {"method": "snip"},
    "itersnip": {"method": "itersnip"},
    "itergrasp": {"method": "itergrasp"},
    "itergrasp, gradient": {"method": methods.IterGraSP(reading="gradient")},
    "prospr": {"method": "prospr"},
    "prospr, first order": {"method": methods.ProsPr(second_order=False)},
    "synflow": {"method": "synflow"},
    "oto": {"method": "oto"},
    "dhspg": {"method": "dhspg"},
    "imp": {"method": "imp"},
    "scratch, MIPP's widths": {"scratch": "plan"},
    "scratch, uniform widths": {"scratch": "uniform"},
}
ONLY_TRAINED = ("l1", "l2, MIPP's widths", "bnscale", "taylor, uniform", "hrank", "chip")
"""Not meant for init, or told apart too little from a row that is there."""
SPARED = ("l1", "sosp, l1", "itergrasp, gradient", "prospr, first order")
"""Variants that the larger net is not asked, to spare hours."""


def methods_of(name: str, state: str) -> list[str]:
    """Rows of the table of one net (built-in name) in one state."""
    left = [m for m in METHODS if state == "trained" or m not in ONLY_TRAINED]
    # at init, training from scratch is what every row does
    left = [m for m in left if state == "trained" or "scratch" not in m or "uniform" in m]
    left = [m for m in left if state == "trained" or "from" not in METHODS[m]]
    return [m for m in left if m not in (SPARED if name == "vgg11" else ("bnscale",))]


class Run:
    """All measurements of one net, state and seed; what several rows need is made once."""

    def __init__(self, name: str, state: str, seed: int, samples: int) -> None:
        self.name, self.net, self.state, self.seed = name, NETS[name], state, seed
        self.model: nn.Module = (
            parent(self.net, seed) if state == "trained" else build(self.net, seed)
        )
        self.calibration = calibration(self.net, samples, seed)
        self.unpruned = retrain.evaluate(self.model, test_batches(self.net)).accuracy
        self.epochs = EPOCHS
        self.rate = parents.recipe_of(self.net).peak_lr / (SLOWER if state == "trained" else 1)
        self._plans: dict[str, dict[str, mipp.Plan[nn.Module]]] = {}

    def measure(self, method: str, budget: str) -> dict[str, Any]:
        """One row."""
        if "scratch" in METHODS[method]:
            return self._from_scratch(METHODS[method]["scratch"], budget)
        plan = self._plan(method, budget)
        test = test_batches(self.net)
        options = METHODS[method]
        small = plan.apply(refit=options.get("from") == "refit")
        found: dict[str, Any] = {"unpruned": self.unpruned} | sizes(plan)
        found["seconds"] = round(sum((plan.seconds or {}).values()), 2)
        found["none"] = retrain.evaluate(small, test).accuracy
        training = plan.record.options.get("training", {})
        found["own_epochs"] = training.get("cost", {}).get("epochs", 0)
        found["own_macs"] = training.get("cost", {}).get("macs", 0.0)
        if self.state == "trained":
            found["refit"] = retrain.evaluate(plan.apply(refit=True), test).accuracy
            update = update_of(options.get("method", "mipp"))
            if update is not None and update != mipp.Refit():
                found["own"] = retrain.evaluate(plan.apply(refit=update), test).accuracy
        if options.get("method") in ("oto", "dhspg"):
            found["retrained"] = found["none"]
        else:
            finetune(self.net, small, self.epochs, self.seed, self.rate)
            found["retrained"] = retrain.evaluate(small, test).accuracy
        found["at_floor"] = sum(len(units) == 1 for units in plan.keep.values())
        found["collapsed"] = self._collapsed(method, budget, found["at_floor"])
        return found

    def _plan(self, method: str, budget: str) -> "mipp.Plan[nn.Module]":
        plans = self._plans.setdefault(method, {})
        if budget not in plans:
            plans |= self._made(asked(method) | {"seed": self.seed}, budget)
        return plans[budget]

    def _made(self, options: dict[str, Any], budget: str) -> "dict[str, mipp.Plan[nn.Module]]":
        """The plan for the budget; for all budgets, from one scoring, where there is one round."""
        if options.get("widths") == "mipp":
            return {budget: self._ask(options | {"widths": self._plan("mipp", budget)})}
        method = options.get("method", "mipp")
        if isinstance(method, str) and method != "mipp":
            method = methods.get(method)
        if isinstance(method, methods.TrainingMethod):
            options = options | self._training(method)
        elif method == "mipp" or method.rounds == 1:
            budgets = BUDGETS[self.name]
            plans = mipp.plans(self.model, self.calibration, budgets, **options)
            return dict(zip(budgets, plans, strict=True))
        return {budget: self._ask(options | {"budget": budget})}

    def _ask(self, options: dict[str, Any]) -> "mipp.Plan[nn.Module]":
        return mipp.plan(self.model, self.calibration, **options)

    def _training(self, method: methods.TrainingMethod) -> dict[str, Any]:
        """The epochs that every other method is retrained for; IMP's in every round."""
        recipe = dataclasses.replace(
            parents.recipe_of(self.net), epochs=self.epochs, peak_lr=self.rate
        )
        batches = train_batches(self.net, recipe, self.seed + 100)
        given: dict[str, Any] = {"training": mipp.Training(batches, recipe)}
        if isinstance(method, methods.IMP):
            rewind: Literal["none", "initial"] = "none" if self.state == "trained" else "initial"
            given["method"] = methods.IMP(
                rounds=3, rewind=rewind, epochs=self.epochs, peak_lr=self.rate, last_training=False
            )
        return given

    def _collapsed(self, method: str, budget: str, at_floor: int) -> int | None:
        """Groups that are emptied without a floor; None where that would take a training."""
        options = asked(method)
        if options.get("method") in ("oto", "dhspg", "imp") or "widths" in options:
            return None
        if not at_floor:
            return 0  # the floor has held nothing back
        plan = self._ask(options | {"seed": self.seed, "budget": budget, "min_units": 0})
        return len(plan.collapsed)

    def _from_scratch(self, widths: Literal["plan", "uniform"], budget: str) -> dict[str, Any]:
        plan = self._plan("mipp", budget)
        small = mipp.methods.scratch.same_size(plan, seed=self.seed + 1000, widths=widths)
        recipe = parents.recipe_of(self.net)
        epochs = self.epochs + (recipe.epochs if self.state == "trained" else 0)
        finetune(self.net, small, epochs, self.seed, recipe.peak_lr)
        found = {"unpruned": self.unpruned} | (sizes(plan) if widths == "plan" else {})
        accuracy = retrain.evaluate(small, test_batches(self.net)).accuracy
        return found | {"retrained": accuracy, "epochs": epochs}


def asked(method: str) -> dict[str, Any]:
    """Options of `mipp.plan` for a row of the table."""
    return {name: value for name, value in METHODS[method].items() if name != "from"}


def update_of(method: "str | methods.Method") -> "mipp.Refit | None":
    """What the source of the method does to the weights that stay."""
    if method == "mipp":
        return mipp.Refit()
    return (methods.get(method) if isinstance(method, str) else method).update


def sizes(plan: "mipp.Plan[nn.Module]") -> dict[str, float]:
    """Shares of MACs, parameters and units that are left."""
    before, after = dataclasses.asdict(plan.before), dataclasses.asdict(plan.after)
    return {name: after[name] / before[name] for name in ("macs", "params", "units")}


def items(settings: Settings) -> Iterator[Key]:
    """All rows, seed by seed."""
    for seed in range(settings["seeds"]):
        for name, state in itertools.product(NETS, STATES):
            for method, budget in itertools.product(methods_of(name, state), BUDGETS[name]):
                key = {"net": NETS[name].label, "state": state, "seed": seed, "method": method}
                yield key | {"budget": budget, "samples": settings["samples"]}


@lru_cache(maxsize=1)
def run_of(net: str, state: str, seed: int, samples: int) -> Run:
    """What the rows of one net, state and seed share; the last one is kept."""
    name = next(name for name, found in NETS.items() if found.label == net)
    return Run(name, state, seed, samples)


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """One row."""
    run = run_of(key["net"], key["state"], key["seed"], key["samples"])
    return run.measure(key["method"], key["budget"])


def tables(rows: Rows) -> Iterator[TextTable]:
    """For each net and state a table of accuracies and one of sizes and costs."""
    for name in BUDGETS:
        for state in STATES:
            net = NETS[name]
            here = [r for r in rows if r["net"] == net.label and r["state"] == state]
            if here:
                yield accuracies(here, name, state)
                yield costs(here, name, state)


def accuracies(rows: Rows, name: str, state: str) -> TextTable:
    """Test accuracy in percent, mean and standard deviation over the seeds."""
    net, seeds = NETS[name], sorted({row["seed"] for row in rows})
    full = {row["seed"]: row["unpruned"] for row in rows if "unpruned" in row}
    title = f"{net.label}, {state}, unpruned {spread(full.values())} %, seeds {seeds}"
    kinds = ("none", "refit", "retrained") if state == "trained" else ("retrained",)
    words = {"none": "at once", "refit": "refit", "retrained": "retrained"}
    lines = []
    for method in methods_of(name, state):
        line = [method]
        for budget in BUDGETS[name]:
            mine = [r for r in rows if r["method"] == method and r["budget"] == budget]
            line += [spread(r[kind] for r in mine if kind in r) for kind in kinds]
        lines.append(line)
    header = ["method", *(f"{b} {words[k]}" for b in BUDGETS[name] for k in kinds)]
    return TextTable(title, header, lines)


def costs(rows: Rows, name: str, state: str) -> TextTable:
    """What is left in percent, seconds, epochs of the method's own, groups that would be empty."""
    lines = []
    for method in methods_of(name, state):
        mine = [r for r in rows if r["method"] == method]
        line = [method]
        for budget in BUDGETS[name]:
            here = [r for r in mine if r["budget"] == budget]
            empty = [r["collapsed"] for r in here if r.get("collapsed") is not None]
            line += [
                " / ".join(
                    spread(r[s] for r in here if s in r).split(" ±")[0]
                    for s in ("macs", "params", "units")
                ),
                " ".join(map(str, empty)) or "-",
            ]
        line += [
            spread((r["seconds"] for r in mine if "seconds" in r), 1.0),
            spread((r.get("own_epochs", 0) for r in mine), 1.0).split(" ±")[0],
        ]
        lines.append(line)
    title = "MACs / parameters / units left in %, and empty groups by seed"
    header = [f"{b} {what}" for b in BUDGETS[name] for what in ("left", "empty")]
    return TextTable(title, ["method", *header, "seconds", "own epochs"], lines)


EXPERIMENT = Experiment(
    name="methods",
    title="Every method on the same footing: accuracy, sizes, seconds and collapses",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES},
    threads=1,
)
