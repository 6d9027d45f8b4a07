"""Trained nets that items start from: in the cache, or trained now, once among all processes."""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from torch import nn

from lab.images import train_images
from lab.measurements import Item, NetSpec
from mipp import data, models, retrain, surgery

UNTAGGED = frozenset({("lenet5", 1.0, 5), ("vgg11", 0.25, 14), ("vgg16", 0.25, 14)})
"""Name, width and epochs of the parents of benchmarks/common.py, whose files have no epochs in
their names and are the same nets."""


@dataclass(frozen=True)
class Parent:
    """A trained net, in evaluation mode or not as its building left it.

    ``seconds``: of training it, None where it was in the cache.
    """

    model: nn.Module
    seconds: float | None


def cache() -> Path:
    """The folder of trained nets: in ``$MIPP_CACHE``, else in the user's cache."""
    return Path(os.environ.get("MIPP_CACHE") or platformdirs.user_cache_dir("mipp")) / "parents"


def path_of(item: Item) -> Path:
    """Where the parent of the item lies."""
    net = item.net
    name = net.label.replace("/", "-").replace(":", "-")
    if (net.name, net.width, net.epochs) not in UNTAGGED:
        name += f"-e{net.epochs}"
    if item.deformation is not None:
        name += f"-{item.deformation}"
    if item.fraction is not None:
        name += f"-f{item.fraction:g}"
    if item.imbalance is not None:
        name += f"-i{item.imbalance}"
    return cache() / f"{name}-seed{item.seed}.safetensors"


def item_of(item: Item) -> Item:
    """The item that measures the parent of ``item``; parents that are one net are one item."""
    kept = ("net", "seed", "fraction", "imbalance", "deformation")
    return Item(kind="parent", **{name: getattr(item, name) for name in kept})


def fresh(item: Item) -> nn.Module:
    """The net before any training, on the CPU."""
    images = train_images(item)
    return models.build(
        item.net.name,
        width=item.net.width,
        num_classes=images.num_classes,
        in_channels=images.shape[0],
        seed=item.seed,
    )


def parent(item: Item, device: torch.device) -> Parent:
    """The trained net of the item, on the device."""
    path, model = path_of(item), fresh(item)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = None
    if not path.exists():
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():  # another process may have made it meanwhile
                started = time.perf_counter()
                model.to(device)
                recipe = recipe_of(item.net)
                batches = training_batches(item, recipe, item.seed)
                retrain.train(model, batches, recipe, seed=item.seed, progress=False)
                surgery.save(model.cpu(), path)
                seconds = time.perf_counter() - started
    if seconds is None:
        model = surgery.load(model, path)
    return Parent(model.to(device), seconds)


def recipe_of(net: NetSpec) -> retrain.Recipe:
    """How the net is trained."""
    return dataclasses.replace(retrain.recipe_for(net.name), epochs=net.epochs)


def training_batches(item: Item, recipe: retrain.Recipe, seed: int) -> data.Batches:
    """Shuffled, augmented batches of what there is; one of all images where they are few."""
    images = train_images(item)
    return data.Batches(
        images,
        min(recipe.batch_size, len(images)),
        shuffle=True,
        drop_last=True,
        augment=recipe.augment,
        seed=seed,
    )
