"""The built-in networks by name."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from mipp.errors import InputError
from mipp.models.plain_networks import MLP, VGG, DigitsCNN, LeNet5
from mipp.models.resnet import BasicBlock, Bottleneck, ResNet


@dataclass(frozen=True)
class ModelSpec:
    """A built-in network.

    ``input_shape`` is ``(channels, height, width)`` of one example; ``data`` is the data set that
    the network is usually trained on, and gives the default number of classes and channels.
    """

    name: str
    factory: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    num_classes: int
    data: str
    about: str


def _specs() -> Mapping[str, ModelSpec]:
    cifar, imagenet = (3, 32, 32), (3, 224, 224)
    small_resnet = partial(ResNet, BasicBlock, base=16, shortcut="A")
    small_resnet_b = partial(ResNet, BasicBlock, base=16, shortcut="B")
    resnet_imagenet = partial(ResNet, Bottleneck, (3, 4, 6, 3), stem="imagenet")
    rows: tuple[tuple[str, Callable[..., nn.Module], tuple[int, int, int], int, str, str], ...] = (
        ("digits_cnn", DigitsCNN, (1, 8, 8), 10, "digits", "three convolutions"),
        ("mlp", MLP, (1, 28, 28), 10, "mnist", "LeNet-300-100"),
        ("lenet5", LeNet5, (1, 28, 28), 10, "mnist", "LeNet5 of Caffe, 20-50-500"),
        ("vgg11", partial(VGG, 11), cifar, 10, "cifar10", "VGG11 with BatchNorm"),
        ("vgg16", partial(VGG, 16), cifar, 10, "cifar10", "VGG16 with BatchNorm"),
        ("vgg19", partial(VGG, 19), cifar, 10, "cifar10", "VGG19 with BatchNorm"),
        ("resnet20", partial(small_resnet, (3,) * 3), cifar, 10, "cifar10", "option A"),
        ("resnet20b", partial(small_resnet_b, (3,) * 3), cifar, 10, "cifar10", "option B"),
        ("resnet56", partial(small_resnet, (9,) * 3), cifar, 10, "cifar10", "option A"),
        ("resnet56b", partial(small_resnet_b, (9,) * 3), cifar, 10, "cifar10", "option B"),
        ("resnet18", partial(ResNet, BasicBlock, (2,) * 4), cifar, 10, "cifar10", "3x3 stem"),
        ("resnet34", partial(ResNet, BasicBlock, (3, 4, 6, 3)), cifar, 10, "cifar10", "3x3 stem"),
        ("resnet50", partial(ResNet, Bottleneck, (3, 4, 6, 3)), cifar, 10, "cifar10", "3x3 stem"),
        ("resnet50_imagenet", resnet_imagenet, imagenet, 1000, "imagenet", "7x7 stem, torchvision"),
    )
    return MappingProxyType({row[0]: ModelSpec(*row) for row in rows})


_SPECS = _specs()


def names() -> tuple[str, ...]:
    """Names that ``build`` knows."""
    return tuple(_SPECS)


def spec(name: str) -> ModelSpec:
    """What is known of a built-in network without building it.

    Raises:
        InputError: if there is no such network; the text lists those that there are.
    """
    if name not in _SPECS:
        close = difflib.get_close_matches(name, _SPECS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"model {name!r} was given; expected one of {', '.join(_SPECS)}.{hint} "
            "A network of your own is passed as an nn.Module, not by name."
        )
    return _SPECS[name]


def input_shape(name: str) -> tuple[int, int, int]:
    """``(channels, height, width)`` of one example for the network ``name``."""
    return spec(name).input_shape


def build(
    name: str,
    *,
    width: float = 1.0,
    num_classes: int | None = None,
    in_channels: int | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A built-in network with fresh weights, in train mode.

    Args:
        name: one of ``names()``.
        width: factor on the channels of all hidden layers.
        num_classes: outputs; those of the usual data set unless given.
        in_channels: channels of an example; those of the usual data set unless given.
        seed: of the initial weights; the global generator is then left as it was. Without a seed
            the weights come from the global generator, as with any ``nn.Module``.

    Raises:
        InputError: for an unknown name, or a width that is not positive.
    """
    chosen = spec(name)
    arguments = {
        "width": width,
        "num_classes": chosen.num_classes if num_classes is None else num_classes,
        "in_channels": chosen.input_shape[0] if in_channels is None else in_channels,
    }
    if seed is None:
        return chosen.factory(**arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return chosen.factory(**arguments)
