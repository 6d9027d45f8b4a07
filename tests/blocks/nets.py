"""Small nets with blocks, and what they are calibrated on."""

from functools import cache

import torch
from torch import nn

from mipp import data, models, retrain


class Residual(nn.Module):
    """Adds to its input what two layers make of it."""

    def __init__(self, width, scale=0.3):
        super().__init__()
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = scale

    def forward(self, x):
        return x + self.scale * self.second(self.first(x).relu())


class Stack(nn.Module):
    """Blocks in a list, in a module that itself looks like a block."""

    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList(Residual(width) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def stacked(depth=4):
    """Six features, blocks inside a stack inside a sequence, and three classes."""
    return nn.Sequential(nn.Linear(6, 8), Stack(8, depth), nn.Linear(8, 3)).eval()


def with_identities(zeroed=(1,), depth=4):
    """The same where some blocks add nothing."""
    net = stacked(depth)
    with torch.no_grad():
        for n in zeroed:
            net[1].layers[n].second.weight.zero_()
            net[1].layers[n].second.bias.zero_()
    return net


class ConvBlock(nn.Sequential):
    """A convolution that is no residual block, and keeps the shape."""

    def __init__(self, channels):
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )


class Plain(nn.Module):
    """Convolutions without any sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.features = nn.Sequential(ConvBlock(6), ConvBlock(6), nn.AvgPool2d(2), ConvBlock(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.features(self.stem(x)).mean((2, 3)))


class Shared(nn.Module):
    """Four blocks in a list, the first two of which have a weight in common.

    With ``alias`` the list, or its last block, has another name, which comes first.
    """

    def __init__(self, alias=""):
        super().__init__()
        layers = nn.ModuleList(Residual(8) for _ in range(4))
        layers[1].first.weight = layers[0].first.weight
        if alias == "list":
            self.same = layers
        if alias == "block":
            self.same = layers[3]
        self.stem, self.layers, self.head = nn.Linear(6, 8), layers, nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def vectors(n=512, batch=64):
    """Batches for `stacked`."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(n, 6, generator=generator).split(batch))


@cache
def trained_resnet():
    """A ResNet-20 of quarter width that has learnt digits for some seconds, and its images."""
    model = models.build("resnet20", width=0.25, in_channels=1, seed=0)
    recipe = retrain.Recipe(epochs=4, peak_lr=0.1, batch_size=32)
    images = data.Batches(data.load("digits"), 32, shuffle=True, seed=0)
    retrain.train(model, images, recipe, progress=False)
    calibration = [x for x, _ in data.calibration(data.load("digits"), 512, 64, 0)]
    return model.eval(), calibration
