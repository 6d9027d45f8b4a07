"""Batches of normalised images, a function of seed and epoch."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from mipp.data.dataset import Dataset, balanced_indices
from mipp.errors import InputError
from mipp.tracing.guards import mixed_seed

MARGIN = 4
"""Largest shift of an augmented image in pixels, as in He et al. (2016) for CIFAR."""

Batch = tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]


class Batches:
    """Batches ``(x, y)`` of a data set, which can be iterated any number of times.

    ``for x, y in batches`` always gives epoch 0, so that repeated measurements see the same data.
    ``batches.epoch(k)`` gives the order and the augmentation of epoch ``k``, a function of
    ``(seed, k)`` alone. Pixels are stored as bytes and normalised batch by batch.

    Args:
        data: images and labels.
        batch_size: images per batch; the last batch may be smaller.
        shuffle: draw a new order in every epoch.
        seed: of order and augmentation.
        augment: flip left-right, and shift by up to ``MARGIN`` pixels over a black border.
        drop_last: leave out a smaller last batch.

    Raises:
        InputError: if ``data`` is empty or ``batch_size`` is below 1.

    Examples:
        >>> import mipp
        >>> batches = Batches(mipp.data.load("digits"), 64, shuffle=True)
        >>> x, y = next(iter(batches))
        >>> len(batches), tuple(x.shape)
        (23, (64, 1, 8, 8))
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: bool = False,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} was given; expected at least 1.")
        if len(data) < (batch_size if drop_last else 1):
            raise InputError(
                f"{len(data)} images of {data.name} were given with batch_size={batch_size} and "
                f"drop_last={drop_last}; that makes no batch. Give more images or smaller batches."
            )
        self.data = data
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.augment = augment
        self.drop_last = drop_last
        self._pixels = torch.from_numpy(np.ascontiguousarray(data.images))
        self._labels = torch.from_numpy(np.ascontiguousarray(data.labels))
        # (pixel / white - mean) / std as one multiplication and one addition
        std = torch.tensor(data.std).view(-1, 1, 1)
        self._scale = 1 / (data.white * std)
        self._shift = -torch.tensor(data.mean).view(-1, 1, 1) / std
        if augment:
            self._pixels = F.pad(self._pixels, (MARGIN,) * 4)

    def __len__(self) -> int:
        n_samples = len(self.data)
        whole = n_samples // self.batch_size
        return whole if self.drop_last else -(-n_samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        n_samples = len(self.data)
        order = torch.arange(n_samples)
        if self.shuffle:
            order = torch.randperm(n_samples, generator=generator)
        for index in order.split(self.batch_size)[: len(self)]:
            pixels = self._pixels[index]
            if self.augment:
                pixels = flip_and_shift(pixels, generator)
            yield pixels.float() * self._scale + self._shift, self._labels[index]


def flip_and_shift(
    padded: Shaped[Tensor, "n c h_padded w_padded"],
    generator: torch.Generator,
    margin: int = MARGIN,
) -> Shaped[Tensor, "n c h w"]:
    """Crop a window at a random place, smaller by ``margin`` on all sides, and mirror half."""
    n_samples, _, height, width = padded.shape
    height, width = height - 2 * margin, width - 2 * margin
    top, left = torch.randint(2 * margin + 1, (2, n_samples, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    mirrored = torch.rand(n_samples, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    example = torch.arange(n_samples)
    return padded.permute(0, 2, 3, 1)[
        example[:, None, None], rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)


def calibration(
    data: Dataset, n_samples: int = 1024, batch_size: int = 256, seed: int = 0
) -> list[Batch]:
    """Batches of a random subset that is balanced over the classes, without augmentation.

    Args:
        data: usually the training split.
        n_samples: number of images; class counts differ by at most one.
        batch_size: images per batch; the last batch may be smaller.
        seed: of the choice.

    Raises:
        InputError: if ``data`` has fewer images than ``n_samples``.

    Examples:
        >>> import mipp
        >>> batches = calibration(mipp.data.load("digits"), 100, batch_size=40)
        >>> [len(y) for _, y in batches]
        [40, 40, 20]
    """
    chosen = balanced_indices(data.labels, data.num_classes, n_samples, seed)
    return list(Batches(data.subset(chosen), batch_size))
