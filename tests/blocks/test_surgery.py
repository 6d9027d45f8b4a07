"""Models without blocks: what they compute, what they are called, and their files."""

import pytest
import torch
from torch import nn

import mipp
from mipp import errors, models
from mipp.surgery import RemovedBlock, recorded_blocks, without_blocks
from mipp.surgery.block_names import new_name, original_name
from tests.blocks.nets import Residual, Stack, stacked

GONE = [
    RemovedBlock("a.1", "nothing", 4), RemovedBlock("a.2.b.0", "nothing", 3),
    RemovedBlock("c", "identity"), RemovedBlock("d.first", "gap", 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a.0.w", "a.0.w"), ("a.1.w", None), ("a.2.b.0.w", None), ("a.2.b.2.w", "a.1.b.1.w"),
        ("a.3", "a.2"), ("c.w", None), ("d.first.w", None), ("d.second.w", "d.second.w"),
        ("e", "e"), ("", ""),
    ],
)  # fmt: skip
def test_names_before_and_after(before, after):
    assert new_name(before, GONE) == after
    if after is not None:
        assert original_name(after, GONE) == before


def thin(net, *numbers):
    siblings = len(net[1].layers)
    return without_blocks(
        net, [RemovedBlock(f"1.layers.{n}", "nothing", siblings) for n in numbers]
    )


def test_the_small_model_is_what_one_would_build_without_the_blocks():
    net, x = stacked(), torch.randn(5, 6)
    small = thin(net, 0, 2)
    by_hand = stacked(2)
    state = {k.replace("layers.1", "layers.0").replace("layers.3", "layers.1"): v
             for k, v in net.state_dict().items()
             if "layers.0" not in k and "layers.2" not in k}  # fmt: skip
    by_hand.load_state_dict(state)
    assert torch.equal(small(x), by_hand(x))
    assert list(small.state_dict()) == list(by_hand.state_dict())
    assert len(net[1].layers) == 4
    assert small[1].layers[0].first.weight.data_ptr() != net[1].layers[1].first.weight.data_ptr()


def test_the_record_counts_in_the_full_size_model_over_rounds():
    net = stacked(5)
    small = thin(thin(net, 1), 1, 3)
    assert [(b.name, b.siblings) for b in recorded_blocks(small)] == [
        ("1.layers.1", 5), ("1.layers.2", 5), ("1.layers.4", 5)
    ]  # fmt: skip
    # a module that is taken out of the model has its own part
    assert [b.name for b in recorded_blocks(small[1])] == ["layers.1", "layers.2", "layers.4"]


def test_names_of_a_sequence_stay_and_indices_of_layers_follow():
    class Numbered(Residual):
        def __init__(self, layer_idx):
            super().__init__(8)
            self.layer_idx = layer_idx

    net = nn.ModuleDict({"blocks": nn.Sequential(*(Numbered(n) for n in range(3)))})
    small = without_blocks(net, [RemovedBlock("blocks.0", "nothing", 3)])
    assert [block.layer_idx for block in small["blocks"]] == [0, 1]
    net = nn.Sequential()
    for name in ("first", "second"):
        net.add_module(name, Residual(8))
    assert list(dict(without_blocks(net, [RemovedBlock("first", "gap", 2)]).named_children())) == [
        "second"
    ]


@pytest.mark.parametrize("first", ["units", "blocks"])
def test_units_and_blocks_go_in_any_order_and_into_one_file(first, tmp_path):
    net, x = stacked(), [torch.randn(64, 6)]
    options = {"units": {"budget": "units=70%", "method": "l2"},
               "blocks": {"budget": "units=50%", "granularity": "block"}}  # fmt: skip
    small = mipp.prune(net, x, refit=False, **options[first])
    small = mipp.prune(small, x, refit=False, **options["units" if first == "blocks" else "blocks"])
    path = tmp_path / "small.safetensors"
    mipp.save(small, path)
    for given in (net, small, stacked):
        again = mipp.load(given, path)
        assert torch.equal(again.eval()(x[0]), small(x[0]))
        assert recorded_blocks(again) == recorded_blocks(small)
        assert mipp.original_indices(again) == mipp.original_indices(small)
    info = mipp.inspect_file(path)
    assert len(info.blocks) == 2
    assert len(info.plans) == 2
    assert "without 1.layers." in str(info)
    with pytest.raises(errors.FileError, match=r"1\.layers\.\d' was expected, one of 4"):
        mipp.load(lambda: stacked(3), path)


def test_a_built_in_net_is_loaded_from_the_file_alone(tmp_path):
    net, x = models.build("resnet20", width=0.25, seed=0).eval(), torch.randn(8, 3, 32, 32)
    small = mipp.prune(net, [x], "units=60%", granularity="block", refit=False)
    mipp.save(small, tmp_path / "small.safetensors")
    assert torch.equal(mipp.load(tmp_path / "small.safetensors")(x), small(x))


def test_blocks_of_the_model_itself_are_in_its_file(tmp_path):
    net = nn.Sequential(nn.Linear(6, 8), *(Residual(8) for _ in range(3)), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6)
    small = mipp.prune(net, [x], "units=50%", granularity="block", refit=False)
    small = mipp.prune(small, [x], "units=70%", method="l2", refit=False)
    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(net, tmp_path / "small.safetensors")
    assert torch.equal(again.eval()(x), small(x))
    assert mipp.original_indices(again) == mipp.original_indices(small)


def test_a_block_that_leaves_an_identity_is_saved_too(tmp_path):
    class Two(Stack):
        def forward(self, x):
            return self.layers[1](self.layers[0](x))

    net, x = Two(8, 2).eval(), torch.randn(4, 8)
    small = mipp.prune(net, [x], "units=50%", granularity="block", refit=False)
    assert sum(isinstance(layer, nn.Identity) for layer in small.layers) == 1
    mipp.save(small, tmp_path / "small.safetensors")
    assert torch.equal(mipp.load(net, tmp_path / "small.safetensors")(x), small(x))
    again = mipp.prune(small, [x], "macs=100%", granularity="block")  # the other is still there
    assert recorded_blocks(again) == recorded_blocks(small)


def test_a_plan_or_record_of_another_model_is_refused():
    with pytest.raises(errors.InputError, match=r"'1\.layers\.1' was expected, one of 7, and Seq"):
        without_blocks(stacked(), [RemovedBlock("1.layers.1", "nothing", 7)])
    with pytest.raises(errors.InputError, match="expected the number of one of 2 modules"):
        RemovedBlock("layers.2", "nothing", 2)


class Counted(nn.Module):
    """Reads its list by numbers up to how many it was told that there are."""

    def __init__(self, depth, others=0):
        super().__init__()
        self.num_layers, self.depth, self.width = depth, depth, depth
        self.layers = nn.ModuleList(Residual(8) for _ in range(depth))
        self.others = nn.ModuleList(Residual(8) for _ in range(others))

    def forward(self, x):
        for number in range(self.num_layers):
            x = self.layers[number](x)
        return x


def test_what_holds_a_list_counts_what_is_left_of_it(tmp_path):
    torch.manual_seed(0)
    net, x = Counted(4).eval(), torch.randn(32, 8)
    gone = [RemovedBlock(f"layers.{n}", "nothing", 4) for n in (0, 2)]
    small = without_blocks(net, gone)
    assert (small.num_layers, small.depth, small.width, net.num_layers) == (2, 2, 4, 4)
    torch.testing.assert_close(small(x), net.layers[3](net.layers[1](x)))
    plan = mipp.plan(net, [x], "units=50%", granularity="block", progress=False)
    assert len(plan.apply().layers) == 2  # not four, two of them identities
    mipp.save(small, tmp_path / "small.safetensors")
    torch.testing.assert_close(mipp.load(Counted(4), tmp_path / "small.safetensors")(x), small(x))


def test_a_number_that_may_count_either_of_two_lists_stays():
    net = Counted(3, others=3)
    assert without_blocks(net, [RemovedBlock("others.1", "nothing", 3)]).num_layers == 3


def test_an_encoder_of_torch_counts_its_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    small = without_blocks(net, [RemovedBlock("layers.1", "nothing", 3)])
    assert small.num_layers == len(small.layers) == 2
