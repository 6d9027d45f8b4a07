"""Layer after layer, from inputs to outputs: what a changed net really puts into each.

Notes say what every layer of the original gave at some rows. All batches run through the changed
net side by side: they wait at each layer until it is fitted to all of them, and only then run it.
"""

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from mipp import processes
from mipp.errors import SurgeryError
from mipp.out_of_memory import give_back
from mipp.surgery.refit.norms import DirectNorms, LastLayer, direct_norms, follow
from mipp.surgery.refit.original import Original
from mipp.surgery.refit.reached import Arrival, Piece, Reached, WalkedLayer
from mipp.tracing.calls import Call, CallHooks, NormCall, n_positions
from mipp.tracing.guards import measuring
from mipp.tracing.lockstep import Held, Pause, visit_in_order
from mipp.tracing.notes import Key, NormSums, Notes, PieceNotes, Place


def walk(
    changed: nn.Module,
    layers: Sequence[WalkedLayer],
    pieces: Sequence[Piece],
    original: "Original | Notes",
    visit: Callable[[Reached], None],
    *,
    n_samples: int,
    norm: str,
    norm_channels: Mapping[int, Tensor] | None = None,
    readers: Collection[str] | None = None,
    memory: float = math.inf,
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    Buffers of ``changed`` other than running statistics are as before after it.

    Args:
        changed: the net whose weights ``visit`` may set, in place.
        layers: where to stop.
        pieces: the batches.
        original: the original, or what it gave on these batches. It runs first, or in step with the
            changed net where its rows would take more than a quarter of the memory allowed. If that
            leaves too little room for batches to wait, it notes some layers at a time.
        visit: called at each layer before the net goes on.
        n_samples: examples of all processes.
        norm: how BatchNorm statistics of ``changed`` follow, see `mipp.Refit`.
        norm_channels: ``id`` of a running mean of ``changed`` -> its channels in the original, of
            norms that lost some.
        readers: weights of ``changed`` that read units or were scaled, and so may give something
            else than before. Then batches do not wait at norms right behind a layer of ``layers``
            whose fit has looked at its means, or behind a first layer that is no reader. None: they
            wait at every norm.
        memory: bytes allowed. Batches that would hold more than that while they wait are run from
            the start to each layer.

    Raises:
        SurgeryError: a layer gets other positions in the changed net than in the original.
    """
    guarded = [changed] if isinstance(original, Notes) else [changed, original.model]
    give_back()
    with torch.no_grad(), ExitStack() as stack:
        stack.callback(give_back)
        for model in guarded:
            stack.enter_context(measuring(model, values=model is not changed))
        buffers = [(buffer, buffer.clone()) for buffer in changed.buffers()]
        several = any(layer.several for layer in layers)
        world = processes.rank_and_size()[1]
        direct = None if readers is None else direct_norms(layers, readers, norm)
        if isinstance(original, Original):
            original.direct = direct
        beside: list[Callable[[Pause[Place]], None]] = []
        in_step: Original | None = None
        room = memory / 4 / max(len(pieces), 1)
        if isinstance(original, Notes):
            notes = original
        elif several or world > 1 or original.n_bytes() <= memory / 4:
            notes = original.run_all()
        else:
            notes, in_step = original.notes, original
            beside = [partial(original.beside, number, room) for number in range(len(pieces))]
        own = _Walk(
            changed, layers, pieces, notes, visit, n_samples, norm, norm_channels or {}, direct,
            once=notes is not original,
        )  # fmt: skip
        runs = [partial(own.run, number) for number in range(len(pieces))]
        # the original comes first, so that places are known and noted before they are waited at
        shift = len(beside)

        def arrive(place: Place, there: Sequence[int]) -> None:
            mine = [number - shift for number in there if number >= shift]
            own.arrive(place, mine)
            if in_step:
                for number in mine:
                    in_step.note_ahead(number, place, room)

        def leave(number: int) -> None:
            if in_step:
                in_step.go_apart()
            if number >= shift:  # what the original gave is noted
                own.leave(number - shift)

        visit_in_order([*beside, *runs], notes.order, arrive, _agreed(notes), memory, leave)
        for buffer, value in buffers:
            if id(buffer) not in own.followed:
                buffer.copy_(value)


@dataclass(frozen=True, eq=False)
class _SavedNorm:
    """Sums over a batch at a norm, and the call without its input."""

    sums: NormSums
    call: NormCall


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
        norm_channels: Mapping[int, Tensor],
        direct: DirectNorms | None,
        *,
        once: bool,
    ) -> None:
        self._once = once
        """Whether notes are for this walk alone, so that they can go when they have been used."""
        self._model, self._pieces, self._notes, self._visit = changed, pieces, notes, visit
        self._layers = {layer.key: layer for layer in layers}
        self._n_samples, self._norm, self._norm_channels = n_samples, norm, norm_channels
        self._direct = direct
        self._shifts: dict[Key, Tensor] = {}
        self._waits_at: dict[int, bool] = {}
        """By norm, whether all batches wait at it."""
        self._waiting: dict[int, Call | NormCall | Arrival | _SavedNorm] = {}
        self.followed: set[int] = set()

    def run(self, number: int, pause: Pause[Place]) -> None:
        """Runs one batch, and waits before each layer, and before norms that follow from none."""
        norms, held, last = itertools.count(), Held(), LastLayer()

        def before(call: Call) -> None:
            key = call.key if call.key in self._layers else (call.name, None)
            if key in self._layers and number in self._notes.layers.get(key, {}):
                self._waiting[number] = call
                pause(key, holds=held.at(call.input))

        def on_norm(call: NormCall) -> None:
            place = next(norms)
            if self._wait_at(place, call, last):
                self._waiting[number] = call
                pause(place, holds=held.at(call.input, others=2))

        args, kwargs = self._pieces[number].inputs
        hooks = CallHooks(self._model, before=before, after=last.ran, on_norm=on_norm, grouped=True)
        with hooks:
            self._model(*args, **dict(kwargs))

    def _wait_at(self, place: int, call: NormCall, last: LastLayer) -> bool:
        """Whether all batches wait at a norm; if not, its mean has followed already."""
        if place not in self._waits_at:
            key = self._direct.layer(last, call) if self._direct else None
            shift = None if key is None else self._shifts.get(key)
            unchanged = self._direct is not None and self._direct.unchanged(last, call)
            self._waits_at[place] = shift is None and not unchanged
            if not self._waits_at[place]:
                self.followed.update((id(call.running_mean), id(call.running_var)))
            if shift is not None:
                call.running_mean.add_(shift.to(call.running_mean))
        return self._waits_at[place]

    def arrive(self, place: Place, there: Sequence[int]) -> None:
        """Fits a layer, or lets a norm follow, with the batches that wait there."""
        waiting = {number: self._waiting.pop(number) for number in there}
        if isinstance(place, int):
            self._follow(place, waiting)
            return
        layer = self._layers[place]
        arrivals = [self._arrival(layer, number, call) for number, call in waiting.items()]
        rows = sum(len(y) for arrival in arrivals for y in arrival.notes.y)
        if processes.total(f"the rows of {layer.name}", rows) == 0:  # an expert without tokens
            return
        if not arrivals:
            raise SurgeryError(
                f"No example of this process reaches {layer.name}, so that it cannot be fitted "
                "together with the other processes. Give each process more batches, or call "
                "apply(refit=False)."
            )
        reached = Reached(layer, arrivals[0].call, arrivals)
        self._visit(reached)
        if self._direct and place in self._direct.fitted and (shift := reached.shift()) is not None:
            self._shifts[place] = shift
        if self._once:
            self._notes.layers[place] = {}

    def leave(self, number: int) -> None:
        """Keeps what is needed of a batch that does not wait, and will come by again."""
        call = self._waiting[number]
        if isinstance(call, NormCall):
            self._waiting[number] = self._sums(number, call)
        elif isinstance(call, Call):
            layer = self._layers.get(call.key) or self._layers[call.name, None]
            self._waiting[number] = self._arrival(layer, number, call).without_input(layer)

    def _arrival(self, layer: WalkedLayer, number: int, call: object) -> Arrival:
        if isinstance(call, Arrival):
            return call
        assert isinstance(call, Call)
        notes = self._notes.layers[layer.key][number]
        _check_positions(layer, call, notes)
        return Arrival(call, notes)

    def _sums(self, number: int, call: NormCall) -> "_SavedNorm":
        sums, share = NormSums(), self._pieces[number].size / self._n_samples
        sums.add(call.input, share, squares=self._notes.squares)
        return _SavedNorm(sums, replace(call, input=call.input.new_empty(0)))

    def _follow(self, number: int, inputs: Mapping[int, object]) -> None:
        """Shifts the statistics of one norm, whose call has this number."""
        now, some, notes = NormSums(), None, self._notes
        for piece, call in inputs.items():
            saved = self._sums(piece, call) if isinstance(call, NormCall) else call
            assert isinstance(saved, _SavedNorm)
            some = saved.call
            now.merge(saved.sums)
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
