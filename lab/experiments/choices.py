"""What each choice inside the method is worth; the defaults are what this table says.

    python -m lab run choices    # two nets, three seeds

One choice is changed at a time, from the defaults. Accuracy in percent: at once without refit, with
the closed-form and the sequential refit, and after a short retraining from the unrefitted and from
the sequentially refitted weights (one epoch, peak learning rate 0.05, the same for all).
"""

import itertools
from collections.abc import Iterator
from typing import Any

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SAMPLES, SEEDS, VGG, finetune, parent, test_batches
from lab.measurements import NetSpec
from lab.tables import TextTable, spread
from mipp import Refit, data, retrain

NETS = {"lenet5": LENET, "vgg16": VGG}
BUDGETS = {"lenet5": ("macs=10%",), "vgg16": ("macs=25%",)}
PLANS: dict[str, dict[str, Any]] = {
    "default (fisher)": {},
    "noise 0.1": {"noise": 0.1},
    "noise 0.01": {"noise": 0.01},
    "ordered": {"order": "ordered"},
    "kept rows only, 2 passes": {"passes": 2},
    "kept rows only, 3 passes": {"passes": 3},
    "equal tolerance": {"allocation": "tolerance"},
    "uniform widths": {"allocation": "uniform"},
    "nats, cost ignored": {"allocation": "global"},
    "noise 0.1, uniform widths": {"noise": 0.1, "allocation": "uniform"},
    "3 rounds": {"rounds": 3},
    "5 rounds": {"rounds": 5},
    "L2, uniform widths": {"method": "l2"},
}
REFITS: dict[str, Refit | None] = {
    "none": None,
    "norm only": Refit(mode="norm", norm="full"),
    "closed": Refit(mode="closed"),
    "sequential": Refit(),
    "sequential, keep norm": Refit(norm="keep"),
    "sequential, full norm": Refit(norm="full"),
    "ridge 1e-4": Refit(ridge=1e-4),
    "ridge 1e-2": Refit(ridge=1e-2),
    "ridge 1e-1": Refit(ridge=1e-1),
    "ridge 1e-2 to zero": Refit(ridge=1e-2, toward="zero"),
}
MAIN = ("none", "closed", "sequential")
RATES = (0.05,)
RETRAINED = {"default (fisher)", "uniform widths", "L2, uniform widths"}
"""Plans that are retrained as well; each costs a training run per start and learning rate."""


def accuracies(
    net: NetSpec, seed: int, budget: str, variant: str, samples: int, epochs: int
) -> dict[str, Any]:
    """Accuracies of one variant of the plan, under several refits and after retraining."""
    model = parent(net, seed)
    calibration = data.calibration(data.load(net.data, "train"), samples, 256, seed)
    test = test_batches(net)
    plan = mipp.plan(model, calibration, budget, seed=seed, **PLANS[variant])
    at_once = {}
    for name, refit in REFITS.items():
        if variant == "default (fisher)" or name in MAIN:
            at_once[name] = retrain.evaluate(plan.apply(refit=refit), test).accuracy
    after: dict[str, dict[str, float]] = {}
    if variant in RETRAINED and epochs:
        for start in ("none", "sequential"):
            after[start] = {}
            for rate in RATES:
                small = plan.apply(refit=REFITS[start])
                finetune(net, small, epochs, seed, rate)
                after[start][str(rate)] = retrain.evaluate(small, test).accuracy
    return {
        "at_once": at_once,
        "retrained": after,
        "epochs": epochs,
        "params": plan.after.params / plan.before.params,
        "seconds_plan": {name: round(value, 1) for name, value in (plan.seconds or {}).items()},
    }


def tables(rows: Rows) -> Iterator[TextTable]:
    """One table of plans and one of refits for each net and budget."""
    for name, net in NETS.items():
        for budget in BUDGETS[name]:
            here = [r for r in rows if r["net"] == net.label and r["budget"] == budget]
            if not here:
                continue
            seeds = len({row["seed"] for row in here})
            epochs = max(row["epochs"] for row in here)
            lines = []
            for variant in PLANS:
                mine = [row for row in here if row["variant"] == variant]
                line = [variant, *(spread(r["at_once"][m] for r in mine) for m in MAIN)]
                for start in ("none", "sequential"):
                    done = [r["retrained"][start] for r in mine if start in r["retrained"]]
                    line.append(spread(max(rates.values()) for rates in done))
                lines.append(line)
            header = ["plan", *MAIN, f"none + {epochs} ep.", f"sequential + {epochs} ep."]
            yield TextTable(f"{net.label}, {budget}, {seeds} seeds", header, lines)
            mine = [row for row in here if row["variant"] == "default (fisher)"]
            refits = [[m, spread(r["at_once"][m] for r in mine)] for m in REFITS]
            yield TextTable("", ["refit of the default plan", "at once"], refits)


def items(settings: Settings) -> Iterator[Key]:
    """Seed by seed."""
    for seed in range(settings["seeds"]):
        for name, net in NETS.items():
            for budget, variant in itertools.product(BUDGETS[name], PLANS):
                key = {"net": net.label, "seed": seed, "budget": budget, "variant": variant}
                yield key | {"samples": settings["samples"]}


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Accuracies of one variant."""
    net = next(net for net in NETS.values() if net.label == key["net"])
    given = key["seed"], key["budget"], key["variant"], key["samples"]
    return accuracies(net, *given, settings["epochs"])


EXPERIMENT = Experiment(
    name="choices",
    title="What each choice inside the method is worth",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES, "epochs": 1},
)
