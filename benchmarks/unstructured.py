"""Single weights pruned at initialisation, beside the published figures.

    python benchmarks/unstructured.py            # VGG11-BN (quarter width) / CIFAR-10
    python benchmarks/unstructured.py --show     # the table of what is recorded

SNIP, GraSP, magnitude and random in one shot, SynFlow in 100 rounds, all weights of convolutions
and the classifier ranked together, as Tanaka et al. 2020 (arXiv 2006.05467) compare them. They
train VGG11-BN for 160 epochs; here it has a quarter of the width (a sixteenth of the weights) and
one epoch, so that it is the order of the methods, and where they break down, that can be compared.
Published: mean of three runs, from the .npy files of the authors' repository
(github.com/ganguli-lab/Synaptic-Flow, commit 9dfa57a).
"""

import dataclasses
from functools import partial
from typing import Any

import torch
from common import VGG11, Records, arguments, spread, table, test_batches, train_batches
from torch import nn

from mipp import data, methods, retrain

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


def measure(seed: int, method: str, density: float, samples: int) -> dict[str, Any]:
    """Test accuracy after training what is left, and layers of which nothing is."""
    model = VGG11.build(seed)
    masks: dict[str, torch.Tensor] = {}
    if density < 1:
        drawn = data.calibration(data.load(VGG11.data, "train"), samples, 256, seed)
        masks = methods.weight_masks(METHODS[method], model, drawn, density, seed=seed)
    recipe = dataclasses.replace(VGG11.recipe(), epochs=EPOCHS)
    hold(model, masks)

    def step(optimizer: torch.optim.SGD) -> None:
        optimizer.step()
        hold(model, masks)

    batches = train_batches(VGG11, recipe, seed + 100)
    retrain.train(model, batches, recipe, step=step, seed=seed, progress=False)
    return {
        "accuracy": retrain.evaluate(model, test_batches(VGG11), channels_last=True).accuracy,
        "weights": sum(int(mask.sum()) for mask in masks.values()),
        "empty": [name for name, mask in masks.items() if not mask.any()],
    }


def hold(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    """Puts what is masked back to zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)


def show(records: Records) -> None:
    """Measured and published accuracy side by side."""
    lines = []
    for method, published in PUBLISHED.items():
        line = [method]
        for density, theirs in zip(DENSITIES, published, strict=True):
            wanted = "random" if density == 1 else method
            mine = [r for r in records.rows if r["method"] == wanted and r["density"] == density]
            empty = sum(bool(r["empty"]) for r in mine)
            note = f" ({empty} cut)" if empty else ""
            line.append(f"{spread(r['accuracy'] for r in mine)}{note} / {theirs}")
        lines.append(line)
    print("\ntest accuracy %, here / published; in brackets runs with a layer without weights\n")
    print(table(["method", *(f"{100 * d:g} %" for d in DENSITIES)], lines))


def main() -> None:
    """Measures what is missing, then prints the table."""
    options = arguments(__doc__ or "").parse_args()
    records = Records("unstructured")
    if not options.show:
        torch.set_num_threads(1)
        for seed in range(options.first_seed, options.seeds):
            for density in DENSITIES:
                for method in METHODS if density < 1 else ("random",):
                    key = {"net": VGG11.label, "seed": seed, "method": method, "density": density}
                    key |= {"epochs": EPOCHS}
                    work = partial(measure, seed, method, density, options.samples)
                    records.measure(key, work)
    show(records)


if __name__ == "__main__":
    main()
