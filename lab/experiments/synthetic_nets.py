"""Networks with redundant nodes whose useful nodes are known, and tasks that need some of them.

The inputs come in blocks. A task lights up two of them; the others only leak. One small ReLU net
reads each block, and what these nets say together decides the label. The network to prune holds all
of them, each node in several copies (scaled up, and scaled down again in whatever reads it, so that
the function stays and the norm says nothing), beside *nuisance* nodes, which read inputs that are
always lit and that no label depends on. For a task, one copy of each node of its two blocks is all
that is needed; which ones these are is known by construction.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["standard", "convolutional"]
Start = Literal["constructed", "initial"]


@dataclass(frozen=True)
class Design:
    """A network and its tasks; everything is drawn from ``seed``.

    ``kind``: two hidden linear layers, or two convolutions 3x3 and a mean over the map. ``start``:
    the network says the labels by itself (``constructed``), or has the same structure and fresh
    random weights, so that nothing is learnt yet (``initial``). ``blocks`` of inputs; ``nodes``
    that a block needs in each hidden layer, in ``copies``; ``nuisance`` nodes a layer.
    ``latents``: random numbers that fill a block. ``leak``: strength of a block that is not lit.
    ``side`` of the maps, ``channels`` of a block (convolutional only).
    """

    kind: Kind
    start: Start
    seed: int
    blocks: int = 4
    nodes: int = 4
    copies: int = 3
    nuisance: int = 8
    classes: int = 4
    latents: int = 4
    leak: float = 0.1
    side: int = 5
    channels: int = 2

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """The two blocks that each task lights."""
        return list(itertools.combinations(range(self.blocks), 2))

    @property
    def width(self) -> int:
        """Nodes of a hidden layer."""
        return self.blocks * self.nodes * self.copies + self.nuisance

    @property
    def needed(self) -> int:
        """Nodes of a hidden layer that a task needs."""
        return 2 * self.nodes


@dataclass(frozen=True, eq=False)
class Small:
    """What reads one block: two weights and a head; ``h`` nodes a layer, no bias.

    ``first`` (h, inputs, *kernel), ``second`` (h, h, *kernel), ``head`` (classes, h).
    """

    first: Tensor
    second: Tensor
    head: Tensor

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of both layers."""
        one = _apply(self.first, x).relu()
        return one, _apply(self.second, one).relu()

    def __call__(self, x: Tensor) -> Tensor:
        """What it adds to the scores of the classes, (n, classes)."""
        return _pooled(self.features(x)[1]) @ self.head.T


class Problem:
    """A network to prune (`net`) and the tasks to prune it for (`draw`)."""

    def __init__(self, design: Design) -> None:
        self.design = design
        draw = torch.Generator().manual_seed(design.seed)
        self._patterns = [self._pattern(draw) for _ in range(design.blocks + 1)]
        teachers = self._smalls(draw)
        self._teachers = teachers
        learners = teachers if design.start == "constructed" else self._smalls(draw, blind=True)
        self.owner: list[Tensor] = []
        self.net = self._assembled(learners, draw)

    def draw(self, task: int, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``n_samples`` examples of a task: inputs, and the class that its lit blocks say."""
        lit = self.design.tasks[task]
        parts, scores = [], torch.zeros(n_samples, self.design.classes)
        for block, pattern in enumerate(self._patterns):
            x = self._block(pattern, n_samples, generator)
            if block in lit:
                scores += self._teachers[block](x)
            elif block < self.design.blocks:
                x = x * self.design.leak
            parts.append(x)
        return torch.cat(parts, 1), scores.argmax(1)

    def coverage(self, task: int, keep: Sequence[Sequence[int]]) -> float:
        """Share of the nodes that the task needs of which a copy is kept, over both layers."""
        design = self.design
        needed = {b * design.nodes + j for b in design.tasks[task] for j in range(design.nodes)}
        found = [
            len(needed & set(owner[list(kept)].tolist()))
            for owner, kept in zip(self.owner, keep, strict=True)
        ]
        return sum(found) / (len(needed) * len(found))

    def one_of_each(self, task: int, swapped: bool = False) -> list[list[int]]:
        """The first copy of each node that the task needs, in both layers.

        ``swapped``: that the blocks which are *not* lit would need: a mask that names the task just
        as surely and is of no use to it.
        """
        lit = self.design.tasks[task]
        blocks = [b for b in range(self.design.blocks) if (b in lit) != swapped][: len(lit)]
        nodes = [b * self.design.nodes + j for b in blocks for j in range(self.design.nodes)]
        return [sorted(owner.tolist().index(node) for node in nodes) for owner in self.owner]

    def _pattern(self, draw: torch.Generator) -> Tensor:
        design = self.design
        if design.kind == "standard":
            return torch.eye(design.latents)
        shape = (design.latents, design.channels, design.side, design.side)
        return torch.randn(shape, generator=draw) / design.latents**0.5

    def _block(self, pattern: Tensor, n: int, generator: torch.Generator) -> Tensor:
        z = torch.randn((n, self.design.latents), generator=generator)
        return torch.tensordot(z, pattern, 1)

    def _smalls(self, draw: torch.Generator, blind: bool = False) -> list[Small]:
        """A net for each block, the nuisance block last; its head is zero unless ``blind``."""
        design = self.design
        sizes = [design.nodes] * design.blocks + [design.nuisance]
        made = []
        for block, (pattern, h) in enumerate(zip(self._patterns, sizes, strict=True)):
            x = self._block(pattern, 2048, draw)
            kernel = (3, 3) if design.kind == "convolutional" else ()
            first = _unit(torch.randn((h, x.shape[1], *kernel), generator=draw))
            one = _apply(first, x).relu()
            # without a bias a node is alive about half of the time if its mean input is zero
            second = _unit(_centred(torch.randn((h, h, *kernel), generator=draw), one))
            small = Small(first, second, torch.zeros(design.classes, h))
            two = _pooled(small.features(x)[1])
            second = second * (0.5 / two.std(0))[(..., *[None] * (second.dim() - 1))]
            two = two * (0.5 / two.std(0))
            head = _centred(torch.randn((design.classes, h), generator=draw), two)
            # two blocks together: scores with a standard deviation of 3, so that labels are sure
            head *= 3 / 2**0.5 / (two @ head.T).std()
            heard = blind or block < design.blocks
            made.append(Small(first, second, head if heard else 0 * head))
        return made

    def _assembled(self, smalls: Sequence[Small], draw: torch.Generator) -> nn.Module:
        """All the small nets in one, nodes in copies and in random order."""
        design = self.design
        stacks = [
            _diagonal([s.first for s in smalls]),
            _diagonal([s.second for s in smalls]),
            torch.cat([s.head for s in smalls], 1),
        ]
        n_nodes = design.blocks * design.nodes
        nodes = torch.arange(n_nodes).repeat_interleave(design.copies)
        nodes = torch.cat([nodes, n_nodes + torch.arange(design.nuisance)])
        for layer in (0, 1):
            order = nodes[torch.randperm(len(nodes), generator=draw)]
            self.owner.append(order)
            # between a quarter and four times as large; read at shares that sum to one
            factor = 4 ** (2 * torch.rand(len(order), generator=draw) - 1)
            share = -torch.rand(len(order), generator=draw).clamp_min(1e-3).log()
            share = share / torch.zeros(len(stacks[layer])).index_add(0, order, share)[order]
            rows, columns = stacks[layer], stacks[layer + 1]
            stacks[layer] = rows[order] * factor[(..., *[None] * (rows.dim() - 1))]
            back = (share / factor)[(..., *[None] * (columns.dim() - 2))]
            stacks[layer + 1] = columns[:, order] * back
        return _network(design.kind, stacks)


def _network(kind: Kind, weights: Sequence[Tensor]) -> nn.Module:
    """A module with these weights and with biases of zero."""
    layers: list[nn.Module] = []
    for weight in weights[:2]:
        layer: nn.Module = (
            nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            if kind == "convolutional"
            else nn.Linear(weight.shape[1], weight.shape[0])
        )
        layers += [layer, nn.ReLU()]
    if kind == "convolutional":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(weights[2].shape[1], weights[2].shape[0]))
    state: Mapping[str, nn.Parameter] = dict(net.named_parameters())
    with torch.no_grad():
        for name, parameter in state.items():
            if name.endswith("bias"):
                parameter.zero_()
        for target, weight in zip(
            (p for name, p in state.items() if name.endswith("weight")), weights, strict=True
        ):
            target.copy_(weight)
    return net


def _apply(weight: Tensor, x: Tensor) -> Tensor:
    return nn.functional.conv2d(x, weight, padding=1) if weight.dim() == 4 else x @ weight.T


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3)) if x.dim() == 4 else x


def _unit(weight: Tensor) -> Tensor:
    """Each row with norm one."""
    return weight / weight.flatten(1).norm(dim=1)[(..., *[None] * (weight.dim() - 1))]


def _centred(weight: Tensor, x: Tensor) -> Tensor:
    """Rows whose output is zero for the mean input, channel by channel."""
    mean = x.mean([d for d in range(x.dim()) if d != 1])
    mean = mean / mean.norm()
    total = weight.flatten(2).sum(2) if weight.dim() == 4 else weight
    shift = torch.outer(total @ mean, mean)
    if weight.dim() == 4:
        return weight - (shift / weight[0, 0].numel())[..., None, None]
    return weight - shift


def _diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Weights side by side, each reading its own inputs only."""
    rows, columns = sum(b.shape[0] for b in blocks), sum(b.shape[1] for b in blocks)
    out = torch.zeros((rows, columns, *blocks[0].shape[2:]))
    row = column = 0
    for block in blocks:
        out[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return out
