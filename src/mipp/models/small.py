"""Small networks without BatchNorm: LeNet5, LeNet-300-100 and a network for 8x8 digits."""

from jaxtyping import Float
from torch import Tensor, nn

from mipp.models.blocks import scaled


class LeNet5(nn.Module):
    """LeNet5 as Caffe ships it, which is the one that the pruning literature uses.

    Convolutions 20 and 50 (5x5, no padding), each with ReLU and 2x2 max pooling, then 500 hidden
    units: 431,080 parameters. LeCun's network of 1998 (6-16-120-84) is seven times smaller.
    Takes images of 28x28.
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

    Trains in seconds on one core and is still wide enough to be worth pruning.
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
