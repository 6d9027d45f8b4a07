"""Trained nets, their batches, and what a plan comes to, as several experiments need them."""

import dataclasses
from typing import Any

import torch
from torch import nn

import mipp
from lab import parents
from lab.images import test_images
from lab.measurements import Item, NetSpec
from mipp import data, retrain

LENET = NetSpec(name="lenet5", data="mnist", epochs=5)
VGG = NetSpec(name="vgg16", data="cifar10", width=0.25, epochs=14)
VGG11 = NetSpec(name="vgg11", data="cifar10", width=0.25, epochs=14)
SEEDS = {"seeds": 3}
"""Setting: how many parents, trained with seeds 0, 1, ..."""
SAMPLES = {"samples": 2560}
"""Setting: how many calibration images there are."""


def item_of(net: NetSpec, seed: int) -> Item:
    """The item that the net's parent of that seed is."""
    return Item(kind="parent", net=net, seed=seed)


def build(net: NetSpec, seed: int) -> nn.Module:
    """An untrained copy."""
    return parents.fresh(item_of(net, seed))


def parent(net: NetSpec, seed: int) -> nn.Module:
    """The trained network of that seed, from the cache or trained now."""
    return parents.parent(item_of(net, seed), torch.device("cpu")).model


def calibration(net: NetSpec, samples: int, seed: int) -> list[Any]:
    """Batches of 256 of so many training images, the same number of every class."""
    return data.calibration(data.load(net.data, "train"), samples, 256, seed)


def train_batches(net: NetSpec, recipe: retrain.Recipe, seed: int) -> data.Batches:
    """Shuffled, augmented training batches as the recipe wants them."""
    return parents.training_batches(item_of(net, seed), recipe, seed)


def test_batches(net: NetSpec) -> data.Batches:
    """The test split."""
    return data.Batches(test_images(item_of(net, 0)), 1000)


def finetune(net: NetSpec, model: nn.Module, epochs: int, seed: int, peak_lr: float) -> None:
    """Retrains a pruned model, the same way for every method."""
    recipe = dataclasses.replace(parents.recipe_of(net), epochs=epochs, peak_lr=peak_lr)
    retrain.train(model, train_batches(net, recipe, seed + 100), recipe, seed=seed, progress=False)


def outcomes(
    net: NetSpec, plan: "mipp.Plan[nn.Module]", seed: int, epochs: int, peak_lr: float
) -> dict[str, float]:
    """Test accuracy of a plan: weights as they are, refitted, and retrained from as they are."""
    test = test_batches(net)
    bare = plan.apply(refit=False)
    found = {"none": retrain.evaluate(bare, test).accuracy}
    found["refit"] = retrain.evaluate(plan.apply(refit=True), test).accuracy
    if epochs:
        finetune(net, bare, epochs, seed, peak_lr)
        found["retrained"] = retrain.evaluate(bare, test).accuracy
    return found
