"""A data set in memory, and balanced parts of it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mipp.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split.

    Attributes:
        name: of the data set.
        split: ``train`` or ``test``.
        images: uint8, shape ``(n_samples, channels, height, width)``, from 0 to ``white``.
        labels: int64, shape ``(n_samples,)``, from 0 to ``num_classes - 1``.
        num_classes: number of classes.
        white: value of a white pixel.
        mean: one number per channel, of the *training* split, where white is 1.
        std: same.

    Raises:
        InputError: if images and labels differ in number, or a label is out of range.

    Examples:
        >>> import mipp
        >>> test = mipp.data.load("digits", "test")
        >>> test.shape, test.num_classes
        ((1, 8, 8), 10)
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int
    white: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise InputError(
                f"images of shape {self.images.shape} and labels of shape {self.labels.shape} were "
                "given; expected (n, channels, height, width) and (n,)."
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < self.num_classes:
            raise InputError(
                f"labels from {self.labels.min()} to {self.labels.max()} were given; expected "
                f"0 to {self.num_classes - 1}. Check num_classes={self.num_classes}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(channels, height, width)`` of one image."""
        return self.images.shape[1:]

    def subset(self, indices: NDArray[np.int64]) -> "Dataset":
        """The images at ``indices``, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


def balanced_indices(
    labels: NDArray[np.int64], num_classes: int, n_samples: int, seed: int
) -> NDArray[np.int64]:
    """Draw ``n_samples`` different indices, in random order and evenly over the classes.

    Class counts differ by at most one, unless a class has too few examples: others then fill up.

    Raises:
        InputError: if ``n_samples`` is below 1 or above the number of labels.
    """
    if not 1 <= n_samples <= len(labels):
        raise InputError(
            f"n_samples={n_samples} was given; expected 1 to {len(labels)}, "
            "which is what this data set has."
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    # rank of each example among those of its class; taking all of rank 0, then 1, ... is balanced
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(num_classes):
        mine = order[labels[order] == label]
        rank[mine] = np.arange(len(mine))
    by_rank = order[np.argsort(rank[order], kind="stable")]
    return generator.permutation(by_rank[:n_samples])
