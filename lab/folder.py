"""Images in one folder per class, such as TinyImageNet or ImageNet, read into memory."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mipp.data.dataset import Dataset
from mipp.errors import FileError, InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pixels, which every such data set is normalised by."""
_SPLITS = {"train": ("train",), "test": ("test", "val")}


def load_folder(root: Path, split: str, size: int) -> Dataset:
    """Load a split of a tree with one folder per class, ``root/train/CLASS/...``.

    Classes are numbered in the order of their folders' names under ``train``. Images are converted
    to RGB, their shorter side is scaled to ``size``, and the central square is taken. All stay in
    memory, three bytes a pixel: TinyImageNet takes 1.2 GB. The layout of TinyImageNet's ``val``,
    one ``images`` folder and ``val_annotations.txt``, is read too. The test split is the first of
    ``test`` and ``val`` that has labels.

    Args:
        root: folder that contains ``train`` and ``test`` or ``val``.
        split: ``train`` or ``test``.
        size: height and width of the images, in pixels.

    Raises:
        InputError: for an unknown split.
        FileError: if there is no such tree, a class is not under ``train``, or a file is no image.
    """
    if split not in _SPLITS:
        raise InputError(f"split {split!r} of {root} was given; expected 'train' or 'test'.")
    classes = _folders(root / "train")
    if not classes:
        raise FileError(
            f"{root / 'train'} has no folders; expected one per class, with images inside. Put the "
            "data there, or name the folder above it by MIPP_DATA."
        )
    number = {name: index for index, name in enumerate(classes)}
    labelled: list[tuple[Path, str]] = []
    for name in _SPLITS[split]:
        labelled = labelled or _labelled(root / name)
    unknown = sorted({label for _, label in labelled} - set(number))
    if not labelled or unknown:
        found = f"classes {', '.join(unknown[:3])} that train/ lacks" if unknown else "no images"
        raise FileError(
            f"{root} has {found} for the {split} split; expected one folder per class under "
            f"{' or '.join(_SPLITS[split])}, named as under train."
        )
    images = np.empty((len(labelled), 3, size, size), np.uint8)
    for index, (path, _) in enumerate(labelled):
        images[index] = _read(path, size)
    labels = np.array([number[label] for _, label in labelled], np.int64)
    return Dataset(root.name, split, images, labels, len(classes), 255, MEAN, STD)


def _labelled(folder: Path) -> list[tuple[Path, str]]:
    annotations = folder / "val_annotations.txt"
    if annotations.is_file():
        rows = [line.split("\t") for line in annotations.read_text().splitlines() if line]
        return [(folder / "images" / row[0], row[1]) for row in rows]
    return [
        (path, name)
        for name in _folders(folder)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def _folders(folder: Path) -> list[str]:
    return (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    """One image, shape ``(3, size, size)``."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - not always there
    except ImportError as error:
        raise FileError(
            "Reading image files needs Pillow, which is not installed: pip install pillow."
        ) from error
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
            return np.asarray(square, np.uint8).transpose(2, 0, 1)
    except (OSError, UnidentifiedImageError) as error:
        raise FileError(
            f"{path} cannot be read as an image: {error}. Replace the file, or delete it."
        ) from error
