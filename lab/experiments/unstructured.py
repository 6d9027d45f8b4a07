"""Single weights pruned at initialisation, beside the published figures.

    python -m lab run unstructured    # VGG11-BN (quarter width) on CIFAR-10

SNIP, GraSP, magnitude and random in one shot, SynFlow in 100 rounds, all weights of convolutions
and the classifier ranked together, as Tanaka et al. 2020 (arXiv 2006.05467) compare them. They
train VGG11-BN for 160 epochs; here it has a quarter of the width (a sixteenth of the weights) and
one epoch, so that it is the order of the methods, and where they break down, that can be compared.
Published: mean of three runs, from the .npy files of the authors' repository
(github.com/ganguli-lab/Synaptic-Flow, commit 9dfa57a).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lab import parents
from lab.experiment import Experiment, Key, Rows, Settings
from lab.experiments.nets import (
    SAMPLES,
    SEEDS,
    VGG11,
    build,
    calibration,
    test_batches,
    train_batches,
)
from lab.tables import TextTable, spread
from mipp import methods, retrain

METHODS = {
    "random": methods.Random(),
    "magnitude": methods.L1(),
    "snip": methods.SNIP(),
    "grasp": methods.GraSP(),
    "synflow": methods.SynFlow(),
}
DENSITIES = (1.0, 0.1, 0.0316, 0.01, 0.0032)
PUBLISHED = {
    "random": (92.0, 88.7, 83.3, 73.7, 48.4),
    "magnitude": (92.0, 90.9, 88.8, 85.2, 14.0),
    "snip": (92.1, 90.2, 88.3, 84.9, 79.2),
    "grasp": (92.0, 89.9, 87.6, 84.3, 77.6),
    "synflow": (92.1, 91.0, 89.9, 86.8, 83.0),
}
EPOCHS = 1


def measure(key: Key, settings: Settings) -> dict[str, Any]:
    """Test accuracy after training what is left, and layers of which nothing is."""
    seed, method, density = key["seed"], key["method"], key["density"]
    model = build(VGG11, seed)
    masks: dict[str, torch.Tensor] = {}
    if density < 1:
        drawn = calibration(VGG11, settings["samples"], seed)
        masks = methods.weight_masks(METHODS[method], model, drawn, density, seed=seed)
    recipe = dataclasses.replace(parents.recipe_of(VGG11), epochs=EPOCHS)
    hold(model, masks)

    def step(optimizer: torch.optim.SGD) -> None:
        optimizer.step()
        hold(model, masks)

    batches = train_batches(VGG11, recipe, seed + 100)
    retrain.train(model, batches, recipe, step=step, seed=seed, progress=False)
    return {
        "accuracy": retrain.evaluate(model, test_batches(VGG11), channels_last="auto").accuracy,
        "weights": sum(int(mask.sum()) for mask in masks.values()),
        "empty": [name for name, mask in masks.items() if not mask.any()],
    }


def hold(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    """Puts what is masked back to zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)


def tables(rows: Rows) -> list[TextTable]:
    """Measured and published accuracy side by side."""
    lines = []
    for method, published in PUBLISHED.items():
        line = [method]
        for density, theirs in zip(DENSITIES, published, strict=True):
            wanted = "random" if density == 1 else method
            mine = [r for r in rows if r["method"] == wanted and r["density"] == density]
            empty = sum(bool(r["empty"]) for r in mine)
            note = f" ({empty} cut)" if empty else ""
            line.append(f"{spread(r['accuracy'] for r in mine)}{note} / {theirs}")
        lines.append(line)
    title = "test accuracy %, here / published; in brackets runs with a layer without weights"
    return [TextTable(title, ["method", *(f"{100 * d:g} %" for d in DENSITIES)], lines)]


def items(settings: Settings) -> Iterator[Key]:
    """Seed by seed; with all weights every method is the same."""
    for seed in range(settings["seeds"]):
        for density in DENSITIES:
            for method in METHODS if density < 1 else ("random",):
                key = {"net": VGG11.label, "seed": seed, "method": method, "density": density}
                yield key | {"epochs": EPOCHS}


EXPERIMENT = Experiment(
    name="unstructured",
    title="Single weights pruned at initialisation, beside the published figures",
    items=items,
    measure=measure,
    tables=tables,
    settings={**SEEDS, **SAMPLES},
    threads=1,
)
