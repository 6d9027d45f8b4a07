"""Made pictures of handwritten digits in noise, with the class of every pixel, and a U-Net.

A scene has three to six MNIST digits of the same split at random places; later ones lie on top.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mipp import data

SIDE, DIGIT = 64, 28
N_CLASSES = 11
"""The background is class 0, digit d is class d + 1."""
INK = 0.3
"""Brightness from which a pixel belongs to its digit."""
NOISE = 0.3
"""Standard deviation of what is added to every pixel, where ink is 1."""


@cache
def scenes(split: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures ``(n, 1, 64, 64)`` and classes ``(n, 64, 64)``, from the seed alone."""
    digits = data.load("mnist", split)
    generator = torch.Generator().manual_seed(seed)
    images, classes = torch.zeros(n, 1, SIDE, SIDE), torch.zeros(n, SIDE, SIDE, dtype=torch.int64)
    for scene in range(n):
        for _ in range(int(torch.randint(3, 7, (), generator=generator))):
            which = int(torch.randint(len(digits), (), generator=generator))
            top, left = torch.randint(SIDE - DIGIT + 1, (2,), generator=generator).tolist()
            place = slice(top, top + DIGIT), slice(left, left + DIGIT)
            ink = torch.from_numpy(digits.images[which, 0]).float() / digits.white
            on = ink > INK
            images[scene, 0][place][on] = ink[on]
            classes[scene][place][on] = int(digits.labels[which]) + 1
    images += NOISE * torch.randn(images.shape, generator=generator)
    return images, classes


class _Twice(nn.Sequential):
    """Two 3x3 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger, Fischer and Brox 2015) with BatchNorm and padded convolutions.

    Args:
        base: Channels at full resolution; every halving of it has twice as many.
        depth: How often the resolution is halved.
    """

    def __init__(self, base: int = 16, depth: int = 3) -> None:
        super().__init__()
        channels = [base * 2**level for level in range(depth + 1)]
        sizes = zip([1, *channels[:-1]], channels, strict=True)
        self.down = nn.ModuleList(_Twice(*pair) for pair in sizes)
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.wider = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_Twice(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(base, N_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes, h, w)``; sides must be multiples of ``2 ** depth``."""
        seen = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            seen.append(x)
        for wider, block, beside in zip(self.wider, self.up, seen[-2::-1], strict=True):
            x = block(torch.cat([wider(x), beside], 1))
        return self.head(x)


def dice(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Mean over the ten digits of 2 |A and B| / (|A| + |B|), over the pixels of all scenes."""
    both, either = torch.zeros(N_CLASSES), torch.zeros(N_CLASSES)
    model.eval()
    with torch.no_grad():
        for x, y in zip(images.split(50), classes.split(50), strict=True):
            found = model(x).argmax(1)
            right = found[found == y]
            both += torch.bincount(right, minlength=N_CLASSES)
            either += torch.bincount(found.flatten(), minlength=N_CLASSES)
            either += torch.bincount(y.flatten(), minlength=N_CLASSES)
    return float((2 * both / either.clamp(min=1))[1:].mean())
