"""Which inputs matter: pixels for a network's first layer, TERC on arrays, scikit-learn.

python select_pixels.py
"""

import numpy as np
import torch

import mipp
from mipp import data, models, retrain


def drawing(mask: np.ndarray) -> str:
    """The kept pixels of an image as text."""
    return "\n".join("".join("#" if kept else "." for kept in row) for row in mask)


def pixels() -> None:
    """Select the pixels of 8x8 digits that the first layer of a small network needs."""
    train, test = data.load("digits", "train"), data.load("digits", "test")
    model = models.build("digits_cnn", seed=0)
    recipe = retrain.Recipe(epochs=5, peak_lr=0.05, batch_size=32)
    retrain.train(model, data.Batches(train, 32, shuffle=True), recipe, progress=False)

    batches = data.calibration(train, 1024)
    x = torch.cat([images for images, _ in batches])
    labels = torch.cat([classes for _, classes in batches])

    # the target is the output of the first layer, as finely as the loss depends on it
    found = mipp.select_features(x, model, keep=0.25)
    print(drawing(found.mask[0]))
    lost = found.nats_lost[-1] / found.total
    print(f"{len(found.kept)} of {found.n_units} pixels carry all nats but {lost:.1%}\n")

    # the others are replaced by their mean; nothing is retrained
    kept = torch.as_tensor(found.mask)
    mean = x.mean(0)
    drawn = torch.rand(kept.shape, generator=torch.Generator().manual_seed(0))
    random = drawn >= drawn.flatten().sort().values[-int(kept.sum())]
    for name, mask in (("all", torch.ones_like(kept)), ("these", kept), ("as many random", random)):
        given = [(torch.where(mask, images, mean), y) for images, y in data.Batches(test, 500)]
        print(f"accuracy on {name} pixels: {retrain.evaluate(model, given).accuracy:.1%}")

    # the same in scikit-learn, here with the labels as target
    selector = mipp.FeatureSelector(n_features_to_select=16, order="greedy")
    few = selector.fit_transform(x.flatten(1).numpy(), labels.numpy())
    print(f"scikit-learn: {x[0].numel()} features to {few.shape[1]}\n")


def redundant_bits() -> None:
    """Select among six bits: three, and three copies of the first. The label: are the three equal?

    No bit alone is informative, which the gaussian estimator cannot detect.
    """
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, size=(600, 3))
    x = np.concatenate([bits, bits[:, [0, 0, 0]]], axis=1).astype(float)
    label = (bits.min(1) == bits.max(1)).astype(int)
    network = mipp.Mlp(hidden=(64, 64), batch_size=64, learning_rate=3e-3)
    for estimator in ("gaussian", network):
        found = mipp.terc(x, label, estimator=estimator)
        name = estimator if isinstance(estimator, str) else estimator.name
        print(f"{name:9} {found.total:.2f} nats, kept {found.kept.tolist()}")


if __name__ == "__main__":
    pixels()
    redundant_bits()
