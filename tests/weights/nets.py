"""Small nets with every kind of layer that has weights, and batches for them."""

import torch
from torch import nn


class Mixed(nn.Module):
    """Convolutions: plain, in two groups, depthwise, transposed; a BatchNorm, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.up = nn.ConvTranspose2d(12, 4, 2, stride=2)
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.norm(self.grouped(x)).relu()
        x = self.depthwise(x).relu()
        return self.head(self.up(x).relu().flatten(1))


class Tied(nn.Module):
    """Two layers with one weight, and a table of an embedding that is also a last layer."""

    def __init__(self, embedded=False):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.table = nn.Embedding(6, 8) if embedded else None
        self.head = nn.Linear(8, 6)
        if embedded:
            self.head.weight = self.table.weight

    def forward(self, x):
        x = self.table(x) if self.table is not None else x
        return self.head(self.second(self.first(x).relu()).relu())


def images(n=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, 4, 4, generator=generator)
    # neighbouring channels have something in common, so that some weights are spared easily
    return list((x + 2 * x.roll(1, 1)).split(64))


def mlp(seed=0, d=16, hidden=12, classes=4, double=False):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return (net.double() if double else net).eval()


def vectors(n=512, d=16, seed=0, double=False):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator) / d**0.5
    x = torch.randn(n, d, generator=generator) @ (mixing + torch.eye(d))
    return [(x.double() if double else x) + 0.5]
