"""The memory format of weights: what is cut out of channels-last weights is channels-last."""

import pytest
import torch
from torch import nn

import mipp

SPACES = {
    2: (nn.Conv2d, nn.ConvTranspose2d, torch.channels_last),
    3: (nn.Conv3d, nn.ConvTranspose3d, torch.channels_last_3d),
}


def net(space):
    conv, transposed, _ = SPACES[space]
    return nn.Sequential(
        conv(3, 12, 3), nn.ReLU(), conv(12, 12, 3, groups=12), nn.ReLU(),
        transposed(12, 8, 3), nn.ReLU(), conv(8, 2, 1),
    ).eval()  # fmt: skip


def formats(model, layout):
    """Of each weight of a convolution, whether it is in that format alone."""
    return [
        (weight.is_contiguous(memory_format=layout), weight.is_contiguous())
        for weight in model.parameters()
        if weight.dim() > 2
    ]


@pytest.mark.parametrize("space", SPACES)
def test_slices_copies_and_loaded_models_keep_it(space, tmp_path):
    layout = SPACES[space][2]
    x = torch.randn(4, 3, *[7] * space).contiguous(memory_format=layout)
    plain, model = net(space), net(space).to(memory_format=layout)
    model.load_state_dict(plain.state_dict())
    # a single channel would be in both formats
    plan = mipp.plan(model, [x], budget="units=50%", noise=0.1, min_units=2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, lr=0.01)
    model(x).sum().backward()
    optimizer.step()
    small = plan.apply()
    mipp.save(small, tmp_path / "small.safetensors")
    loaded = mipp.load(model, tmp_path / "small.safetensors")
    again = mipp.load(loaded, tmp_path / "small.safetensors")
    expected = formats(model, layout)
    assert (True, False) in expected
    for made in (small, plan.mask(), mipp.prepare.folded(small), loaded, again):
        assert formats(made, layout) == expected
    remapped = plan.remap(optimizer, small)
    momenta = [state["momentum_buffer"] for state in remapped.state.values()]
    assert [m.is_contiguous(memory_format=layout) for m in momenta if m.dim() > 2] == [
        channels_last for channels_last, _ in expected
    ]
    torch.testing.assert_close(loaded(x), small(x))


@pytest.mark.parametrize("space", SPACES)
def test_a_file_of_either_format_loads_into_either(space, tmp_path):
    layout = SPACES[space][2]
    x = torch.randn(4, 3, *[7] * space)
    model = net(space)
    small = mipp.prune(model, [x], budget="units=50%", noise=0.1)
    mipp.save(small, tmp_path / "small.safetensors")
    other = mipp.load(net(space).to(memory_format=layout), tmp_path / "small.safetensors")
    assert formats(other, layout)[0] == (True, False)
    assert formats(small, layout)[0] == (False, True)
    torch.testing.assert_close(other(x), small(x))
