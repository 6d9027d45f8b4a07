"""The images that an item learns from and is tested on."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lab import deform
from lab.folder import load_folder
from lab.measurements import Item
from lab.suite import FOLDER
from mipp import data
from mipp.data import Dataset
from mipp.data.dataset import balanced_indices
from mipp.data.published_files import data_root


def test_images(item: Item) -> Dataset:
    """The test split, deformed where the item says so."""
    return _split(item.net.data, "test", item.deformation)


def train_images(item: Item) -> Dataset:
    """The training split, or the part of it that there is."""
    whole = _split(item.net.data, "train", item.deformation)
    if item.imbalance is not None:
        whole = whole.subset(long_tail(whole.labels, whole.num_classes, item.imbalance, item.seed))
    if item.fraction is not None:
        n_samples = max(1, round(item.fraction * len(whole)))
        chosen = balanced_indices(whole.labels, whole.num_classes, n_samples, item.seed)
        whole = whole.subset(np.sort(chosen))
    return whole


def long_tail(
    labels: NDArray[np.int64], num_classes: int, ratio: int, seed: int
) -> NDArray[np.int64]:
    """Indices that leave class c of C a share of ``ratio ** (-c / (C - 1))`` of its images.

    The first class stays whole and the last has one image of ``ratio``, at least one: the profile
    of Cui et al. 2019 ("Class-balanced loss based on effective number of samples").
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in range(num_classes):
        mine = np.flatnonzero(labels == label)
        share = ratio ** (-label / max(num_classes - 1, 1))
        n_samples = max(1, round(share * len(mine)))
        chosen.append(generator.permutation(mine)[:n_samples])
    return np.sort(np.concatenate(chosen))


def balanced_accuracy(model: nn.Module, images: Dataset) -> float:
    """Mean over the classes of the share of right answers, over the classes that there are."""
    right, number = np.zeros(images.num_classes), np.zeros(images.num_classes)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for x, y in data.Batches(images, 1000):
                answers = model(x.to(device)).argmax(1).cpu()
                right += np.bincount(y[answers == y], minlength=images.num_classes)
                number += np.bincount(y, minlength=images.num_classes)
    finally:
        model.train(training)
    return float((right[number > 0] / number[number > 0]).mean())


@lru_cache(maxsize=4)
def _split(name: str, split: str, deformation: str | None) -> Dataset:
    folder = FOLDER.fullmatch(name)
    if folder is None:
        found = data.load(name, split)
    else:
        found = load_folder(data_root(None) / folder["name"], split, int(folder["size"]))
    return found if deformation is None else deform.deformed(found, deformation)
