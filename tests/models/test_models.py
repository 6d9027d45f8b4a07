"""Built-in networks: known parameter counts, shapes, width, names and seeds."""

import pytest
import torch

from mipp import models
from mipp.errors import InputError

# Counts as published or as given by the reference implementations, 10 classes unless ImageNet.
GOLDEN = {
    "mlp": 266_610,
    "lenet5": 431_080,
    "vgg11": 9_231_114,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet20": 269_722,
    "resnet20b": 272_474,
    "resnet56": 853_018,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet50_imagenet": 25_557_032,
}


def n_params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "count"), GOLDEN.items())
def test_parameter_count_is_the_known_one(name, count):
    with torch.device("meta"):
        assert n_params(models.build(name)) == count


@pytest.mark.parametrize("name", models.names())
def test_logits_have_one_column_per_class_in_both_modes(name):
    model = models.build(name, width=0.25, num_classes=7, seed=0)
    x = torch.randn(2, *models.input_shape(name))
    assert model.training
    assert model(x).shape == (2, 7)
    assert model.eval()(x).shape == (2, 7)


@pytest.mark.parametrize("name", models.names())
def test_half_width_has_about_a_quarter_of_the_weights(name):
    with torch.device("meta"):
        full, half = (models.build(name, width=width) for width in (1.0, 0.5))
    hidden = [
        (whole, part)
        for (key, whole), (_, part) in zip(
            full.named_parameters(), half.named_parameters(), strict=True
        )
        if whole.dim() > 1 and key not in _first_and_last(full)
    ]
    assert hidden
    for whole, part in hidden:
        assert part.shape[0] == whole.shape[0] // 2
        assert part.shape[1] == whole.shape[1] // 2


def _first_and_last(model):
    weights = [key for key, parameter in model.named_parameters() if parameter.dim() > 1]
    return {weights[0], weights[-1]}


@pytest.mark.parametrize("name", models.names())
def test_in_channels_reach_the_first_layer(name):
    c, h, w = models.input_shape(name)
    model = models.build(name, width=0.25, in_channels=c + 1, seed=0).eval()
    assert model(torch.randn(1, c + 1, h, w)).shape == (1, models.spec(name).num_classes)
    with pytest.raises(RuntimeError):
        model(torch.randn(1, c, h, w))


def test_width_never_removes_a_layer():
    model = models.build("lenet5", width=0.001)
    assert [model.conv1.out_channels, model.conv2.out_channels, model.fc1.out_features] == [1, 1, 1]


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_width_must_be_positive(width):
    with pytest.raises(InputError, match=r"width=.* was given; a factor above 0 is expected"):
        models.build("vgg11", width=width)


def test_unknown_name_lists_the_known_ones_and_the_closest():
    with pytest.raises(InputError, match=r"'lenet-5' was given; .*vgg16.*Did you mean 'lenet5'\?"):
        models.build("lenet-5")


def test_same_seed_gives_same_weights_and_leaves_the_global_generator():
    before = torch.get_rng_state()
    first, second, other = (models.build("resnet20", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def test_option_a_shortcut_subsamples_and_pads_with_zero_channels():
    model = models.build("resnet20", seed=0)
    x = torch.randn(2, 16, 8, 8)
    y = model.layer2[0].downsample(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().max() == 0
    assert y[:, 24:].abs().max() == 0
    assert not list(model.layer2[0].downsample.parameters())


def test_imagenet_resnet50_has_torchvisions_parameter_names():
    with torch.device("meta"):
        keys = models.build("resnet50_imagenet").state_dict().keys()
    assert {"conv1.weight", "layer1.0.downsample.0.weight", "layer4.2.bn3.running_var"} <= keys


@pytest.mark.parametrize("name", ["lenet5", "vgg11", "resnet20", "resnet50"])
def test_network_exports_with_any_batch_size(name):
    model = models.build(name, width=0.25, seed=0).eval()
    x = torch.randn(4, *models.input_shape(name))
    exported = torch.export.export(
        model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=4096)},)
    )
    torch.testing.assert_close(exported.module()(x[:3]), model(x[:3]))
