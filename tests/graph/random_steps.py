"""What random networks are grown from: small layers as people write them, by the rank of what
they read. A growth adds steps to a builder, or none where it does not fit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Growth = Callable[[Any, int], None]
MAPS: dict[str, Growth] = {}
SEQUENCES: dict[str, Growth] = {}
VECTORS: dict[str, Growth] = {}
WILD: dict[int, dict[str, Growth]] = {1: {}, 2: {}, 3: {}}


def growth(*tables: dict[str, Growth]) -> Callable[[Growth], Growth]:
    """Put a growth into tables, under its own name."""

    def register(grown: Growth) -> Growth:
        for table in tables:
            table[grown.__name__] = grown
        return grown

    return register


class Run(nn.Module):
    """A function of what it reads."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Add(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Mul(nn.Module):
    """A gate."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left * torch.sigmoid(right)


class Cat(nn.Module):
    """Beside each other along the channels: the last dimension, but of maps the first."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left, right, left], 1 if left.dim() == 4 else -1)


# ---- maps: (channels, height, width)


@growth(MAPS)
def conv(build: Any, x: int) -> None:
    c, h, _ = build.shapes[x]
    kernel = build.rng.choice([1, 2, 3])
    if h < kernel:
        return
    options = {"stride": 2} if build.rng.random() < 0.3 and h > 3 else {"padding": kernel // 2}
    if build.rng.random() < 0.2 and kernel == 3:
        options = {"padding": 2, "dilation": 2}
    bias = build.rng.random() < 0.5
    made = build.add("conv", nn.Conv2d(c, build.width(), kernel, bias=bias, **options), x)
    if build.rng.random() < 0.4:
        made = build.add("bn", nn.BatchNorm2d(build.shapes[made][0]), made)
    build.add("relu", nn.ReLU(), made)


@growth(MAPS)
def depthwise(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    times = build.rng.choice([1, 1, 2])
    if x and c > 1:
        build.add("depthwise", nn.Conv2d(c, c * times, 3, padding=1, groups=c), x)


@growth(MAPS)
def transposed(build: Any, x: int) -> None:
    c, h, _ = build.shapes[x]
    if h <= 5:
        kernel, stride = build.rng.choice([(2, 2), (3, 1)])
        build.add("transposed", nn.ConvTranspose2d(c, build.width(), kernel, stride), x)


@growth(MAPS)
def norm(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    kinds = [
        nn.BatchNorm2d(c), nn.BatchNorm2d(c, affine=False), nn.InstanceNorm2d(c, affine=True),
        nn.GroupNorm(build.rng.choice([g for g in (1, 2, 3) if c % g == 0]), c),
    ]  # fmt: skip
    if build.shapes[x][1] > 1:
        build.add("norm", build.rng.choice(kinds), x)


@growth(MAPS)
def resize(build: Any, x: int) -> None:
    h = build.shapes[x][1]
    kinds: list[nn.Module] = [nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(1)]
    if h >= 3:
        kinds += [nn.MaxPool2d(2), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True)]
    if h <= 4:
        kinds += [nn.Upsample(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2)]
        kinds += [nn.ZeroPad2d((1, 0, 0, 2)), nn.ReplicationPad2d(1)]
    if h >= 2:
        kinds += [
            nn.ReflectionPad2d(1),
            Run(lambda t: t[:, :, 1:, ::2]),
            Run(lambda t: t.roll(1, 3)),
        ]
    build.add("resize", build.rng.choice(kinds), x)


@growth(MAPS)
def residual(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    inner = build.add("relu", nn.ReLU(), build.add("in", nn.Conv2d(c, build.width(), 1), x))
    made = build.add("out", nn.Conv2d(build.shapes[inner][0], c, 3, padding=1), inner)
    build.add("add", Add(), x, made)


@growth(MAPS)
def excite(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    mean = build.add("squeeze", Run(lambda t: t.mean((2, 3), keepdim=True)), x)
    inner = build.add("relu", nn.ReLU(), build.add("down", nn.Conv2d(c, build.width(), 1), mean))
    gate = build.add("up", nn.Conv2d(build.shapes[inner][0], c, 1), inner)
    build.add("mul", Mul(), x, gate)


@growth(MAPS)
def pad_channels(build: Any, x: int) -> None:
    """Option A."""
    before, after = build.rng.choice([(0, 2), (1, 1), (1, 0)])
    build.add("pad", Run(lambda t: F.pad(t, (0, 0, 0, 0, before, after))), x)


@growth(MAPS)
def shuffle(build: Any, x: int) -> None:
    c, h, _ = build.shapes[x]
    kinds: list[nn.Module] = []
    if c % 2 == 0 and c > 2:
        kinds += [nn.ChannelShuffle(2), Run(shuffled), Run(lambda t: swapped(t, 1)), Halves(1)]
    if c % 4 == 0 and c > 4 and h <= 4:
        kinds += [nn.PixelShuffle(2)]
    if h % 2 == 0:
        kinds += [nn.PixelUnshuffle(2)]
    if kinds and x:
        build.add("shuffle", build.rng.choice(kinds), x)


def shuffled(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.contiguous().view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def swapped(x: Tensor, dim: int) -> Tensor:
    left, right = x.chunk(2, dim)
    return torch.cat([right, left], dim)


class Halves(nn.Module):
    """One half is the gate of the other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, self.dim)
        return left * torch.sigmoid(right)


@growth(MAPS)
def branches(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    one = build.add("one", nn.Conv2d(c, build.width(), 1), x)
    two = build.add("two", nn.Conv2d(c, build.width(), 3, padding=1), x)
    build.add("cat", Cat(), *build.rng.choice([(one, two), (two, one), (x, one)]))


@growth(MAPS)
def twice(build: Any, x: int) -> None:
    """The same convolution two times."""
    c = build.shapes[x][0]
    once = build.add("relu", nn.Tanh(), build.add("twice", nn.Conv2d(c, c, 3, padding=1), x))
    build.again(build.steps[-2].layer, once)


@growth(MAPS)
def activation(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    kinds = [nn.GELU(), nn.PReLU(c), nn.PReLU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.Dropout(),
             Scaled((c, 1, 1)), Run(lambda t: t.clamp(min=-0.1) * 2 - 1)]  # fmt: skip
    build.add("act", build.rng.choice(kinds), x)


class Scaled(nn.Module):
    """A parameter of its own for every channel (layer scale)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


class Kernel(nn.Module):
    """A convolution with a weight of its own."""

    def __init__(self, read: int, made: int) -> None:
        super().__init__()
        self.kernel, self.shift = (
            nn.Parameter(torch.ones(made, read, 1, 1)),
            nn.Parameter(torch.ones(made)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.shift)


@growth(MAPS)
def functional(build: Any, x: int) -> None:
    build.add("kernel", Kernel(build.shapes[x][0], build.width()), x)


class ChannelsLast(nn.Module):
    """A layer over channels, on a map with channels last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@growth(MAPS)
def channels_last(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    kinds = [nn.Linear(c, build.width()), nn.LayerNorm(c), nn.Linear(c, build.width(), bias=False)]
    build.add("last", ChannelsLast(build.rng.choice(kinds)), x)


@growth(MAPS)
def to_sequence(build: Any, x: int) -> None:
    c, h, _ = build.shapes[x]
    rng = build.rng
    kinds = [Run(lambda t: t.flatten(2).transpose(1, 2)), Run(lambda t: t.mean(2).mT)]
    if c * h <= 24:
        kinds.append(Run(lambda t: t.permute(0, 3, 1, 2).flatten(2)))
    if h <= 6:
        build.add("tokens", rng.choice(kinds), x)


@growth(MAPS)
def to_vector(build: Any, x: int) -> None:
    c, h, _ = build.shapes[x]
    kinds = [Run(lambda t: t.mean((2, 3))), Run(lambda t: t.amax((-1, -2))),
             nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())]  # fmt: skip
    if c * h * h <= 64:
        kinds += [
            nn.Flatten(),
            Run(lambda t: t.contiguous().view(t.size(0), -1)),
            Run(lambda t: t.reshape(len(t), -1)),
        ]
    build.add("vector", build.rng.choice(kinds), x)


# ---- sequences: (places, features)


@growth(SEQUENCES, VECTORS)
def linear(build: Any, x: int) -> None:
    c = build.shapes[x][-1]
    made = build.add("linear", nn.Linear(c, build.width(), bias=build.rng.random() < 0.7), x)
    build.add("act", build.rng.choice([nn.ReLU(), nn.GELU(), nn.SiLU()]), made)


@growth(SEQUENCES, VECTORS)
def mlp(build: Any, x: int) -> None:
    c = build.shapes[x][-1]
    inner = build.add("act", nn.GELU(), build.add("up", nn.Linear(c, build.width()), x))
    made = build.add("down", nn.Linear(build.shapes[inner][-1], c), inner)
    build.add("add", Add(), x, made)


class Gated(nn.Module):
    """SwiGLU: with two weights, or with one that is cut in two, in one of three ways."""

    def __init__(self, read: int, inner: int, form: str) -> None:
        super().__init__()
        self.form, self.inner = form, inner
        self.up, self.gate = nn.Linear(read, inner), nn.Linear(read, inner)
        self.both = nn.Linear(read, 2 * inner)
        del self.__dict__["_modules"]["both" if form == "two" else "up"]
        if form != "two":
            del self.__dict__["_modules"]["gate"]
        self.down = nn.Linear(inner, read)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "two":
            return self.down(F.silu(self.gate(x)) * self.up(x))
        if self.form == "glu":
            return self.down(F.glu(self.both(x), -1))
        if self.form == "split":
            gate, up = self.both(x).split(self.inner, -1)
        else:
            gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


@growth(SEQUENCES, VECTORS)
def gated(build: Any, x: int) -> None:
    form = build.rng.choice(["two", "glu", "split", "chunk"])
    build.add("gated", Gated(build.shapes[x][-1], build.width(), form), x)


@growth(SEQUENCES, VECTORS)
def normed(build: Any, x: int) -> None:
    c = build.shapes[x][-1]
    if c > 1:
        build.add("norm", build.rng.choice([nn.LayerNorm(c), nn.RMSNorm(c)]), x)


class Bare(nn.Module):
    """A product with a parameter, written in one of several ways."""

    def __init__(self, read: int, made: int, form: str) -> None:
        super().__init__()
        shape = (made, read) if form == "linear" else (read, made)
        self.weight, self.form = nn.Parameter(torch.ones(shape)), form
        self.bias = nn.Parameter(torch.ones(made))

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "linear":
            return F.linear(x, self.weight, self.bias)
        if self.form == "addmm":
            made = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
            return made.view(*x.shape[:-1], made.shape[-1])
        return torch.tanh(x @ self.weight) * self.bias


@growth(SEQUENCES, VECTORS)
def bare(build: Any, x: int) -> None:
    form = build.rng.choice(["linear", "matmul", "addmm"])
    build.add("bare", Bare(build.shapes[x][-1], build.width(), form), x)


class Heads(nn.Module):
    """Attention in several forms; fewer heads of keys and values in some."""

    def __init__(self, width: int, heads: int, kv_heads: int, form: str) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = heads, kv_heads, 2
        self.num_key_value_groups, self.form = heads // kv_heads, form
        self.q, self.o = nn.Linear(width, 2 * heads), nn.Linear(2 * heads, width)
        self.k, self.v = nn.Linear(width, 2 * kv_heads), nn.Linear(width, 2 * kv_heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if self.num_key_value_groups > 1:
            k, v = (t.repeat_interleave(self.num_key_value_groups, dim=1) for t in (k, v))
        if self.form == "kernel":
            made = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.form == "linear":
            made = F.elu(q) @ (F.elu(k).mT @ v)
        elif self.form == "einsum":
            shares = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            made = torch.einsum("bhqk,bhkd->bhqd", shares, v)
        else:
            made = (q @ k.mT / self.head_dim**0.5).softmax(-1) @ v
        return self.o(made.transpose(1, 2).flatten(2))


class Fused(nn.Module):
    def __init__(self, width: int, heads: int, form: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.form = heads, 2, form
        self.embed_dim = 2 * heads
        self.qkv, self.proj = nn.Linear(width, 6 * heads), nn.Linear(2 * heads, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.form == "reshape":
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            parts = qkv.unbind(0)
        else:
            cut = (
                self.qkv(x).chunk(3, -1)
                if self.form == "chunk"
                else self.qkv(x).split(self.embed_dim, 2)
            )
            parts = [p.view(b, n, self.num_heads, self.head_dim).transpose(1, 2) for p in cut]
        made = F.scaled_dot_product_attention(*parts)
        return self.proj(made.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


@growth(SEQUENCES)
def attention(build: Any, x: int) -> None:
    rng, c = build.rng, build.shapes[x][-1]
    heads = rng.choice([2, 4])
    layer: nn.Module
    if rng.random() < 0.4:
        layer = Fused(c, heads, rng.choice(["reshape", "chunk", "split"]))
    elif rng.random() < 0.3 and c % 2 == 0:
        layer = OwnAttention(c, 2, fast=rng.random() < 0.5)
    else:
        kv_heads = rng.choice([heads, 2])
        layer = Heads(c, heads, kv_heads, rng.choice(["kernel", "linear", "einsum", "hand"]))
    build.add("add", Add(), x, build.add("attention", layer, x))


class OwnAttention(nn.Module):
    """PyTorch's own."""

    def __init__(self, width: int, heads: int, *, fast: bool) -> None:
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(width, heads, batch_first=True), not fast

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=self.weights)[0]


class Rnn(nn.Module):
    def __init__(self, rnn: nn.RNNBase, *, last: bool) -> None:
        super().__init__()
        self.rnn, self.last = rnn, last

    def forward(self, x: Tensor) -> Tensor:
        made, state = self.rnn(x)
        state = state[0] if isinstance(state, tuple) else state
        return state[-1] if self.last else made


@growth(SEQUENCES)
def recurrent(build: Any, x: int) -> None:
    rng = build.rng
    kind = rng.choice([nn.LSTM, nn.GRU, nn.RNN])
    both, n_layers = rng.random() < 0.3, rng.choice([1, 2])
    width = build.rng.choice([3, 4, 6])
    extra = {"proj_size": 2} if kind is nn.LSTM and rng.random() < 0.3 else {}
    layer = kind(
        build.shapes[x][-1], width, n_layers, batch_first=True, bidirectional=both, **extra
    )
    build.add("rnn", Rnn(layer, last=rng.random() < 0.3), x)


@growth(SEQUENCES)
def over_places(build: Any, x: int) -> None:
    """Layers that mix the places: convolutions, linear layers on the transposed, products."""
    n, c = build.shapes[x]
    rng = build.rng
    kinds: list[nn.Module] = [
        Turned(nn.Conv1d(c, build.width(), 3, padding=1)), Turned(nn.Linear(n, n)),
        Run(lambda t: torch.softmax(t @ t.mT, -1) @ t), Run(lambda t: t.cumsum(1)),
        Run(lambda t: t.flip(1)), Turned(nn.BatchNorm1d(c)), Adjacent(n), Run(lambda t: t[:, 1:]),
        Run(lambda t: torch.cat([t[:, :1] * 0, t[:, :-1]], 1)),
        Run(lambda t: t.sort(1).values), Run(lambda t: t - t.mean(1, keepdim=True)),
    ]  # fmt: skip
    if x and c > 1:
        kinds.append(Turned(nn.Conv1d(c, c, 3, padding=1, groups=c)))
    if n > 1:
        build.add("places", rng.choice(kinds), x)


class Turned(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Adjacent(nn.Module):
    """A constant matrix over the places."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.rand(n, n))

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x


@growth(SEQUENCES, VECTORS)
def over_features(build: Any, x: int) -> None:
    """Ops that need all features, so that these stay."""
    rng = build.rng
    kinds = [Run(lambda t: t.softmax(-1)), Run(lambda t: t / (t.norm(dim=-1, keepdim=True) + 1)),
             Run(lambda t: t - t.mean(-1, keepdim=True)), Run(lambda t: t.flip(-1)),
             Run(lambda t: t.roll(1, -1)), Run(lambda t: t * t.sum(-1, keepdim=True))]  # fmt: skip
    build.add("features", rng.choice(kinds), x)


@growth(SEQUENCES, VECTORS)
def moved(build: Any, x: int) -> None:
    """Ops that move features or tie them, which rules follow."""
    c = build.shapes[x][-1]
    kinds: list[nn.Module] = [Scaled((c,)), nn.Dropout(), Run(lambda t: t.clone().add_(1.0))]
    if c <= 8:
        kinds += [
            Run(lambda t: t.repeat_interleave(2, dim=-1)),
            Run(lambda t: torch.cat([t, t * 2], -1)),
        ]
    if c % 2 == 0 and c > 2:
        kinds += [Run(lambda t: swapped(t, -1)), Halves(-1), Run(turned)]
        kinds += [Run(lambda t: t.unflatten(-1, (2, -1)).amax(-2)), Pieces(2)]
    if x:
        build.add("moved", build.rng.choice(kinds), x)


def turned(x: Tensor) -> Tensor:
    """Half against half, as rotary embeddings have it."""
    left, right = x.chunk(2, -1)
    return x * 0.7 + torch.cat([-right, left], -1) * 0.4


class Pieces(nn.Module):
    """Maxout: several features become one."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous().view(*x.shape[:-1], -1, self.pieces).amax(-1)


@growth(SEQUENCES)
def pooled(build: Any, x: int) -> None:
    n, c = build.shapes[x]
    kinds = [Run(lambda t: t.mean(1)), Run(lambda t: t.max(1).values), Run(lambda t: t[:, 0]),
             Run(lambda t: t[:, -1])]  # fmt: skip
    if n * c <= 40:
        kinds += [nn.Flatten(), Run(lambda t: t.transpose(1, 2).reshape(len(t), -1))]
    build.add("pooled", build.rng.choice(kinds), x)


@growth(SEQUENCES)
def first_token(build: Any, x: int) -> None:
    n, c = build.shapes[x]
    build.add("token", Token(n, c), x)


class Token(nn.Module):
    """A learnt token in front, and learnt positions."""

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, width))
        self.place = nn.Parameter(torch.ones(1, n + 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place


# ---- vectors


@growth(VECTORS)
def vector_norm(build: Any, x: int) -> None:
    build.add("bn", nn.BatchNorm1d(build.shapes[x][0]), x)


@growth(VECTORS)
def to_map(build: Any, x: int) -> None:
    c, wide = build.shapes[x][0], build.width()
    made = build.add("project", nn.Linear(c, wide * 4), x)
    build.add("map", Run(lambda t: t.view(t.shape[0], -1, 2, 2)), made)


@growth(VECTORS)
def lifted(build: Any, x: int) -> None:
    """Every place gets the vector."""
    build.add("places", Run(lambda t: t[:, None].expand(-1, 3, -1)), x)


# ---- what no rule can promise


@growth(*WILD.values())
def idle(build: Any, x: int) -> None:
    """A layer runs and what it makes is thrown away."""
    c = build.shapes[x][0] if len(build.shapes[x]) == 3 else build.shapes[x][-1]
    layer = nn.Conv2d(c, 3, 1) if len(build.shapes[x]) == 3 else nn.Linear(c, 3)
    build.add("idle", Idle(layer), x)


class Idle(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return x * 1.5


class Spelled(nn.Module):
    """A width that stands in the code, or in an attribute that does not count units."""

    def __init__(self, size: int, form: str) -> None:
        super().__init__()
        self.size, self.half, self.form = size, size // 2, form
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        dim = 1 if x.dim() == 4 else x.dim() - 1
        if self.form == "narrow":
            return x.narrow(dim, 0, self.half) * self.scale
        if self.form == "split":
            left, right = x.split([self.half, self.size - self.half], dim)
            return torch.cat([right, left * 2], dim)
        if self.form == "index":
            return x.index_select(dim, torch.tensor([0, self.size - 1, 0]))
        if self.form == "repeat":
            return x + torch.ones(self.size).view(-1, *[1] * (x.dim() - 1 - dim)) * self.scale
        if self.form == "mean":
            return x - x.sum(dim, keepdim=True) / self.size
        return (x.flatten(dim).reshape(*x.shape[:dim], self.size, -1) * 2).view(
            *x.shape[:dim], self.size, *x.shape[dim + 1 :]
        )


@growth(*WILD.values())
def spelled(build: Any, x: int) -> None:
    size = build.shapes[x][0] if len(build.shapes[x]) == 3 else build.shapes[x][-1]
    form = build.rng.choice(["narrow", "split", "index", "repeat", "mean", "view"])
    if x and size > 1:
        build.add("spelled", Spelled(size, form), x)


@growth(WILD[3])
def grouped(build: Any, x: int) -> None:
    c = build.shapes[x][0]
    if x and c in (4, 6, 8):
        build.add("grouped", nn.Conv2d(c, build.rng.choice([c, 2 * c]), 1, groups=2), x)


@growth(WILD[3])
def reshaped(build: Any, x: int) -> None:
    """Channels and space in one, and apart again, in ways that people write."""
    c, h, w = build.shapes[x]
    kinds = [Run(lambda t: t.contiguous().view(-1, c, h * w).view(-1, c, h, w)),
             Run(lambda t: t.reshape(t.shape[0], -1, w).unflatten(1, (-1, h))),
             Run(lambda t: t.reshape(len(t), h, w, -1).permute(0, 3, 1, 2))]  # fmt: skip
    build.add("reshaped", build.rng.choice(kinds), x)
