"""Layer after layer, from inputs to outputs: what a changed net really puts into each.

Notes say what every layer of the original gave at some rows. All batches run through the changed
net side by side: they wait at each layer until it is fitted to all of them, and only then run it.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp import processes
from mipp.errors import SurgeryError
from mipp.moments import Moments
from mipp.surgery.refit.norms import follow
from mipp.tracing.calls import Call, CallHooks, NormCall, input_rows, n_positions, token_mask
from mipp.tracing.guards import measuring
from mipp.tracing.lockstep import Pause, visit_in_order
from mipp.tracing.notes import Key, NormSums, Notes, PieceNotes, Place
from mipp.tracing.sampling import consumer_seed, sampled_positions, weight_seed

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
class Reached:
    """One layer of the changed net, reached by all batches.

    Attributes:
        layer: which one.
        call: of some batch, whose ``weight`` and ``bias`` are the changed net's, to be set in
            place.
        noted: for each batch its call and its notes.
    """

    layer: WalkedLayer
    call: Call
    noted: Sequence[tuple[Call, PieceNotes]]

    @property
    def n_rows(self) -> int:
        """Rows of all batches, of this process and of others."""
        own = sum(len(y) for _, notes in self.noted for y in notes.y)
        return processes.total(f"the rows of {self.layer.name}", own)

    def pieces(self) -> Iterator[Rows]:
        """The rows batch by batch, as they are needed."""
        layer = self.layer
        for call, notes in self.noted:
            y, device = torch.cat(notes.y), call.input.device
            if len(y) == 0:  # an expert that no token came to
                continue
            if layer.outputs is not None:
                y = y[:, layer.outputs.to(device)]
            if layer.factors is not None:
                y = y * layer.factors.to(y)
            if layer.note_inputs:
                x = torch.cat(notes.x)
                x = x if layer.inputs is None else x[:, layer.inputs.to(device)]
            else:
                x = input_rows(call, notes.pick[0].to(device))
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
        return Rows(
            processes.gathered(f"inputs of {name}", x),
            processes.gathered(f"outputs of {name}", y),
            processes.gathered(f"examples of {name}", apart),
        )

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
        return moments


@dataclass(frozen=True)
class Draw:
    """Which rows of the original are noted.

    Attributes:
        rows_per_feature: rows (examples x positions) at each layer, per feature of its input.
        min_rows: rows at each layer at least.
        n_samples: examples that the rows are drawn from, over all processes.
        seed: of the draw.
    """

    rows_per_feature: float
    min_rows: int
    n_samples: int
    seed: int = 0

    def wanted(self, layer: WalkedLayer) -> float:
        """Rows of all examples."""
        return max(self.rows_per_feature * layer.features, self.min_rows)

    def pick(
        self, layer: WalkedLayer, call: Call, number: int, mask: Tensor | None
    ) -> Int[Tensor, " rows"]:
        """Positions of a call in batch ``number``, in rising order."""
        seed = (
            weight_seed(self.seed, number, layer.index, call.call)
            if layer.call is None
            else consumer_seed(self.seed, number, layer.index)
        )
        pick = sampled_positions(call, mask, self.wanted(layer), self.n_samples, seed)
        return pick.sort().values


class Original:
    """The net that says what layers should give, run on all batches.

    Padding that a keyword ``attention_mask`` marks does not count.

    Args:
        model: the net.
        layers: where to look.
        pieces: the batches.
        draw: which rows are noted.
        squares: whether the variances of norms are wanted.
        guard: a context for the run on each batch, by its number.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[WalkedLayer],
        pieces: Sequence[Piece],
        draw: Draw,
        *,
        squares: bool = False,
        guard: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.model, self._pieces, self._draw, self._guard = model, pieces, draw, guard
        self._layers = {layer.key: layer for layer in layers}
        self._starts = [0, *itertools.accumulate(piece.size for piece in pieces)]
        self.notes = Notes(squares=squares)

    def run(self, number: int, pause: Pause[Place] | None = None) -> None:
        """Runs one batch, and waits at each layer and norm after it has been noted."""
        piece, notes = self._pieces[number], self.notes
        mask = token_mask(piece.inputs[1])
        add_norm = notes.norm_hook(piece.size / self._draw.n_samples)

        def note(call: Call, output: Tensor) -> Tensor:
            layer = self._layers.get(call.key) or self._layers.get((call.name, None))
            if layer is not None:
                pick, seen = self._draw.pick(layer, call, piece.number, mask), self._starts[number]
                notes.add(layer.key, number, call, output, pick, seen, inputs=layer.note_inputs)
                if pause is not None:
                    pause(layer.key)
            return output

        def on_norm(call: NormCall) -> None:
            place = add_norm(call)
            if pause is not None:
                pause(place)

        hooks = CallHooks(self.model, after=note, on_norm=on_norm, grouped=True)
        with self._guard(piece.number), hooks:
            args, kwargs = piece.inputs
            self.model(*args, **dict(kwargs))

    def run_all(self) -> Notes:
        """Runs all batches, one after the other."""
        for number in range(len(self._pieces)):
            self.run(number)
        return self.notes

    def n_bytes(self) -> float:
        """Bytes of the rows of all layers, about."""
        return sum(4 * self._draw.wanted(l) * self._outputs(l) for l in self._layers.values())

    def _outputs(self, layer: WalkedLayer) -> int:
        return max(self.model.get_parameter(layer.weight).shape[:2])


def walk(
    changed: nn.Module,
    layers: Sequence[WalkedLayer],
    pieces: Sequence[Piece],
    original: "Original | Notes",
    visit: Callable[[Reached], None],
    *,
    n_samples: int,
    norm: str,
    norm_channels: Mapping[int, Int[Tensor, " kept"]] | None = None,
    memory: float = math.inf,
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    Buffers of ``changed`` other than running statistics are as before after it.

    Args:
        changed: the net whose weights ``visit`` may set, in place.
        layers: where to stop.
        pieces: the batches.
        original: the original, or what it gave on these batches. It runs first, or in step with the
            changed net where its rows would take more than a quarter of the memory allowed.
        visit: called at each layer before the net goes on.
        n_samples: examples of all processes.
        norm: how BatchNorm statistics of ``changed`` follow, see `mipp.Refit`.
        norm_channels: ``id`` of a running mean of ``changed`` -> its channels in the original, of
            norms that lost some.
        memory: bytes allowed.

    Raises:
        SurgeryError: a layer gets other positions in the changed net than in the original.
    """
    guarded = [changed] if isinstance(original, Notes) else [changed, original.model]
    with torch.no_grad(), ExitStack() as stack:
        for model in guarded:
            stack.enter_context(measuring(model, values=model is not changed))
        buffers = [(buffer, buffer.clone()) for buffer in changed.buffers()]
        several = any(layer.several for layer in layers)
        world = processes.rank_and_size()[1]
        beside: list[Callable[[Pause[Place]], None]] = []
        if isinstance(original, Notes):
            notes = original
        elif several or world > 1 or original.n_bytes() <= memory / 4:
            notes = original.run_all()
        else:
            notes = original.notes
            beside = [partial(original.run, number) for number in range(len(pieces))]
        own = _Walk(
            changed, layers, pieces, notes, visit, n_samples, norm, norm_channels or {},
            once=notes is not original,
        )  # fmt: skip
        runs = [partial(own.run, number) for number in range(len(pieces))]
        # the original comes first, so that places are known and noted before they are waited at
        shift = len(beside)

        def arrive(place: Place, there: Sequence[int]) -> None:
            own.arrive(place, [number - shift for number in there if number >= shift])

        visit_in_order([*beside, *runs], notes.order, arrive, _agreed(notes))
        for buffer, value in buffers:
            if id(buffer) not in own.followed:
                buffer.copy_(value)


class _Walk:
    """The changed net on its way."""

    def __init__(
        self,
        changed: nn.Module,
        layers: Sequence[WalkedLayer],
        pieces: Sequence[Piece],
        notes: Notes,
        visit: Callable[[Reached], None],
        n_samples: int,
        norm: str,
        norm_channels: Mapping[int, Int[Tensor, " kept"]],
        *,
        once: bool,
    ) -> None:
        self._once = once
        """Whether notes are for this walk alone, so that they can go when they have been used."""
        self._model, self._pieces, self._notes, self._visit = changed, pieces, notes, visit
        self._layers = {layer.key: layer for layer in layers}
        self._n_samples, self._norm, self._norm_channels = n_samples, norm, norm_channels
        self._waiting: dict[int, Call | NormCall] = {}
        self.followed: set[int] = set()

    def run(self, number: int, pause: Pause[Place]) -> None:
        """Runs one batch, and waits at each layer and norm before it runs."""
        norms = itertools.count()

        def before(call: Call) -> None:
            key = call.key if call.key in self._layers else (call.name, None)
            if key in self._layers and number in self._notes.layers.get(key, {}):
                self._waiting[number] = call
                pause(key)

        def on_norm(call: NormCall) -> None:
            self._waiting[number] = call
            pause(next(norms))

        args, kwargs = self._pieces[number].inputs
        with CallHooks(self._model, before=before, on_norm=on_norm, grouped=True):
            self._model(*args, **dict(kwargs))

    def arrive(self, place: Place, there: Sequence[int]) -> None:
        """Fits a layer, or lets a norm follow, with the batches that wait there."""
        waiting = {number: self._waiting.pop(number) for number in there}
        if isinstance(place, int):
            self._follow(place, waiting)
            return
        layer, noted = self._layers[place], []
        for number, call in waiting.items():
            assert isinstance(call, Call)
            own = self._notes.layers[place][number]
            _check_positions(layer, call, own)
            noted.append((call, own))
        rows = sum(len(y) for _, own in noted for y in own.y)
        if processes.total(f"the rows of {layer.name}", rows) == 0:  # an expert without tokens
            return
        if not noted:
            raise SurgeryError(
                f"No example of this process reaches {layer.name}, so that it cannot be fitted "
                "together with the other processes. Give each process more batches, or call "
                "apply(refit=False)."
            )
        self._visit(Reached(layer, noted[0][0], noted))
        if self._once:
            self._notes.layers[place] = {}

    def _follow(self, number: int, inputs: Mapping[int, Call | NormCall]) -> None:
        """Shifts the statistics of one norm, whose call has this number."""
        now, some, notes = NormSums(), None, self._notes
        for piece, call in inputs.items():
            assert isinstance(call, NormCall)
            some = call
            share = self._pieces[piece].size / self._n_samples
            now.add(call.input, share, squares=notes.squares)
        now.all_reduce(f"norm {number}")
        notes.norms[number].all_reduce(f"norm {number} of the original")
        if some is None:
            return
        self.followed.update((id(some.running_mean), id(some.running_var)))
        channels = self._norm_channels.get(id(some.running_mean))
        follow(some, notes.norms[number], now, channels, self._norm)


def _agreed(notes: Notes) -> Callable[[Place | None], Place | None] | None:
    """Which place all processes visit next; None where there is one process."""
    if processes.rank_and_size()[1] == 1:
        return None
    order = notes.order
    processes.agree("the order of the layers", [str(place) for place in order])
    places = [*order, None]

    def first(own: Place | None) -> Place | None:
        mine = len(order) if own is None else order[own]
        return places[processes.smallest("the next layer", mine)]

    return first


def _check_positions(layer: WalkedLayer, call: Call, noted: PieceNotes) -> None:
    """Raises `SurgeryError` where rows of the two nets do not correspond."""
    now = n_positions(call)
    if not layer.note_inputs and [now] != noted.positions:
        raise SurgeryError(
            f"{layer.name} gets {now} positions in the pruned model and {sum(noted.positions)} in "
            "the original, so that it cannot be fitted. Make the plan's batches larger, call "
            "apply(refit=False), or name the layer in protect=."
        )


def _in_blocks(rows: Float[Tensor, "n f"], blocks: int) -> Float[Tensor, "n g d"]:
    return rows.view(len(rows), blocks, rows.shape[1] // blocks)
