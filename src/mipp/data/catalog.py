"""Published data sets by name."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mipp.data.dataset import Dataset
from mipp.data.published_files import Download, data_root, ensure, read_cifar, read_idx
from mipp.errors import InputError

_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Source:
    """A data set as it was published.

    Attributes:
        name: what `load` knows it by.
        folder: relative to the data root.
        layout: file format.
        parts: for each split, the files to read in order, and how many images each one has. MNIST's
            files are pairs of images and labels.
        downloads: where the files come from.
        num_classes: number of classes.
        mean: of the training pixels, per channel, where white is 1.
        std: same.
    """

    name: str
    folder: str
    layout: Literal["idx", "cifar10", "cifar100"]
    parts: Mapping[str, tuple[tuple[str, ...], int]]
    downloads: tuple[Download, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_BATCHES = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "mnist": Source(
            name="mnist",
            folder="MNIST/raw",
            layout="idx",
            parts=MappingProxyType({"train": (("train",), 60_000), "test": (("t10k",), 10_000)}),
            downloads=(
                Download(f"{_MNIST}train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                Download(f"{_MNIST}train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
                Download(f"{_MNIST}t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
                Download(f"{_MNIST}t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
            ),
            num_classes=10,
            mean=(0.1307,),
            std=(0.3081,),
        ),
        "cifar10": Source(
            name="cifar10",
            folder="cifar-10-batches-bin",
            layout="cifar10",
            parts=MappingProxyType(
                {"train": (_BATCHES, 10_000), "test": (("test_batch.bin",), 10_000)}
            ),
            downloads=(
                Download(
                    f"{_CIFAR}cifar-10-binary.tar.gz",
                    "c32a1d4ab5d03f1284b67883e8d87530",
                    (*_BATCHES, "test_batch.bin"),
                ),
            ),
            num_classes=10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
        ),
        "cifar100": Source(
            name="cifar100",
            folder="cifar-100-binary",
            layout="cifar100",
            parts=MappingProxyType(
                {"train": (("train.bin",), 50_000), "test": (("test.bin",), 10_000)}
            ),
            downloads=(
                Download(
                    f"{_CIFAR}cifar-100-binary.tar.gz",
                    "03b5dce01913d631647c71ecec9e9cb8",
                    ("train.bin", "test.bin"),
                ),
            ),
            num_classes=100,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
        ),
    }
)


def names() -> tuple[str, ...]:
    """Names that `load` knows; ``digits`` comes with scikit-learn, the others are downloaded.

    Examples:
        >>> names()
        ('digits', 'mnist', 'cifar10', 'cifar100')
    """
    return ("digits", *_SOURCES)


def load(
    name: str = "digits",
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load one split of a data set; its publisher's files are downloaded if they are missing.

    Args:
        name: one of `names`.
        split: ``train`` or ``test``, as published. For digits, every fifth image is a test image.
        root: folder that contains ``MNIST/raw``, ``cifar-10-batches-bin`` or ``cifar-100-binary``;
            by default the environment variable ``MIPP_DATA``, or else the user's cache.

    Raises:
        InputError: for an unknown name or split.
        FileError: if files are damaged, or missing and cannot be downloaded.

    Examples:
        >>> digits = load("digits", "test")
        >>> len(digits), digits.shape, digits.num_classes
        (359, (1, 8, 8), 10)
    """
    if name not in names():
        raise InputError(f"data set {name!r} was given; expected one of {', '.join(names())}.")
    if split not in ("train", "test"):
        raise InputError(f"split {split!r} of {name} was given; expected 'train' or 'test'.")
    if name == "digits":
        return _digits(split)
    source = _SOURCES[name]
    folder = data_root(root) / source.folder
    ensure(folder, source.downloads)
    return read_split(source, split, folder)


def read_split(source: Source, split: str, folder: Path) -> Dataset:
    """Read one split of ``source`` from the files in ``folder``.

    Raises:
        FileError: if a file is missing, truncated or not of the published shape.
    """
    files, n_each = source.parts[split]
    parts = [_read_part(source, folder, file, n_each) for file in files]
    return Dataset(
        name=source.name,
        split=split,
        images=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
        num_classes=source.num_classes,
        white=255,
        mean=source.mean,
        std=source.std,
    )


def _read_part(
    source: Source, folder: Path, file: str, n_samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if source.layout == "idx":
        images = read_idx(folder / f"{file}-images-idx3-ubyte.gz", (n_samples, 28, 28))
        labels = read_idx(folder / f"{file}-labels-idx1-ubyte.gz", (n_samples,))
        return images[:, None], labels.astype(np.int64)
    label_bytes = 2 if source.layout == "cifar100" else 1
    return read_cifar(folder / file, n_samples, label_bytes)


def _digits(split: str) -> Dataset:
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second to import

    digits = load_digits()
    is_test = np.arange(len(digits.target)) % 5 == 4
    mine = is_test if split == "test" else ~is_test
    return Dataset(
        name="digits",
        split=split,
        images=digits.images[mine].astype(np.uint8)[:, None],
        labels=digits.target[mine].astype(np.int64),
        num_classes=10,
        white=16,
        mean=(0.3058,),
        std=(0.3764,),
    )
