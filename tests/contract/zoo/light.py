"""Networks for small devices: depthwise, grouped and shuffled convolutions, gates on channels."""

import torch
from torch import nn
from torch.nn import functional as F

from .convolutional import IMAGE, conv, pooled
from .entry import entry


def depthwise(width, kernel=3, times=1):
    made = width * times
    layer = nn.Conv2d(width, made, kernel, padding=kernel // 2, groups=width, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(made), nn.ReLU6())


@entry("MobileNetV1", "light", IMAGE)
def mobilenet():
    return nn.Sequential(
        conv(3, 6), depthwise(6), conv(6, 8, 1), depthwise(8, times=2), conv(16, 8, 1), pooled(8)
    )


class Excite(nn.Module):
    """A factor for each channel, from the mean of all (squeeze and excite)."""

    def __init__(self, width, inner, gate=torch.sigmoid):
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1), gate

    def forward(self, x):
        mean = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.up(F.silu(self.down(mean))))


class Inverted(nn.Module):
    """Wide inside, narrow between, with a shortcut (MobileNetV2, EfficientNet)."""

    def __init__(self, width, inner, excite=None):
        super().__init__()
        self.expand, self.depth = conv(width, inner, 1), depthwise(inner)
        self.excite = excite or nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        return x + self.project(self.excite(self.depth(self.expand(x))))


@entry("MobileNetV2", "light", IMAGE)
def mobilenet2():
    return nn.Sequential(conv(3, 6), Inverted(6, 10), Inverted(6, 12), conv(6, 8, 1), pooled(8))


@entry("MobileNetV3", "light", IMAGE)
def mobilenet3():
    return nn.Sequential(
        conv(3, 6), Inverted(6, 10, Excite(10, 4, F.hardsigmoid)), nn.Hardswish(), pooled(6)
    )


@entry("EfficientNet", "light", IMAGE)
def efficientnet():
    return nn.Sequential(
        conv(3, 6, stride=2), Inverted(6, 12, Excite(12, 4)), Inverted(6, 8, Excite(8, 3)),
        nn.Conv2d(6, 10, 1), nn.SiLU(), pooled(10),
    )  # fmt: skip


class ExcitedBlock(nn.Module):
    """Squeeze and excite with linear layers, before the sum."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.fc1, self.fc2 = nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x):
        made = self.conv(x)
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(made.mean((2, 3))))))
        return F.relu(x + made * gate.view(gate.size(0), gate.size(1), 1, 1))


@entry("SE-ResNet", "light", IMAGE)
def se_resnet():
    return nn.Sequential(conv(3, 8), ExcitedBlock(8), ExcitedBlock(8), pooled(8))


def shuffled(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class GroupedShuffle(nn.Module):
    """Grouped convolutions with a shuffle between (ShuffleNet)."""

    def __init__(self, width):
        super().__init__()
        self.first, self.depth = conv(width, 8, 1, groups=2), depthwise(8)
        self.last = nn.Conv2d(8, width, 1, groups=2)

    def forward(self, x):
        return F.relu(x + self.last(self.depth(shuffled(self.first(x), 2))))


@entry("ShuffleNet", "light", IMAGE, stays=("a convolution with groups=2",))
def shufflenet():
    return nn.Sequential(conv(3, 8), GroupedShuffle(8), conv(8, 6), pooled(6))


class SplitShuffle(nn.Module):
    """Half of the channels pass, both halves are shuffled (ShuffleNetV2)."""

    def __init__(self, half, *, own):
        super().__init__()
        self.branch, self.own = nn.Sequential(conv(half, 6, 1), depthwise(6), conv(6, half, 1)), own

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        both = torch.cat((left, self.branch(right)), 1)
        return F.channel_shuffle(both, 2) if self.own else shuffled(both, 2)


@entry("ShuffleNetV2", "light", IMAGE)
def shufflenet2():
    return nn.Sequential(
        conv(3, 12), SplitShuffle(6, own=False), SplitShuffle(6, own=False), pooled(12)
    )


@entry("ShuffleNetV2, nn.ChannelShuffle", "light", IMAGE)
def shufflenet2_torch():
    return nn.Sequential(conv(3, 12), SplitShuffle(6, own=True), conv(12, 6, 1), pooled(6))


class Ghost(nn.Module):
    """Half of the channels are cheap depthwise pictures of the others."""

    def __init__(self, read, made):
        super().__init__()
        self.primary, self.cheap = conv(read, made, 1), depthwise(made)

    def forward(self, x):
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


@entry("GhostNet", "light", IMAGE)
def ghostnet():
    return nn.Sequential(conv(3, 6), Ghost(6, 5), Ghost(10, 6), pooled(12))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A depthwise convolution, then an MLP over channels, scaled by a parameter."""

    def __init__(self, width):
        super().__init__()
        self.depth, self.norm = (
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.LayerNorm(width),
        )
        self.fc1, self.fc2 = nn.Linear(width, 12), nn.Linear(12, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-1))

    def forward(self, x):
        made = self.norm(self.depth(x).permute(0, 2, 3, 1))
        made = self.gamma * self.fc2(F.gelu(self.fc1(made)))
        return x + made.permute(0, 3, 1, 2)


@entry("ConvNeXt", "light", IMAGE, stays=("tied into one unit by layer_norm", "its inputs stay"))
def convnext():
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), LayerNorm2d(8), ConvNeXt(8), ConvNeXt(8), pooled(8))


class ConvNeXt2(nn.Module):
    """ConvNeXt V2: each channel by its share of the response over the image."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, 10, 1), nn.Conv2d(10, width, 1)
        self.gamma, self.beta = (nn.Parameter(torch.randn(1, 10, 1, 1)) for _ in range(2))

    def forward(self, x):
        made = F.gelu(self.fc1(x))
        size = made.norm(p=2, dim=(2, 3), keepdim=True)
        share = size / (size.mean(dim=1, keepdim=True) + 1e-6)
        return x + self.fc2(self.gamma * (made * share) + self.beta + made)


@entry(
    "ConvNeXt V2", "light", IMAGE, stays=("it takes one number over all channels",),

)  # fmt: skip
def convnext2():
    return nn.Sequential(conv(3, 8, stride=2), ConvNeXt2(8), pooled(8))


class SpatialAttention(nn.Module):
    """A factor for each channel, then one for each place (CBAM)."""

    def __init__(self, width):
        super().__init__()
        self.excite, self.place = Excite(width, 4), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x = self.excite(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.place(seen))


@entry(
    "CBAM", "light", IMAGE,
    stays=("it takes one number over all channels",),

)  # fmt: skip
def cbam():
    return nn.Sequential(conv(3, 8), SpatialAttention(8), conv(8, 6), pooled(6))


class NeighbourGate(nn.Module):
    """The gate of a channel is a convolution over its neighbours among the channels (ECA)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        seen = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        return x * torch.sigmoid(self.conv(seen)).transpose(-1, -2).unsqueeze(-1)


@entry(
    "ECA", "light", IMAGE,
    stays=("a convolution slides along this dimension",),

)  # fmt: skip
def eca():
    return nn.Sequential(conv(3, 8), NeighbourGate(), conv(8, 6), pooled(6))


class ConvMixer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.depth = nn.Sequential(
            nn.Conv2d(width, width, 3, groups=width, padding="same"),
            nn.GELU(),
            nn.BatchNorm2d(width),
        )
        self.point = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x):
        return self.point(x + self.depth(x))


@entry("ConvMixer", "light", IMAGE)
def convmixer():
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.GELU(), ConvMixer(8), ConvMixer(8), pooled(8))


class PoolFormer(nn.Module):
    """The mean of neighbours in place of attention, under group norms with one group."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.fc1, self.fc2 = nn.Conv2d(width, 10, 1), nn.Conv2d(10, width, 1)

    def forward(self, x):
        seen = self.norm1(x)
        x = x + F.avg_pool2d(seen, 3, 1, 1, count_include_pad=False) - seen
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


@entry("PoolFormer", "light", IMAGE, stays=("tied into one unit by one norm group",))
def poolformer():
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), PoolFormer(8), pooled(8))
