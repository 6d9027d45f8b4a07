"""Whether the information that a choice of units keeps predicts the accuracy it reaches.

    python -m lab run kept_information    # LeNet5 on MNIST, three seeds

Eight choices of units in the same widths, by several methods. Each estimator then measures, on
other images, the share of nats that is kept between each pair of adjacent layers; the table has the
mean over layers, next to the accuracy at once, after the refit, and after retraining. Correlations
(Spearman) are over all choices of one width and seed, then averaged: what is kept falls with the
width, and so does accuracy, which says nothing about the estimate.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from torch import nn

import mipp
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import LENET, SEEDS, outcomes, parent
from lab.tables import TextTable, spread
from mipp import data

SHARES = ("units=50%", "units=20%", "units=10%")
CHOICES: dict[str, dict[str, Any]] = {
    "mipp": {},
    "mipp, relative noise": {"noise": 0.1},
    "mipp, ordered": {"order": "ordered"},
    "taylor": {"method": "taylor"},
    "l2": {"method": "l2"},
    **{f"random {n}": {"method": "random", "seed": 100 + n} for n in range(3)},
}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "gaussian, fisher": {"estimator": "gaussian"},
    "gaussian, relative": {"estimator": "gaussian", "noise": 0.1},
    "masked": {"estimator": "masked"},
    "mlp": {"estimator": "mlp"},
}
MEASURED = {"mlp": ("units=20%",)}
ASKED = {"mlp": 1}
"""Widths and number of seeds that an estimator is asked about, where not all: `mlp` trains networks
for every choice."""

ENDS = ("none", "refit", "retrained")
EPOCHS, RATE = 1, 0.05


def measure(key: Key, _settings: Settings) -> dict[str, Any]:
    """All choices at every width: accuracies, and nats kept by each estimator."""
    net, seed = LENET, key["seed"]
    model = parent(net, seed)
    train = data.load(net.data, "train")
    calibration = data.calibration(train, 2560, 256, seed)
    fresh = data.calibration(train, 5120, 256, 500 + seed)
    plans: dict[tuple[str, str], mipp.Plan[nn.Module]] = {}
    for choice, settings in CHOICES.items():
        options = {"seed": seed, "allocation": "uniform"} | settings
        made = mipp.plans(model, calibration, SHARES, **options)
        plans |= {(choice, budget): plan for budget, plan in zip(SHARES, made, strict=True)}
    found: dict[str, Any] = {budget: {choice: {} for choice in CHOICES} for budget in SHARES}
    for name, wanted in ESTIMATORS.items():
        if seed >= ASKED.get(name, seed + 1):
            continue
        mine = {key: plan for key, plan in plans.items() if key[1] in MEASURED.get(name, SHARES)}
        every = mipp.information_kept(model, fresh, list(mine.values()), seed=seed, **wanted)
        for (choice, budget), kept in zip(mine, every, strict=True):
            nats = found[budget][choice].setdefault("nats", {})
            nats[name] = {k.consumer: (k.before, k.after) for k in kept}
    for (choice, budget), plan in plans.items():
        found[budget][choice]["accuracy"] = outcomes(net, plan, seed, EPOCHS, RATE)
    return {"found": found}


def share(nats: Mapping[str, Sequence[float]]) -> float:
    """Mean over pairs of layers of the share of nats kept."""
    return statistics.mean(after / before for before, after in nats.values())


def tables(rows: Rows) -> Iterator[TextTable]:
    """What each choice keeps and reaches, and how the two go together."""
    names = list(ESTIMATORS)
    for budget in SHARES:
        lines = []
        for choice in CHOICES:
            mine = [r["found"][budget][choice] for r in rows]
            lines.append(
                [
                    choice,
                    *(spread(share(r["nats"][n]) for r in mine if n in r["nats"]) for n in names),
                    *(spread(r["accuracy"][end] for r in mine) for end in ENDS),
                ]
            )
        title = f"{LENET.label}, {budget}: percent of the nats kept, and accuracy in percent"
        yield TextTable(title, ["choice", *names, *ENDS], lines)
    lines = []
    for name in names:
        for end in ENDS:
            found = [correlations(rows, b, name, end) for b in SHARES]
            lines.append([name, end, *(spread(f, 1, 2) for f in found)])
    title = "Spearman correlation of nats kept and accuracy, over the choices of one width"
    yield TextTable(title, ["estimator", "accuracy", *SHARES], lines)


def correlations(rows: Rows, budget: str, name: str, end: str) -> list[float]:
    """One rank correlation for each seed."""
    found = []
    for record in rows:
        choices = [row for row in record["found"][budget].values() if name in row["nats"]]
        kept = [share(row["nats"][name]) for row in choices]
        reached = [row["accuracy"][end] for row in choices]
        if len(choices) > 2 and np.ptp(reached) > 0 and np.ptp(kept) > 0:
            found.append(float(stats.spearmanr(kept, reached).statistic))
    return found


def items(settings: Settings) -> Iterator[Key]:
    """One for each seed."""
    for seed in range(settings["seeds"]):
        yield {"net": LENET.label, "seed": seed, "choices": len(CHOICES)}


EXPERIMENT = Experiment(
    name="kept_information",
    title="Whether the information that is kept predicts the accuracy",
    items=items,
    measure=measure,
    tables=tables,
    settings=SEEDS,
)
