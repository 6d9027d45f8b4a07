"""Networks without shortcuts: LeNet5, LeNet-300-100, a network for 8x8 digits, and VGG.

Also what all built-in networks share: how a width factor scales channels, and initial weights.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor, nn

from mipp.errors import InputError


def scaled(channels: int, width: float) -> int:
    """Channels at this width of a layer with ``channels`` at width 1; rounded, at least one.

    Raises:
        InputError: if ``width`` is not positive.
    """
    if not width > 0:
        raise InputError(
            f"width={width!r} was given; a factor above 0 is expected, "
            "1.0 for the published network and 0.5 for half its channels."
        )
    return max(1, round(channels * width))


def init_he(model: nn.Module) -> None:
    """Initialise convolutions as He et al. (2015) for ReLU networks: fan-out, and zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LeNet5(nn.Module):
    """LeNet5 as in Caffe, the variant that the pruning literature uses, for images of 28x28.

    Two 5x5 convolutions without padding (20 and 50 channels), each with ReLU and 2x2 max pooling,
    then 500 hidden units: 431,080 parameters. LeCun's network of 1998 (6-16-120-84) is seven times
    smaller.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        first, second, hidden = (scaled(channels, width) for channels in (20, 50, 500))
        self.conv1 = nn.Conv2d(in_channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.fc1 = nn.Linear(second * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        x = self.pool(self.act(self.conv1(x)))
        x = self.pool(self.act(self.conv2(x)))
        return self.fc2(self.act(self.fc1(x.flatten(1))))


class MLP(nn.Module):
    """LeNet-300-100: two hidden layers with ReLU, on flattened images of 28x28.

    266,610 parameters at width 1.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        first, second = (scaled(units, width) for units in (300, 100))
        self.fc1 = nn.Linear(in_channels * 28 * 28, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, num_classes)
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        x = self.act(self.fc1(x.flatten(1)))
        return self.fc3(self.act(self.fc2(x)))


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions (16, 32, 32) and 64 hidden units, for scikit-learn's 8x8 digits.

    It trains in seconds on one core and is still wide enough to be worth pruning.
    """

    def __init__(self, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        first, second, third, hidden = (scaled(units, width) for units in (16, 32, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.fc1 = nn.Linear(third * 2 * 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.ReLU()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        x = self.act(self.conv1(x))
        x = self.pool(self.act(self.conv2(x)))
        x = self.pool(self.act(self.conv3(x)))
        return self.fc2(self.act(self.fc1(x.flatten(1))))


STAGES: Mapping[int, Sequence[Sequence[int]]] = MappingProxyType(
    {
        11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
        19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
    }
)
"""Depth -> channels of the convolutions before each pooling."""


class VGG(nn.Module):
    """VGG with BatchNorm for 32x32 images, after Simonyan & Zisserman.

    Blocks of 3x3 convolution, BatchNorm and ReLU, five max poolings, and one linear classifier. The
    two hidden layers of the ImageNet network are left out, as is usual on CIFAR. The convolutions
    keep the bias that BatchNorm makes redundant, so that parameter counts agree with the literature
    (VGG16: 14,728,266).

    Args:
        depth: 11, 16 or 19.
        width: factor on all channels.
        num_classes: number of outputs.
        in_channels: channels of the images, whose sides must be at least 32.
    """

    def __init__(
        self, depth: int, width: float = 1.0, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in STAGES[depth]:
            for full_width in stage:
                out = scaled(full_width, width)
                layers += [
                    nn.Conv2d(channels, out, 3, padding=1),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                channels = out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions again from the global generator."""
        init_he(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))
