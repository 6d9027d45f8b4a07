"""Small models with channel graphs written by hand: surgery is tested without the graph stage."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mipp.records import Axis, AxisKey, ChannelGraph, Consumer, Group


@dataclass(frozen=True)
class Case:
    """A model, its graph, an example input and a mask for each group."""

    model: nn.Module
    graph: ChannelGraph
    inputs: tuple[torch.Tensor, ...]
    keep: dict[int, np.ndarray]


def axis(name, dim, group, units, repeats=1, *, tiles=1):
    unit = np.tile(np.repeat(np.arange(units), repeats), tiles)
    return Axis(AxisKey(name, dim), np.full(len(unit), group), unit)


def consumer(name, kind="linear", *, bias=True, in_dim=1, weight=None):
    weight = weight or f"{name}.weight"
    bias = f"{name}.bias" if bias is True else bias
    return Consumer(name, kind, weight, bias or None, 0, in_dim, 1 - in_dim, 1, norm_after=False)


def graph(groups, axes, consumers, aliases=None):
    """``groups``: (name, n_units, producing tensor, its dimension)."""
    found = {one.key: one for one in axes}

    def readers(index):
        sources = [found.get(one.in_axis) for one in consumers]
        return tuple(i for i, one in enumerate(sources) if one and (one.group == index).any())

    return ChannelGraph(
        groups=tuple(
            Group(index, name, n_units, (AxisKey(tensor, dim),), readers(index))
            for index, (name, n_units, tensor, dim) in enumerate(groups)
        ),
        consumers=tuple(consumers),
        axes=found,
        macs=(),
        shapes={},
        refused=(),
        aliases=aliases or {},
    )


def every_second(graph):
    return {one.index: np.arange(one.n_units) % 2 == 0 for one in graph.groups}


def norm_axes(name, group, units, repeats=1, *, stats=True):
    names = ["weight", "bias"] + (["running_mean", "running_var"] if stats else [])
    return [axis(f"{name}.{one}", 0, group, units, repeats) for one in names]


def random_norms(model):
    """Give norms other values than ones and zeros, so that a wrong index is seen."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def lenet():
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 6, 3, padding=1))
    model.add_module("bn", nn.BatchNorm2d(6))
    model.add_module("relu1", nn.ReLU())
    model.add_module("pool1", nn.MaxPool2d(2))
    model.add_module("conv2", nn.Conv2d(6, 8, 3, padding=1))
    model.add_module("sigmoid", nn.Sigmoid())
    model.add_module("pool2", nn.MaxPool2d(2))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc1", nn.Linear(8 * 2 * 2, 10))
    model.add_module("relu3", nn.ReLU())
    model.add_module("fc2", nn.Linear(10, 3))
    channels = graph(
        [
            ("fc1", 10, "fc1.weight", 0),
            ("conv2", 8, "conv2.weight", 0),
            ("conv1", 6, "conv1.weight", 0),
        ],
        [
            axis("fc2.weight", 1, 0, 10),
            axis("fc1.weight", 0, 0, 10),
            axis("fc1.bias", 0, 0, 10),
            axis("fc1.weight", 1, 1, 8, repeats=4),
            axis("conv2.weight", 0, 1, 8),
            axis("conv2.bias", 0, 1, 8),
            axis("conv2.weight", 1, 2, 6),
            *norm_axes("bn", 2, 6),
            axis("conv1.weight", 0, 2, 6),
            axis("conv1.bias", 0, 2, 6),
        ],
        [consumer("fc2"), consumer("fc1"), consumer("conv2", "conv"), consumer("conv1", "conv")],
    )
    return Case(random_norms(model), channels, (torch.randn(4, 1, 8, 8),), every_second(channels))


class Mixed(nn.Module):
    """A residual add, a depthwise and a transposed convolution, a GroupNorm, a PReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.gn = nn.GroupNorm(3, 6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.prelu = nn.PReLU(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = x + self.inner(x)
        x = self.gn(self.depthwise(x))
        return self.head(self.prelu(self.up(x)).mean((2, 3)))


def mixed():
    channels = graph(
        [("up", 4, "up.weight", 1), ("stem", 3, "stem.weight", 0)],
        [
            axis("head.weight", 1, 0, 4),
            axis("prelu.weight", 0, 0, 4),
            axis("up.weight", 1, 0, 4),
            axis("up.bias", 0, 0, 4),
            # a unit is a whole group of the GroupNorm: two channels
            axis("up.weight", 0, 1, 3, repeats=2),
            *norm_axes("gn", 1, 3, 2, stats=False),
            axis("depthwise.weight", 0, 1, 3, 2),
            axis("depthwise.bias", 0, 1, 3, 2),
            axis("inner.weight", 0, 1, 3, 2),
            axis("inner.bias", 0, 1, 3, 2),
            axis("inner.weight", 1, 1, 3, 2),
            *norm_axes("bn", 1, 3, 2),
            axis("stem.weight", 0, 1, 3, 2),
        ],
        [
            consumer("head"),
            consumer("up", "conv_transpose", in_dim=0),
            consumer("inner", "conv"),
            consumer("depthwise", "conv"),
            consumer("stem", "conv", bias=False),
        ],
    )
    return Case(random_norms(Mixed()), channels, (torch.randn(4, 3, 6, 6),), every_second(channels))


class Tied(nn.Module):
    """An embedding whose weight is also the classifier's."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.classify = nn.Linear(6, 11, bias=False)
        self.classify.weight = self.tokens.weight

    def forward(self, x):
        return self.classify(torch.sigmoid(self.tokens(x)))


def tied():
    channels = graph(
        [("tokens", 6, "tokens.weight", 1)],
        [axis("tokens.weight", 1, 0, 6)],
        [consumer("classify", bias=False, weight="tokens.weight")],
        aliases={"classify.weight": "tokens.weight"},
    )
    return Case(Tied().eval(), channels, (torch.randint(11, (4, 5)),), every_second(channels))


class Bare(nn.Module):
    """Parameters that belong to no layer; one is divided by, so it must never be zeroed."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 5))
        self.shift = nn.Parameter(torch.randn(6))
        self.divisor = nn.Parameter(torch.rand(6) + 0.5)
        self.last = nn.Parameter(torch.randn(2, 6))
        self.register_buffer("mean", torch.randn(6), persistent=False)

    def forward(self, x):
        x = F.linear(x, self.first, self.shift)
        return F.linear((x - self.mean) / self.divisor, self.last)


def bare():
    channels = graph(
        [("first", 6, "first", 0)],
        [
            axis("first", 0, 0, 6),
            axis("shift", 0, 0, 6),
            axis("divisor", 0, 0, 6),
            axis("mean", 0, 0, 6),
            axis("last", 1, 0, 6),
        ],
        [
            consumer("last", bias=False, weight="last"),
            consumer("first", bias="shift", weight="first"),
        ],
    )
    return Case(Bare().eval(), channels, (torch.randn(4, 5),), every_second(channels))


class Recurrent(nn.Module):
    """The hidden units of an LSTM: four gates, one after another, in every weight."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def recurrent():
    gates = [axis(f"lstm.{one}_l0", 0, 0, 5, tiles=4)
             for one in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
    channels = graph(
        [("lstm", 5, "lstm.weight_ih_l0", 0)],
        [*gates, axis("lstm.weight_hh_l0", 1, 0, 5), axis("head.weight", 1, 0, 5)],
        [consumer("head")],
    )
    return Case(Recurrent().eval(), channels, (torch.randn(4, 7, 3),), every_second(channels))


class Grouped(nn.Module):
    """A grouped convolution between a first and a last one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        return self.last(torch.sigmoid(self.grouped(torch.sigmoid(self.first(x)))))


def grouped():
    """A unit is one group of the grouped convolution: 2 channels that it reads, 3 that it makes."""
    channels = graph(
        [("grouped", 4, "grouped.weight", 0)],
        [
            axis("last.weight", 1, 0, 4, 3),
            axis("grouped.weight", 0, 0, 4, 3),
            axis("grouped.bias", 0, 0, 4, 3),
            axis("first.weight", 0, 0, 4, 2),
            axis("first.bias", 0, 0, 4, 2),
        ],
        [consumer("last", "conv"), consumer("grouped", "conv"), consumer("first", "conv")],
    )
    return Case(Grouped().eval(), channels, (torch.randn(4, 2, 5, 5),), every_second(channels))


CASES = {one.__name__: one for one in (lenet, mixed, tied, bare, recurrent, grouped)}
