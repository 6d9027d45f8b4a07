"""Which weights can go, and what is said of the others."""

import pytest
import torch
from torch import nn

from mipp import errors
from mipp.statistics import read_batches
from mipp.weights import cells_first, find_layers, without_protected
from tests.weights.nets import Mixed, Tied, images, mlp


def found(model, x):
    return find_layers(model.eval(), read_batches(x)[0].part(0, 4))


def test_every_layer_is_found_with_its_blocks_bias_and_norm():
    layers, refused = found(Mixed(), images(8))
    assert [l.name for l in layers] == [
        "stem.weight", "grouped.weight", "depthwise.weight", "up.weight", "head.weight",
    ]  # fmt: skip
    assert [(l.groups, l.block) for l in layers] == [
        (1, (8, 36)), (2, (6, 36)), (12, (1, 9)), (1, (16, 12)), (1, (5, 64)),
    ]  # fmt: skip
    assert [l.bias for l in layers] == [
        "stem.bias", None, "depthwise.bias", "up.bias", "head.bias",
    ]  # fmt: skip
    assert [l.norm_after for l in layers] == [False, True, False, False, False]
    # outputs of a transposed convolution overlap
    assert [l.centred for l in layers] == [True, True, True, False, True]
    assert refused == ()


def test_blocks_are_the_rows_that_a_convolution_multiplies_its_patches_with():
    model = Mixed()
    for layer in found(model, images(8))[0]:
        weight = model.get_parameter(layer.name)
        blocks = layer.blocks(weight)
        assert blocks.shape == (layer.groups, *layer.block)
        assert torch.equal(layer.whole(blocks), weight)
    grouped = found(model, images(8))[0][1]
    torch.testing.assert_close(
        grouped.blocks(model.grouped.weight)[1, 2], model.grouped.weight[8].flatten()
    )
    # neighbours in a pattern are neighbouring channels at one place of the kernel
    order = cells_first(grouped)
    assert order[:4].tolist() == [0, 9, 18, 27]
    assert sorted(order.tolist()) == list(range(36))


def test_a_norm_behind_takes_up_a_shift_only_if_nothing_else_reads_the_output():
    class Leaking(Mixed):
        def forward(self, x):
            x = self.stem(x).relu()
            made = self.grouped(x)
            x = (self.norm(made) + made).relu()
            return self.head(self.up(self.depthwise(x)).flatten(1))

    layers, _ = found(Leaking(), images(8))
    assert not layers[1].norm_after
    assert not layers[1].centred


def test_a_weight_of_two_layers_is_one_weight_with_no_bias_of_its_own():
    layers, refused = found(Tied(), [torch.randn(8, 8)])
    assert [(l.name, l.calls, l.bias) for l in layers] == [
        ("first.weight", 2, None), ("head.weight", 1, "head.bias"),
    ]  # fmt: skip
    assert refused == ()


def test_a_weight_that_is_also_the_table_of_an_embedding_stays():
    layers, (refusal,) = found(Tied(embedded=True), [torch.randint(0, 6, (8, 3))])
    assert [l.name for l in layers] == ["first.weight"]
    assert (refusal.name, refusal.n_units) == ("table", 48)
    assert "used other than as the weight of a layer (embedding, linear)" in refusal.reason


def test_attention_is_seen_as_its_projections():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    layers, refused = found(Block(), [torch.randn(8, 5, 8)])
    assert [l.name for l in layers] == ["attention.in_proj_weight", "attention.out_proj.weight"]
    assert refused == ()


def test_recurrent_weights_and_computed_ones_stay_with_a_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(4, 6, batch_first=True)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.normed(self.recurrent(x)[0][:, -1]))

    layers, refused = found(Net(), [torch.randn(8, 5, 4)])
    assert [l.name for l in layers] == ["head.weight"]
    reasons = {r.name: r.reason for r in refused}
    assert "lstm" in reasons["recurrent.weight_ih_l0"]
    assert "used other than as the weight" in reasons["normed.parametrizations.weight.original1"]


def test_layers_are_protected_by_name_or_pattern():
    layers, _ = found(mlp(), [torch.randn(8, 16)])
    assert [l.module for l in without_protected(layers, ["0"])] == ["2"]
    with pytest.raises(errors.InputError, match=r"protect='9' names no layer. Layers: 0, 2"):
        without_protected(layers, ["9"])
    with pytest.raises(errors.InputError, match="names all layers; leave one"):
        without_protected(layers, ["*"])


def test_a_model_without_such_layers_is_an_error_that_says_why():
    net = nn.LSTM(4, 6, batch_first=True)
    with pytest.raises(
        errors.GraphError, match=r"No single weight of LSTM can be pruned(.|\n)*lstm"
    ):
        found(net, [torch.randn(8, 5, 4)])


def test_a_model_that_takes_no_single_example_is_read_as_before():
    class Several(nn.Sequential):
        def forward(self, x):
            if len(x) < 2:
                raise ValueError("one example")
            return super().forward(x)

    layers, _ = found(Several(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(8, 3))
    assert [layer.name for layer in layers] == ["0.weight", "2.weight"]
    assert not any(layer.routed for layer in layers)
