"""What the layers of a net gave at some rows, and the means of its norms' inputs: for a refit."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp import processes
from mipp.tracing.calls import Call, NormCall, input_rows, n_positions, output_rows
from mipp.tracing.sampling import n_examples

Key = tuple[str, int | None]
"""Name of a weight, and the number of its call or None for all of them together."""

Place = Key | int
"""A layer, or the number of a norm's call within the forward pass."""

NORM_ROWS = 32768
"""Rows of a norm's input from which its mean is taken, at least, where there are as many."""


@dataclass(eq=False)
class PieceNotes:
    """Rows of one layer in one batch.

    Attributes:
        pick: positions of the rows, by call.
        positions: how many there were, by call.
        x: inputs at the rows, by call; empty unless they are needed.
        y: outputs at the rows, by call; of a transposed convolution, whose outputs overlap, what
            each input position adds to them.
        example: number of each row's example, by call.
    """

    pick: list[Int[Tensor, " rows"]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    x: list[Float[Tensor, "rows d"]] = field(default_factory=list)
    y: list[Float[Tensor, "rows m"]] = field(default_factory=list)
    example: list[Int[Tensor, " rows"]] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(t.numel() * t.element_size() for t in (*self.x, *self.y))

    def add(
        self, call: Call, output: Tensor, pick: Int[Tensor, " rows"], seen: int, *, inputs: bool
    ) -> None:
        """Notes rows of one call; ``seen`` is the number of examples of earlier batches."""
        place = pick.to(output.device)
        transposed = call.kind == "conv_transpose"
        x = input_rows(call, place) if inputs or transposed else None
        if inputs and x is not None:
            self.x.append(x)
        if transposed:
            assert x is not None
            blocks = x.view(len(x), call.groups, -1).movedim(1, 0)
            matrix = call.weight.detach().reshape(call.groups, blocks.shape[2], -1).to(x.dtype)
            self.y.append((blocks @ matrix).movedim(0, 1).flatten(1))
        else:
            self.y.append(output_rows(call, output.detach(), place))
        positions = n_positions(call)
        self.example.append(pick * n_examples(call) // max(positions, 1) + seen)
        self.pick.append(pick)
        self.positions.append(positions)


@dataclass(eq=False)
class NormSums:
    """Sums over the examples of one BatchNorm's input.

    Attributes:
        count: how many rows were added.
        total (channels,): sum of the rows.
        square (channels,): sum of their squares; 0 where they are not wanted.
    """

    count: float = 0.0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0
    _merged: bool = False

    def add(self, values: Float[Tensor, "n c *space"], share: float, *, squares: bool) -> None:
        """Adds the examples of a batch, which are that share of all of them.

        Of maps every second cell, or every fourth and so on, where that leaves `NORM_ROWS`.
        """
        cells = values[0, 0].numel()
        wanted = max(NORM_ROWS * share / max(len(values), 1), 1.0)
        step = max(1, int((cells / wanted) ** (1 / max(values.dim() - 2, 1))))
        some = values[(slice(None), slice(None), *[slice(None, None, step)] * (values.dim() - 2))]
        dims = (0, *range(2, values.dim()))
        self.count += some.numel() / some.shape[1]
        self.total = self.total + some.sum(dims, dtype=_wide(some)).double()
        if squares:
            self.square = self.square + some.double().square().sum(dims)

    def merge(self, other: "NormSums") -> None:
        """Adds the sums of other examples."""
        self.count += other.count
        self.total = self.total + other.total
        self.square = self.square + other.square

    def all_reduce(self, what: str) -> None:
        """Adds the sums of all ranks, in a `mipp.processes.together` block; once."""
        if processes.rank_and_size()[1] == 1 or self._merged:
            return
        total = torch.as_tensor(self.total, dtype=torch.float64)
        square = torch.as_tensor(self.square, dtype=torch.float64).expand_as(total).clone()
        count = torch.tensor(self.count, dtype=torch.float64, device=total.device)
        processes.all_reduce(f"the sums of {what}", count, total, square)
        self.count, self.total, self.square, self._merged = float(count), total, square, True

    @property
    def mean(self) -> Float[Tensor, " c"]:
        """Mean of each channel."""
        return torch.as_tensor(self.total / self.count)

    @property
    def variance(self) -> Float[Tensor, " c"]:
        """Variance of each channel."""
        return torch.as_tensor(self.square / self.count) - self.mean.square()


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


class _Order(Mapping[Place, int]):
    """Places in a list, by which each is found."""

    def __init__(self, sequence: list[Place]) -> None:
        self._sequence = sequence

    def __getitem__(self, place: Place) -> int:
        return self._sequence.index(place)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._sequence)

    def __len__(self) -> int:
        return len(self._sequence)


@dataclass(eq=False)
class Notes:
    """What one net gave, noted in one run over all batches.

    Attributes:
        layers: by layer, and in it by batch.
        norms: in the order of their calls.
        squares: whether squares of the norms' inputs are summed.
    """

    layers: dict[Key, dict[int, PieceNotes]] = field(default_factory=dict)
    norms: list[NormSums] = field(default_factory=list)
    squares: bool = False
    _sequence: list[Place] = field(default_factory=list)
    _last: Place | None = None

    @property
    def order(self) -> Mapping[Place, int]:
        """Number of each layer and norm, in the order in which they ran; grows with the notes."""
        return _Order(self._sequence)

    def come_by(self, place: Place) -> None:
        """Notes that a forward pass came by; what no batch before did comes behind the last."""
        if place not in self._sequence:
            after = -1 if self._last is None else self._sequence.index(self._last)
            self._sequence.insert(after + 1, place)
        self._last = place

    def add(
        self, key: Key, piece: int, call: Call, output: Tensor, pick: Int[Tensor, " rows"],
        seen: int, *, inputs: bool,
    ) -> None:  # fmt: skip
        """Notes rows of one call in batch number ``piece``; see `PieceNotes.add`."""
        self.come_by(key)
        notes = self.layers.setdefault(key, {}).setdefault(piece, PieceNotes())
        notes.add(call, output, pick, seen, inputs=inputs)

    def norm_hook(self, share: float, known: int = 0) -> Callable[[NormCall], int]:
        """What notes the norms of the next batch, which has that share of the examples.

        It gives the number of the norm's call. The first ``known`` were noted in an earlier run.
        """
        numbers, self._last = itertools.count(), None

        def add(call: NormCall) -> int:
            number = next(numbers)
            self.come_by(number)
            if number == len(self.norms):
                self.norms.append(NormSums())
            if number >= known:
                self.norms[number].add(call.input.detach(), share, squares=self.squares)
            return number

        return add

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(piece.n_bytes for layer in self.layers.values() for piece in layer.values())
