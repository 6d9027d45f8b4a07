"""Autoencoders, generators, and what makes pictures larger or smaller."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from .convolutional import IMAGE, conv
from .entry import TIED, entry, floats


@entry("autoencoder", "generative", floats((9,)))
def autoencoder():
    return nn.Sequential(
        nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 10), nn.ELU(),
        nn.Linear(10, 9),
    )  # fmt: skip


@entry("autoencoder, transposed convolutions", "generative", IMAGE)
def conv_autoencoder():
    return nn.Sequential(
        conv(3, 6, stride=2), conv(6, 8, stride=2),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2), nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1), nn.Sigmoid(),
    )  # fmt: skip


class Variational(nn.Module):
    """Mean and variance are put out too; in eval mode the mean goes on."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(9, 12), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(12, 5), nn.Linear(12, 5)
        self.decode = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 9))

    def forward(self, x):
        hidden = self.encode(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean
        if self.training:
            z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(z), mean, log_variance


entry("variational autoencoder, three outputs", "generative", floats((9,)))(Variational)


class Generator(nn.Module):
    """A latent vector becomes a small map, which grows (DCGAN)."""

    def __init__(self):
        super().__init__()
        self.project, self.bn = nn.Linear(5, 8 * 2 * 2), nn.BatchNorm2d(8)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, z):
        x = F.relu(self.bn(self.project(z).view(z.shape[0], -1, 2, 2)))
        return torch.tanh(self.up2(F.relu(self.up1(x))))


entry("DCGAN generator", "generative", floats((5,)))(Generator)


class SpelledGenerator(Generator):
    """The same, with the number of channels in the code."""

    def forward(self, z):
        x = F.relu(self.bn(self.project(z).view(-1, 8, 2, 2)))
        return torch.tanh(self.up2(F.relu(self.up1(x))))


entry(
    "DCGAN generator, shape in numbers", "generative", floats((5,)), stays=("RuntimeError",),

)(SpelledGenerator)  # fmt: skip


@entry(
    "GAN discriminator, spectral norm", "generative", IMAGE,
    stays=("the weight of this layer is computed",),
)  # fmt: skip
def discriminator():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 6, 4, 2, 1)), nn.LeakyReLU(0.1),
        nn.Conv2d(6, 8, 4, 2, 1), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(32, 6), nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(6, 1)),
    )  # fmt: skip


@entry("patch discriminator, instance norm", "generative", IMAGE)
def patches():
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.LeakyReLU(0.2),
        nn.ReflectionPad2d(1), nn.Conv2d(6, 8, 3),
        nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3, padding=1),
    )  # fmt: skip


@entry("super-resolution, pixel shuffle", "generative", floats((1, 6, 6)))
def superresolution():
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.PReLU(8), nn.Conv2d(8, 24, 3, padding=1),
        nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


@entry("denoiser, pixel unshuffle", "generative", IMAGE)
def denoiser():
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.PixelUnshuffle(2), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


class Coupling(nn.Module):
    """Half of the numbers say how the other half is scaled and shifted (RealNVP)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 8))

    def forward(self, x):
        left, right = x.chunk(2, 1)
        scale, shift = self.net(left).chunk(2, 1)
        return torch.cat([left, right * scale.tanh().exp() + shift], 1).flip(1)


@entry("normalizing flow", "generative", floats((8,)), stays=(TIED,))
def flow():
    return nn.Sequential(Coupling(), Coupling())


class Styled(nn.Module):
    """Mean and scale of every channel come from a style (AdaIN, FiLM)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.style, self.affine = nn.Linear(4, 8), nn.Linear(8, 12)

    def forward(self, x, style):
        x = F.instance_norm(self.conv1(x))
        scale, shift = self.affine(self.style(style).relu()).chunk(2, dim=-1)
        return self.conv2(F.relu(x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]))


entry("FiLM, two inputs", "generative", floats((3, 6, 6), (4,)))(Styled)


class TimeBlock(nn.Module):
    """A residual block of a diffusion model: the time step is added to every place."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, width), nn.Conv2d(width, 12, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(3, 12), nn.Conv2d(12, width, 3, padding=1)
        self.time = nn.Linear(6, 12)

    def forward(self, x, t):
        made = self.conv1(F.silu(self.norm1(x))) + self.time(t)[:, :, None, None]
        return x + self.conv2(F.silu(self.norm2(made)))


class Diffusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.stem = nn.Linear(4, 6), nn.Conv2d(3, 8, 3, padding=1)
        self.block1, self.block2 = TimeBlock(8), TimeBlock(8)
        self.out = nn.Conv2d(16, 3, 1)
        self.register_buffer("rates", torch.exp(-torch.arange(2.0)))

    def forward(self, x, t):
        angle = t[:, None] * self.rates
        t = F.silu(self.embed(torch.cat([angle.sin(), angle.cos()], 1)))
        first = self.block1(self.stem(x), t)
        deep = self.block2(F.avg_pool2d(first, 2), t)
        return self.out(torch.cat([first, F.interpolate(deep, scale_factor=2.0)], 1))


entry("diffusion U-Net, time step", "generative", floats((3, 6, 6), ()))(Diffusion)


class Hyper(nn.Module):
    """A network makes the weights of another one."""

    def __init__(self):
        super().__init__()
        self.first, self.make = nn.Linear(5, 6), nn.Linear(3, 6 * 4)
        self.latent, self.last = nn.Parameter(torch.randn(3)), nn.Linear(4, 7)
        self.out = nn.Linear(7, 2)

    def forward(self, x):
        weight = self.make(self.latent).view(4, 6)
        return self.out(self.last(F.linear(self.first(x).relu(), weight).relu()).relu())


entry(
    "hypernetwork", "generative", floats((5,)),
    stays=("the weight of this layer is computed",),
    uncounted="what makes the weights runs once a call, not once an example",
)(Hyper)  # fmt: skip
