"""What the net before pruning gave at some rows of each layer."""

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor, nn

from mipp.surgery.refit.norms import DirectNorms, LastLayer
from mipp.surgery.refit.reached import Piece, WalkedLayer
from mipp.tracing.calls import Call, CallHooks, NormCall, token_mask
from mipp.tracing.lockstep import Held, Pause
from mipp.tracing.notes import Notes, Place
from mipp.tracing.sampling import consumer_seed, sampled_positions, weight_seed


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


class _Stop(BaseException):
    """Ends a forward pass that goes on elsewhere, or later."""


class Original:
    """The net that says what layers should give, run on all batches.

    Its batches run one after the other (`run_all`), or in step with the changed net's (`beside`).
    Where there is no room for that many to wait, they go apart: each then runs from the start and
    notes the next few layers before the changed net comes there (`note_ahead`).

    Padding that a keyword ``attention_mask`` marks does not count.

    Args:
        model: the net.
        layers: where to look.
        pieces: the batches.
        draw: which rows are noted.
        squares: whether the variances of norms are wanted.
        guard: a context for the run on each batch, by its number.

    Attributes:
        apart: whether batches no longer wait.
        direct: norms at which the changed net does not wait, and so neither does this; None: it
            waits at all of them.
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
        self.apart = False
        self.direct: DirectNorms | None = None
        self._noted: list[set[Place]] = [set() for _ in pieces]
        self._last: dict[int, Place] = {}
        """By batch, the last place noted at which the changed net waits."""
        self._waiting: set[int] = set()
        self._finished: set[int] = set()

    def run(self, number: int, pause: Pause[Place] | None = None, room: float = math.inf) -> None:
        """Runs one batch, and waits at each layer and norm after it has been noted.

        It does not wait at norms where the changed net does not, see `direct`.

        A batch may be run again from the start; what it has noted is not noted again. Once batches
        have gone apart it does not wait, and ends before the first new layer for which there is no
        room among so many bytes of notes.
        """
        piece, notes, held, noted = self._pieces[number], self.notes, Held(), self._noted[number]
        before, taken, last, direct = set(noted), 0, LastLayer(), self.direct
        mask = token_mask(piece.inputs[1])
        known = sum(isinstance(place, int) for place in before)
        add_norm = notes.norm_hook(piece.size / self._draw.n_samples, known)

        def wait(place: Place, x: Tensor) -> None:
            self._last[number] = place
            if pause is None or self.apart:
                return
            self._waiting.add(number)
            try:
                pause(place, holds=held.at(x, others=2))
            finally:
                self._waiting.discard(number)

        def note(call: Call, output: Tensor) -> Tensor:
            nonlocal taken
            last.ran(call, output)
            layer = self._layers.get(call.key) or self._layers.get((call.name, None))
            if layer is None:
                return output
            if layer.key in before:
                notes.come_by(layer.key)
            elif taken >= room:
                raise _Stop
            else:
                pick, seen = self._draw.pick(layer, call, piece.number, mask), self._starts[number]
                notes.add(layer.key, number, call, output, pick, seen, inputs=layer.note_inputs)
                noted.add(layer.key)
                if self.apart:
                    taken += notes.layers[layer.key][number].n_bytes
            wait(layer.key, output)
            return output

        def on_norm(call: NormCall) -> None:
            place = add_norm(call)
            noted.add(place)
            if direct is None or not (direct.layer(last, call) or direct.unchanged(last, call)):
                wait(place, call.input)

        hooks = CallHooks(self.model, after=note, on_norm=on_norm, grouped=True)
        args, kwargs = piece.inputs
        try:
            with self._guard(piece.number), hooks:
                self.model(*args, **dict(kwargs))
        except _Stop:
            return
        self._finished.add(number)

    def beside(self, number: int, room: float, pause: Pause[Place]) -> None:
        """Runs one batch in step; once they go apart, on to as many layers as there is room for."""
        if not (self.apart and self._noted[number]):
            self.run(number, pause, room)

    def go_apart(self) -> None:
        """Lets batches wait no longer, unless inputs of layers are noted, as those of experts are.

        A batch that does not reach an expert which it reached in the original would wait at no
        later layer, since those are not noted yet.
        """
        self.apart = not any(layer.note_inputs for layer in self._layers.values())

    def note_ahead(self, number: int, visited: Place, room: float) -> None:
        """Notes the next layers of a batch that went apart, where it has come to the last one."""
        over = not self.apart or number in self._waiting or number in self._finished
        if not over and self._last[number] == visited:
            self.run(number, room=room)

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
