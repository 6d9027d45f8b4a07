"""Random networks out of every op that has a rule, with maps, sequences and vectors in them.

A network is a list of steps on numbered values; the first ``n`` steps of a seed are the same
whatever comes after, so that a failure can be cut down to few steps. Every layer has random weights
and norms, every value is read, and all is float64. ``wild`` networks also do what no rule can
promise to follow: shapes and places spelled as numbers, layers that run for nothing.
"""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .random_steps import MAPS, SEQUENCES, VECTORS, WILD, Add, Cat, Growth, Mul


@dataclass(frozen=True)
class Step:
    """The name of a layer and the numbers of the values that it reads."""

    layer: str
    reads: tuple[int, ...]


class RandomNetwork(nn.Module):
    """Runs ``steps``; value 0 is the input. What ``shown`` lists is put out, besides the heads."""

    def __init__(self, steps: list[Step], layers: nn.ModuleDict, heads: nn.ModuleList) -> None:
        super().__init__()
        self.steps, self.layers, self.heads = tuple(steps), layers, heads
        self.headed: tuple[int, ...] = ()
        self.form = "sum"

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        values = [x]
        for step in self.steps:
            values.append(self.layers[step.layer](*[values[index] for index in step.reads]))
        made = [
            head(values[index].flatten(2).mean(-1) if values[index].dim() == 4 else values[index])
            for index, head in zip(self.headed, self.heads, strict=True)
        ]
        made = [item.mean(1) if item.dim() == 3 else item for item in made]
        if self.form == "tuple":
            return tuple(made)
        return {"all": sum(made[1:], made[0])} if self.form == "dict" else sum(made[1:], made[0])

    def extra_repr(self) -> str:
        lines = [f"{n}: {step.layer} of {step.reads}" for n, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"{self.form} of heads on {self.headed}"])


@dataclass
class Builder:
    """What the steps in `random_steps` grow."""

    rng: random.Random
    shapes: list[tuple[int, ...]]
    layers: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    steps: list[Step] = field(default_factory=list)
    unread: set[int] = field(default_factory=set)

    def add(self, kind: str, layer: nn.Module, *reads: int) -> int:
        """A step with a new layer; the number of what it makes."""
        name = f"{kind}{len(self.layers)}"
        self.layers[name] = settled(layer, self.rng)
        return self.again(name, *reads)

    def again(self, name: str, *reads: int) -> int:
        """A step with a layer that is there."""
        with torch.no_grad():
            made = self.layers[name](*[torch.zeros(2, *self.shapes[i]).double() for i in reads])
        self.steps.append(Step(name, reads))
        self.shapes.append(tuple(made.shape[1:]))
        self.unread -= set(reads)
        self.unread.add(len(self.shapes) - 1)
        return len(self.shapes) - 1

    def width(self) -> int:
        """Few channels, so that slices are quick and whole layers are often used up."""
        return self.rng.choice([2, 3, 4, 6, 8])

    def like(self, x: int) -> int | None:
        """Another value of the same shape, if there is one."""
        found = [i for i, shape in enumerate(self.shapes) if shape == self.shapes[x] and i != x]
        return self.rng.choice(found) if found else None


def settled(layer: nn.Module, rng: random.Random) -> nn.Module:
    """Float64, eval mode, weights that nothing hides: no norm of ones and zeros."""
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    layer = layer.double().eval()
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            if tensor.is_floating_point():
                low, high = (0.5, 1.5) if tensor.dim() == 1 else (-0.6, 0.6)
                tensor.uniform_(low, high, generator=generator)
    return layer


def random_network(
    rng: random.Random, n_steps: int = 6, *, wild: bool = False
) -> tuple[RandomNetwork, Tensor]:
    """A network in eval mode, and a batch of three examples that it takes."""
    kind = rng.choice(["map", "map", "sequence", "vector"])
    shape = {"map": (2, 6, 6), "sequence": (4, 5), "vector": (5,)}[kind]
    build = Builder(rng, [shape])
    layer = (
        nn.Conv2d(2, build.width(), 3, padding=1) if kind == "map" else nn.Linear(5, build.width())
    )
    build.add("first", layer, 0)
    for _ in range(n_steps):
        grow(build, wild=wild)
    return finished(build)


def grow(build: Builder, *, wild: bool) -> None:
    """One more growth on one of the last values, of whatever kind fits its rank."""
    for _ in range(20):  # not everything fits everywhere
        last = range(max(0, len(build.shapes) - 4), len(build.shapes))
        x = build.rng.choice(list(last))
        tables: dict[int, dict[str, Growth]] = {1: VECTORS, 2: SEQUENCES, 3: MAPS}
        table = dict(tables[len(build.shapes[x])])
        if wild:
            table |= WILD[len(build.shapes[x])]
        table |= {"add": join(Add), "mul": join(Mul), "cat": join(Cat)}
        name = build.rng.choice(sorted(table))
        before = len(build.steps)
        table[name](build, x)
        if len(build.steps) > before:
            return


def join(kind: type[nn.Module]) -> Growth:
    """Two values of the same shape become one."""

    def grown(build: Builder, x: int) -> None:
        other = build.like(x)
        if other is not None:
            build.add(kind.__name__.lower(), kind(), x, other)

    return grown


def finished(build: Builder) -> tuple[RandomNetwork, Tensor]:
    """Every value that nothing reads gets a linear layer, and all of these are the outputs."""
    ends = sorted(build.unread)
    heads = nn.ModuleList(
        settled(nn.Linear(build.shapes[i][0 if len(build.shapes[i]) != 2 else 1], 3), build.rng)
        for i in ends
    )
    model = RandomNetwork(build.steps, build.layers, heads)
    model.headed, model.form = tuple(ends), build.rng.choice(["sum", "tuple", "dict"])
    generator = torch.Generator().manual_seed(build.rng.randrange(2**32))
    batch = torch.randn(3, *build.shapes[0], generator=generator, dtype=torch.float64)
    return model.eval(), batch
