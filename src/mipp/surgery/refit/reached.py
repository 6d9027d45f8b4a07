"""Batches and layers of a walk, and the rows of a layer that all batches have reached."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp import processes
from mipp.moments import Moments
from mipp.tracing.calls import Call, input_rows, weight_matrix
from mipp.tracing.notes import Key, PieceNotes

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call of the model."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch.

    Attributes:
        inputs: what the model is called with.
        number: of the batch among those of all processes, which seeds the draw of its positions.
        size: how many examples it has.
    """

    inputs: Inputs
    number: int
    size: int


@dataclass(frozen=True, eq=False)
class WalkedLayer:
    """A layer to stop at.

    Attributes:
        name: of the layer, for errors.
        weight: name of its parameter.
        call: number of the call, for a consumer of units; None for all calls together.
        index: seeds the draw of positions.
        features: of a row of the changed layer's input, in each block.
        note_inputs: whether to stop with what the original took in. A layer that is called several
            times, or routed, needs this: the changed net may send it other positions.
        inputs: features of the original's rows that are left, None for all.
        outputs: outputs of the original that are left, None for all.
        factors: what each output that is left is multiplied with, None for 1.
        several: whether the original calls it several times, and all calls count together.
    """

    name: str
    weight: str
    call: int | None
    index: int
    features: int
    note_inputs: bool
    inputs: Int[Tensor, " d"] | None = None
    outputs: Int[Tensor, " m"] | None = None
    factors: Float[Tensor, " m"] | None = None
    several: bool = False

    @property
    def key(self) -> Key:
        """By which notes know it."""
        return self.weight, self.call


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one layer, of one batch or of all.

    Attributes:
        x: what the layer takes in now, or what it took in before (see `WalkedLayer.note_inputs`),
            in blocks.
        y: what the original gave at these rows; of a transposed convolution, whose outputs overlap,
            what each input position adds to them.
        example: number of the example that each row is from.
    """

    x: Float[Tensor, "n g d"]
    y: Float[Tensor, "n g m"]
    example: Int[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Arrival:
    """One batch at a layer.

    Attributes:
        call: the layer's.
        notes: of the original.
        x: rows of the call's input, where it itself is not kept; None where it is.
    """

    call: Call
    notes: PieceNotes
    x: Float[Tensor, "n d"] | None = None

    def without_input(self, layer: WalkedLayer) -> "Arrival":
        """The same, which holds no more than is needed."""
        few = None if layer.note_inputs else input_rows(self.call, self._pick())
        empty = self.call.input.new_empty(0)
        return Arrival(replace(self.call, input=empty), self.notes, empty if few is None else few)

    def rows(self) -> Float[Tensor, "n d"]:
        """The rows of the input that were noted of the original."""
        return input_rows(self.call, self._pick()) if self.x is None else self.x

    def _pick(self) -> Int[Tensor, " n"]:
        return self.notes.pick[0].to(self.call.input.device)


@dataclass(eq=False)
class Reached:
    """One layer of the changed net, reached by all batches.

    Attributes:
        layer: which one.
        call: of some batch, whose ``weight`` and ``bias`` are the changed net's, to be set in
            place.
        arrivals: of the batches.
        means: of the inputs and of what the original gave, over the rows of all processes, once a
            fit has looked at them; in blocks.
    """

    layer: WalkedLayer
    call: Call
    arrivals: Sequence[Arrival]
    means: tuple[Float[Tensor, "g d"], Float[Tensor, "g m"]] | None = None

    @property
    def n_rows(self) -> int:
        """Rows of all batches, of this process and of others."""
        own = sum(len(y) for arrival in self.arrivals for y in arrival.notes.y)
        return processes.total(f"the rows of {self.layer.name}", own)

    def pieces(self) -> Iterator[Rows]:
        """The rows batch by batch, as they are needed."""
        layer = self.layer
        for arrival in self.arrivals:
            call, notes = arrival.call, arrival.notes
            device = call.input.device  # which a model may have moved to since it was noted
            y = torch.cat(notes.y).to(device)
            if len(y) == 0:  # an expert that no token came to
                continue
            if layer.outputs is not None:
                y = y[:, layer.outputs.to(device)]
            if layer.factors is not None:
                y = y * layer.factors.to(y)
            if layer.note_inputs:
                x = torch.cat(notes.x).to(device)
                x = x if layer.inputs is None else x[:, layer.inputs.to(device)]
            else:
                x = arrival.rows()
            example = torch.cat(notes.example).to(device)
            yield Rows(_in_blocks(x, call.groups), _in_blocks(y, call.groups), example)

    def whole(self, *, everywhere: bool = False) -> Rows:
        """The rows of all batches, of this process or ``everywhere``."""
        parts = list(self.pieces())
        x = torch.cat([part.x for part in parts])
        y = torch.cat([part.y for part in parts])
        example = torch.cat([part.example for part in parts])
        if not everywhere:
            return Rows(x, y, example)
        name, apart = self.layer.name, example + processes.rank_and_size()[0] * 2**40
        x = processes.gathered(f"inputs of {name}", x)
        y = processes.gathered(f"outputs of {name}", y)
        self.means = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
        return Rows(x, y, processes.gathered(f"examples of {name}", apart))

    def moments(self) -> Moments:
        """Moments of inputs and outputs, over the rows of all processes."""
        call = self.call
        m = call.weight.numel() // (call.groups * self.layer.features)
        moments = Moments(
            self.layer.features, call.input.device, torch.float64, call.groups, targets=m
        )
        for part in self.pieces():
            moments.update(part.x.flatten(1), part.y.flatten(1).to(part.x.dtype))
        moments.all_reduce(f"what {self.layer.name} takes in")
        self.means = moments.mean, moments.target_mean
        return moments

    def all_means(self) -> tuple[Float[Tensor, "g d"], Float[Tensor, "g m"]]:
        """`means`, looked at where they have not been."""
        if self.means is None:
            call, d = self.call, self.layer.features
            g, m = call.groups, call.weight.numel() // (call.groups * d)
            x, y = (
                torch.zeros(g, n, dtype=torch.float64, device=call.input.device) for n in (d, m)
            )
            for part in self.pieces():
                x += part.x.sum(0, dtype=torch.float64)
                y += part.y.sum(0, dtype=torch.float64)
            processes.all_reduce(f"the means of {self.layer.name}", x, y)
            self.means = x / self.n_rows, y / self.n_rows
        return self.means

    def shift(self) -> Float[Tensor, " m"] | None:
        """The mean of what the layer gives now less that of the original, over the rows of its fit.

        None where no fit has looked at them, and for a transposed convolution, whose rows are parts
        of outputs.
        """
        call = self.call
        if self.means is None or call.kind == "conv_transpose":
            return None
        x, y = (mean.double() for mean in self.means)
        weight = weight_matrix(call.kind, call.weight).double().view(*y.shape, -1)
        now = (weight @ x.unsqueeze(2)).flatten()
        if call.bias is not None:
            now = now + call.bias.detach()
        return now - y.flatten()


def _in_blocks(rows: Float[Tensor, "n f"], blocks: int) -> Float[Tensor, "n g d"]:
    return rows.view(len(rows), blocks, rows.shape[1] // blocks)
