"""Which blocks are found, what they cost, and why others stay."""

import pytest
import torch
from torch import nn

from mipp import errors, graph, models, statistics
from mipp.removable import removable_blocks
from tests.blocks.nets import Plain, Residual, Shared, Stack, stacked


def found(model, x, *patterns):
    return removable_blocks(model.eval(), [statistics.read_batch(x)], patterns)


def names(blocks):
    return [block.name for block in blocks.blocks]


def reasons(blocks):
    return {refusal.name: refusal.reason for refusal in blocks.refused}


def test_blocks_of_a_resnet_are_those_with_a_plain_shortcut_and_cost_what_the_graph_says():
    net, x = models.build("resnet20", width=0.25, seed=0), torch.randn(4, 3, 32, 32)
    blocks = found(net, x)
    assert names(blocks) == [
        *(f"layer1.{n}" for n in range(3)), "layer2.1", "layer2.2", "layer3.1", "layer3.2"
    ]  # fmt: skip
    assert all(block.residual for block in blocks.blocks)
    whole = graph.cost(graph.trace(net, (x,)))
    assert (blocks.macs, blocks.params) == (whole.macs, whole.params)
    assert blocks.blocks[0].macs == 2 * 4 * 4 * 9 * 32 * 32
    assert set(reasons(blocks)) == {"layer2.0", "layer3.0"}
    assert "takes (4, 32, 32) an example and gives (8, 16, 16)" in reasons(blocks)["layer2.0"]


def test_a_stack_of_blocks_is_no_block():
    assert names(found(stacked(), torch.randn(4, 6))) == [f"1.layers.{n}" for n in range(4)]


def test_of_blocks_in_blocks_the_outer_ones_count():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([Residual(8), Stack(8, 1)])

        def forward(self, x):
            return x + self.parts[1](self.parts[0](x))

    net = nn.Sequential(nn.Linear(6, 8), Layer(), Layer())
    assert names(found(net, torch.randn(4, 6))) == ["1", "2"]


def test_a_block_without_a_sum_is_one_too_and_is_said_to_be_none():
    blocks = found(Plain(), torch.randn(4, 1, 8, 8))
    assert names(blocks) == ["features.0", "features.1", "features.3"]
    assert not any(block.residual for block in blocks.blocks)


def test_patterns_name_blocks_wherever_they_are():
    net = Stack(8, 2)
    net.alone = Residual(8)
    forward = net.forward
    net.forward = lambda x: net.alone(forward(x))
    assert names(found(net, torch.randn(4, 8))) == ["layers.0", "layers.1"]
    blocks = found(net, torch.randn(4, 8), "alone")
    assert names(blocks) == ["alone"]
    assert blocks.blocks[0].gone.leaves == "identity"


class Taps(nn.Module):
    """Reads the list by numbers, the third block twice, and the fourth with another argument."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Residual(8) for _ in range(3))
        self.more = nn.ModuleList([Stack(8, 1), nn.Sequential(nn.Linear(8, 8), nn.ReLU())])

    def forward(self, x):
        x = self.layers[1](self.layers[0](x))
        return self.layers[2](self.layers[2](x)) + self.more[0](x)


def test_a_list_that_is_read_by_numbers_leaves_identities():
    blocks = found(Taps(), torch.randn(4, 8))
    gone = {block.name: block.gone.leaves for block in blocks.blocks}
    assert gone["layers.0"] == gone["layers.1"] == "identity"
    said = reasons(blocks)
    assert "called 2 times" in said["layers.2"]
    assert "not called" in said["more.1"]


class Shares(nn.Module):
    """A block whose second output is what the next one adds."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Sharing() for _ in range(2))

    def forward(self, x):
        extra = None
        for layer in self.layers:
            x, extra = layer(x, extra)
        return x


class Sharing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Residual(8)

    def forward(self, x, extra=None):
        made = self.inner(x)
        return made if extra is None else made + extra, x.mean(1, keepdim=True)


def test_a_block_whose_other_output_is_needed_stays():
    blocks = found(Shares(), torch.randn(4, 8))
    assert names(blocks) == ["layers.1"]
    assert "what else it gives" in reasons(blocks)["layers.0"]


class InPlace(Residual):
    def forward(self, x):
        x += self.second(self.first(x).relu())
        return x


class Outer(nn.Module):
    """A block with blocks inside."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Residual(6), Stack(6, 1)])

    def forward(self, x):
        return x + self.parts[1](self.parts[0](x))


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Sequential(Residual(6), Residual(6), nn.Linear(6, 3)), ["0", "1"]),
        (nn.Sequential(Outer(), Outer(), nn.Linear(6, 3)), ["0", "1"]),
        (nn.Sequential(nn.Linear(6, 8), InPlace(8), InPlace(8)), ["1", "2"]),
    ],
)  # fmt: skip
def test_a_sum_with_the_input_of_the_model_or_in_place_is_one_too(net, expected):
    x = torch.randn(4, 6)
    before = x.clone()
    blocks = found(net, x)
    assert names(blocks) == expected
    assert all(block.residual for block in blocks.blocks)
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_a_block_twice_in_a_list_stays_and_the_others_can_go():
    net = Stack(8, 3)
    net.layers = nn.ModuleList([net.layers[0], net.layers[0], net.layers[1], net.layers[2]])
    blocks = found(net, torch.randn(4, 8))
    assert names(blocks) == ["layers.2", "layers.3"]
    assert [block.gone.siblings for block in blocks.blocks] == [4, 4]
    assert "called 2 times" in reasons(blocks)["layers.0"]


def test_a_block_with_another_name_is_found_in_its_list():
    blocks = found(Shared("block"), torch.randn(4, 6))
    assert names(blocks) == [f"layers.{n}" for n in range(4)]
    assert blocks.blocks[3].params == 0  # the other name still holds it


def test_a_model_without_blocks_says_why_there_are_none():
    net = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 4), nn.ReLU()))
    with pytest.raises(errors.GraphError, match=r"(?s)No block of Sequential .*\(8,\) an example"):
        found(net, torch.randn(4, 6))
    with pytest.raises(errors.InputError, match=r"blocks='layer\.\*' names no module of Seq"):
        found(net, torch.randn(4, 6), "layer.*")
    with pytest.raises(errors.GraphError, match=r"a list, .* name what is in it: 1\.layers\.\*"):
        found(stacked(), torch.randn(4, 6), "1.layers")
    with pytest.raises(errors.InputError, match="which it lies in"):
        found(stacked(), torch.randn(4, 6), "1", "1.layers.*")


def test_the_model_is_as_it_was(monkeypatch):
    net = stacked().train()
    net[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    blocks = removable_blocks(net, [statistics.read_batch(torch.randn(4, 6))])
    assert len(blocks.blocks) == 4
    assert net.training
    assert not net[0].weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
