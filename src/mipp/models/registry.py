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
from mipp.origin import Source, note_source


@dataclass(frozen=True)
class ModelSpec:
    """A built-in network.

    Attributes:
        name: what `build` knows it by.
        factory: makes it, from ``width``, ``num_classes`` and ``in_channels``.
        input_shape: ``(channels, height, width)`` of one example.
        num_classes: default number of outputs.
        data: data set that the network is usually trained on.
        about: a few words.

    Examples:
        >>> spec("lenet5").about
        'LeNet5 of Caffe, 20-50-500'
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
    """Names that `build` knows.

    Examples:
        >>> names()[:3]
        ('digits_cnn', 'mlp', 'lenet5')
    """
    return tuple(_SPECS)


def spec(name: str) -> ModelSpec:
    """Look up a built-in network without building it.

    Raises:
        InputError: for an unknown name; the text lists the known ones.

    Examples:
        >>> spec("vgg16").data
        'cifar10'
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
    """``(channels, height, width)`` of one example for the network ``name``.

    Examples:
        >>> input_shape("lenet5")
        (1, 28, 28)
    """
    return spec(name).input_shape


def build(
    name: str,
    *,
    width: float = 1.0,
    num_classes: int | None = None,
    in_channels: int | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Build a network with new weights, in train mode.

    Args:
        name: one of `names`.
        width: factor on the channels of all hidden layers.
        num_classes: number of outputs; by default that of the usual data set.
        in_channels: channels of an example; by default those of the usual data set.
        seed: of the initial weights; the global generator is then left as it was. Without a seed
            the weights come from the global generator, as with any ``nn.Module``.

    Raises:
        InputError: for an unknown name, or a width that is not positive.

    Examples:
        >>> model = build("lenet5", seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        431080
    """
    chosen = spec(name)
    arguments = {
        "width": width,
        "num_classes": chosen.num_classes if num_classes is None else num_classes,
        "in_channels": chosen.input_shape[0] if in_channels is None else in_channels,
    }
    if seed is None:
        model = chosen.factory(**arguments)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = chosen.factory(**arguments)
    note_source(model, Source(name, arguments))
    return model
