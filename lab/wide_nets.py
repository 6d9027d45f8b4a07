"""Nets at full width on CIFAR: how each is trained within hours of one core, and on what.

    python -m lab.wide_nets resnet20 vgg16    # trains their parents, one after the other

Parents of a few megabytes come with the code, in `lab/trained`, so that what is measured there on
different days is measured on the same net. The others are trained where they are wanted.

The parents learn from the training split without a part for validation, which alone decides what
is tried on it; the test split is looked at once, when a net is reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from lab import parents
from lab.deepened import deepen
from mipp import data, models, retrain, surgery
from mipp.data.dataset import Dataset, balanced_indices
from mipp.models.resnet import ResNet
from mipp.options import Progress

TRAINED = Path(__file__).parent / "trained"
"""Parents that come with the code."""
N_VALIDATION = 2_500
"""Images of the training split that no net learns from and nothing is calibrated on."""


@dataclass(frozen=True)
class WideNet:
    """A net of `mipp.models` and how its parent is trained.

    Attributes:
        name: Of the net.
        data: Of the data set.
        recipe: Of the training.
        small_first: How many epochs have images of which side; those after them have all pixels.
        deepens: The net whose parent it starts as, with blocks between that change nothing.
    """

    name: str
    data: str
    recipe: retrain.Recipe
    small_first: tuple[tuple[int, int], ...] = ()
    deepens: str = ""

    @property
    def label(self) -> str:
        """In records and names of files."""
        return f"{self.name}/{self.data}"


_RECIPE = replace(retrain.recipe_for("vgg16"), label_smoothing=0.1)
_PLAIN = replace(_RECIPE, label_smoothing=0.0)  # small nets do not overfit in so few epochs
NETS = {
    "resnet20": WideNet(
        "resnet20", "cifar10", replace(_PLAIN, epochs=44, peak_lr=0.15), ((14, 16), (22, 24))
    ),
    "resnet56": WideNet(
        "resnet56", "cifar10", replace(_PLAIN, epochs=30, warmup=0.1), ((12, 24),), "resnet20"
    ),
    "vgg16": WideNet("vgg16", "cifar10", replace(_RECIPE, epochs=12)),
    "resnet18": WideNet("resnet18", "cifar10", replace(_RECIPE, epochs=16), ((5, 24),)),
    "vgg19": WideNet("vgg19", "cifar100", replace(_RECIPE, epochs=20)),
}


@lru_cache(maxsize=2)
def splits(name: str) -> tuple[Dataset, Dataset]:
    """The training split in two: what nets learn from, and the part for validation."""
    whole = data.load(name, "train")
    order = balanced_indices(whole.labels, whole.num_classes, len(whole), seed=2026)
    return whole.subset(order[N_VALIDATION:]), whole.subset(order[:N_VALIDATION])


class SmallFirst:
    """Batches whose images have fewer pixels in the first epochs, which costs less.

    Args:
        batches: With all pixels.
        small_first: How many epochs have images of which side.
    """

    def __init__(self, batches: data.Batches, small_first: tuple[tuple[int, int], ...]) -> None:
        self.batches = batches
        self.sides = [side for epochs, side in small_first for _ in range(epochs)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, counted from 0."""
        for x, y in self.batches.epoch(epoch):
            if epoch < len(self.sides):
                yield F.interpolate(x, size=(self.sides[epoch],) * 2, mode="area"), y
            else:
                yield x, y


def training_batches(net: WideNet, recipe: retrain.Recipe, seed: int) -> data.Batches:
    """Shuffled, augmented batches of what nets learn from."""
    learned, _ = splits(net.data)
    return data.Batches(
        learned, recipe.batch_size, shuffle=True, drop_last=True, augment=recipe.augment, seed=seed
    )


def fresh(net: WideNet, seed: int) -> nn.Module:
    """The net before any training."""
    classes = splits(net.data)[0].num_classes
    return models.build(net.name, num_classes=classes, seed=seed)


def untrained(net: WideNet, seed: int) -> nn.Module:
    """What the parent's training starts from."""
    model = fresh(net, seed)
    if not net.deepens:
        return model
    shallow = parent(NETS[net.deepens], seed, progress=False)
    assert isinstance(shallow, ResNet)
    assert isinstance(model, ResNet)
    return deepen(shallow, model)


def path_of(net: WideNet, seed: int) -> Path:
    """Where the parent lies."""
    start = f"-from-{net.deepens}" if net.deepens else ""
    name = f"{net.name}-{net.data}-full-e{net.recipe.epochs}{start}-seed{seed}.safetensors"
    return parents.cache() / name


def parent(net: WideNet, seed: int, progress: Progress | bool | None = None) -> nn.Module:
    """The trained net, with the code, from the cache, or trained now.

    A training that was cut short goes on.
    """
    path, model = path_of(net, seed), fresh(net, seed)
    if (ours := TRAINED / path.name).exists():
        return surgery.load(model, ours).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            return surgery.load(model, path).eval()
        model = untrained(net, seed).train()
        checkpoint = path.with_suffix(".run")
        retrain.train(
            model,
            SmallFirst(training_batches(net, net.recipe, seed), net.small_first),
            net.recipe,
            evaluate_on=data.Batches(splits(net.data)[1], 1250),
            checkpoint=checkpoint,
            seed=seed,
            progress=progress,
        )
        surgery.save(model, path)
        checkpoint.unlink()
    return model.eval()


def test_batches(net: WideNet) -> data.Batches:
    """The test split."""
    return data.Batches(data.load(net.data, "test"), 1000)


def validation_batches(net: WideNet) -> data.Batches:
    """The part of the training split for validation."""
    return data.Batches(splits(net.data)[1], 1250)


def calibration(net: WideNet, samples: int, draw: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 128 of so many images that nets learn from, the same number of every class."""
    return data.calibration(splits(net.data)[0], samples, 128, draw)


if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)  # so that several trainings can share the machine
    for name in sys.argv[1:]:
        parent(NETS[name], 0, progress=True)
