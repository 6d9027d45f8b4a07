"""Images in folders, one folder for each class, as torchvision's ``ImageFolder`` reads them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mipp.cli.file_rows import Read
from mipp.cli.model_names import IMAGENET
from mipp.cli.own_code import package, read_shape, said
from mipp.errors import FileError, InputError

if TYPE_CHECKING:
    from mipp.cli.model_names import Network

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TRAINING, HELD_OUT = ("train", "training"), ("val", "valid", "validation", "test")
BATCH = 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, from 0 to 1: what models trained on it expect."""
GREY = 0.5


class Images(Dataset[Any]):
    """Pairs of an image, as a tensor, and its class; files are decoded when they are used.

    Args:
        files: the images and the indices of their classes.
        tensor: makes the tensor of an image.
        mode: of pillow: RGB, or L for one channel.
    """

    def __init__(
        self, files: Sequence[tuple[Path, int]], tensor: Callable[[Any], Tensor], mode: str
    ) -> None:
        self.files, self.tensor, self.mode = files, tensor, mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as image:
                return self.tensor(image.convert(self.mode)), label
        except (OSError, ValueError) as error:
            raise FileError(
                f"the image {path} cannot be read: {said(error)}. Replace or remove it."
            ) from error


def read_images(folder: Path, name: str, network: "Network", shape: str | None) -> Read:
    """The images of a folder: of one for each class, or of such folders in ``train`` and ``val``.

    Raises:
        FileError: there are no images in it.
        InputError: pillow is not installed, or the shape is none of an image.
    """
    package("PIL", f"--data {name}", install="pillow")
    sizes = network.input_shape or IMAGENET if shape is None else read_shape(shape)
    if len(sizes) != 3 or sizes[0] not in (1, 3):
        raise InputError(
            f"--data {name}: images have a shape of (1 or 3, height, width), and this is {sizes}. "
            "Give it, such as --input 3,224,224."
        )
    made = network.preprocess() if network.preprocess is not None and shape is None else None
    tensor = made or (lambda image: as_tensor(image, sizes[1], sizes[2]))
    mode = "RGB" if sizes[0] == 3 else "L"
    parts = [_inside(folder, names) for names in (TRAINING, HELD_OUT)]
    if all(parts):
        classes = _class_names(parts[0], name)  # type: ignore[arg-type]
        training, held_out = (Images(_files(p, classes, name), tensor, mode) for p in parts if p)
        return Read(training, held_out, BATCH, len(classes), sizes[0])
    classes = _class_names(folder, name)
    images = Images(_files(folder, classes, name), tensor, mode)
    return Read(images, None, BATCH, len(classes), sizes[0])


def as_tensor(image: Any, height: int, width: int) -> Tensor:
    """An image as a tensor: the largest part of the right proportions, resized and standardised.

    Args:
        image: of pillow, RGB or grey.
        height: of the result.
        width: same.

    Returns:
        Shape ``(channels, height, width)``: values from 0 to 1, less ImageNet's mean and divided
        by its deviation; grey ones less 0.5 and divided by 0.5.
    """
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(fitted, dtype=np.float32) / 255)
    if pixels.dim() == 2:
        return (pixels[None] - GREY) / GREY
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1).contiguous()


def _inside(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _class_names(folder: Path, name: str) -> list[str]:
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not found:
        raise FileError(
            f"--data {name}: there are no folders in {folder}; expected one for each class, with "
            "its images, or train and val with such folders."
        )
    return found


def _files(folder: Path, classes: Sequence[str], name: str) -> list[tuple[Path, int]]:
    if unknown := set(_class_names(folder, name)) - set(classes):
        raise FileError(
            f"--data {name}: {folder} has {', '.join(sorted(unknown))}, which the other part has "
            "not; expected the same classes in both."
        )
    found = [
        (path, label)
        for label, each in enumerate(classes)
        for path in sorted((folder / each).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise FileError(
            f"--data {name}: there are no images in the folders of {folder}; expected files that "
            f"end in {', '.join(SUFFIXES)}."
        )
    return found
