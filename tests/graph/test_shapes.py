"""Ops that move, merge, split, cut and join dimensions: labels must follow exactly."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.records import AxisKey

from .checks import groups, refusals, traced, units


class Through(nn.Module):
    """A 1x1 convolution, a function, another one, and one for the output."""

    def __init__(self, function, before=6, after=6):
        super().__init__()
        self.a = nn.Conv2d(3, before, 1)
        self.b, self.out = nn.Conv2d(after, 5, 1), nn.Conv2d(5, 2, 1)
        self.function = function

    def forward(self, x):
        return self.out(F.relu(self.b(self.function(self.a(x)))))


X = torch.randn(2, 3, 4, 4)


def test_flatten_after_a_convolution_repeats_each_channel():
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    graph = traced(net, torch.randn(2, 3, 2, 2))
    assert units(graph, "3.weight", 1) == "0.0 0.0 0.0 0.0 0.1 0.1 0.1 0.1 0.2 0.2 0.2 0.2"


def test_flatten_with_channels_last_interleaves_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 3, 1), nn.Linear(12, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.b(self.a(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1)))

    graph = traced(Net(), torch.randn(2, 3, 2, 2))
    assert units(graph, "b.weight", 1) == " ".join(["a.0 a.1 a.2"] * 4)


def test_concatenated_groups_stay_apart_and_share_a_consumer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
            self.c, self.out = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            a = F.relu(self.a(x))
            return self.out(self.c(torch.cat([x, a, self.b(a)], dim=1)))

    graph = traced(Net(), X)
    assert groups(graph) == {
        "c": (4, ["c.weight.0"], ["out"]),
        "b": (3, ["b.weight.0"], ["c"]),
        "a": (2, ["a.weight.0"], ["b", "c"]),
    }
    assert units(graph, "c.weight", 1) == "- - - a.0 a.1 b.0 b.1 b.2"


def test_densely_connected_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 2 * i) for i in range(3))
            self.convs = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(3))
            self.out = nn.Linear(10, 2)

        def forward(self, x):
            maps = [self.stem(x)]
            for norm, conv in zip(self.norms, self.convs, strict=True):
                maps.append(conv(F.relu(norm(torch.cat(maps, 1)))))
            return self.out(torch.cat(maps, 1).mean((2, 3)))

    graph = traced(Net(), X)
    assert groups(graph)["stem"] == (
        4,
        ["stem.weight.0"],
        ["convs.0", "convs.1", "convs.2", "out"],
    )
    assert [group.name for group in graph.groups] == ["convs.2", "convs.1", "convs.0", "stem"]
    assert (
        units(graph, "norms.1.running_var", 0) == "stem.0 stem.1 stem.2 stem.3 convs.0.0 convs.0.1"
    )


def test_a_concatenation_added_to_one_layer_makes_one_group_of_all():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)
            self.out = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            return self.out(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))

    graph = traced(Net(), X)
    (group,) = graph.groups
    assert (group.name, group.n_units) == ("a", 5)
    assert units(graph, "c.weight", 0) == "a.0 a.1 a.2 a.3 a.4"
    assert units(graph, "b.weight", 0) == "a.2 a.3 a.4"


def test_zeros_of_an_option_a_shortcut_stay_and_its_channels_are_tied():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 1, 1)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            x = F.relu(self.stem(x))
            shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
            x = F.relu(shortcut + self.conv2(F.relu(self.conv1(x))))
            return self.out(x.mean((2, 3)))

    graph = traced(Net(), X)
    assert units(graph, "conv2.weight", 0) == "- - stem.0 stem.1 stem.2 stem.3 - -"
    assert groups(graph)["stem"] == (
        4,
        ["stem.weight.0", "conv2.weight.0"],
        ["conv1", "out"],
    )
    ((n_units, reason),) = refusals(graph)["conv2"]
    assert n_units == 4
    assert reason.startswith(
        "it is tied to the 4 channels of zeros that padding inserts (aten.pad at tests/graph/"
    )


def test_channel_shuffle_labels_are_exact():
    def shuffle(x):
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    graph = traced(Through(shuffle), X)
    assert units(graph, "a.weight", 0) == "a.0 a.1 a.2 a.0 a.1 a.2"
    assert units(graph, "b.weight", 1) == "a.0 a.0 a.1 a.1 a.2 a.2"


def test_a_split_into_a_constant_number_of_groups_cuts_a_smaller_tensor_elsewhere():
    """The second shuffle finds each half full of one unit, but half of less is another half."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)
            self.depthwise = nn.Conv2d(4, 8, 1, groups=4)
            self.b, self.out = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            x = shuffle(self.depthwise(shuffle(self.a(x))))
            return self.out(F.relu(self.b(x)))

    def shuffle(x):
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)

    graph = traced(Net(), X)
    assert list(groups(graph)) == ["b"]
    assert refusals(graph)["a"][0][1].startswith(
        "all 4 channels are tied into one unit by aten.view"
    )


def test_channel_shuffle_op():
    graph = traced(Through(nn.ChannelShuffle(2)), X)
    assert units(graph, "b.weight", 1) == "a.0 a.0 a.1 a.1 a.2 a.2"


def test_the_dimension_that_is_spelled_minus_one_is_the_one_that_shrinks():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 12), nn.Conv1d(3, 5, 1)
            self.out = nn.Conv1d(5, 2, 1)

        def forward(self, x):
            return self.out(self.b(self.a(x).view(x.shape[0], -1, 4)))

    graph = traced(Net(), torch.randn(2, 3))
    assert units(graph, "a.weight", 0) == "a.0 a.0 a.0 a.0 a.1 a.1 a.1 a.1 a.2 a.2 a.2 a.2"


def test_unflatten_knows_minus_one_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 12)
            self.unflatten = nn.Unflatten(1, (-1, 2, 2))
            self.b, self.out = nn.ConvTranspose2d(3, 4, 2), nn.ConvTranspose2d(4, 2, 2)

        def forward(self, x):
            return self.out(self.b(self.unflatten(self.a(x))))

    graph = traced(Net(), torch.randn(2, 3))
    assert groups(graph)["a"] == (3, ["a.weight.0"], ["b"])


def test_pixel_shuffle_makes_a_unit_of_the_channels_of_one_pixel():
    graph = traced(Through(nn.PixelShuffle(2), before=12, after=3), X)
    assert units(graph, "a.weight", 0) == " ".join(f"a.{u // 4}" for u in range(12))
    assert units(graph, "b.weight", 1) == "a.0 a.1 a.2"


def test_pixel_shuffle_by_hand():
    def shuffle(x):
        b, c, h, w = x.shape
        x = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(b, c // 4, 2 * h, 2 * w)

    graph = traced(Through(shuffle, before=12, after=3), X)
    assert units(graph, "a.weight", 0) == " ".join(f"a.{u // 4}" for u in range(12))


def test_pixel_unshuffle_repeats_channels():
    graph = traced(Through(nn.PixelUnshuffle(2), before=2, after=8), X)
    assert units(graph, "b.weight", 1) == "a.0 a.0 a.0 a.0 a.1 a.1 a.1 a.1"


def test_chunks_stay_of_equal_size():
    def swap(x):
        left, right = x.chunk(2, dim=1)
        return torch.cat([right, left], dim=1)

    graph = traced(Through(swap), X)
    assert units(graph, "a.weight", 0) == "a.0 a.1 a.2 a.0 a.1 a.2"


@pytest.mark.parametrize(
    "gate", [lambda x: F.glu(x, dim=1), lambda x: F.silu(x.chunk(2, 1)[0]) * x.chunk(2, 1)[1]]
)
def test_gated_units_are_tied_to_their_gates(gate):
    graph = traced(Through(gate, before=6, after=3), X)
    assert units(graph, "a.weight", 0) == "a.0 a.1 a.2 a.0 a.1 a.2"
    assert units(graph, "b.weight", 1) == "a.0 a.1 a.2"


@pytest.mark.parametrize(
    ("function", "after", "reason"),
    [
        (lambda x: torch.cat(x.split(3, dim=1)[::-1], 1), 6, "its length along the channels is a"),
        (lambda x: x[:, :4], 4, "its length along the channels is a constant in the code (aten.sl"),
        (lambda x: x[:, 1:2], 1, "its length along the channels is a constant in the code"),
        (lambda x: x[:, 2][:, None], 1, "it takes one channel by its place (aten.select at "),
        (lambda x: x[:, [0, 2, 4]], 3, "it takes channels by their place (aten.index at "),
        (lambda x: torch.stack(x.unbind(1), 1), 6, "it takes channels by their place (aten.unb"),
        (lambda x: x.topk(3, dim=1).values, 3, "its length along the channels is a constant"),
        (lambda x: torch.cat(x.chunk(4, 1), 1), 6, "the parts would change their places (aten.ch"),
        (lambda x: x.roll(1, 1), 6, "it mixes all channels (aten.roll at "),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 0), "circular"), 7, "its length along the channels"),
        (lambda x: F.fold(F.unfold(x, 2), (4, 4), 2), 6, "mipp has no rule for aten."),
    ],
)
def test_what_counts_on_the_places_of_channels_keeps_them(function, after, reason):
    graph = traced(Through(function, after=after), X)
    assert list(groups(graph)) == ["b"]
    ((n_units, given),) = refusals(graph)["a"]
    assert n_units == 6
    assert given.startswith(reason)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :, ::2, 1:].contiguous(),
        lambda x: torch.stack([x, -x], dim=2).flatten(2, 3),
        lambda x: x.unsqueeze(0).squeeze(0).squeeze(-1),
        lambda x: x.permute(2, 3, 0, 1).movedim((2, 3), (0, 1)),
        lambda x: x.flatten(2).transpose(1, 2).unflatten(1, (4, 4)).permute(0, 3, 1, 2),
        lambda x: x.mean(3, keepdim=True).expand(-1, -1, -1, 3),
        lambda x: torch.cat([x, x.flip(2)], dim=2),
        lambda x: x.roll(1, 3).select(2, 0)[:, :, None],
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        lambda x: F.pad(x, (1, 1, 0, 0, 0, 0)),
        lambda x: torch.cat(x.split(2, dim=2), 3),
        lambda x: x[:, :, [0, 2]],
        lambda x: x.repeat(1, 1, 2, 1),
        lambda x: x.sort(2).values,
    ],
)
def test_what_leaves_the_channels_alone_passes(function):
    graph = traced(Through(function), X)
    assert units(graph, "b.weight", 1) == "a.0 a.1 a.2 a.3 a.4 a.5"


@pytest.mark.parametrize(
    ("function", "labels"),
    [
        (lambda x: x.repeat(1, 2, 1, 1), "a.0 a.1 a.2 a.0 a.1 a.2"),
        (lambda x: x.repeat_interleave(2, dim=1), "a.0 a.0 a.1 a.1 a.2 a.2"),
        (
            lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2),
            "a.0 a.0 a.1 a.1 a.2 a.2",
        ),
        (lambda x: torch.cat([x, x], 1), "a.0 a.1 a.2 a.0 a.1 a.2"),
    ],
)
def test_repeated_channels_are_removed_together(function, labels):
    graph = traced(Through(function, before=3), X)
    assert units(graph, "b.weight", 1) == labels


def test_a_token_in_front_of_a_sequence_is_tied_to_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(3, 6)
            self.token = nn.Parameter(torch.randn(1, 1, 6))
            self.places = nn.Parameter(torch.randn(5, 6))
            self.mlp, self.out = nn.Linear(6, 7), nn.Linear(7, 2)

        def forward(self, x):
            token = self.token.expand(x.shape[0], -1, -1)
            x = torch.cat([token, self.embed(x)], 1) + self.places
            return self.out(F.relu(self.mlp(x))[:, 0])

    graph = traced(Net(), torch.randn(2, 4, 3))
    assert units(graph, "token", 2) == units(graph, "places", 1) == units(graph, "mlp.weight", 1)
    assert AxisKey("places", 0) not in graph.axes


def test_of_two_prunable_dimensions_made_one_the_outer_is_pruned():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 5)
            self.c, self.out = nn.Linear(20, 6), nn.Linear(6, 2)

        def forward(self, x):
            outer = self.a(x)[:, :, None] * self.b(x)[:, None, :]
            return self.out(F.relu(self.c(outer.flatten(1))))

    graph = traced(Net(), torch.randn(2, 3))
    assert groups(graph)["a"] == (4, ["a.weight.0"], ["c"])
    assert units(graph, "c.weight", 1) == " ".join(f"a.{unit}" for unit in np.arange(20) // 5)
    assert refusals(graph)["b"][0][1].startswith("it makes one dimension out of two that could be")
