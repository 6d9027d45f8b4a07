"""Convolutions, linear layers and embeddings: who makes units and who reads them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.records import AxisKey

from .checks import groups, refusals, traced, units


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


def test_lenet_has_one_group_for_each_hidden_layer_from_outputs_to_inputs():
    graph = traced(LeNet(), torch.randn(1, 1, 28, 28))
    assert [(group.index, group.name, group.n_units) for group in graph.groups] == [
        (0, "fc2", 84),
        (1, "fc1", 120),
        (2, "conv2", 16),
        (3, "conv1", 6),
    ]
    assert groups(graph)["conv2"] == (16, ["conv2.weight.0"], ["fc1"])
    assert refusals(graph) == {"fc3": [(10, "it is part of the model's output")]}


def test_consumers_come_in_order_of_execution_and_tell_their_positions():
    graph = traced(LeNet(), torch.randn(3, 1, 28, 28))
    assert [(c.name, c.kind, c.uses) for c in graph.consumers] == [
        ("conv2", "conv", 100),
        ("fc1", "linear", 1),
        ("fc2", "linear", 1),
        ("fc3", "linear", 1),
    ]
    conv2 = graph.consumers[0]
    assert (conv2.weight, conv2.bias, conv2.call) == ("conv2.weight", "conv2.bias", 0)
    assert (conv2.in_axis, conv2.out_axis) == (
        AxisKey("conv2.weight", 1),
        AxisKey("conv2.weight", 0),
    )


def test_biases_are_sliced_with_their_layer():
    graph = traced(LeNet(), torch.randn(1, 1, 28, 28))
    assert units(graph, "conv1.bias", 0) == " ".join(f"conv1.{u}" for u in range(6))
    assert AxisKey("fc3.bias", 0) not in graph.axes
    assert AxisKey("conv1.weight", 1) not in graph.axes  # reads the input image


def test_norm_after_holds_only_for_a_batch_norm_that_is_the_only_reader():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)
            self.alone = nn.Conv2d(4, 5, 1)
            self.shared = nn.Conv2d(4, 5, 1)
            self.bn1, self.bn2 = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
            self.out = nn.Conv2d(5, 2, 1)

        def forward(self, x):
            x = self.a(x)
            y = self.shared(x)
            return self.out(self.bn1(self.alone(x)) + self.bn2(y) + y)

    graph = traced(Net(), torch.randn(2, 3, 4, 4))
    assert {c.name: c.norm_after for c in graph.consumers} == {
        "alone": True,
        "shared": False,
        "out": False,
    }


class Chain(nn.Module):
    """A 1x1 convolution on either side of one layer."""

    def __init__(self, middle, before=8, after=8):
        super().__init__()
        self.a = nn.Conv2d(3, before, 1)
        self.middle = middle
        self.out = nn.Conv2d(after, 2, 1)

    def forward(self, x):
        return self.out(self.middle(self.a(x)))


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_channels_are_those_of_the_input_and_no_consumer(multiplier):
    middle = nn.Conv2d(4, 4 * multiplier, 3, groups=4)
    graph = traced(Chain(middle, 4, 4 * multiplier), torch.randn(2, 3, 5, 5))
    assert groups(graph) == {"a": (4, ["a.weight.0"], ["out"])}
    repeated = " ".join(f"a.{u}" for u in range(4) for _ in range(multiplier))
    assert units(graph, "middle.weight", 0) == units(graph, "middle.bias", 0) == repeated
    assert units(graph, "out.weight", 1) == repeated


def test_depthwise_transposed_convolution():
    middle = nn.ConvTranspose2d(4, 8, 2, 2, groups=4)
    graph = traced(Chain(middle, 4, 8), torch.randn(2, 3, 3, 3))
    assert units(graph, "middle.weight", 0) == "a.0 a.1 a.2 a.3"
    assert units(graph, "middle.bias", 0) == "a.0 a.0 a.1 a.1 a.2 a.2 a.3 a.3"
    assert AxisKey("middle.weight", 1) not in graph.axes


def test_depthwise_on_the_input_image_makes_channels_that_stay():
    net = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1))
    graph = traced(net, torch.randn(2, 3, 4, 4))
    assert groups(graph) == {"1": (5, ["1.weight.0"], ["2"])}
    assert "each group makes one channel, and groups=3" in refusals(graph)["0"][0][1]


def test_transposed_convolution_has_its_weight_the_other_way_round():
    graph = traced(Chain(nn.ConvTranspose2d(8, 5, 2, 2), after=5), torch.randn(2, 3, 4, 4))
    assert groups(graph) == {
        "middle": (5, ["middle.weight.1"], ["out"]),
        "a": (8, ["a.weight.0"], ["middle"]),
    }
    middle = graph.consumers[0]
    assert (middle.kind, middle.in_dim, middle.out_dim) == ("conv_transpose", 0, 1)
    assert middle.uses == 16  # positions of its input


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_in_one_and_three_dimensions(rank):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    net = nn.Sequential(conv(3, 6, 2), nn.ReLU(), conv(6, 2, 2))
    graph = traced(net, torch.randn(2, 3, *[4] * rank))
    assert groups(graph) == {"0": (6, ["0.weight.0"], ["2"])}
    assert graph.consumers[0].uses == 2**rank


def test_shared_weights_tie_themselves_and_each_call_is_a_consumer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 6)
            self.same = nn.Linear(6, 6)
            self.out = nn.Linear(6, 2)

        def forward(self, x):
            return self.out(self.same(F.relu(self.same(F.relu(self.a(x))))))

    graph = traced(Net(), torch.randn(2, 3))
    assert groups(graph) == {"a": (6, ["a.weight.0", "same.weight.0"], ["same", "same#1", "out"])}
    assert [c.call for c in graph.consumers] == [0, 1, 0]


def test_parameters_with_two_names_are_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(F.relu(self.b(F.relu(self.a(self.first(x))))))

    graph = traced(Net(), torch.randn(2, 3))
    assert graph.aliases == {"b.weight": "a.weight"}
    assert "b.weight" not in graph.shapes
    assert groups(graph) == {"first": (4, ["first.weight.0", "a.weight.0"], ["a", "a#1", "out"])}
    assert [c.bias for c in graph.consumers] == ["a.bias", "b.bias", "out.bias"]


def test_a_weight_that_also_reads_the_model_input_keeps_its_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.out(F.relu(self.b(self.twice(F.relu(self.twice(x))))))

    graph = traced(Net(), torch.randn(2, 4))
    assert list(groups(graph)) == ["b"]
    ((n_units, reason),) = refusals(graph)["twice"]
    assert n_units == 4
    assert reason.startswith("the same weight reads channels that have to stay (aten.linear at ")


def test_functional_parameters_are_named_by_themselves():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3))
            self.v = nn.Parameter(torch.randn(6, 5))
            self.b = nn.Parameter(torch.randn(5))
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(F.relu(torch.addmm(self.b, F.linear(x, self.w), self.v)))

    graph = traced(Net(), torch.randn(2, 3))
    assert groups(graph) == {"v": (5, ["v.1"], ["out"]), "w": (6, ["w.0"], ["v"])}
    assert (graph.consumers[0].in_dim, graph.consumers[0].bias) == (0, "b")


def test_a_tied_autoencoder_reads_its_weights_both_ways():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 8))
            self.v = nn.Parameter(torch.randn(6, 5))

        def forward(self, x):
            code = F.relu(F.linear(F.relu(F.linear(x, self.w)), self.v))
            return F.linear(F.relu(F.linear(code, self.v.t())), self.w.t())

    graph = traced(Net(), torch.randn(2, 8))
    assert groups(graph) == {
        "w": (5, ["w.0", "v.1"], ["v", "w#1"]),
        "v": (6, ["v.0"], ["v#1"]),
    }


def test_a_computed_weight_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 6)
            self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
            self.b = nn.Linear(6, 5)
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(self.b(self.normed(self.a(x))))

    graph = traced(Net(), torch.randn(2, 3))
    assert list(groups(graph)) == ["b"]
    for name in ("a", "normed"):
        ((n_units, reason),) = refusals(graph)[name]
        assert n_units == 6
        assert reason.startswith("the weight of this layer is computed, not a parameter itself")


def test_a_layer_with_one_channel_is_refused():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1))
    graph = traced(net, torch.randn(2, 3))
    assert refusals(graph)["2"][0][1].startswith("it makes a single channel (aten.linear at ")


def test_embedding_makes_features_and_keeps_its_entries():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(20, 6)
            self.convs = nn.ModuleList(nn.Conv1d(6, 4, k) for k in (2, 3))
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            x = self.words(x).transpose(1, 2)
            return self.out(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))

    graph = traced(Net(), torch.randint(0, 20, (2, 7)))
    assert groups(graph)["words"] == (6, ["words.weight.1"], ["convs.0", "convs.1"])
    assert AxisKey("words.weight", 0) not in graph.axes
    assert graph.groups[0].name == "convs.1"  # read last, like convs.0, and made later


def test_units_along_other_dimensions_pass_a_linear_layer():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.token1, self.token2 = nn.Linear(4, 12), nn.Linear(12, 4)
            self.out = nn.Linear(8, 5)

        def forward(self, x):
            x = self.patch(x).flatten(2)
            x = x + self.token2(F.gelu(self.token1(x)))
            return self.out(x.mean(2))

    graph = traced(Mixer(), torch.randn(2, 3, 8, 8))
    assert groups(graph) == {
        "patch": (8, ["patch.weight.0"], ["out"]),
        "token1": (12, ["token1.weight.0"], ["token2"]),
    }
    token1 = next(term for term in graph.macs if term.name == "token1")
    assert token1.coefficient == 4.0  # in features; works at one position for each channel
    assert AxisKey("patch.weight", 0) in token1.axes
