"""Deformed images: data sets that are harder than the originals, and more redundant.

Every image is deformed once, by its own random draw, which depends on the data set's name, the
split and the image's place in it. Training and test split are deformed in the same way, and a
deformed data set is always the same. The normalisation stays that of the original.

* ``rotated``: rotated about the centre by an angle uniform in [0, 360) degrees, as MNIST-rot of
  Larochelle et al. 2007 ("An empirical evaluation of deep architectures on problems with many
  factors of variation").
* ``background``: every pixel is the larger of itself and a uniform random grey, as their
  MNIST-back-rand.
* ``elastic``: pixels are moved along smooth random fields as in Simard, Steinkraus and Platt 2003
  ("Best practices for convolutional neural networks"): uniform in [-1, 1], smoothed by a Gaussian
  of 4 pixels, times 34.
* ``noisy``: Gaussian noise with a standard deviation of a quarter of white is added, and the sum is
  clipped.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mipp.data.dataset import Dataset
from mipp.errors import InputError

ELASTIC_SMOOTHING, ELASTIC_STRENGTH = 4.0, 34.0
"""Pixels; Simard et al. give both for images of 29 x 29."""
NOISE = 0.25
"""Standard deviation, white is 1."""
CHUNK = 2048
"""Images deformed at a time, which bounds the memory."""

Images = NDArray[np.float32]
"""Shape ``(n_samples, channels, height, width)``, from 0 to 1."""


def names() -> tuple[str, ...]:
    """Names that `deformed` knows."""
    return tuple(_DEFORMATIONS)


def deformed(data: Dataset, name: str) -> Dataset:
    """Deform every image of a data set.

    Raises:
        InputError: for an unknown name; the text lists the known ones.
    """
    if name not in _DEFORMATIONS:
        raise InputError(
            f"deformation {name!r} was given; expected one of {', '.join(_DEFORMATIONS)}."
        )
    generator = np.random.default_rng(zlib.crc32(f"{data.name} {data.split} {name}".encode()))
    images = np.empty_like(data.images)
    for start in range(0, len(data), CHUNK):
        part = data.images[start : start + CHUNK].astype(np.float32) / data.white
        made = _DEFORMATIONS[name](np.asarray(part, np.float32), generator)
        images[start : start + CHUNK] = np.rint(made.clip(0, 1) * data.white).astype(np.uint8)
    return replace(data, images=images)


def _rotated(images: Images, generator: np.random.Generator) -> Images:
    angle = generator.uniform(0, 2 * np.pi, len(images)).astype(np.float32)
    turn = np.zeros((len(images), 2, 3), np.float32)
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 0, 1], turn[:, 1, 0] = -np.sin(angle), np.sin(angle)
    return _sampled(images, F.affine_grid(torch.from_numpy(turn), list(images.shape), False))


def _elastic(images: Images, generator: np.random.Generator) -> Images:
    n_samples, _, height, width = images.shape
    field = generator.uniform(-1, 1, (n_samples, 2, height, width)).astype(np.float32)
    smoothing = (0, 0, ELASTIC_SMOOTHING, ELASTIC_SMOOTHING)
    field = ELASTIC_STRENGTH * scipy.ndimage.gaussian_filter(field, smoothing).astype(np.float32)
    identity = torch.eye(2, 3).expand(n_samples, 2, 3)
    grid = F.affine_grid(identity, list(images.shape), False)
    # a grid goes from -1 to 1 over the image: one pixel is 2 / size
    pixels = torch.tensor([2 / width, 2 / height])
    return _sampled(images, grid + torch.from_numpy(field).permute(0, 2, 3, 1) * pixels)


def _background(images: Images, generator: np.random.Generator) -> Images:
    return np.maximum(images, generator.random(images.shape, dtype=np.float32))


def _noisy(images: Images, generator: np.random.Generator) -> Images:
    return images + NOISE * generator.standard_normal(images.shape, dtype=np.float32)


def _sampled(images: Images, grid: torch.Tensor) -> Images:
    return F.grid_sample(torch.from_numpy(images), grid, align_corners=False).numpy()


_DEFORMATIONS: Mapping[str, Callable[[Images, np.random.Generator], Images]] = MappingProxyType(
    {"rotated": _rotated, "background": _background, "elastic": _elastic, "noisy": _noisy}
)
