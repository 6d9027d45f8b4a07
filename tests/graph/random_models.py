"""Random convolutional networks and MLPs with branches, for property tests.

Every value that a step makes is read by a later one, all layers have random weights and norm
statistics, and the model computes in float64.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Step:
    """``kind`` of op, the values it reads by their numbers, and its layer's name if it has one."""

    kind: str
    reads: tuple[int, ...]
    layer: str = ""


class RandomModel(nn.Module):
    """Runs ``steps`` one after the other; value 0 is the input, the result the sum of all heads."""

    def __init__(self, steps: list[Step], layers: nn.ModuleDict) -> None:
        super().__init__()
        self.steps = steps
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        heads = []
        for step in self.steps:
            inputs = [values[index] for index in step.reads]
            if step.layer:
                made = self.layers[step.layer](*inputs)
            else:
                made = _FUNCTIONS[step.kind](*inputs)
            (heads if step.kind == "head" else values).append(made)
        return sum(heads[1:], heads[0])

    def extra_repr(self) -> str:
        return "\n".join(
            f"{number}: {step.kind} {step.layer} of {step.reads}"
            for number, step in enumerate(self.steps, 1)
        )


def _shuffle(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def _gated(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return left * torch.sigmoid(right)


def _swapped(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat([right, left], dim=1)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "add": torch.add,
    "mul": torch.mul,
    "cat": lambda *inputs: torch.cat(inputs, dim=1),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "upsample": lambda x: F.interpolate(x, scale_factor=2.0),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True),
    "flatten": lambda x: x.flatten(1),
    "shuffle": _shuffle,
    "gated": _gated,
    "swapped": _swapped,
}


@dataclass
class _Builder:
    rng: random.Random
    shapes: list[tuple[int, ...]]
    steps: list[Step] = field(default_factory=list)
    layers: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    read: set[int] = field(default_factory=set)

    def step(self, kind: str, reads: tuple[int, ...], layer: nn.Module | None = None) -> int:
        """Add a step; returns the number of the value that it makes."""
        name = ""
        if layer is not None:
            name = f"{kind}{len(self.layers)}"
            self.layers[name] = layer.double()
        return self.again(kind, reads, name)

    def again(self, kind: str, reads: tuple[int, ...], name: str) -> int:
        """Add a step with a layer that is there."""
        inputs = [torch.zeros(2, *self.shapes[index], dtype=torch.float64) for index in reads]
        with torch.no_grad():
            made = self.layers[name](*inputs) if name else _FUNCTIONS[kind](*inputs)
        self.steps.append(Step(kind, reads, name))
        self.read.update(reads)
        if kind == "head":
            return -1
        self.shapes.append(tuple(made.shape[1:]))
        return len(self.shapes) - 1

    def width(self) -> int:
        return self.rng.choice([2, 3, 4, 6])

    def pick(self, rank: int) -> int | None:
        """A value with ``rank`` dimensions besides the batch, later ones more often."""
        found = [index for index, shape in enumerate(self.shapes) if len(shape) == rank]
        return self.rng.choice(found[-3:]) if found else None

    def conv(self, x: int, width: int, kernel: int = 3) -> int:
        layer = nn.Conv2d(
            self.shapes[x][0], width, kernel, padding=kernel // 2, bias=self.rng.random() < 0.5
        )
        return self.step("conv", (x,), layer)

    def linear(self, x: int, width: int) -> int:
        return self.step("linear", (x,), nn.Linear(self.shapes[x][0], width))


def random_model(rng: random.Random, n_steps: int = 8) -> tuple[RandomModel, Tensor]:
    """A random model in eval mode, and a batch of two examples that it takes, both float64."""
    build = _Builder(rng, [(3, 8, 8)] if rng.random() < 0.8 else [(5,)])
    shape = build.shapes[0]
    first = build.conv(0, build.width()) if len(shape) == 3 else build.linear(0, build.width())
    build.step("relu", (first,))
    for _ in range(n_steps):
        if rng.random() < 0.75:
            _grow_map(build)
        else:
            _grow_vector(build)
    for value in range(1, len(build.shapes)):
        if value not in build.read:
            flat = value if len(build.shapes[value]) == 1 else build.step("flatten", (value,))
            build.step("head", (flat,), nn.Linear(build.shapes[flat][0], 3))
    model = RandomModel(build.steps, build.layers).double().eval()
    _randomize(model, rng)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return model, torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def _randomize(model: nn.Module, rng: random.Random) -> None:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.5
            tensor.data.uniform_(low, 1.0, generator=generator)


_MAP_KINDS = (
    *("conv", "conv", "bn", "depthwise", "residual", "residual", "cat", "excite", "max_pool"),
    *("group_norm", "shuffle", "gated", "swapped", "transposed", "twice", "relu", "upsample"),
)


def _grow_map(build: _Builder) -> None:  # noqa: PLR0912  # one branch for each kind
    """One more thing on a feature map."""
    x = build.pick(3)
    if x is None:
        return
    width, size, _ = build.shapes[x]
    rng = build.rng
    kind = rng.choice(_MAP_KINDS)
    if kind == "conv":
        build.step("relu", (build.conv(x, build.width(), rng.choice([1, 3])),))
    elif kind == "bn" and x:
        build.step("bn", (x,), nn.BatchNorm2d(width))
    elif kind == "depthwise" and x:
        layer = nn.Conv2d(width, width * rng.choice([1, 2]), 3, padding=1, groups=width)
        build.step("depthwise", (x,), layer)
    elif kind == "residual":
        _residual(build, x)
    elif kind == "cat":
        other = build.conv(x, build.width(), 1)
        build.step("cat", (x, other) if rng.random() < 0.5 else (other, x, other))
    elif kind == "excite" and x:
        pooled = build.step("squeeze", (x,))
        inner = build.step("relu", (build.conv(pooled, build.width(), 1),))
        build.step("mul", (x, build.conv(inner, width, 1)))
    elif kind == "max_pool" and size >= 4:
        build.step("max_pool", (x,))
    elif kind == "upsample" and size <= 4:
        build.step("upsample", (x,))
    elif kind == "group_norm" and x and width % 2 == 0:
        build.step("group_norm", (x,), nn.GroupNorm(2, width))
    elif kind in ("shuffle", "gated", "swapped") and x and width % 2 == 0 and width > 2:
        build.step(kind, (x,))
    elif kind == "transposed" and size <= 4:
        layer = nn.ConvTranspose2d(width, build.width(), 2, stride=2)
        build.step("transposed", (x,), layer)
    elif kind == "twice":
        once = build.conv(x, width)
        build.again("conv", (build.step("relu", (once,)),), build.steps[-2].layer)
    elif kind == "relu":
        build.step("relu", (x,))


def _residual(build: _Builder, x: int) -> None:
    width = build.shapes[x][0]
    if build.rng.random() < 0.5:
        width = build.width()
        x = build.conv(x, width, 1)
    inner = build.step("relu", (build.conv(x, build.width()),))
    made = build.conv(inner, width)
    if build.rng.random() < 0.5:
        made = build.step("bn", (made,), nn.BatchNorm2d(width))
    build.step("add", (x, made))


def _grow_vector(build: _Builder) -> None:
    """One more thing on a vector, from a feature map if there is no vector."""
    x = build.pick(1)
    if x is None:
        last = build.pick(3)
        assert last is not None
        x = build.step("flatten", (last,))
    kind = build.rng.choice(["linear", "residual", "cat", "gated", "bn"])
    width = build.shapes[x][0]
    if kind == "linear":
        build.step("gelu", (build.linear(x, build.width()),))
    elif kind == "residual":
        base = build.linear(x, build.width())
        inner = build.step("relu", (build.linear(base, build.width()),))
        build.step("add", (base, build.linear(inner, build.shapes[base][0])))
    elif kind == "cat":
        build.step("cat", (build.linear(x, build.width()), build.linear(x, build.width())))
    elif kind == "gated":
        build.step("gated", (build.linear(x, 6),))
    elif x and width < 100:
        build.step("bn", (x,), nn.BatchNorm1d(width))
