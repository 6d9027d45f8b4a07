"""Grouped convolutions: whole groups are units where there are many, else one place in each."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.records import AxisKey

from .checks import groups, refusals, traced, units

X = torch.randn(2, 3, 5, 5)


class Grouped(nn.Module):
    """1x1 convolutions and norms around a grouped one, in a residual block as ResNeXt has it."""

    def __init__(self, middle, before, after):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.a, self.norm = nn.Conv2d(6, before, 1), nn.BatchNorm2d(before)
        self.middle, self.norm2 = middle, nn.BatchNorm2d(after)
        self.b, self.out = nn.Conv2d(after, 6, 1), nn.Linear(6, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.norm2(self.middle(F.relu(self.norm(self.a(x))))))
        return self.out((x + self.b(y)).mean((2, 3)))


def test_many_groups_are_units_with_all_their_channels():
    graph = traced(Grouped(nn.Conv2d(12, 8, 3, padding=1, groups=4), 12, 8), X)
    assert groups(graph)["a"] == (4, ["a.weight.0"], ["b"])
    assert units(graph, "norm.weight", 0) == " ".join(f"a.{u}" for u in range(4) for _ in range(3))
    twice = " ".join(f"a.{u}" for u in range(4) for _ in range(2))
    assert units(graph, "middle.weight", 0) == units(graph, "middle.bias", 0) == twice
    assert units(graph, "b.weight", 1) == twice
    assert AxisKey("middle.weight", 1) not in graph.axes


def test_of_few_groups_the_outputs_at_the_same_place_are_one_unit():
    graph = traced(Grouped(nn.Conv2d(12, 8, 3, padding=1, groups=2), 12, 8), X)
    assert groups(graph)["middle"] == (4, ["middle.weight.0"], ["b"])
    spread = " ".join(f"middle.{u}" for _ in range(2) for u in range(4))
    assert units(graph, "middle.weight", 0) == units(graph, "norm2.weight", 0) == spread
    ((n_units, reason),) = refusals(graph)["a"]
    assert n_units == 12
    assert reason.startswith("a convolution with groups=2 reads it in blocks (aten.conv2d at ")


def test_a_grouped_convolution_of_the_input_makes_units_though_it_reads_none():
    net = nn.Sequential(nn.Conv2d(4, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 2, 1))
    graph = traced(net, torch.randn(2, 4, 5, 5))
    assert groups(graph) == {"0": (3, ["0.weight.0"], ["2"])}


def test_transposed_grouped_convolutions():
    many, few = nn.ConvTranspose2d(8, 12, 1, groups=4), nn.ConvTranspose2d(8, 12, 1, groups=2)
    graph = traced(Grouped(many, 8, 12), X)
    assert groups(graph)["a"] == (4, ["a.weight.0"], ["b"])
    assert units(graph, "middle.weight", 0) == "a.0 a.0 a.1 a.1 a.2 a.2 a.3 a.3"
    assert AxisKey("middle.weight", 1) not in graph.axes
    graph = traced(Grouped(few, 8, 12), X)
    assert groups(graph)["middle"] == (6, ["middle.weight.1"], ["b"])
    assert AxisKey("middle.weight", 0) not in graph.axes


def test_groups_that_would_all_be_one_unit_are_cut_evenly_instead():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1, groups=4)
            self.norm, self.b = nn.GroupNorm(1, 8), nn.Conv2d(16, 6, 1)
            self.out = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.out(F.relu(self.b(self.grouped(self.norm(self.a(x))))))

    graph = traced(Net(), X)
    assert groups(graph)["grouped"] == (4, ["grouped.weight.0"], ["b"])
    assert "one norm group" in refusals(graph)["a"][0][1]


@pytest.mark.parametrize("squeeze", ["conv", "linear"])
def test_inverted_residual_with_squeeze_and_excite(squeeze):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.expand = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 1)
            self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
            layer = nn.Linear if squeeze == "linear" else lambda i, o: nn.Conv2d(i, o, 1)
            self.down, self.up = layer(12, 3), layer(3, 12)
            self.project, self.out = nn.Conv2d(12, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x = self.stem(x)
            y = F.silu(self.deep(F.relu6(self.expand(x))))
            if squeeze == "linear":
                share = self.up(F.relu(self.down(y.mean((2, 3)))))[:, :, None, None]
            else:
                share = self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1))))
            return self.out((x + self.project(y * share.sigmoid())).mean((2, 3)))

    graph = traced(Net(), X)
    assert groups(graph) == {
        "stem": (4, ["stem.weight.0", "project.weight.0"], ["expand", "out"]),
        "expand": (12, ["expand.weight.0", "up.weight.0"], ["down", "project"]),
        "down": (3, ["down.weight.0"], ["up"]),
    }


def test_shuffled_halves_written_with_views_as_in_shufflenet():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 12, 1)
            self.branches = nn.ModuleList(
                nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1)) for _ in range(2)
            )
            self.out = nn.Linear(12, 2)

        def forward(self, x):
            x = self.stem(x)
            for branch in self.branches:
                left, right = x.chunk(2, 1)
                x = torch.cat([left, branch(right)], 1)
                b, c, h, w = x.shape
                x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, -1, h, w)
            return self.out(x.mean((2, 3)))

    found = groups(traced(Net(), X))
    assert found["stem"][0] == 3
    assert found["branches.0.0"][0] == found["branches.1.0"][0] == 6


def test_a_shuffle_between_grouped_convolutions_is_refused_with_the_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=2)
            self.b, self.out = nn.Conv2d(12, 8, 1, groups=2), nn.Linear(8, 2)

        def forward(self, x):
            x = F.channel_shuffle(F.relu(self.a(self.stem(x))), 2)
            return self.out(F.relu(self.b(x)).mean((2, 3)))

    graph = traced(Net(), X)
    assert list(groups(graph)) == ["b"]
    for name in ("stem", "a"):
        assert "a convolution with groups=2 reads it in blocks" in refusals(graph)[name][0][1]
