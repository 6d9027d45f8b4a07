"""Image classifiers, detectors and segmenters out of ordinary convolutions."""

import torch
from torch import nn
from torch.nn import functional as F

from .entry import entry, floats

IMAGE = floats((3, 8, 8))


def conv(read, made, kernel=3, **options):
    """Convolution, norm, rectifier."""
    layer = nn.Conv2d(read, made, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(made), nn.ReLU())


def pooled(width, classes=3):
    """Mean over the image, then a classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


@entry("LeNet", "convolutional", floats((1, 12, 12)))
def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.Tanh(),
        nn.MaxPool2d(3), nn.Flatten(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(),
        nn.Linear(10, 3),
    )  # fmt: skip


@entry("VGG", "convolutional", IMAGE)
def vgg():
    return nn.Sequential(
        conv(3, 6), conv(6, 6), nn.MaxPool2d(2), conv(6, 8), conv(8, 8), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 4, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 3),
    )  # fmt: skip


@entry("network in network", "convolutional", IMAGE)
def network_in_network():
    return nn.Sequential(
        conv(3, 8), conv(8, 8, 1), conv(8, 6, 1), nn.Dropout2d(), conv(6, 8), nn.Conv2d(8, 3, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Basic(nn.Module):
    """Two convolutions and a shortcut, which is a projection where the shape changes."""

    def __init__(self, read, made, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(read, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.shortcut = nn.Sequential()
        if stride > 1 or read != made:
            self.shortcut = nn.Sequential(
                nn.Conv2d(read, made, 1, stride, bias=False), nn.BatchNorm2d(made)
            )

    def forward(self, x):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


@entry("ResNet, basic", "convolutional", IMAGE)
def resnet():
    return nn.Sequential(conv(3, 6), Basic(6, 6), Basic(6, 8, 2), Basic(8, 8), pooled(8))


class OptionA(Basic):
    """The shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, read, made):
        super().__init__(read, made, 2)
        self.added, self.shortcut = made - read, None

    def forward(self, x):
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.added // 2
        return F.relu(inner + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half)))


@entry(
    "ResNet, option A", "convolutional", IMAGE,
    stays=("tied to the 4 channels of zeros that padding inserts",),
)  # fmt: skip
def resnet_a():
    return nn.Sequential(conv(3, 6), Basic(6, 6), OptionA(6, 10), pooled(10))


class Bottleneck(nn.Module):
    def __init__(self, width, inner, groups=1):
        super().__init__()
        self.narrow, self.middle = conv(width, inner, 1), conv(inner, inner, groups=groups)
        self.wide = nn.Sequential(nn.Conv2d(inner, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        return F.relu(x + self.wide(self.middle(self.narrow(x))))


@entry("ResNet, bottleneck", "convolutional", IMAGE)
def resnet_bottleneck():
    return nn.Sequential(conv(3, 8), Bottleneck(8, 5), Bottleneck(8, 6), pooled(8))


@entry("ResNeXt", "convolutional", IMAGE)
def resnext():
    return nn.Sequential(conv(3, 8), Bottleneck(8, 12, groups=4), pooled(8))


class PreActivation(nn.Module):
    """Norm and rectifier come first; the stream itself has neither."""

    def __init__(self, width):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 6, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, width, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


@entry("ResNet, pre-activation", "convolutional", IMAGE)
def preactivation():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), PreActivation(8), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU(),
        pooled(8),
    )  # fmt: skip


class Dense(nn.Module):
    """Every layer reads all layers before it."""

    def __init__(self, read, growth, n_layers):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(read + i * growth), nn.ReLU(),
                nn.Conv2d(read + i * growth, growth, 3, padding=1),
            )
            for i in range(n_layers)
        )  # fmt: skip

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


@entry("DenseNet", "convolutional", IMAGE)
def densenet():
    transition = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 6, 1), nn.AvgPool2d(2))
    return nn.Sequential(nn.Conv2d(3, 6, 3), Dense(6, 3, 2), transition, Dense(6, 4, 2), pooled(14))


class Inception(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.one, self.three = conv(read, 4, 1), nn.Sequential(conv(read, 4, 1), conv(4, 6))
        self.five = nn.Sequential(conv(read, 3, 1), conv(3, 5, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(read, 3, 1))

    def forward(self, x):
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), dim=1)


@entry("Inception", "convolutional", IMAGE)
def inception():
    return nn.Sequential(conv(3, 6), Inception(6), Inception(18), pooled(18))


class Fire(nn.Module):
    """SqueezeNet's layer."""

    def __init__(self, read, squeezed, made):
        super().__init__()
        self.squeeze = nn.Conv2d(read, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, made, 1), nn.Conv2d(squeezed, made, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


@entry("SqueezeNet", "convolutional", IMAGE)
def squeezenet():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), Fire(6, 4, 5), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(10, 5, 6), nn.Conv2d(12, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class RepVGG(nn.Module):
    """Three branches, one of them a norm alone, are added up."""

    def __init__(self, width):
        super().__init__()
        self.three = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.one = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.same = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.three(x) + self.one(x) + self.same(x))


@entry("RepVGG", "convolutional", IMAGE)
def repvgg():
    return nn.Sequential(conv(3, 8), RepVGG(8), conv(8, 6), RepVGG(6), pooled(6))


class Pyramid(nn.Module):
    """Dilated convolutions side by side, and the mean of the image (ASPP)."""

    def __init__(self, read, made):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(read, made, 3, padding=rate, dilation=rate) for rate in (1, 2, 3)
        )
        self.mean, self.join = nn.Conv2d(read, made, 1), nn.Conv2d(4 * made, 6, 1)

    def forward(self, x):
        mean = self.mean(x.mean((2, 3), keepdim=True))
        mean = F.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([*(branch(x) for branch in self.branches), mean], 1)).relu()


@entry("DeepLab, dilated", "convolutional", IMAGE)
def deeplab():
    return nn.Sequential(
        conv(3, 6, stride=2),
        Pyramid(6, 4),
        nn.Conv2d(6, 3, 1),
        nn.UpsamplingBilinear2d(scale_factor=2),
    )


class UNet(nn.Module):
    """Down and up again, with what was there on the way down laid beside it."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.deep = conv(3, 6), conv(6, 8), conv(8, 10)
        self.up2, self.join2 = nn.ConvTranspose2d(10, 8, 2, stride=2), conv(16, 8)
        self.up1, self.join1 = nn.ConvTranspose2d(8, 6, 2, stride=2), conv(12, 6)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        deep = self.deep(F.max_pool2d(second, 2))
        x = self.join2(torch.cat([self.up2(deep), second], 1))
        return self.out(self.join1(torch.cat([self.up1(x), first], 1)))


entry("U-Net", "convolutional", IMAGE)(UNet)


class FeaturePyramid(nn.Module):
    """Maps of two sizes are added from the top down; both are put out."""

    def __init__(self):
        super().__init__()
        self.low, self.high = conv(3, 6), conv(6, 8, stride=2)
        self.side_low, self.side_high = nn.Conv2d(6, 7, 1), nn.Conv2d(8, 7, 1)
        self.smooth, self.boxes = conv(7, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        low = self.low(x)
        top = self.side_high(self.high(low))
        both = self.side_low(low) + F.interpolate(top, scale_factor=2, mode="nearest")
        return [self.boxes(self.smooth(level)) for level in (both, top)]


entry("feature pyramid, module reuse", "convolutional", IMAGE)(FeaturePyramid)


class CrossStage(nn.Module):
    """YOLO's C2f: a chunk in two, one half goes on, all of it is joined."""

    def __init__(self, width, n_blocks=2):
        super().__init__()
        self.first, self.last = conv(width, 8, 1), conv((2 + n_blocks) * 4, width, 1)
        self.blocks = nn.ModuleList(conv(4, 4) for _ in range(n_blocks))

    def parts(self, x):
        return x.chunk(2, 1)

    def forward(self, x):
        parts = list(self.parts(self.first(x)))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


@entry("YOLO, chunk", "convolutional", IMAGE)
def yolo():
    return nn.Sequential(conv(3, 6, stride=2), CrossStage(6), nn.Conv2d(6, 5, 1))


class SplitStage(CrossStage):
    """The same with the sizes in the code, as in some releases."""

    def __init__(self, width):
        super().__init__(width)
        self.c = 4

    def parts(self, x):
        return x.split((self.c, self.c), 1)


@entry("YOLO, split by an attribute", "convolutional", IMAGE)
def yolo_split():
    return nn.Sequential(conv(3, 6, stride=2), SplitStage(6), nn.Conv2d(6, 5, 1))


class NumberStage(CrossStage):
    def parts(self, x):
        return x[:, :4], x[:, 4:]


@entry(
    "YOLO, slices by numbers", "convolutional", IMAGE,
    stays=("its length along the channels is a constant in the code",),

)  # fmt: skip
def yolo_slices():
    return nn.Sequential(conv(3, 6, stride=2), NumberStage(6), nn.Conv2d(6, 5, 1))


class PyramidPool(nn.Module):
    """YOLO's SPPF: pooled again and again, all beside each other."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = conv(width, 4, 1), conv(16, width, 1)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x):
        maps = [self.first(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.last(torch.cat(maps, 1))


@entry("YOLO, pyramid pooling", "convolutional", IMAGE)
def pyramid_pool():
    return nn.Sequential(conv(3, 6), PyramidPool(6), nn.Conv2d(6, 5, 1))


@entry("3D convolutions", "convolutional", floats((2, 4, 6, 6)))
def video():
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(6, 8, (1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip


class TemporalShift(nn.Module):
    """Some channels of a frame come from the frame before, some from the one after."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, 6, 3, padding=1), nn.Conv2d(6, width, 1)

    def forward(self, x):
        b, t, c, h, w = x.shape
        fold = c // 4
        before = F.pad(x[:, :-1, :fold], (0, 0, 0, 0, 0, 0, 1, 0))
        after = F.pad(x[:, 1:, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 0, 1))
        moved = torch.cat([before, after, x[:, :, 2 * fold :]], 2).reshape(b * t, c, h, w)
        return x + self.conv2(F.relu(self.conv1(moved))).reshape(b, t, c, h, w)


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.shift, self.head = conv(3, 8), TemporalShift(8), nn.Linear(8, 3)

    def forward(self, x):
        frames = self.stem(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(self.shift(frames).mean((1, 3, 4)))


entry(
    "temporal shift", "convolutional", floats((3, 3, 6, 6)),
    stays=("its length along the channels is a constant in the code",),

)(Shifted)  # fmt: skip


class Prototypes(nn.Module):
    """A convolution whose weight belongs to no layer, and one used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(5, 6, 3, 3) / 6)
        self.shift, self.out = nn.Parameter(torch.randn(5)), nn.Linear(5, 3)

    def forward(self, x):
        x = self.again(self.again(self.first(x).relu()).relu()).relu()
        return self.out(F.conv2d(x, self.kernel, self.shift, stride=2).relu().mean((2, 3)))


entry("functional convolution, module reuse", "convolutional", IMAGE)(Prototypes)
