"""VGG with BatchNorm for 32x32 images: convolutions, five max poolings, one linear classifier."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor, nn

from mipp.models.blocks import init_he, scaled

STAGES: Mapping[int, Sequence[Sequence[int]]] = MappingProxyType(
    {
        11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
        19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
    }
)
"""Depth -> channels of the convolutions between two poolings."""


class VGG(nn.Module):
    """Simonyan & Zisserman's network as it is used on CIFAR: 3x3 conv, BatchNorm, ReLU; pooling.

    The two hidden layers of the ImageNet network are left out, as is usual on CIFAR; the
    convolutions keep the bias that BatchNorm makes redundant, so that parameter counts agree with
    the literature's (VGG16: 14,728,266).

    Args:
        depth: 11, 16 or 19.
        width: factor on all channels.
        num_classes: outputs.
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
        """Starts the convolutions anew; what they hold follows from the global generator."""
        init_he(self)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch of images."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))
