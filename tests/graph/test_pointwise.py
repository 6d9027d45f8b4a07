"""Ops that keep dimensions in place: residuals, gates, norms, pooling, reductions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.errors import GraphError
from mipp.graph import trace
from mipp.records import AxisKey

from .checks import groups, refusals, traced, units


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x
        return F.relu(y)


def test_a_residual_stream_is_one_group_with_all_its_producers():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), Block(6, 4), Block(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip
    graph = traced(net, torch.randn(2, 3, 4, 4))
    assert groups(graph) == {
        "0": (
            6,
            ["0.weight.0", "1.conv2.weight.0", "2.conv2.weight.0"],
            ["1.conv1", "2.conv1", "5"],
        ),
        "2.conv1": (5, ["2.conv1.weight.0"], ["2.conv2"]),
        "1.conv1": (4, ["1.conv1.weight.0"], ["1.conv2"]),
    }
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert units(graph, f"1.bn2.{name}", 0) == units(graph, "0.weight", 0)


def test_excitation_ties_the_gate_to_what_it_gates_and_depthwise_goes_along():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 8, 1)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
            self.out = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = F.hardswish(self.depthwise(self.a(x)))
            gate = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))
            return self.out(x * F.hardsigmoid(gate))

    assert groups(traced(Net(), torch.randn(2, 3, 4, 4))) == {
        "a": (8, ["a.weight.0", "up.weight.0"], ["down", "out"]),
        "down": (4, ["down.weight.0"], ["up"]),
    }


class Between(nn.Module):
    """Two linear layers with a function in between."""

    def __init__(self, function, width=6):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, width), nn.Linear(width, 5), nn.Linear(5, 2)
        self.scale = nn.Parameter(torch.rand(width))
        self.register_buffer("shift", torch.rand(1, width))
        self.table = nn.Parameter(torch.rand(4, width))
        self.constant = torch.rand(width)
        self.function = function

    def forward(self, x):
        return self.out(F.relu(self.b(self.function(self, self.a(x)))))


X = torch.randn(2, 4, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: x * 2.0 + 1,
        lambda _, x: F.dropout(x.clamp(min=0), 0.5, training=False),
        lambda _, x: torch.where(x > 0, x, torch.zeros_like(x)),
        lambda _, x: torch.addcmul(x, x, x.sigmoid()),
        lambda _, x: x.softmax(1),
        lambda _, x: x - x.mean(1, keepdim=True),
        lambda _, x: x / (x.std(1, keepdim=True) + 1),
        lambda _, x: x.max(1).values[:, None] + x,
        lambda _, x: x.masked_fill(x > 1, 0.0).to(torch.float64).contiguous(),
        lambda _, x: F.avg_pool1d(x.mT, 2).mT,
        lambda _, x: x.cumsum(1).flip(1),
        lambda _, x: torch.var_mean(x, 1, keepdim=True)[1] + x,
    ],
)
def test_what_works_on_each_channel_by_itself_passes(function):
    assert groups(traced(Between(function), X))["a"] == (6, ["a.weight.0"], ["b"])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda _, x: x.softmax(-1), "it mixes all channels (aten.softmax at "),
        (lambda _, x: x - x.mean(-1, keepdim=True), "it takes one number over all channels"),
        (lambda _, x: x + x.sum(), "it takes one number over all channels (aten.sum at "),
        (lambda net, x: x * net.constant, "it is tied to channels that have to stay (aten.mul"),
        (lambda _, x: x.cumsum(2), "it mixes all channels (aten.cumsum at "),
        (lambda _, x: F.layer_norm(x, (6,)), "all 6 channels are tied into one unit by layer_norm"),
        (lambda _, x: F.rms_norm(x, (6,)), "all 6 channels are tied into one unit by rms_norm"),
        (lambda _, x: F.avg_pool1d(x, 3, 1, 1), "it slides along this dimension (aten.avg_pool1d"),
    ],
)
def test_what_mixes_channels_keeps_them(function, reason):
    graph = traced(Between(function), X)
    assert list(groups(graph)) == ["b"]
    ((n_units, given),) = refusals(graph)["a"]
    assert n_units == 6
    assert given.startswith(reason)


def test_parameters_and_buffers_are_sliced_with_what_they_scale():
    graph = traced(Between(lambda net, x: x * net.scale + net.shift + net.table), X)
    for tensor, dim in [("scale", 0), ("shift", 1), ("table", 1)]:
        assert units(graph, tensor, dim) == units(graph, "a.weight", 0)
    assert AxisKey("table", 0) not in graph.axes


def test_prelu_slopes_go_with_channels():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.PReLU(6), nn.Conv2d(6, 2, 1))
    graph = traced(net, torch.randn(2, 3, 4, 4))
    assert units(graph, "1.weight", 0) == units(graph, "0.weight", 0)


def norm_net(norm):
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), norm, nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )


def test_channels_of_one_norm_group_are_one_unit():
    graph = traced(norm_net(nn.GroupNorm(4, 8)), torch.randn(2, 3, 4, 4))
    assert groups(graph)["0"] == (4, ["0.weight.0"], ["3"])
    assert units(graph, "0.weight", 0) == "0.0 0.0 0.1 0.1 0.2 0.2 0.3 0.3"
    assert units(graph, "1.bias", 0) == units(graph, "3.weight", 1) == units(graph, "0.weight", 0)


def test_one_norm_group_is_refused():
    graph = traced(norm_net(nn.GroupNorm(1, 8)), torch.randn(2, 3, 4, 4))
    ((n_units, reason),) = refusals(graph)["0"]
    assert n_units == 8
    assert reason.startswith("all 8 channels are tied into one unit by one norm group (aten.group_")


def test_instance_norm_works_on_each_channel():
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    graph = traced(norm_net(norm), torch.randn(2, 3, 4, 4))
    assert units(graph, "1.running_mean", 0) == units(graph, "0.weight", 0)


def test_layer_norm_along_another_dimension_passes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv1d(3, 6, 1), nn.LayerNorm(4)
            self.out = nn.Conv1d(6, 2, 1)

        def forward(self, x):
            return self.out(self.norm(self.a(x)))

    assert list(groups(traced(Net(), torch.randn(2, 3, 4)))) == ["a"]


def test_units_that_are_one_by_merging_are_refused_with_what_merged_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)
            self.b, self.out = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            left, right = self.norm(self.a(x)).chunk(2, dim=1)
            return self.out(F.relu(self.b(torch.cat([left, right], 1))))

    graph = traced(Net(), torch.randn(2, 3, 4, 4))
    ((n_units, reason),) = refusals(graph)["a"]
    assert n_units == 4
    assert reason.startswith("all 4 channels are tied into one unit by aten.group_norm at ")


def test_pooling_and_upsampling_pass_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            pooled, _ = F.max_pool2d(self.a(x), 2, return_indices=True)
            wide = F.interpolate(pooled, scale_factor=2.0, mode="bilinear")
            return self.out(F.adaptive_max_pool2d(self.b(wide), 2))

    assert list(groups(traced(Net(), torch.randn(2, 3, 4, 4)))) == ["b", "a"]


def test_in_place_writes_into_a_tensor_of_constant_size_keep_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            x = self.a(x)
            same = torch.zeros_like(x)
            same[:, :, 1:] = x[:, :, 1:]
            x = self.b(same)
            constant = x.new_zeros(x.shape)
            constant[:, :] = x
            return self.out(constant)

    graph = traced(Net(), torch.randn(2, 3, 4, 4))
    assert list(groups(graph)) == ["a"]
    assert "aten.copy at " in refusals(graph)["b"][0][1]


def test_channels_that_no_layer_reads_are_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(3, 6), nn.Linear(3, 6)
            self.unread = nn.Linear(3, 4)

        def forward(self, x):
            return (self.q(x) * 0 + self.k(x)).mean(-1) + self.unread(x)[..., :1].sum(-1) * 0

    with pytest.raises(GraphError) as error:
        trace(Net(), (torch.randn(2, 3),))
    assert "q: 6 channels: it takes one number over all channels (aten.mean at " in str(error.value)
    assert "unread: 4 channels: its length along the channels is a constant" in str(error.value)
