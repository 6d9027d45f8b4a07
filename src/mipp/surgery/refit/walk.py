"""Layer after layer, from inputs to outputs: what a changed net really puts into each.

Notes say what every layer of the original gave at some rows. All batches run through the changed
net side by side: they wait at each layer until it is fitted to all of them, and only then run it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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
from mipp.tracing.module_contents import ModuleContents
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

    def whole(self) -> Rows:
        """The rows of all batches of this process."""
        parts = list(self.pieces())
        return Rows(
            torch.cat([part.x for part in parts]),
            torch.cat([part.y for part in parts]),
            torch.cat([part.example for part in parts]),
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


def take_notes(
    original: nn.Module,
    layers: Sequence[WalkedLayer],
    pieces: Sequence[Piece],
    *,
    rows_per_feature: float,
    min_rows: int,
    n_samples: int,
    squares: bool = False,
    seed: int = 0,
    guard: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Notes:
    """Runs the original on all batches. Padding that ``attention_mask`` marks does not count.

    Args:
        original: the net that says what layers should give.
        layers: where to look.
        pieces: the batches.
        rows_per_feature: rows (examples x positions) at each layer, per feature of its input.
        min_rows: rows at each layer at least.
        n_samples: examples that the rows are drawn from; more than those of the pieces where other
            processes have their share.
        squares: whether the variances of norms are wanted.
        seed: of the rows that are drawn.
        guard: a context for the run on each batch, by its number.

    Returns:
        The notes. Those of a net that keeps state are of the first batch alone.
    """
    at = {layer.key: layer for layer in layers}
    notes, seen = Notes(squares=squares), 0
    with torch.no_grad(), measuring(original):
        contents = ModuleContents([original])
        for place, piece in enumerate(pieces):
            args, kwargs = piece.inputs
            mask = token_mask(kwargs)

            def note(
                call: Call, output: Tensor, place: int = place, piece: Piece = piece,
                mask: Tensor | None = mask, seen: int = seen,
            ) -> Tensor:  # fmt: skip
                layer = at.get(call.key) or at.get((call.name, None))
                if layer is not None:
                    draw = (
                        weight_seed(seed, piece.number, layer.index, call.call)
                        if layer.call is None
                        else consumer_seed(seed, piece.number, layer.index)
                    )
                    wanted = max(rows_per_feature * layer.features, min_rows)
                    pick = sampled_positions(call, mask, wanted, n_samples, draw)
                    pick, inputs = pick.sort().values, layer.note_inputs
                    notes.add(layer.key, place, call, output, pick, seen, inputs=inputs)
                return output

            hooks = CallHooks(
                original, after=note, on_norm=notes.norm_hook(piece.size / n_samples), grouped=True
            )
            with guard(piece.number), hooks:
                original(*args, **dict(kwargs))
            seen += piece.size
            if place == 0 and len(pieces) > 1 and contents.tensors_changed():
                notes.stateful = True
                break
    return notes


def walk(
    changed: nn.Module,
    layers: Sequence[WalkedLayer],
    pieces: Sequence[Piece],
    notes: Notes,
    visit: Callable[[Reached], None],
    *,
    n_samples: int,
    norm: str,
    norm_channels: Mapping[int, Int[Tensor, " kept"]] | None = None,
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    Buffers of ``changed`` other than running statistics are as before after it.

    Args:
        changed: the net whose weights ``visit`` may set, in place.
        layers: where to stop.
        pieces: the batches that the notes were taken on.
        notes: what the original gave.
        visit: called at each layer before the net goes on.
        n_samples: examples of all processes.
        norm: how BatchNorm statistics of ``changed`` follow, see `mipp.Refit`.
        norm_channels: ``id`` of a running mean of ``changed`` -> its channels in the original, of
            norms that lost some.

    Raises:
        SurgeryError: a layer gets other positions in the changed net than in the original.
    """
    at = {layer.key: layer for layer in layers if layer.key in notes.layers}
    waiting: dict[int, Call | NormCall] = {}
    followed: set[int] = set()

    def running(number: int) -> Callable[[Pause[Place]], None]:
        args, kwargs = pieces[number].inputs

        def run(pause: Pause[Place]) -> None:
            norms = itertools.count()

            def before(call: Call) -> None:
                key = call.key if call.key in at else (call.name, None)
                if key in at and number in notes.layers[key]:
                    waiting[number] = call
                    pause(key)

            def on_norm(call: NormCall) -> None:
                waiting[number] = call
                pause(next(norms))

            with CallHooks(changed, before=before, on_norm=on_norm, grouped=True):
                changed(*args, **dict(kwargs))

        return run

    def arrive(place: Place, there: Sequence[int]) -> None:
        if isinstance(place, int):
            inputs = {number: waiting.pop(number) for number in there}
            _follow(place, inputs, pieces, notes, n_samples, norm, norm_channels or {}, followed)
            return
        layer, noted = at[place], []
        for number in there:
            call = waiting.pop(number)
            assert isinstance(call, Call)
            own = notes.layers[place][number]
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
        visit(Reached(layer, noted[0][0], noted))

    with torch.no_grad(), measuring(changed, values=False):
        before = [(buffer, buffer.clone()) for buffer in changed.buffers()]
        runs = [running(number) for number in range(len(pieces))]
        visit_in_order(runs, notes.order, arrive, _agreed(notes))
        for buffer, value in before:
            if id(buffer) not in followed:
                buffer.copy_(value)


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


def _follow(
    number: int,
    inputs: Mapping[int, Call | NormCall],
    pieces: Sequence[Piece],
    notes: Notes,
    n_samples: int,
    norm: str,
    channels: Mapping[int, Int[Tensor, " kept"]],
    followed: set[int],
) -> None:
    """Shifts the statistics of one norm, whose call has this number."""
    now, some = NormSums(), None
    for piece, call in inputs.items():
        assert isinstance(call, NormCall)
        some = call
        now.add(call.input, pieces[piece].size / n_samples, squares=notes.squares)
    now.all_reduce(f"norm {number}")
    notes.norms[number].all_reduce(f"norm {number} of the original")
    if some is None:
        return
    followed.update((id(some.running_mean), id(some.running_var)))
    follow(some, notes.norms[number], now, channels.get(id(some.running_mean)), norm)


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
